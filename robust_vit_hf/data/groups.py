"""Groups of images by columns, and their shares of the training images."""

from collections.abc import Sequence
from itertools import combinations

import datasets
import numpy as np

from .classes import nfc
from .find_images import find_splits, split_names


def training_rows(path: str, split: str) -> datasets.Dataset | None:
    """Load the split `train`; `None` if `split` is that split or a part of it, or if there is none."""
    splits = find_splits(path)
    return None if "train" in split_names(split) or "train" not in splits else splits["train"](False)[0]


def group_shares(dataset: datasets.Dataset | None, name: str, *columns: str) -> dict[str, float] | None:
    """Share of each group of the images by its name, see [`groups_of`]; `None` without images or groups."""
    groups = None if dataset is None else groups_of(dataset, name, *columns)
    if groups is None:
        return None
    names, counts = np.unique(groups, return_counts=True)
    return dict(zip(names.tolist(), (counts / counts.sum()).tolist(), strict=True))


def slices_of(columns: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the tables of `--slices` by name: one for each column, and one for each pair of columns."""
    return {" × ".join(of): of for count in (1, 2) for of in combinations(columns, count)}


def slice_shares(
    dataset: datasets.Dataset, path: str, split: str, columns: Sequence[str]
) -> dict[str, dict[str, float] | None]:
    """Shares of the groups of each of [`slices_of`] among the training images."""
    for column in columns:
        if groups_of(dataset, split, column) is None:
            known = ", ".join(dataset.column_names)
            raise ValueError(f"`{path}` has no column `{column}` for --slices: it has {known}.")
    train = training_rows(path, split) if columns else None
    return {name: group_shares(train, "train", *of) for name, of in slices_of(columns).items()}


def groups_of(
    dataset: datasets.Dataset, name: str = "images", column: str = "group", *others: str
) -> np.ndarray | None:
    """Names `(N,)` of the groups of the images: values of a column, or of several, joined by commas; `None` if one is missing."""
    if column not in dataset.column_names:
        return None
    if others:
        of_others = groups_of(dataset, name, *others)
        return None if of_others is None else groups_of(dataset, name, column) + ", " + of_others
    values, names = dataset.with_format(None)[column][:], getattr(dataset.features[column], "names", None)
    none = (None, "", -1) if names else (None, "")  # CSV has no missing values, only empty text
    missing = [row for row, value in enumerate(values) if value in none or value != value]
    if missing:
        raise ValueError(f"`{name}`: row {missing[0]} has no `{column}`: give every image one, or remove the column.")
    return np.array([names[value] if names else nfc(str(value)) for value in values], dtype=object)
