"""Objects on other backgrounds: images of a diagnosis in all conditions, and the object of a visitor's image."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from ..data import emoji_shift as artwork
from ..data.background_edits import CONDITIONS, paste
from ..data.transforms import denormalize, eval_transform, normalization
from ..diagnosis.example_strip import EXAMPLES_FILE, TAKEN_FILE, TAKEN_RULE, Composed, load_composed
from ..diagnosis.report import PAIRS_FILE, matrices
from ..evaluation.session import Session
from ..masks.tokencut import TokenCut
from ..relevance.relevance_map import forward_logits
from ..results.tables import Table
from ..utils.files import RESULTS_FILE, read_json


Picture = tuple[Image.Image, str]  # with a caption: what it shows, and a line for each model's prediction
MARKS = {"right": "✓", "taken": "●", "other": "✗"}  # by the kind of prediction, see [`Composed.kind`]
# Kinds of images of a diagnosis. Of two models, one needs to make the prediction.
KINDS = ("all", "predicted as the class of the background", "wrong on another background", "right everywhere")
WITH_OBJECT = tuple(name for name in CONDITIONS if name not in ("no_fg", "only_bg"))
NUM_BACKGROUNDS = 5
TEXTS = ["image", "label", "donor_class"]  # columns of text, even if a class is called `1` or `NA`
PHOTOGRAPHS = ("grass", "brick", "china", "coins", "hubble")  # backgrounds for models without a diagnosis
MAX_SIDE = 384  # pixels of the longer side in the search for the object, whose time grows with the sixth power


@dataclass(frozen=True)
class Diagnosed:
    """Result of `robust-vit diagnose`: verdicts and warnings as text, images in all conditions, and tables of confusions."""

    text: str
    examples: list[Composed]
    tables: list[Table]

    def order(self, shown: str) -> list[int]:
        """Indices of the examples of one of [`KINDS`]."""
        return [index for index, example in enumerate(self.examples) if _is_of(shown, example)]


def _is_of(kind: str, example: Composed) -> bool:
    swapped = [predicted["mixed_rand"] for predicted in example.predicted.values()]
    with_object = [predicted[name] for predicted in example.predicted.values() for name in WITH_OBJECT]
    taken, wrong = example.donor in swapped, {*swapped} != {example.label}
    right = all(best in (None, example.label) for best in with_object)
    return dict(zip(KINDS, (True, taken, wrong, right), strict=True))[kind]


def read_diagnosis(folder: Path, session: Session) -> Diagnosed:
    """Read the output folder of `robust-vit diagnose`, or of `robust-vit improve`, which has one."""
    place = diagnosis_folder(folder)
    results = read_json(place / RESULTS_FILE)
    models = {side: of.weights for side, of in session.sides.items()}
    if not results["weights"].items() <= models.items():
        raise ValueError(
            f"`{folder}` is a diagnosis of other models: start the page with the --model and --compare that were diagnosed."
        )
    diagnosed = results["diagnosis"]
    verdicts = [*diagnosed.items(), *results.get("attributes", {}).items()]
    heads = [f"{side.capitalize()}: " if len(diagnosed) > 1 else "" for side, _ in verdicts]
    lines = [head + verdict["sentence"] for head, (_, verdict) in zip(heads, verdicts, strict=True)]
    lines += results.get("advice", [])
    lines += dict.fromkeys(warning for verdict in diagnosed.values() for warning in verdict["warnings"])
    return Diagnosed("\n\n".join(lines), load_composed(place / EXAMPLES_FILE), _what_was_taken(place))


def _what_was_taken(folder: Path) -> list[Table]:
    """Tables of the images that follow the background, and of the classes; none in a Space, which does not have the files."""
    if not (folder / PAIRS_FILE).is_file():
        return []
    pairs, taken = (
        pd.read_csv(folder / name, dtype=dict.fromkeys(TEXTS, str), keep_default_na=False)
        for name in (PAIRS_FILE, TAKEN_FILE)
    )
    images = Table(TAKEN_RULE, ["image", "class", "predicted as"], taken[TEXTS].to_numpy().tolist())
    return [table for table in (images, *matrices(pairs)) if table.rows]


def diagnosis_folder(folder: Path) -> Path:
    """The folder itself, or its `diagnosis/`: the one with results of a diagnosis and examples."""
    for place in (folder, folder / "diagnosis"):
        needed = (EXAMPLES_FILE, TAKEN_FILE) if (place / PAIRS_FILE).is_file() else (EXAMPLES_FILE,)  # as in a Space
        if "diagnosis" in (read_json(place / RESULTS_FILE) or {}) and all((place / name).is_file() for name in needed):
            return place
    raise ValueError(
        f"`{folder}` has no diagnosis, or that of an earlier version: give the --output_dir of `robust-vit diagnose` or `robust-vit improve`, or "
        "run the command again, which uses what it measured before."
    )


def condition_pictures(example: Composed) -> list[Picture]:
    """An image of a diagnosis in all conditions in which it could be composed, with the predictions."""
    pictures = []
    for name in CONDITIONS:
        predicted, several = {side: best[name] for side, best in example.predicted.items()}, len(example.predicted) > 1
        if None not in predicted.values():
            title = f"{name}: on {example.donor}" if name == "mixed_rand" else name
            lines = [_line(example.kind(side, name), side, best, several) for side, best in predicted.items()]
            pictures.append((example.pictures[name], "\n".join([title, *lines])))
    return pictures


@dataclass(frozen=True)
class Background:
    """An RGB picture to paste an object on, what it shows, and classes that are usually seen on it."""

    picture: Image.Image
    name: str
    classes: frozenset[str]


def other_backgrounds(session: Session, diagnosed: Diagnosed | None) -> list[Background]:
    """Backgrounds of images of a diagnosis, of as many classes as possible, or else photographs of emoji-shift."""
    if diagnosed is not None:
        names = [example.label for example in diagnosed.examples]
        turns = [names[:place].count(name) for place, name in enumerate(names)]  # classes in turn
        order = sorted(range(len(names)), key=turns.__getitem__)[:NUM_BACKGROUNDS]
        examples = [diagnosed.examples[place] for place in order]
        return [Background(shown.pictures["only_bg"], shown.label, frozenset([shown.label])) for shown in examples]
    of_bundled = artwork.has_classes(session.classes)
    processor = session.sides["before"].processor
    pixel_values = eval_transform(processor)({"image": [artwork.background(name) for name in PHOTOGRAPHS]})
    pictures = map(to_pil_image, denormalize(torch.stack(pixel_values["pixel_values"]), processor))
    classes = (frozenset(artwork.classes_before(name) if of_bundled else ()) for name in PHOTOGRAPHS)
    return list(map(Background, pictures, PHOTOGRAPHS, classes))


def find_mask(cut: TokenCut, image: Image.Image) -> Image.Image:
    small = image.copy()
    small.thumbnail((MAX_SIDE, MAX_SIDE))
    (result,) = cut([small], [{}])
    if result.mask is None or result.rejected:
        raise ValueError(f"No object was found: {result.rejected}. Give an image in which one object stands out.")
    return result.mask.resize(image.size, Image.Resampling.NEAREST)


def pasted_pictures(
    session: Session, image: Image.Image, mask: Image.Image, backgrounds: Sequence[Background]
) -> tuple[list[Picture], str]:
    """The RGB image and its object on other backgrounds, as the first model sees them, with predictions, and a sentence on how many
    predictions change. `mask` is a greyscale mask of the object, of the size of the image."""
    pictures, captions, counts = None, [["the image"], *([f"on {other.name}"] for other in backgrounds)], []
    several = len(session.sides) > 1
    for side, of in session.sides.items():
        row = eval_transform(of.processor)({"image": [image], "mask": [mask]})
        pixel_values, weight = row["pixel_values"][0][None], row["mask"][0][None]
        if not weight.any():
            raise ValueError(
                "The object that was found is outside the part of the image that the models see: crop the image around the object."
            )
        normalize, size = normalization(of.processor), pixel_values.shape[:1:-1]  # width and height
        others = torch.stack([normalize(pil_to_tensor(other.picture.resize(size))) for other in backgrounds])
        composed = torch.cat([pixel_values, paste(pixel_values, weight, others)])
        pictures = pictures or [to_pil_image(picture) for picture in denormalize(composed, of.processor)]
        with torch.no_grad():
            logits = forward_logits(of.model, composed.to(session.accelerator.device)).float().cpu()
        scores, best = (maxima.tolist() for maxima in logits.softmax(dim=1).max(dim=1))
        names = [session.classes[index] for index in best]
        for place, (name, score) in enumerate(zip(names, scores, strict=True)):
            usual = backgrounds[place - 1].classes if place else frozenset()
            kind = "right" if name == names[0] else "taken" if name in usual else "other"
            captions[place].append(_line(kind, side, f"{name} {score:.0%}", several))
        changed = sum(name != names[0] for name in names)
        counts.append(f"{f'{side}: ' if several else ''}{changed} of {len(backgrounds)}")
    sentence = f"Predictions that change with the background: {' · '.join(counts)}."
    return list(zip(pictures, map("\n".join, captions), strict=True)), sentence


def _line(kind: str, side: str, text: str, several: bool) -> str:
    return f"{MARKS[kind]} {f'{side}: ' if several else ''}{text}"
