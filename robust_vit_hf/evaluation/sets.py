"""Evaluation sets under a protocol: images and their correct labels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import datasets
import numpy as np
import pandas as pd
import xxhash
from transformers import BaseImageProcessor, PreTrainedConfig

from ..data import emoji_shift
from ..data.classes import class_names_of, classes_of_model, label_mapping, subset, wnids
from ..data.copies import without_copies
from ..data.dataset_digest import dataset_identity
from ..data.find_images import find_images
from ..data.groups import group_shares, groups_of, training_rows
from ..data.image_sets import load_image_set
from ..data.known_sets import BUNDLED_BENCHMARK, EVALUATION_SETS, KNOWN_SETS
from ..data.layouts.official import METADATA_COLUMNS
from ..data.layouts.packed import prepared_set
from ..data.transforms import eval_transform
from ..models.image_processors import Protocol
from .options import SetsOptions


@dataclass(frozen=True)
class EvaluationSet:
    """Images of a set, their correct labels, and how they are preprocessed under a protocol; see [`SetResult`]."""

    dataset: datasets.Dataset  # rows with `image` and optionally `mask`, `file_name`, `group` and factors
    accepted: list[list[int]] = field(default_factory=list)  # labels of each image; empty if none is known
    class_subset: tuple[int, ...] | None = None  # classes to which logits are restricted, ascending; `None` for all
    num_classes: int | None = None  # number of classes that the model must have, if known
    class_names: tuple[str, ...] | None = None  # names in the order of the labels, if known
    border: int = 0  # pixels to cut at each edge of an image
    by_class: bool = True
    whole: bool = False  # images are squashed to the model's size, and not cropped
    group_weights: dict[str, float] | None = None
    source: str | None = None
    notes: tuple[str, ...] = ()  # on what was left out
    revision: str | None = None  # commit of a source on the Hub
    shifted: bool = False

    @classmethod
    def of(cls, dataset: datasets.Dataset, num_classes: int | None = None, **facts) -> "EvaluationSet":
        """Set with the labels of its column `label`, in which `None` and -1 mean no label."""
        if "label" not in dataset.column_names:
            return cls(dataset, **facts)
        labels = dataset.with_format(None)["label"]
        accepted = [label if isinstance(label, list) else [] if label in (None, -1) else [label] for label in labels]
        facts |= {"num_classes": num_classes, "class_names": class_names_of(dataset.features)}
        return cls(dataset.remove_columns("label"), accepted, **facts)

    @cached_property
    def labels(self) -> np.ndarray:
        """First accepted label of each image `(N,)` int64, of a set in which all images have one."""
        return np.array([labels[0] for labels in self.accepted])

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row for each image: `image`, its file name or else its number; `accepted` classes, and `label`, the first
        of them (-1 without any); `group` and `weight`, the share of this group in the training images, if known;
        factors."""
        columns, accepted = self.dataset.column_names, self.accepted or [[]] * len(self.dataset)
        names = self.dataset.with_format(None)["file_name"][:] if "file_name" in columns else range(len(self.dataset))
        table = pd.DataFrame({"image": map(str, names), "accepted": accepted})
        table["label"] = [labels[0] if labels else -1 for labels in accepted]
        if (groups := groups_of(self.dataset)) is not None:
            table["group"] = groups
            if self.group_weights is not None:
                table["weight"] = table["group"].map(self.group_weights)
        for name, values in factors_of(self.dataset).items():
            table[f"factor_{name}"] = values
        return table

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits that identify everything a result depends on, see [`dataset_identity`]."""
        facts: tuple = (self.accepted, self.class_subset, self.border, dataset_identity(self.dataset))
        facts += ("whole",) if self.whole else ()
        return xxhash.xxh3_128(repr(facts).encode()).hexdigest()

    def transform(self, processor: BaseImageProcessor) -> Callable[[dict[str, list]], dict[str, list]]:
        return eval_transform(processor, self.border, self.whole)

    def for_model(self, name: str, config: PreTrainedConfig) -> "EvaluationSet":
        """Copy of the set with labels mapped to a model's classes, see [`label_mapping`]. It need not have all."""
        if not len(self.dataset) or (self.accepted and not any(self.accepted)):
            raise ValueError(f"`{name}` has no usable image: none of its {len(self.dataset)} images has a label.")
        if not self.accepted:
            return self
        used = {label for labels in self.accepted for label in labels}
        mapping = label_mapping(self.class_names, classes_of_model(config), name, used)
        count = max(self.num_classes or 0, 1 + max(max(labels) for labels in self.accepted if labels))
        if mapping is None and (count > config.num_labels or self.num_classes not in (None, config.num_labels)):
            raise ValueError(
                f"`{name}` has {count} classes, but the model has {config.num_labels}: give a model of these classes."
            )
        accepted, chosen = self.accepted, self.class_subset
        if mapping is not None:
            accepted = [[mapping[label] for label in labels] for labels in self.accepted]
            chosen = chosen and tuple(sorted(mapping[label] for label in chosen))
        return replace(self, accepted=accepted, class_subset=chosen, num_classes=None, class_names=None)


