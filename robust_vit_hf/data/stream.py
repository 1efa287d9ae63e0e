"""Rows of a stream for a training: each is checked and transformed as it comes."""

from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import Literal

import datasets
import numpy as np
import torch
import xxhash
from datasets.distributed import split_dataset_by_node
from PIL import Image
from torch.utils.data import get_worker_info
from transformers.utils import logging

from ..class_names.label_mapping import map_label
from .identity import row_digest
from .masked_dataset import decode_pictures, extent_without_edges, label_problem, name_of


logger = logging.get_logger(__name__)

# Rows, one after another, that cannot be used: then it is not the rows that are wrong, but the dataset.
MAX_BAD_ROWS = 100


class MaskedStream(torch.utils.data.IterableDataset):
    """Rows of a stream with masks, without end: after its last row it begins again, in the order of its next epoch.

    Processes and data loader workers share the rows. The random numbers of a row's augmentation depend on `seed`, the number of
    the pass and the row alone, so that neither a resumed run nor the number of processes and workers changes an image.

    Args:
        dataset: stream with the columns of `check_columns`.
        transform: [`train_transform`] of an image processor.
        num_labels: number of the model's classes.
        mapping: class of the model for each label, see [`label_mapping`].
        bad_masks: whether a row whose image or mask cannot be used, or whose mask is empty or full, is left out with a warning
            or refused.
        rank, num_processes: this process, and the number of those that share the rows.

    Yields:
        The transformed row, and its `name`, for errors.

    Raises:
        ValueError: while rows are read: a refused row; a label that is not a class of the model, whatever `bad_masks` is; there are
            no rows, or 100 one after another cannot be used.
    """

    def __init__(
        self,
        dataset: datasets.IterableDataset,
        transform: Callable[[dict[str, list]], dict[str, list]],
        num_labels: int,
        mapping: dict[int, int] | None,
        bad_masks: Literal["skip", "refuse"],
        seed: int,
        rank: int = 0,
        num_processes: int = 1,
    ):
        self.dataset = dataset
        self.transform = transform
        self.num_labels, self.mapping = num_labels, mapping
        self.bad_masks, self.seed = bad_masks, seed
        self.share = split_dataset_by_node(dataset.decode(False), rank, num_processes)

    def __iter__(self) -> Iterator[dict]:
        features, num_bad = self.dataset.features, 0
        for epoch in count():
            rows = self.share.with_format(None)  # a copy: workers share the memory in which `datasets` holds the epoch
            rows.set_epoch(epoch)
            index = -1
            for index, row in enumerate(_encoded(rows, features)):
                where = f"train dataset, {name_of(row, index)}"
                pictures, problem = decode_pictures(row, features)
                if problem is None and (extent := extent_without_edges(pictures["mask"])):
                    problem = f"mask is {extent}"
                if problem is not None:
                    num_bad += 1
                    if self.bad_masks == "refuse":
                        raise ValueError(
                            f"{where}: {problem}. Repair it, or leave such rows out with `bad_masks='skip'`."
                        )
                    if num_bad == MAX_BAD_ROWS:
                        raise ValueError(
                            f"{where}: {problem}. No row of the last {num_bad} can be used: look at the dataset with "
                            "`robust-vit data describe`."
                        )
                    if epoch == 0:
                        logger.warning(f"{where}: {problem}. The row is left out.")
                    continue
                num_bad = 0
                yield self._transformed(row | pictures, epoch, row_digest(row), where)
            if index < 0 and get_worker_info() is None:
                raise ValueError("The train dataset has no rows, or fewer than processes.")
            if index < 0:
                return  # there are more workers than shards

    def _transformed(self, row: dict, epoch: int, digest: str, where: str) -> dict:
        columns = {"image": [row["image"]], "mask": [row["mask"]]}
        if "label" in row:
            label = row["label"]
            if self.mapping is not None and label not in (None, -1):
                label = map_label(self.mapping, label, "train dataset")
            if problem := label_problem(label, self.num_labels):
                raise ValueError(f"{where}: {problem}. Repair it, or leave it out with `dataset.filter`.")
            columns["label"] = [label]
        seed = np.random.SeedSequence((self.seed, epoch, int(digest, 16))).generate_state(1, np.uint64)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(seed[0]))
            return {name: values[0] for name, values in self.transform(columns).items()} | {"name": where}


def stream_identity(dataset: datasets.IterableDataset) -> str:
    """32 hexadecimal digits that change with the columns of a stream, the number of its shards, and the values and order of its
    first 100 rows, which are read. Nothing else is known of a stream before it has been read."""
    rows = islice(_encoded(dataset.decode(False).with_format(None), dataset.features), 100)
    known = [repr(dataset.features), dataset.num_shards, *map(row_digest, rows)]
    return xxhash.xxh3_128_hexdigest(repr(known).encode())


def _encoded(rows: datasets.IterableDataset, features: datasets.Features) -> Iterator[dict]:
    """Rows with images as dicts with `bytes` and `path`, even those that a function of `map` gives as pictures."""
    for row in rows:
        pictures = {name: value for name, value in row.items() if isinstance(value, Image.Image)}
        yield row | {name: features[name].encode_example(picture) for name, picture in pictures.items()}
