"""Parts of labelled images, balanced over their classes: a number of them, or a third that is held out."""

import datasets
import numpy as np


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
