"""Groups of images by columns, and their shares of the training images."""

import datasets
import numpy as np

from .classes import nfc
from .find_images import find_splits, split_names


def training_rows(path: str, split: str) -> datasets.Dataset | None:
    """Load the split `train`; `None` if `split` is that split or a part of it, or if there is none."""
    splits = find_splits(path)
    return None if "train" in split_names(split) or "train" not in splits else splits["train"](False)[0]


def group_shares(dataset: datasets.Dataset | None, name: str) -> dict[str, float] | None:
    """Share of each group of the images by its name, see [`groups_of`]; `None` without images or groups."""
    groups = None if dataset is None else groups_of(dataset, name)
    if groups is None:
        return None
    names, counts = np.unique(groups, return_counts=True)
    return dict(zip(names.tolist(), (counts / counts.sum()).tolist(), strict=True))


def groups_of(dataset: datasets.Dataset, name: str = "images") -> np.ndarray | None:
    """Names `(N,)` of the groups of the images, of the column `group`; `None` if it is missing."""
    if "group" not in dataset.column_names:
        return None
    values, names = dataset.with_format(None)["group"][:], getattr(dataset.features["group"], "names", None)
    none = (None, "", -1) if names else (None, "")  # CSV has no missing values, only empty text
    missing = [row for row, value in enumerate(values) if value in none or value != value]
    if missing:
        raise ValueError(f"`{name}`: row {missing[0]} has no `group`: give every image one, or remove the column.")
    return np.array([names[value] if names else nfc(str(value)) for value in values], dtype=object)
