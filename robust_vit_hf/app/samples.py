"""Samples of the page: finetunings to show, and images of the user or of installed packages."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from PIL import Image

from ..data.emoji_shift import CLASS_NAMES, SHIFTED, background, compose
from ..data.find_images import find_images
from ..data.groups import choose_images
from ..data.known_sets import BUNDLED_BENCHMARK, find_benchmark
from ..evaluation.session import Session
from ..evaluation.sets import EvaluationSet
from ..models import emoji_shift_model as model
from ..models.model_names import BUNDLED_MODEL, registered_of
from ..training.finetuning import finetune
from ..training.options import list_recipes, train_arguments
from ..utils.files import RUN_FILE, atomic_folder, cache_of, read_json
from ..utils.images import to_rgb


def newest_run(folder: Path) -> Path | None:
    """Newest complete finetuning run of the bundled model in a folder."""
    runs = [file for file in folder.glob(f"*/{RUN_FILE}") if registered_of(read_json(file)) == BUNDLED_MODEL]
    newest = max(runs, key=lambda file: file.stat().st_mtime, default=None)
    return newest and newest.parent


def cached_run(**options) -> Path:
    """Folder of the bundled model, finetuned by its recipe at the first call, with `options` of `robust-vit train`."""
    recipe = list_recipes()[BUNDLED_MODEL]
    folder = cache_of((recipe, Path(model.__file__))) / "finetuned"
    if not (folder / RUN_FILE).is_file():
        shown = {"control": False, "images_per_set": 50, "report_to": "none", "save_strategy": "no"}
        with atomic_folder(folder) as partial:
            finetune(*train_arguments(recipe, output_dir=str(partial), **shown | options))
    return folder


PHOTOGRAPHS = ("chelsea", "coffee", "motorcycle", "rocket")  # from scikit-image, of ImageNet classes


@dataclass(frozen=True)
class Sample:
    image: Image.Image
    caption: str
    mask: Image.Image | None = None


def load_samples(classes: Sequence[str]) -> list[Sample]:
    """Samples for a model with these classes: two images of each shifted set of emoji-shift, or else photographs."""
    if find_benchmark(classes) != BUNDLED_BENCHMARK:
        return [Sample(background(name), name) for name in PHOTOGRAPHS]
    samples = []
    for number, split in enumerate(2 * SHIFTED):
        # Only openly licensed artwork, from a different offset in each set, so that the classes differ.
        rows = (compose(split, index) for index in count(8 * number))
        row = next(row for row in rows if row["openly_licensed"])
        caption = f"{CLASS_NAMES[row['label']]} · {split.replace('_', ' ')}"
        samples.append(Sample(row["image"], caption, row["mask"]))
    return samples


def own_samples(path: str, split: str, session: Session) -> list[Sample]:
    """A few labelled images of the user, of different classes as far as there are, always the same ones."""
    images = find_images(path, split, ("label",))
    rows = session.with_sets({split: EvaluationSet.of(choose_images(images.rows, 12))}).sets[split]
    labels = [accepted[0] for accepted in rows.accepted]
    return [
        Sample(to_rgb(row["image"]), session.classes[label], row.get("mask"))
        for row, label in zip(rows.dataset, labels, strict=True)
    ]
