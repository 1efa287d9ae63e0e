"""Reading and writing `results.parquet`, with a row for each run, set, side and image."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet as pq

from ..utils.files import atomic_file
from .metrics.robust_accuracy import TOP
from .run_results import Run, SetResult, SideResult
from .segmentation_tables import SEGMENTATION


RESULTS_TABLE = "results.parquet"
VERSION = 4  # increment when older files cannot be read; metadata that they lack has a default
MEASUREMENT_OPTIONS = ("benchmark_sets", "images_per_set", "control")  # which change no training
COMPOSED = "validation, "  # prefix of the sets of the validation images
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
    """Contents of a file of results.

    Args:
        class_names: by model and label.
        validation_bound: largest allowed drop of validation top-1, as a fraction, for the choice.
        choose_by: rule of the choice, see [`~robust_vit_hf.experiments.grid.GridFile`].
    """

    runs: list[Run]
    class_names: dict[str, dict[int, str]]
    validation_bound: float
    choose_by: str = "learning_rate"


def write_results(path: Path, results: ResultsFile) -> None:
    """Write runs to one file: labelled images as rows, facts and scores of the runs as metadata."""
    parts: dict[str, list] = {name: [] for name in SCHEMA.names}
    facts = {}
    for run in results.runs:
        known = asdict(replace(run, sets={}, composed={}))
        facts[run.name] = {name: value for name, value in known.items() if name not in ("name", "sets", "composed")}
        classes = run.training_classes
        facts[run.name] |= {"training_classes": None if classes is None else sorted(classes), "sets": {}}
        composed = [replace(result, name=f"{COMPOSED}{name}") for name, result in run.composed.items()]
        for result in [*run.labelled, *composed]:
            scores = {}
            for side, measured in result.sides.items():
                ranks = measured.ranks[result.usable]
                for name, value in {"run": run.name, "set": result.name, "side": side}.items():
                    parts[name].append(np.full(len(ranks), value, dtype=object))
                groups = np.full(len(result), "", dtype=object) if result.groups is None else result.groups
                columns = {
                    "image": np.flatnonzero(result.usable),
                    "class": result.classes[result.usable],
                    "rank": ranks,
                    "group": groups[result.usable],
                }
                for name, values in columns.items():
                    parts[name].append(np.minimum(values, TOP) if name == "rank" else values)
                scores[side] = {name: measured.scores[name] for name in SEGMENTATION if name in measured.scores}
            facts[run.name]["sets"][result.name] = {
                "shifted": result.shifted,
                "images": result.images,
                "group_weights": result.group_weights,
                "by_class": result.by_class,
                "num_ranked": min(side.num_ranked for side in result.sides.values()),
                "scores": scores,
            }
    metadata = {"version": VERSION, "runs": facts}
    metadata |= {"validation_bound": results.validation_bound, "choose_by": results.choose_by}
    metadata |= {"class_names": results.class_names}
    columns = {
        name: pa.array(
            np.concatenate(values) if values else [], pa.string() if field_type == _TEXT else field_type
        ).cast(field_type)
        for (name, values), field_type in zip(parts.items(), SCHEMA.types, strict=True)
    }
    table = pa.table(columns, schema=SCHEMA.with_metadata({"robust-vit": json.dumps(metadata)}))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def read_results(path: Path) -> ResultsFile:
    """Read a file written by [`write_results`].

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file has another format or version, or an impossible value.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no `{path}`: expected folders of sweeps, or a {RESULTS_TABLE} of a report.")
    try:
        table = pq.read_table(path)
        facts = json.loads((table.schema.metadata or {}).get(b"robust-vit", b"{}")) or {}
    except (pa.ArrowInvalid, json.JSONDecodeError) as error:
        raise ValueError(f"`{path}` is not a {RESULTS_TABLE} of `robust-vit report`: {error}") from None
    if facts.get("version") != VERSION:
        raise ValueError(
            f"`{path}` is of version {facts.get('version', 'none')}, and version {VERSION} is read here: make it again from "
            "the folders of its sweep with `robust-vit report FOLDER --output_dir OTHER`."
        )
    if problem := _problem(table):
        raise ValueError(
            f"`{path}` cannot be used: {problem}. Make it again with `robust-vit report FOLDER --output_dir OTHER`."
        )
    images: dict[tuple[str, str], dict[str, dict[str, np.ndarray]]] = defaultdict(dict)
    for (run, name, side), rows in table.to_pandas().groupby(["run", "set", "side"], observed=True, sort=False):
        columns = {column: rows[column].to_numpy() for column in ("image", "class", "rank")}
        images[run, name][side] = columns | {"group": rows["group"].astype(object).to_numpy()}
    try:
        runs = [_run(name, of_run, images) for name, of_run in facts["runs"].items()]
        names = {model: {int(label): text for label, text in of.items()} for model, of in facts["class_names"].items()}
        return ResultsFile(runs, names, facts["validation_bound"], facts["choose_by"])
    except (KeyError, TypeError, AttributeError, StopIteration) as error:
        raise ValueError(f"`{path}` cannot be used: its metadata lack or garble {error}.") from error


