"""Outcomes of a benchmark as one table in parquet: a row for each run, and a column for each value, such as
`places.scenes.before`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet as pq

from robust_vit_hf.utils.files import atomic_file


RUN, FACTS = "run", b"facts"  # column with the names of the runs, and metadata with what holds for all


def write_outcomes(path: Path, runs: dict[str, dict], facts: dict) -> None:
    """Write the values of runs, in nested dicts, and facts about all of them."""
    rows = [{RUN: name, **dict(_flat(values))} for name, values in runs.items()]
    columns = dict.fromkeys(column for row in rows for column in row)
    table = pa.table({column: [row.get(column) for row in rows] for column in columns})
    with atomic_file(path) as partial:
        pq.write_table(table.replace_schema_metadata({FACTS: json.dumps(facts)}), partial, compression="zstd")


def _flat(values: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def read_outcomes(path: Path) -> tuple[dict[str, dict], dict]:
    """Runs and facts as they were written, or nothing if there is no file. Values that a run lacks are left out."""
    if not path.is_file():
        return {}, {}
    table, runs = pq.read_table(path), {}
    for row in table.to_pylist():
        values = runs[row.pop(RUN)] = {}
        for column, value in row.items():
            if value is not None:
                *parents, name = column.split(".")
                place = values
                for parent in parents:
                    place = place.setdefault(parent, {})
                place[name] = value
    return runs, json.loads(table.schema.metadata[FACTS])
