"""Measurements of a model on a set: a table with a row for each image."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import datasets
import pandas as pd
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data.schema import undecoded
from ..models.added_classifiers import OwnClassifier
from ..results.predictions import write_predictions
from .session import Session, Side
from .sets import EvaluationSet


class NonFiniteLogits(ValueError):
    """Logits are NaN or infinite."""


class TransformedRows(torch.utils.data.Dataset):
    """Transformed rows of a dataset, in batches. Errors name the row that caused them."""

    def __init__(self, dataset: datasets.Dataset, transform: Callable):
        self.dataset, self.rows = dataset, dataset.with_transform(transform)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> list[dict]:
        try:
            return self.rows.__getitems__(indices)
        except Exception as error:  # codecs raise any type
            if len(indices) > 1:
                return [row for index in indices for row in self.__getitems__([index])]
            (index,) = indices
            path = (undecoded(self.dataset)[index]["image"] or {"path": "no image"})["path"]
            text = f"Row {index} ({path or 'in the table'}) cannot be used: {error}."
            raise ValueError(f"{text} `robust-vit data describe … --split …` lists such rows.") from error


def batch_outputs(
    loader: DataLoader,
    compute: Callable[[dict[str, torch.Tensor]], tuple[list[torch.Tensor], tuple[torch.Tensor, ...]]],
    dataset: datasets.Dataset,
    accelerator: Accelerator,
    description: str,
) -> Iterator[tuple[slice, list[torch.Tensor], tuple[torch.Tensor, ...]]]:
    """Rows, logits (fp32) and values of each batch, in order, gathered from all processes. `compute` takes a collated
    batch, and returns logits `(B, C)`, which have to be finite, and values."""
    done = 0
    with tqdm(total=len(dataset), desc=description, unit="image", disable=not accelerator.is_main_process) as progress:
        for batch in accelerator.prepare(loader):
            with torch.no_grad(), accelerator.autocast():
                logits, values = compute(batch)
            logits, values = accelerator.gather_for_metrics(([of_pass.float() for of_pass in logits], values))
            for checked in logits:  # in every process, so that all stop together
                if bad := (~checked.isfinite()).any(dim=1).nonzero().flatten().tolist():
                    index, named = done + bad[0], "file_name" in dataset.column_names
                    image = f"`{dataset.with_format(None)['file_name'][index]}`" if named else f"image {index}"
                    raise NonFiniteLogits(
                        f"{description}: the logits of {image} are NaN or infinite. Look at the image and "
                        "at the model's weights; in half precision, try float32."
                    )
            rows = slice(done, done + len(logits[0]))
            yield rows, logits, values
            progress.update(rows.stop - rows.start)
            done = rows.stop


@dataclass(frozen=True)
class Measurement(ABC):
    """A measurement of a model on a set. Its result depends on its fields."""

    @abstractmethod
    def measure(self, side: Side, rows: EvaluationSet, session: Session, title: str) -> pd.DataFrame:
        """Table with a row for each image, in the order of the set, in every process."""

    def inputs(self) -> dict:
        """What a result depends on, other than side and set, as JSON values."""
        return asdict(self)


def measure(session: Session, measurement: Measurement) -> dict[str, dict[str, pd.DataFrame]]:
    """Tables by set and side: [`EvaluationSet.table`] with the columns of a measurement, from the session's cache if it
    has them."""
    return {name: {side: _table(session, measurement, name, side) for side in session.sides} for name in session.sets}


def _table(session: Session, measurement: Measurement, name: str, side: str) -> pd.DataFrame:
    model, rows = session.sides[side], session.sets[name]
    compute = partial(measurement.measure, model, rows, session, f"{name}, {side}")
    if session.cache is None or isinstance(model.model, OwnClassifier):  # a function has no weights to identify it
        measured = compute()
    else:
        inputs = measurement.inputs() | session.inputs(model, rows)
        measured = session.cache.table(type(measurement).__name__.lower(), compute, **inputs)
    return pd.concat([rows.table, measured], axis=1)


def save_predictions(path: Path, session: Session, measured: Mapping[str, Mapping[str, pd.DataFrame]]) -> None:
    """Write the tables of [`measure`] to one file, see [`write_predictions`], with the digest of each set's images."""
    if session.accelerator.is_main_process:
        digests = {name: {"digest": rows.digest} for name, rows in session.sets.items()}
        tables = {
            name: {side: table.assign(**digests[name]) for side, table in of.items()} for name, of in measured.items()
        }
        write_predictions(path, tables)
