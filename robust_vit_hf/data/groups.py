"""Groups of images by a column, their shares of the training images, and draws balanced over classes."""

from collections.abc import Sequence
from itertools import combinations

import datasets
import numpy as np

from .classes import nfc
from .find_images import find_splits, split_names


def training_rows(path: str, split: str) -> datasets.Dataset | None:
    """The split `train` of your own images; `None` if `split` is of it, or if there is none."""
    splits = find_splits(path)
    return None if "train" in split_names(split) or "train" not in splits else splits["train"](False)


def training_shares(path: str, split: str) -> dict[str, float] | None:
    """Shares of the groups of [`training_rows`], see [`group_shares`]; `None` without these."""
    train = training_rows(path, split)
    return None if train is None else group_shares(train, "train")


def group_shares(dataset: datasets.Dataset, name: str, *columns: str) -> dict[str, float] | None:
    """Share of each group of the images by its name, see [`groups_of`]; `None` without groups."""
    groups = groups_of(dataset, name, *columns)
    if groups is None:
        return None
    names, counts = np.unique(groups, return_counts=True)
    return dict(zip(names.tolist(), (counts / counts.sum()).tolist(), strict=True))


def slices_of(columns: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """What `--slices` means: each of the columns, and each pair of them, by the name of its table."""
    return {" × ".join(of): of for count in (1, 2) for of in combinations(columns, count)}


def slice_shares(
    dataset: datasets.Dataset, path: str | None, split: str, columns: Sequence[str]
) -> dict[str, dict[str, float] | None]:
    """Shares of the groups of each of [`slices_of`] among the training images."""
    for column in columns:
        if groups_of(dataset, split, column) is None:
            known = ", ".join(dataset.column_names)
            raise ValueError(f"`{path}` has no column `{column}` for --slices: it has {known}.")
    train = training_rows(path, split) if columns else None
    return (
        {} if train is None else {name: group_shares(train, "train", *of) for name, of in slices_of(columns).items()}
    )


def groups_of(
    dataset: datasets.Dataset, name: str = "images", column: str = "group", *others: str
) -> np.ndarray | None:
    """Names `(N,)` of the groups of the images, from one column or several, joined by commas; `None` without one."""
    if column not in dataset.column_names:
        return None
    if others:
        of_others = groups_of(dataset, name, *others)
        return None if of_others is None else groups_of(dataset, name, column) + ", " + of_others
    values, names = dataset.with_format(None)[column][:], getattr(dataset.features[column], "names", None)
    none = (None, "", -1) if names else (None, "")  # CSV has no other word for none than empty text
    missing = [row for row, value in enumerate(values) if value in none or value != value]
    if missing:
        raise ValueError(f"`{name}`: row {missing[0]} has no `{column}`: give every image one, or remove the column.")
    return np.array([names[value] if names else nfc(str(value)) for value in values], dtype=object)


def choose_images(dataset: datasets.Dataset, count: int, seed: int = 0) -> datasets.Dataset:
    """At most `count` labelled images, drawn by the seed, balanced over classes of two images or more."""
    labels = np.array([-1 if label is None else label for label in dataset.with_format(None)["label"]])
    classes = np.unique(labels[labels >= 0])
    if count < 2 * len(classes):
        classes = np.random.default_rng(seed).permutation(classes)[: max(2, count // 2)]
    usable = np.flatnonzero(np.isin(labels, classes))
    order = np.lexsort((labels[usable], turns_within_classes(labels[usable], seed)))
    return dataset.select(np.sort(usable[order][:count]))


def turns_within_classes(labels: np.ndarray, seed: int) -> np.ndarray:
    """Place `(N,)` of each image in a random order of its class, from 0, by its label `(N,)`."""
    turn = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        turn[np.random.default_rng([seed, int(label)]).permutation(members)] = np.arange(len(members))
    return turn


def labels_of(dataset: datasets.Dataset) -> np.ndarray:
    return np.array(dataset.with_format(None)["label"])


def held_out(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of images without a third of each class, and of that third."""
    turn = turns_within_classes(labels, seed)
    return np.flatnonzero(turn % 3 != 2), np.flatnonzero(turn % 3 == 2)


def halves(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of two halves of each class, of which a class of one image is in either in turn."""
    begins = {label: place % 2 for place, label in enumerate(np.unique(labels).tolist())}
    half = (turns_within_classes(labels, seed + 1) + [begins[label] for label in labels.tolist()]) % 2
    return np.flatnonzero(half == 1), np.flatnonzero(half == 0)
