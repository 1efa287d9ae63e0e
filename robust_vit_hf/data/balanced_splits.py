"""Parts of labelled images, balanced over classes: a given number of images, or a share that is held out."""

import datasets
import numpy as np
import pandas as pd
import xxhash
from transformers.utils import logging

from .copies import clusters
from .schema import image_names, undecoded


logger = logging.get_logger(__name__)


def choose_images(dataset: datasets.Dataset, count: int, seed: int = 0) -> datasets.Dataset:
    """Draw at most `count` labelled images, balanced over classes. If not all classes can have two images, of which one gives
    the background of the other, fewer classes have two, and a warning tells their number."""
    labels = np.array([-1 if label is None else label for label in dataset.with_format(None)["label"]])
    classes = known = np.unique(labels[labels >= 0])
    if count < 2 * len(classes):
        classes = np.random.default_rng(seed).permutation(classes)[: max(2, count // 2)]
        logger.warning(f"{count} images are two of each of {len(classes)} of the {len(known)} classes.")
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


def hold_out(rows: datasets.Dataset, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Split images into those to train on and a share of each class that is held out. Returns the indices of both parts, which
    depend on the names of the images alone, so that all commands hold out the same. Near-copies go to one part, unless a
    class would then be missing in one."""
    labels = rows.with_format(None)["label"][:] if "label" in rows.column_names else [-1] * len(rows)
    labels = pd.Series([-1 if label is None else label for label in labels])
    hashes = pd.Series([xxhash.xxh3_64_intdigest(name.encode()) for name in image_names(rows)])
    held = hashes.groupby(labels).rank(method="first", pct=True) <= share + 1e-9
    near = clusters(undecoded(rows.with_format(None).select_columns("image")))[0]
    together = held.groupby(near).transform("first")
    if together.groupby(labels).nunique().equals(held.groupby(labels).nunique()):
        held = together
    return np.flatnonzero(~held), np.flatnonzero(held)
