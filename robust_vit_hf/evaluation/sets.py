"""Evaluation sets under a protocol: images and their correct labels.

`paper`: logits are not restricted, the first accepted label of an ObjectNet image counts, its red border stays, and
images go through the preset `paper`. `native`: logits are restricted to the classes of the set (the 200 of ImageNet-A
and -R, the 125 of ObjectNet), every accepted label counts, the border is cut, and images go through the preset
`native`. `model`: as `native`, with the preset `model`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import datasets
import xxhash
from transformers import PreTrainedConfig

from ..class_names.imagenet import subset, wnids
from ..class_names.label_mapping import class_names_of, classes_of_model, map_label, mapping_by_name
from ..data.benchmarks import benchmarks
from ..data.identity import dataset_identity
from ..data.layouts.objectnet import BORDER
from ..data.masked_dataset import check_columns, load_masked_dataset
from ..data.registry import load_image_set, prepared_options
from ..models.preprocessing import Preset
from ..results.published import PAPER_SETS
from .options import SetsOptions
from .set_names import check_set_names


@dataclass(frozen=True)
class EvaluationSet:
    """A set under a protocol.

    Args:
        dataset: rows with `image` and optionally `mask`, `file_name` and factors.
        accepted: correct labels of each image, empty for images that do not count; `None` for a set without labels.
        class_subset: classes to which logits are restricted; `None` for all.
        num_classes: number of classes that the model must have, if known.
        class_names: class names in the order of the labels, if known.
        border: pixels to cut at each edge of an image.
        source: Hub id or folder of the images, or name of a benchmark.
        shifted: whether the set is included in the mean over shifted sets.
    """

    dataset: datasets.Dataset
    accepted: list[list[int]] | None = None
    class_subset: tuple[int, ...] | None = None
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None
    border: int = 0
    source: str | None = None
    shifted: bool = False

    @classmethod
    def of(cls, dataset: datasets.Dataset, num_classes: int | None = None, **facts) -> "EvaluationSet":
        """Set in which every label counts and logits are not restricted. Images labelled `None` or -1, as in test
        sets, do not count."""
        if "label" not in dataset.column_names:
            return cls(dataset, **facts)
        labels = dataset.with_format(None)["label"]
        accepted = [label if isinstance(label, list) else [] if label in (None, -1) else [label] for label in labels]
        facts |= {"num_classes": num_classes, "class_names": class_names_of(dataset.features)}
        return cls(dataset.remove_columns("label"), accepted, **facts)

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits that identify everything a result depends on, see [`dataset_identity`]."""
        facts = (self.accepted, self.class_subset, self.border, dataset_identity(self.dataset))
        return xxhash.xxh3_128(repr(facts).encode()).hexdigest()

    def for_model(self, name: str, config: PreTrainedConfig) -> "EvaluationSet":
        """Copy of the set with labels mapped to a model's classes, by name where both have names, see
        [`label_mapping`]. The set may have a part of the model's classes then.

        Args:
            name: name of the set in errors.
            config: configuration of the model.

        Raises:
            ValueError: the model lacks classes of this set, or there are no images or no labelled ones.
        """
        num_labels = config.num_labels
        if not len(self.dataset):
            raise ValueError(f"`{name}` has no images.")
        if self.accepted is None:
            return self
        mapping = mapping_by_name(self.class_names, classes_of_model(config), name)
        if mapping is None and self.num_classes not in (None, num_labels):
            raise ValueError(
                f"`{name}` has {self.num_classes} classes, but the model has {num_labels}: give a model with a head for the "
                "classes of this set."
            )
        if not any(self.accepted):
            raise ValueError(f"`{name}` has no usable image: of {len(self.accepted)}, none has a label.")
        highest = max(max(labels) for labels in self.accepted if labels)
        if mapping is None and highest >= num_labels:
            raise ValueError(
                f"`{name}` has the label {highest}, but the model has the classes 0–{num_labels - 1}: labels must be "
                "indices of the model's classes."
            )
        accepted = self.accepted
        if mapping is not None:
            accepted = [[map_label(mapping, label, name) for label in labels] for labels in self.accepted]
        return replace(self, accepted=accepted, num_classes=None, class_names=None)


def load_evaluation_sets(
    named: Sequence[tuple[str, str | None]], protocol: Preset, images_per_set: int
) -> dict[str, EvaluationSet]:
    """Load evaluation sets by name, in the order of the paper's tables. A benchmark contributes all of its sets.

    Args:
        named: names of benchmarks or of the paper's sets with their sources, see [`load_image_set`].
        images_per_set: number of images of each set of a benchmark.

    Raises:
        ValueError: as [`check_set_names`] and [`load_image_set`].
    """
    order, sets = [*benchmarks(), *PAPER_SETS], {}
    check_set_names([name for name, _ in named])
    for name, source in sorted(named, key=lambda pair: order.index(pair[0])):
        if name in benchmarks():
            sets |= benchmark_sets(name, images_per_set)
        else:
            sets[name] = load_evaluation_set(name, source, protocol)
    return sets


def load_sets(options: SetsOptions, protocol: Preset, images_per_set: int) -> dict[str, EvaluationSet]:
    """Load the sets named by options, and your own images by split. Errors are those of [`load_evaluation_sets`] and
    [`own_set`].

    Raises:
        ValueError: two sets have the same name.
    """
    loaded = load_evaluation_sets(options.sets, protocol, images_per_set)
    if options.dataset is not None:
        if options.split in loaded:
            raise ValueError(
                f"`{options.split}` is both a split of --dataset and one of --sets: measure one at a time."
            )
        loaded[options.split] = own_set(options.dataset, options.split)
    return loaded


def benchmark_sets(name: str, images_per_set: int, seed: int = 0) -> dict[str, EvaluationSet]:
    """Evaluation sets of a benchmark, the same under every protocol. `seed` draws the images."""
    benchmark = benchmarks()[name]
    return {
        split: EvaluationSet.of(dataset, len(benchmark.class_names), source=name, shifted=split in benchmark.shifted)
        for split, dataset in benchmark.load_evaluation_sets(images_per_set, seed).items()
    }


def own_set(path: str, split: str) -> EvaluationSet:
    """Load a split of your own labelled images. Arguments are those of [`load_masked_dataset`]; errors are those of it
    and of [`check_columns`]."""
    dataset = load_masked_dataset(path, split)
    check_columns(dataset, split, needs_labels=True, needs_masks="mask" in dataset.column_names)
    names = getattr(dataset.features["label"], "names", None)
    return EvaluationSet.of(dataset, names and len(names), source=path)


def load_evaluation_set(name: str, source: str | None, protocol: Preset) -> EvaluationSet:
    """Load a set of the paper under a protocol. Name, source and errors are those of [`load_image_set`]."""
    native = protocol != "paper"
    # Cut the border when an image is read; a cropped copy of the set would need too much disk space.
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
