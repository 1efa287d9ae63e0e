"""Images that the page offers: examples, and sets sorted by how much predictions changed, of `robust-vit evaluate`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import cast, get_args

import datasets
import numpy as np
from PIL import Image

from ..data.balanced_splits import choose_images
from ..data.emoji_shift import CLASS_NAMES, SHIFTED, background, compose, has_classes
from ..data.find_images import find_images
from ..data.known_sets import EVALUATION_SETS
from ..evaluation.accuracy import measure_accuracy, saved_accuracy
from ..evaluation.examples import is_of_kind
from ..evaluation.options import expand_sets
from ..evaluation.session import Session
from ..evaluation.sets import EvaluationSet, benchmark_sets, load_evaluation_set, own_set
from ..models.image_processors import Protocol
from ..results.run_results import PREDICTIONS_FILE, SetResult, read_predictions
from ..utils.cache import Cache
from ..utils.images import to_rgb
from .options import AppOptions


IMAGES_PER_SET = 200  # images of each set of a benchmark that the page measures
FILTERS = ("changed", "corrected", "broken", "all")
PHOTOGRAPHS = ("chelsea", "coffee", "motorcycle", "rocket")  # photographs of scikit-image, with classes of ImageNet


@dataclass(frozen=True)
class Sample:
    image: Image.Image
    caption: str
    mask: Image.Image | None = None


def load_samples(classes: Sequence[str]) -> list[Sample]:
    """Samples for a model with these classes: two images of each shifted set of emoji-shift, or photographs."""
    if not has_classes(classes):
        return [Sample(background(name), name) for name in PHOTOGRAPHS]
    samples = []
    for number, split in enumerate(2 * SHIFTED):
        # Only openly licensed artwork. Each set begins at another index, so that the classes differ.
        rows = (compose(split, index) for index in count(8 * number))
        row = next(row for row in rows if row["openly_licensed"])
        caption = f"{CLASS_NAMES[row['label']]} · {split.replace('_', ' ')}"
        samples.append(Sample(row["image"], caption, row["mask"]))
    return samples


def own_samples(path: str, split: str, session: Session) -> list[Sample]:
    """At most twelve labelled images of the user, balanced over the classes, and the same ones each time."""
    images = find_images(path, split, ("label",))
    rows = session.with_sets({split: EvaluationSet.of(choose_images(images.rows, 12))}).sets[split]
    return [
        Sample(to_rgb(row["image"]), session.classes[accepted[0]], row.get("mask"))
        for row, accepted in zip(rows.dataset, rows.accepted, strict=True)
    ]


@dataclass(frozen=True)
class MeasuredSet:
    rows: EvaluationSet
    result: SetResult

    @property
    def predictions(self) -> list[np.ndarray]:
        return [self.result.sides[side].predictions for side in ("before", "after")]

    def order(self, shown: str) -> list[int]:
        """Indices of the images of one of [`FILTERS`], sorted by the change of the label's rank, and then of the best five classes."""
        before, after = self.predictions
        if shown in ("corrected", "broken"):
            chosen = is_of_kind(shown, self.result)
        else:
            chosen = (before[:, 0] != after[:, 0]) | (shown == "all")
        replaced = np.array([len({*a} - {*b}) for a, b in zip(before, after, strict=True)])
        moved = abs(self.result.sides["before"].ranks - self.result.sides["after"].ranks)
        # This sort is stable: ties stay in the order of the set.
        return [int(index) for index in np.lexsort((-replaced, -moved)) if chosen[index]]

    def captions(self, indices: Sequence[int], names: Sequence[str]) -> list[str]:
        """`label: class before → class after` of images; without a label if the images of the set have several."""
        labels = [f"{names[label]}: " if label >= 0 else "no label: " for label in self.result.classes[indices]]
        best = [" → ".join(names[of_side[index, 0]] for of_side in self.predictions) for index in indices]
        return [f"{label if self.rows.by_class else ''}{pair}" for label, pair in zip(labels, best, strict=True)]


def set_names(options: AppOptions, session: Session) -> list[str]:
    """Names of the sets for [`measured_set`]: `<protocol>/<set>` in the folder of results, or the sets of the benchmark."""
    if options.results is None:
        return ["val", *SHIFTED] if "after" in session.sides and has_classes(session.classes) else []
    files = {protocol: options.results / protocol / PREDICTIONS_FILE for protocol in sorted(get_args(Protocol))}
    measured = {protocol: read_predictions(file) for protocol, file in files.items() if file.is_file()}
    names = [f"{protocol}/{name}" for protocol, of in measured.items() for name in sorted(of) if "after" in of[name]]
    if not names:
        raise ValueError(f"`{options.results}` has no results of two models: run `robust-vit evaluate --compare`.")
    return names


def measured_set(options: AppOptions, name: str, session: Session) -> MeasuredSet:
    """A set of [`set_names`] with its results, which are read, or measured once and saved in the cache of `datasets`."""
    if options.results is None:
        session = session.with_sets({name: benchmark_sets(IMAGES_PER_SET)[name]})
        cache = Cache(Path(datasets.config.HF_DATASETS_CACHE, "robust_vit_hf", "app"))
        result = measure_accuracy(replace(session, cache=cache), relevance=False)[name]
        return MeasuredSet(session.sets[name], result)
    protocol, _, name = name.partition("/")
    if protocol != session.protocol:
        session = session.under(cast(Protocol, protocol))
    num_images = len(read_predictions(options.results / protocol / PREDICTIONS_FILE)[name]["before"])
    session = session.with_sets({name: _images(options, name, session, num_images)})
    return MeasuredSet(session.sets[name], saved_accuracy(session, options.results)[name])


def _images(options: AppOptions, name: str, session: Session, num_images: int) -> EvaluationSet:
    """Images of a set in the folder of results, `num_images` of them if it is of a benchmark."""
    if name in ("val", *SHIFTED) and has_classes(session.classes):
        return benchmark_sets(num_images)[name]
    if name in EVALUATION_SETS:
        return load_evaluation_set(name, dict(expand_sets(options.sets)).get(name), session.protocol)
    if options.dataset is not None and name == options.split:
        return own_set(options.dataset, name)
    raise ValueError(f"The results are of your own images `{name}`: give them with `--dataset … --split {name}`.")
