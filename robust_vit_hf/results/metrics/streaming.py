"""Base class of the metrics: batches are reduced to a few numbers per image, summarised at the end."""

import reprlib
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np


class StreamingMetric(ABC):
    """A metric over a set that is added batch by batch. Batches that raise an error are not added.

    Subclasses define `reduce` and `summarize`. Both are pure, since the scripts for `evaluate` also call them.
    """

    columns: dict[str, str]  # dtypes by name of [`reduce`]'s results except `usable` and `group`

    def __init__(self):
        self._batches: list[dict[str, np.ndarray]] = []
        self.num_images = 0  # added, usable or not

    @abstractmethod
    def reduce(self, predictions, references, first_image: int = 0) -> dict[str, np.ndarray]:
        """Numbers `(N,)` of the images of a batch, by name; `usable` (bool) says whether an image counts.

        Args:
            predictions, references: arrays, tensors on any device, or lists.
            first_image: number of the first image in the whole set, for errors.
        """

    @abstractmethod
    def summarize(self, images: dict[str, np.ndarray]) -> dict:
        """Scores of all images from the results of [`reduce`], in any order."""

    def update(self, predictions, references, **columns) -> None:
        """Add a batch. Arguments are those of [`reduce`].

        Raises:
            ValueError: as [`reduce`], or the batch has other columns than the first.
        """
        batch = self.reduce(predictions, references, first_image=self.num_images, **columns)
        if self._batches and batch.keys() != self._batches[0].keys():
            raise ValueError(
                f"This batch has {', '.join(batch)} of its images, and earlier ones have {', '.join(self._batches[0])}: add the "
                "same columns, such as `groups`, with every batch."
            )
        self._batches.append(batch)
        self.num_images += len(batch["usable"])

    def compute(self) -> dict:
        """Scores of all added images.

        Raises:
            ValueError: no image was added, or none counts.
        """
        if not self._batches:
            raise ValueError("zero images: add some first")
        names = self._batches[0]
        return self.summarize({name: np.concatenate([batch[name] for batch in self._batches]) for name in names})


def to_numpy(values) -> np.ndarray:
    """Convert a list, array or tensor, also on another device, in a graph, or in bfloat16."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if values.is_floating_point() and values.itemsize == 2:
            values = values.float()
    return np.asarray(values)


def place_of(first_image: int, row: int) -> str:
    """Name of an image in errors: its number in the set and its row in the batch."""
    return f"image {first_image + row} (row {row} of the batch)"


def to_class_subset(class_subset: Sequence[int] | None) -> np.ndarray | None:
    """Ascending ids of a class subset; `None` for all classes.

    Raises:
        ValueError: the subset is empty.
    """
    if class_subset is None:
        return None
    ids = np.unique(to_numpy(class_subset))
    if not len(ids) or ids.dtype.kind not in "iu" or ids[0] < 0:
        raise ValueError(f"class_subset is {class_subset!r}: expected one or more class ids, from 0")
    return ids


def to_accepted_ids(references, first_image: int) -> list[list[int]]:
    """Lists of accepted ids, without duplicates, in the order given.

    Args:
        references: `(N,)` ids or lists of ids, or an array `(N, m)` padded with -1.
        first_image: number of the first image in the whole set, for errors.
    """
    accepted = []
    for row, reference in enumerate(to_numpy(references) if hasattr(references, "shape") else references):
        values = to_numpy(reference)
        ids = [value for value in values.tolist() if value != -1] if values.ndim else [values.item()]
        if values.ndim > 1 or not all(type(value) is int and value >= 0 for value in ids):
            raise ValueError(
                f"the reference of {place_of(first_image, row)} is {reprlib.repr(values.tolist())}: expected the id of "
                "a class, from 0, or a list of ids. Leave images without a label out, or give them an empty list"
            )
        accepted.append(list(dict.fromkeys(ids)))
    return accepted


def check_accepted_ids(
    accepted: list[list[int]], num_classes: int | None, class_subset: np.ndarray | None, first_image: int
) -> None:
    """Refuse ids that no prediction can have: a class outside the logits, or an image without an id in the subset.

    Args:
        num_classes: number of logits; `None` if unknown.
    """
    if num_classes is not None and class_subset is not None and class_subset[-1] >= num_classes:
        raise ValueError(
            f"class_subset holds the id {class_subset[-1]}, but the predictions have {num_classes} classes: expected ids "
            "of the model's classes"
        )
    subset = None if class_subset is None else set(class_subset.tolist())
    for row, ids in enumerate(accepted):
        where = f"{place_of(first_image, row)} has the reference {ids}"
        if num_classes is not None and ids and max(ids) >= num_classes:
            raise ValueError(
                f"{where}, but the predictions have {num_classes} classes: expected ids of the model's classes"
            )
        if subset is not None and ids and subset.isdisjoint(ids):
            raise ValueError(
                f"{where}, none of which is in class_subset: give both in the model's ids, and leave such images out"
            )
