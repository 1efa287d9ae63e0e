"""The table of predictions, from which all results are computed: a row for each set, model, image and condition."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
from pyarrow import parquet as pq

from ..data.background_edits import CONDITIONS
from ..utils.files import atomic_file


PREDICTIONS_FILE = "predictions.parquet"
FIRST = ("set", "model", "image", "condition", "label", "prediction", "probability", "weight")  # those that are known


def write_predictions(path: Path, measured: Mapping[str, Mapping[str, pd.DataFrame]]) -> None:
    """Write tables with a row for each image, by set and model, to one parquet file with a row for each condition too:
    `condition` and `prediction`, the predicted class, stand for the columns of predicted classes."""
    parts = [
        _by_condition(table).assign(set=name, model=model)
        for name, of_set in measured.items()
        for model, table in of_set.items()
    ]
    table = pd.concat(parts, ignore_index=True)
    first = [name for name in FIRST if name in table]
    table = pa.Table.from_pandas(table[[*first, *table.columns.difference(first, sort=False)]], preserve_index=False)
    with atomic_file(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def _by_condition(table: pd.DataFrame) -> pd.DataFrame:
    if "predictions" in table:
        return table.assign(condition="original", prediction=[best[0] for best in table["predictions"]])
    conditions = [name for name in table if name in (*CONDITIONS, "background") or f"{name}_margin" in table]
    of_images = table.drop(columns=conditions)
    return pd.concat([of_images.assign(condition=name, prediction=table[name]) for name in conditions])


def read_predictions(path: Path) -> dict[str, dict[str, pd.DataFrame]]:
    """Read the tables that [`write_predictions`] was given, by set and model, in their order."""
    table = pd.DataFrame(pq.read_table(path).to_pydict())  # with lists instead of arrays
    measured: dict[str, dict[str, pd.DataFrame]] = {}
    for (name, model), rows in table.groupby(["set", "model"], sort=False):
        of_conditions = dict(list(rows.groupby("condition", sort=False)))
        of_model = next(iter(of_conditions.values())).drop(columns=["set", "model", "condition", "prediction"])
        of_model = of_model.dropna(axis=1, how="all").reset_index(drop=True)  # without columns of other sets
        if "predictions" not in of_model:
            of_model = of_model.assign(**{of: one["prediction"].to_numpy() for of, one in of_conditions.items()})
        measured.setdefault(name, {})[model] = of_model
    return measured
