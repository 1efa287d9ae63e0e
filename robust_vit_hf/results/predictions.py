"""The table of predictions, from which all results are computed: a row for each set, model, image and condition."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
from pyarrow import parquet as pq

from ..utils.files import atomic_file


PREDICTIONS_FILE = "predictions.parquet"


def write_predictions(path: Path, measured: Mapping[str, Mapping[str, pd.DataFrame]]) -> None:
    """Write tables by set and model to one parquet file, with the columns `set` and `model`."""
    parts = [
        table.assign(set=name, model=model) for name, of_set in measured.items() for model, table in of_set.items()
    ]
    table = pd.concat(parts, ignore_index=True)
    first = [name for name in ("set", "model", "image", "condition", "label") if name in table]
    table = pa.Table.from_pandas(table[[*first, *table.columns.difference(first, sort=False)]], preserve_index=False)
    with atomic_file(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def read_predictions(path: Path) -> dict[str, dict[str, pd.DataFrame]]:
    """Read tables by set and model that [`write_predictions`] wrote, in its order."""
    table = pd.DataFrame(pq.read_table(path).to_pydict())  # with lists instead of arrays
    measured: dict[str, dict[str, pd.DataFrame]] = {}
    for (name, model), of_model in table.groupby(["set", "model"], sort=False):
        columns = of_model.drop(columns=["set", "model"]).dropna(axis=1, how="all")  # which only other sets have
        measured.setdefault(name, {})[model] = columns.reset_index(drop=True)
    return measured
