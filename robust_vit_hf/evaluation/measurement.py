"""Measurements of a model on a set: a row for each image, and scores of all images, saved as a stage."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from pyarrow import parquet as pq
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data.schema import undecoded
from ..models.added_classifiers import OwnClassifier
from ..utils.files import atomic_file, json_digest
from ..utils.stage import OtherInputs, Stage
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
            raise ValueError(
                f"Row {index} ({path or 'in the table'}) cannot be used: {error}. `robust-vit data describe … --split …` lists such rows."
            ) from error


def batch_outputs(
    loader: DataLoader,
    compute: Callable[[dict[str, torch.Tensor]], tuple[list[torch.Tensor], tuple[torch.Tensor, ...]]],
    dataset: datasets.Dataset,
    accelerator: Accelerator,
    description: str,
) -> Iterator[tuple[slice, list[torch.Tensor], tuple[torch.Tensor, ...]]]:
    """Rows, logits (fp32) and values of each batch, in order, gathered from all processes. `compute` takes a collated batch, and returns logits
    `(B, C)`, which have to be finite, and values."""
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


ROWS_FILE = "rows.parquet"


@dataclass
class Measured:
    """Columns of a measurement, in the order of the set, and its scores."""

    columns: dict[str, Any] = field(default_factory=dict)
    scores: dict = field(default_factory=dict)

    def save(self, stage: Stage) -> None:
        if self.columns:
            table = pa.table({name: list(values) for name, values in self.columns.items()})
            with atomic_file(stage.folder / ROWS_FILE) as partial:
                pq.write_table(table, partial)
        stage.finish(self.scores, [ROWS_FILE] if self.columns else [])

    @classmethod
    def load(cls, stage: Stage, ignoring: Collection[str] = ()) -> "Measured | None":
        """Read the result of a stage, whose inputs may differ in those of `ignoring`; `None` if it is incomplete."""
        scores, path = stage.result(ignoring), stage.folder / ROWS_FILE
        if scores is None:
            return None
        for name in scores.keys() & {"per_class_top1", "per_class_top5"}:  # JSON has no integer keys
            scores[name] = {int(label): value for label, value in scores[name].items()}
        try:
            table = pq.read_table(path) if path.is_file() else None
            if table is not None and table.num_rows != stage.inputs.get("images", table.num_rows):
                raise pa.ArrowInvalid(f"it has {table.num_rows} rows for {stage.inputs['images']} images")
            return cls({} if table is None else table.to_pydict(), scores)
        except pa.ArrowInvalid as error:
            raise ValueError(f"`{path}` is damaged: {error}. Delete `{stage.folder}`, and measure again.") from error


@dataclass(frozen=True)
class Measurement(ABC):
    """A measurement of a side on a set. Its result depends on its fields."""

    @abstractmethod
    def measure(self, side: Side, rows: EvaluationSet, session: Session, title: str, folder: Path | None) -> Measured:
        """Measure a side on a set: rows in every process, scores in the main one. `folder` keeps partial results."""

    def inputs(self) -> dict:
        """Inputs of a result other than side and set, as a JSON object."""
        return json.loads(json.dumps(asdict(self)))  # tuples become lists, as when read from a file


def measure(session: Session, measurement: Measurement, within: str = "") -> dict[str, dict[str, Measured]]:
    """Results by set and side. They are read from the folder `within` that of the session, or measured and saved there."""
    return {
        name: {side: _result(session, measurement, name, side, within) for side in session.sides}
        for name in session.sets
    }


def _result(session: Session, measurement: Measurement, name: str, side: str, within: str) -> Measured:
    rows = session.sets[name]
    inputs = measurement.inputs() | session.inputs(session.sides[side], rows)

    def compute(folder: Path | None) -> Measured:
        return measurement.measure(session.sides[side], rows, session, f"{name}, {side}", folder)

    if session.folder is None:
        return compute(None)
    # A function has no weights to identify it: it is measured again, and has to predict what was saved.
    is_function = isinstance(session.sides[side].model, OwnClassifier)
    stages, incomplete = [Stage(Path(session.folder, within, name, side), inputs)], []
    if session.shared is not None and side == "before":
        stages.append(Stage(session.shared / f"{name}-{json_digest(inputs)}", inputs))
    for stage in stages:
        measured = Measured.load(stage)
        is_known = [measured is not None and not is_function]
        broadcast_object_list(is_known)  # processes must agree, although another job may write meanwhile
        if is_known[0]:
            measured = measured or Measured.load(stage)
            break
        incomplete.append(stage)
        if session.accelerator.is_main_process:
            stage.begin()
    else:
        kept, measured = measured, compute(stages[-1].folder)
        classes = {name: of for name, of in measured.columns.items() if getattr(of, "dtype", None) == np.int64}
        if kept is not None and not all(np.array_equal(kept.columns[name], classes[name]) for name in classes):
            raise OtherInputs(stages[-1].folder, ["model"])
    if session.accelerator.is_main_process:
        for stage in reversed(incomplete):
            measured.save(stage)
    return measured


def is_measured(folder: Path) -> bool:
    return all(Stage.of(folder / side).result() is not None for side in ("before", "after"))