def factors_of(dataset: datasets.Dataset) -> dict[str, np.ndarray]:
    """Columns of SI-Score with the location and pose of the object, if they are known for every image."""
    names = sorted(set(METADATA_COLUMNS) & set(dataset.column_names))
    if not names:
        return {}
    columns = dataset.with_format(None).select_columns(names).to_pandas()
    known = columns.select_dtypes("number").dropna(axis=1)  # a user's column may have one of these names
    return {name: known[name].to_numpy(float) for name in known}


def load_evaluation_sets(
    named: Sequence[tuple[str, str | None]], protocol: Protocol, images_per_set: int
) -> dict[str, EvaluationSet]:
    """Load sets of emoji-shift, and image sets from their sources, in the order of the tables."""
    order, sets = [BUNDLED_BENCHMARK, *EVALUATION_SETS], {}
    for name, source in sorted(named, key=lambda pair: order.index(pair[0])):
        if name == BUNDLED_BENCHMARK:
            sets |= benchmark_sets(images_per_set)
        else:
            sets[name] = load_evaluation_set(name, source, protocol)
    return sets


def load_sets(options: SetsOptions, protocol: Protocol, images_per_set: int) -> dict[str, EvaluationSet]:
    loaded = load_evaluation_sets(options.named_sets, protocol, images_per_set)
    if options.dataset is not None:
        if options.split in loaded:
            raise ValueError(f"`{options.split}` is a split of --dataset and one of --sets: measure one at a time.")
        loaded[options.split] = own_set(options.dataset, options.split)
    return loaded


def benchmark_sets(images_per_set: int, seed: int = 0) -> dict[str, EvaluationSet]:
    """Evaluation sets of emoji-shift, which are the same under every protocol. `seed` draws the images."""
    sets, count = emoji_shift.load_evaluation_sets(images_per_set, seed), len(emoji_shift.CLASS_NAMES)
    return {
        name: EvaluationSet.of(dataset, count, source=BUNDLED_BENCHMARK, shifted=name in emoji_shift.SHIFTED)
        for name, dataset in sets.items()
    }


def own_set(path: str, split: str) -> EvaluationSet:
    """Load a split of your own labelled images, each photograph once. Groups are weighted by [`training_rows`]."""
    (images,) = without_copies({split: find_images(path, split, ("label",))}).values()
    names = class_names_of(images.rows.features)
    weights = group_shares(training_rows(path, split), "train") if "group" in images.rows.column_names else None
    facts: dict[str, Any] = {"source": path, "group_weights": weights, "notes": images.labelled().notes}
    return EvaluationSet.of(images.rows, len(names) if names else None, **facts)


def load_evaluation_set(name: str, source: str | None, protocol: Protocol) -> EvaluationSet:
    """Load a set with the classes of ImageNet under a protocol. Images of ImageNet-9 are not cropped."""
    known, native = KNOWN_SETS[name], protocol != "paper"
    border = known.border
    if native and border and source and prepared_set(source)[1].get("cropped"):
        border = 0
    # The border is cut when an image is read; a cropped copy of the set would need too much disk space.
    dataset = load_image_set(name, source, **{"cropped": False} if known.border and not native else {})
    facts = {"source": source or name, "revision": (dataset.info.homepage or "").partition("/tree/")[2] or None}
    rows = EvaluationSet.of(dataset, len(wnids()), by_class=known.by_class, whole=known.whole, **facts)
    if not native:
        return replace(rows, accepted=[labels[:1] for labels in rows.accepted]) if known.first_label else rows
    if known.first_label:
        rows = replace(rows, class_subset=tuple(sorted({label for labels in rows.accepted for label in labels})))
    elif known.class_subset:
        rows = replace(rows, class_subset=subset(known.class_subset))
    return replace(rows, border=border)
