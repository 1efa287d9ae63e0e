"""Reading and writing `results.parquet`, with a row for each run, set, side and image."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet as pq

from robust_vit_hf.metrics.robust_accuracy import TOP
from robust_vit_hf.results.run_results import SetResult, SideResult
from robust_vit_hf.results.tables import SEGMENTATION
from robust_vit_hf.utils.files import atomic_file

from .runs import Run


RESULTS_TABLE = "results.parquet"
VERSION = 4  # increment when older files cannot be read; metadata that they lack has a default
MEASUREMENT_OPTIONS = ("benchmark_sets", "images_per_set", "control")  # which change no training
COMPOSED = "validation, "  # prefix of the sets of the validation images
OF_A_SET = ("shifted", "images", "group_weights", "by_class")  # stored of a set, in addition to its images and scores
_TEXT = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    {
        "run": _TEXT,
        "set": _TEXT,
        "side": _TEXT,
        "image": pa.int32(),
        "class": pa.int32(),
        "rank": pa.int8(),
        "group": _TEXT,
    }
)


@dataclass(frozen=True)
class ResultsFile:
    """Runs, class names by model and label, and the selection criterion, with the allowed drop of top-1 as a
    fraction."""

    runs: list[Run]
    class_names: dict[str, dict[int, str]]
    validation_bound: float
    choose_by: str = "learning_rate"


def write_results(path: Path, results: ResultsFile) -> None:
    """Write runs to one file: labelled images as rows, facts and scores of the runs as metadata."""
    facts, parts = {}, []
    for run in results.runs:
        composed = [replace(result, name=f"{COMPOSED}{name}") for name, result in run.composed.items()]
        sets = {result.name: result for result in [*run.labelled, *composed]}
        known = asdict(replace(run, sets={}, composed={}))
        of_run = {name: value for name, value in known.items() if name not in ("name", "sets", "composed")}
        classes = None if run.training_classes is None else sorted(run.training_classes)
        of_sets = {name: _facts(result) for name, result in sets.items()}
        facts[run.name] = of_run | {"training_classes": classes, "sets": of_sets}
        parts += [_rows(run.name, side, result) for result in sets.values() for side in result.sides]
    metadata = {"version": VERSION, "runs": facts, "class_names": results.class_names}
    metadata |= {"validation_bound": results.validation_bound, "choose_by": results.choose_by}
    columns = {name: [np.empty(0, dtype=object), *(part[name] for part in parts)] for name in SCHEMA.names}
    schema = SCHEMA.with_metadata({"robust-vit": json.dumps(metadata)})
    table = pa.table({name: np.concatenate(values) for name, values in columns.items()}, schema=schema)
    with atomic_file(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def _rows(run: str, side: str, result: SetResult) -> dict[str, np.ndarray]:
    columns = {"run": run, "set": result.name, "side": side, "image": np.arange(len(result)), "class": result.classes}
    columns["rank"] = np.minimum(result.sides[side].ranks, TOP)
    columns["group"] = "" if result.groups is None else result.groups
    return {name: np.broadcast_to(np.asarray(of, object), len(result))[result.usable] for name, of in columns.items()}


def _facts(result: SetResult) -> dict:
    known = {name: getattr(result, name) for name in OF_A_SET}
    scores = {}
    for side, measured in result.sides.items():
        scores[side] = {name: measured.scores[name] for name in SEGMENTATION if name in measured.scores}
    return known | {"num_ranked": min(side.num_ranked for side in result.sides.values()), "scores": scores}


def read_results(path: Path) -> ResultsFile:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(
            f"`{path}` cannot be read as `{RESULTS_TABLE}` of a report ({type(error).__name__})."
        ) from error
    facts = json.loads((table.schema.metadata or {}).get(b"robust-vit", b"{}"))
    if facts.get("version") != VERSION:
        raise ValueError(
            f"`{path}` is of version {facts.get('version', 'none')}, and version {VERSION} is read here: make it "
            "again from "
            "the folders of its sweep with `python -m experiments report FOLDER --output_dir OTHER`."
        )
    rows = dict(list(table.to_pandas().groupby(["run", "set", "side"], observed=True, sort=False)))
    runs = [_run(name, of_run, rows) for name, of_run in facts["runs"].items()]
    names = {model: {int(label): text for label, text in of.items()} for model, of in facts["class_names"].items()}
    return ResultsFile(runs, names, facts["validation_bound"], facts["choose_by"])


def join(parts: Sequence[ResultsFile]) -> ResultsFile:
    """The runs of several files, which must have the same criterion of the choice. Of runs with the same model and
    weights, method, settings and seed, the one on most sets is taken: a search measures only validation images."""
    rules = {(part.validation_bound, part.choose_by) for part in parts}
    if len(rules) > 1:
        raise ValueError(f"The results were to be chosen by different criteria, {sorted(rules)}: report them apart.")
    runs: dict[tuple, Run] = {}
    names = {}
    for part in parts:
        names |= part.class_names
        for run in part.runs:
            settings = json.loads(run.settings or "{}")
            trained = {name: value for name, value in settings.items() if name not in MEASUREMENT_OPTIONS}
            setting = (
                run.learning_rate,
                *sorted(run.tuned.items()),
                run.epochs,
                json.dumps(trained),
            )
            key = (run.model, run.original, run.method, run.seed, *setting)
            if key not in runs or len(run.sets) > len(runs[key].sets):
                runs[key] = run
    if twice := [name for name, count in Counter(run.name for run in runs.values()).items() if count > 1]:
        raise ValueError(
            f"Two runs are named `{twice[0]}`, and differ in their original model, method or settings: report "
            "them apart."
        )
    return ResultsFile(list(runs.values()), names, *rules.pop())


def _run(name: str, facts: dict, rows: dict[tuple, pd.DataFrame]) -> Run:
    sets = {set_name: _set_result(name, set_name, of_set, rows) for set_name, of_set in facts["sets"].items()}
    composed = {name.removeprefix(COMPOSED): result for name, result in sets.items() if name.startswith(COMPOSED)}
    changed = {
        "sets": {name: result for name, result in sets.items() if not name.startswith(COMPOSED)},
        "training_classes": None if facts["training_classes"] is None else frozenset(facts["training_classes"]),
        "validation": None if facts["validation"] is None else tuple(facts["validation"]),
    }
    known = {field.name for field in fields(Run)}  # earlier files have further facts
    return Run(name=name, composed=composed, **{name: of for name, of in (facts | changed).items() if name in known})


def _set_result(run: str, name: str, facts: dict, rows: dict[tuple, pd.DataFrame]) -> SetResult:
    num_ranked = facts.get("num_ranked", TOP)
    sides = {}
    for side, scores in facts["scores"].items():
        sides[side] = SideResult(rows[run, name, side]["rank"].to_numpy(np.int64), scores, num_ranked=num_ranked)
    first = rows[run, name, next(iter(sides))]
    groups = first["group"].astype(object).to_numpy()
    groups = groups if len(groups) and groups[0] else None
    of_set = {name: facts[name] for name in OF_A_SET if name in facts}
    return SetResult(name, sides, first["class"].to_numpy(np.int64), groups=groups, **of_set)
