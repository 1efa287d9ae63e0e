"""The one schema of all sets, and what a loader hands over before images are decoded."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import datasets

from .imagenet_classes import wnids


def make_features(
    factors: dict | None = None, *, label: bool = True, several_labels: bool = False, mask: bool = False
) -> datasets.Features:
    """Columns of a set: `image`, `mask` (one channel, 0 or 255), `label`, `file_name` and the set's own factors.

    Args:
        factors: further columns and their types.
        label: whether the set has classes. A label is 0–999; the names of the `ClassLabel` are the wnids.
        several_labels: whether `label` is the list of all accepted ids.
        mask: whether the set has foreground masks.
    """
    columns = {"image": datasets.Image()}
    if mask:
        columns["mask"] = datasets.Image()
    if label:
        class_label = datasets.ClassLabel(names=list(wnids()))
        columns["label"] = datasets.List(class_label) if several_labels else class_label
    return datasets.Features(columns | {"file_name": datasets.Value("string")} | (factors or {}))


@dataclass(frozen=True)
class Source:
    """Rows of a set on disk.

    Args:
        rows: generator function of the rows of some shards. Images are not decoded: each is a dict with `bytes` or
            `path`. A row that cannot be used has `file_name` and `problem` (what is wrong and what to do) alone.
        shards: small picklable parts of the set in a fixed order, over which workers share the rows.
        state: what changes when the rows do, beside the times at which the `path` of each shard was changed.
    """

    rows: Callable[[list], Iterator[dict]]
    shards: list
    state: object = None
