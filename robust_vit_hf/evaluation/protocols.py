"""Evaluation sets under a protocol: which images, and what counts as right on them.

`paper`: logits are not restricted, the first accepted label of an ObjectNet image counts, its red border stays, and images go
through the preset `paper`. `native`: logits are restricted to the classes of the set (the 200 of ImageNet-A and -R, the 125
of ObjectNet), every accepted label counts, the border is cut, and images go through the preset `native`.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import datasets

from ..data.benchmarks import benchmarks, find_benchmark
from ..data.imagenet_classes import subset, wnids
from ..data.layouts.objectnet import BORDER
from ..data.masked_dataset import check_columns, load_masked_dataset
from ..data.registry import load_image_set, prepared_options
from ..models.presets import Preset
from .set_names import PAPER_SETS, check_set_names


Protocol = Preset  # of one name: a protocol is a preset and what counts as right


@dataclass(frozen=True)
class EvaluationSet:
    """A set under a protocol.

    Args:
        dataset: rows with `image`, and what else there is: `mask`, `file_name`, and factors.
        accepted: labels that are right for each image; none for an image that does not count. `None` for a set without
            labels.
        class_subset: the classes to which logits are restricted; `None` for all of the model's.
        num_classes: number of classes that the model must have, where it is known.
        border: pixels to cut at each edge of an image.
        source: where the images are from: Hub id, folder, or name of a benchmark.
        shifted: whether the set counts for the mean of the shifted sets.
    """

    dataset: datasets.Dataset
    accepted: list[list[int]] | None = None
    class_subset: tuple[int, ...] | None = None
    num_classes: int | None = None
    border: int = 0
    source: str | None = None
    shifted: bool = False

    @classmethod
    def of(cls, dataset: datasets.Dataset, num_classes: int | None = None, **facts) -> "EvaluationSet":
        """A set as it is: every label counts, and logits are not restricted to a subset. An image whose label is `None` or -1, as those
        of test sets are, does not count."""
        if "label" not in dataset.column_names:
            return cls(dataset, **facts)
        labels = dataset.with_format(None)["label"]
        accepted = [label if isinstance(label, list) else [] if label in (None, -1) else [label] for label in labels]
        return cls(dataset.remove_columns("label"), accepted, num_classes=num_classes, **facts)

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that change with what counts as right, with the class subset, and with the file
        names where the set has them: results with another digest are of other rows."""
        file_names = self.dataset["file_name"][:] if "file_name" in self.dataset.column_names else None
        identity = repr((self.accepted, self.class_subset, file_names)).encode()
        return hashlib.sha256(identity).hexdigest()[:16]

    def check_model(self, name: str, num_labels: int) -> None:
        """Refuse a model that was not made for the classes of the set.

        Args:
            name: how to call the set in errors.
            num_labels: number of classes of the model.

        Raises:
            ValueError: the number of classes differs, a label is none of the model's, or there is no image, or none with a
                label.
        """
        if not len(self.dataset):
            raise ValueError(f"`{name}` has no images.")
        if self.accepted is None:
            return
        if self.num_classes not in (None, num_labels):
            raise ValueError(
                f"`{name}` has {self.num_classes} classes, but the model has {num_labels}, which must be others. Give a "
                "model with a head for the classes of this set."
            )
        if not any(self.accepted):
            raise ValueError(f"`{name}` has no usable image: of {len(self.accepted)}, none has a label.")
        highest = max(max(labels) for labels in self.accepted if labels)
        if highest >= num_labels:
            raise ValueError(
                f"`{name}` has the label {highest}, but the model has the classes 0–{num_labels - 1}: labels must be "
                "indices of the model's classes."
            )


def load_evaluation_sets(
    named: Iterable[tuple[str, str | None]], protocol: Protocol, images_per_set: int
) -> dict[str, EvaluationSet]:
    """Evaluation sets by name, in the order of the paper's tables. A benchmark gives all of its sets.

    Args:
        named: names of benchmarks or of sets of the paper, and where each set is, as for [`load_image_set`].
        images_per_set: images of each set of a benchmark.

    Raises:
        ValueError: an unknown name, or a name that stands twice; or as [`load_image_set`].
    """
    order, sets = [*benchmarks(), *PAPER_SETS], {}
    named = list(named)
    check_set_names([name for name, _ in named])
    for name, source in sorted(named, key=lambda pair: order.index(pair[0])):
        if name in benchmarks():
            sets |= benchmark_sets(name, images_per_set)
        else:
            sets[name] = load_evaluation_set(name, source, protocol)
    return sets


def benchmark_sets(name: str, images_per_set: int) -> dict[str, EvaluationSet]:
    """The evaluation sets of a benchmark, which are the same under every protocol."""
    benchmark = benchmarks()[name]
    return {
        split: EvaluationSet.of(dataset, len(benchmark.class_names), source=name, shifted=split in benchmark.shifted)
        for split, dataset in benchmark.load_evaluation_sets(images_per_set).items()
    }


def own_set(path: str, split: str) -> EvaluationSet:
    """A split of images of your own, with labels.

    Args:
        path: as for [`load_masked_dataset`].

    Raises:
        ValueError: columns that are missing or of another type, or as [`load_masked_dataset`].
    """
    dataset = load_masked_dataset(path, split)
    check_columns(dataset, split, needs_labels=True, needs_masks="mask" in dataset.column_names)
    names = getattr(dataset.features["label"], "names", None)
    return EvaluationSet.of(dataset, names and len(names), source=path)


def sets_for_model(
    class_names: Iterable[str], validation: datasets.Dataset, split: str, source: str, images_per_set: int
) -> dict[str, EvaluationSet]:
    """The sets on which a finetuning is measured: those of the benchmark that has the model's classes, or else the
    validation images.

    Args:
        class_names: of the model, by label.
        validation, split, source: validation images, the name of their split, and where they are from.
        images_per_set: images of each set of a benchmark.
    """
    benchmark = find_benchmark(class_names)
    if benchmark is not None:
        return benchmark_sets(benchmark, images_per_set)
    return {split: EvaluationSet.of(validation, source=source)}


def load_evaluation_set(name: str, source: str | None, protocol: Protocol) -> EvaluationSet:
    """A set of the paper under a protocol.

    Args:
        name: one of `image_sets()`.
        source: where it is, as for [`load_image_set`].

    Raises:
        As [`load_image_set`].
    """
    native = protocol == "native"
    # The border is cut while an image is read: a copy of the set without it would fill the disk.
    options = {"cropped": False} if name == "objectnet" and not native else {}
    rows = EvaluationSet.of(load_image_set(name, source, **options), num_classes=len(wnids()), source=source or name)
    if name == "objectnet":
        if not native:
            return replace(rows, accepted=[labels[:1] for labels in rows.accepted])
        border = 0 if prepared_options(source).get("cropped") else BORDER
        return replace(rows, class_subset=tuple(sorted(set().union(*rows.accepted))), border=border)
    if native and name in ("imagenet-a", "imagenet-r"):
        return replace(rows, class_subset=subset(name))
    return rows
