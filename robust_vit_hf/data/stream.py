"""Training on streams, and their evaluation: rows are checked and transformed on the fly."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Literal

import datasets
import numpy as np
import torch
import xxhash
from PIL import Image
from torch.utils.data import get_worker_info
from transformers.utils import logging

from .dataset_digest import row_digest
from .mask_checks import extent_without_edges
from .schema import decode_pictures, label_problem, name_of


logger = logging.get_logger(__name__)

SHUFFLE_BUFFER = 1000  # rows of a stream among which the next one is drawn
MAX_BAD_ROWS = 100  # number of consecutive unusable rows that raises an error


@dataclass(eq=False)
class MaskedStream(torch.utils.data.IterableDataset):
    """Transformed rows of a stream with masks, with their `name` for errors. At its end, the `train` stream restarts in the order of
    the next epoch. Augmentation depends only on `seed`, the epoch and the row. 100 consecutive unusable rows raise an error.

    Args:
        dataset: stream with the columns of `check_columns`.
        name: `train`, `eval`, or `test`, of which no row is left out and which needs only images.
        transform: of an image processor, see [`train_transform`].
        mapping: class of the model for each label, see [`label_mapping`].
        bad_masks: `skip` leaves out unusable rows and rows whose mask is empty or full; `refuse` raises an error.
    """

    dataset: datasets.IterableDataset
    name: Literal["train", "eval", "test"]
    transform: Callable[[dict[str, list]], dict[str, list]]
    num_labels: int
    mapping: dict[int, int] | None
    bad_masks: Literal["skip", "refuse"]
    seed: int

    def __iter__(self) -> Iterator[dict]:
        features, num_bad = self.dataset.features, 0
        for epoch in count() if self.name == "train" else range(1):
            # A copy: workers share the memory with the epoch of `datasets`.
            rows = self.dataset.decode(False).with_format(None)
            rows.set_epoch(epoch)
            index = -1
            for index, row in enumerate(_encoded(rows, features)):
                where = f"{self.name} dataset, {name_of(row, index)}"
                pictures, problem = decode_pictures(row, features)
                if problem is None and self.name != "test" and (extent := extent_without_edges(pictures["mask"])):
                    problem = f"mask is {extent}"
                if problem is None:
                    num_bad = 0
                    yield self._transformed(row | pictures, epoch, row_digest(row), where)
                    continue
                num_bad += 1
                if self.name == "test":
                    raise ValueError(f"{where}: {problem}. Repair it, or leave it out with `dataset.filter`.")
                if self.bad_masks == "refuse" or num_bad == MAX_BAD_ROWS:
                    advice = "Repair it, or leave such rows out with `bad_masks='skip'`."
                    last = f"None of the last {num_bad} rows can be used: see `robust-vit data describe`."
                    raise ValueError(f"{where}: {problem}. {advice if self.bad_masks == 'refuse' else last}")
                if epoch == 0:
                    logger.warning(f"{where}: {problem}. The row is left out.")
            if index < 0 and get_worker_info() is None:
                raise ValueError(f"The {self.name} dataset has no rows.")
            if index < 0:
                return  # there are more workers than shards

    def _transformed(self, row: dict, epoch: int, digest: str, where: str) -> dict:
        columns = {column: [row[column]] for column in ("image", "mask") if column in row}
        if "label" in row:
            label = row["label"]
            if self.mapping is not None and label not in (None, -1):
                label = self.mapping[label]
            label = -1 if label is None and self.name == "test" else label
            is_unlabelled = label == -1 and self.name == "test"
            if not is_unlabelled and (problem := label_problem(label, self.num_labels)):
                raise ValueError(f"{where}: {problem}. Repair it, or leave it out with `dataset.filter`.")
            columns["label"] = [label]
        seed = np.random.SeedSequence((self.seed, epoch, int(digest, 16))).generate_state(1, np.uint64)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(seed[0]))
            return {name: values[0] for name, values in self.transform(columns).items()} | {"name": where}


def stream_identity(dataset: datasets.IterableDataset) -> str:
    """Return 32 hexadecimal digits that identify a stream by its columns, number of shards, and first 100 rows."""
    rows = islice(_encoded(dataset.decode(False).with_format(None), dataset.features), 100)
    known = [repr(dataset.features), dataset.num_shards, *map(row_digest, rows)]
    return xxhash.xxh3_128_hexdigest(repr(known).encode())


def _encoded(rows: datasets.IterableDataset, features: datasets.Features) -> Iterator[dict]:
    """Rows with encoded images, even if a function of `map` returns decoded ones."""
    for row in rows:
        pictures = {name: value for name, value in row.items() if isinstance(value, Image.Image)}
        yield row | {name: features[name].encode_example(picture) for name, picture in pictures.items()}