def join(parts: Sequence[ResultsFile]) -> ResultsFile:
    """The runs of several files. Of runs with the same model and weights, method, settings and seed, the one on most sets is
    taken: a search measures only validation images.

    Raises:
        ValueError: the files have different rules of the choice, or two of their runs one name, by which results are written.
    """
    rules = {(part.validation_bound, part.choose_by) for part in parts}
    if len(rules) > 1:
        raise ValueError(f"The results were to be chosen by different rules, {rules}: report them apart.")
    runs: dict[tuple, Run] = {}
    names = {}
    originals: dict[tuple, set[str]] = defaultdict(set)  # which older files lack
    for run in (run for part in parts for run in part.runs if run.original):
        originals[run.model, run.seed].add(run.original)
    for part in parts:
        names |= part.class_names
        for run in part.runs:
            settings = json.loads(run.settings or "{}")
            trained = {name: value for name, value in settings.items() if name not in MEASUREMENT_OPTIONS}
            epochs = run.epochs if run.learning_rate else None  # of what trains nothing, whatever a file says
            setting = (run.learning_rate, *sorted(run.tuned.items()), run.share, epochs, json.dumps(trained))
            known = originals[run.model, run.seed]
            original = next(iter(known)) if len(known) == 1 else run.original
            key = (run.model, original, run.method, run.seed, *setting)
            if key not in runs or len(run.sets) > len(runs[key].sets):
                runs[key] = run
    if twice := [name for name, count in Counter(run.name for run in runs.values()).items() if count > 1]:
        raise ValueError(
            f"Two runs are named `{twice[0]}`, and differ in their original model, method or settings: report them apart."
        )
    return ResultsFile(list(runs.values()), names, *rules.pop())


def _problem(table: pa.Table) -> str | None:
    """Error in the rows of a file, or `None`."""
    if missing := [name for name in SCHEMA.names if name not in table.column_names]:
        return f"it has no column `{missing[0]}`"
    ranks, images = (table[name].to_numpy() for name in ("rank", "image"))
    if table.select(SCHEMA.names).schema.types != SCHEMA.types or any(table[name].null_count for name in SCHEMA.names):
        return f"its columns are {table.schema.types}, expected {SCHEMA.types} without empty cells"
    if len(table) and (ranks.min() < 0 or ranks.max() > TOP or images.min() < 0):
        return f"it has ranks from {ranks.min()} to {ranks.max()} and images from {images.min()}, expected 0 to {TOP} and 0"
    return None


def _run(name: str, facts: dict, images: dict) -> Run:
    facts = dict(facts)
    sets = {}
    for set_name, of_set in facts.pop("sets").items():
        sides = images[name, set_name]
        if not sides:
            raise KeyError(f"the rows of `{set_name}` in `{name}`")
        first = next(iter(sides.values()))
        for side, columns in sides.items():
            if not all(np.array_equal(columns[column], first[column]) for column in ("image", "class")):
                raise KeyError(f"the images of `{set_name}` {side} in `{name}`")
        # Older files lack `group_weights`, `by_class` and `num_ranked`.
        known = of_set.get("num_ranked", TOP)
        measured = {
            side: SideResult(sides[side]["rank"].astype(np.int64), scores, known=known)
            for side, scores in of_set["scores"].items()
        }
        groups = first["group"] if len(first["group"]) and first["group"][0] else None
        sets[set_name] = SetResult(
            set_name,
            measured,
            first["class"].astype(np.int64),
            of_set["shifted"],
            images=of_set["images"],
            groups=groups,
            group_weights=of_set.get("group_weights"),
            by_class=of_set.get("by_class", True),
        )
    composed = {name: result for name, result in sets.items() if name.startswith(COMPOSED)}
    classes, validation = facts.pop("training_classes"), facts.pop("validation")
    return Run(
        sets={name: result for name, result in sets.items() if name not in composed},
        composed={name.removeprefix(COMPOSED): result for name, result in composed.items()},
        name=name,
        training_classes=None if classes is None else frozenset(classes),
        validation=None if validation is None else tuple(validation),
        **facts,
    )
