"""Parts of labelled images, balanced over classes: a given number of images, or a third that is held out."""

from collections.abc import Sequence

import datasets
import numpy as np


def choose_images(dataset: datasets.Dataset, count: int, seed: int = 0) -> datasets.Dataset:
    """Draw at most `count` labelled images, balanced over classes: over fewer classes if all cannot have two images."""
    labels = np.array([-1 if label is None else label for label in dataset.with_format(None)["label"]])
    classes = np.unique(labels[labels >= 0])
    if count < 2 * len(classes):
        classes = np.random.default_rng(seed).permutation(classes)[: max(2, count // 2)]
    usable = np.flatnonzero(np.isin(labels, classes))
    order = np.lexsort((labels[usable], turns_within_classes(labels[usable], seed)))
    return dataset.select(np.sort(usable[order][:count]))


def turns_within_classes(labels: np.ndarray, seed: int) -> np.ndarray:
    """Place `(N,)`, from 0, of each image in a random order of its class, by labels `(N,)`."""
    turn = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        turn[np.random.default_rng([seed, int(label)]).permutation(members)] = np.arange(len(members))
    return turn


def held_out(labels: Sequence[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split images, by their labels, into two thirds and one third of each class. Returns the indices of both parts."""
    turn = turns_within_classes(np.asarray(labels), seed)
    return np.flatnonzero(turn % 3 != 2), np.flatnonzero(turn % 3 == 2)
