"""All results of an experiment in one file, from which its report is made: `results.parquet`."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet as pq
from transformers.trainer import TRAINER_STATE_NAME

from ..data.benchmarks import BUNDLED_BENCHMARK, benchmarks
from ..evaluation.evaluate_sets import SetResult
from ..evaluation.report import RESULTS_FILE
from ..evaluation.set_names import PAPER_SETS
from ..metrics.robust_accuracy import TOP
from ..models.registry import BUNDLED_MODEL, MODELS, find_model
from ..utils.files import RUN_FILE, atomic_file, read_json
from .grid import VALIDATION_BOUND
from .sweep import POINT_FILE, RUN, SWEEP_FILE, is_trained


RESULTS_TABLE = "results.parquet"
VERSION = 1  # of the columns; raise it with any change of them
SEGMENTATION = ("pixel_accuracy", "mean_iou", "mean_ap")
UNSHIFTED = ("imagenet-1k", "imagenet-v2")  # of the paper's sets: those of ImageNet's distribution
_RANKS = pa.list_(pa.int8())
SCHEMA = pa.schema(
    {
        **dict.fromkeys(("run", "model", "variant", "seed", "crossed"), pa.string()),
        **dict.fromkeys(("learning_rate", "epochs", "seconds"), pa.float64()),
        **dict.fromkeys(("validation_before", "validation_after"), pa.float64()),
        "train_images": pa.int64(),
        "training_classes": pa.list_(pa.int32()),
        "set": pa.string(),
        "shifted": pa.bool_(),
        "classes": pa.list_(pa.int32()),
        "ranks_before": _RANKS,
        "ranks_after": _RANKS,
        **{f"{score}_{side}": pa.float64() for score in SEGMENTATION for side in ("before", "after")},
    }
)


@dataclass(frozen=True)
class SetScores:
    """What a run measured on a set.

    Args:
        shifted: whether the set counts for the mean of the shifted sets.
        classes: `(N,)` int, the class of each image.
        before, after: `(N,)` int, rank of the right class, from 0; 5 if it is not among the best five.
        segmentation: scores of the relevance maps, such as `mean_iou_before`, as fractions; none without masks.
    """

    shifted: bool
    classes: np.ndarray
    before: np.ndarray
    after: np.ndarray
    segmentation: dict[str, float]


@dataclass(frozen=True)
class RunResult:
    """A run of a sweep.

    Args:
        model: name in the paper, or else that in the grid.
        method: the variant, and the other crossed options, in words.
        validation: top-1 on the validation images before and after, as fractions; `None` without labels.
        train_images: their number; `None` of a stream.
        training_classes: classes of the images of the finetuning; `None` without labels, and of a stream.
        sets: in the order of the evaluation.
    """

    name: str
    model: str
    method: str
    seed: str
    learning_rate: float
    epochs: float
    validation: tuple[float, float] | None
    train_images: int | None
    training_classes: frozenset[int] | None
    sets: dict[str, SetScores]


@dataclass(frozen=True)
class Results:
    """Runs of an experiment, class names by model, and the bound of the learning rate, see [`Grid`]."""

    runs: list[RunResult]
    class_names: dict[str, dict[int, str]]
    validation_bound: float


def collect(folders: Iterable[Path], path: Path) -> int:
    """Write the results of the complete runs below folders of sweeps, or of single points, into one file.

    Returns:
        The number of runs.

    Raises:
        FileNotFoundError: no complete run of a sweep is in a folder.
        ValueError: two folders hold a run of the same name.
    """
    rows, class_names, bound, taken = [], {}, VALIDATION_BOUND, set()
    for folder in folders:
        points = (
            [folder]
            if (folder / POINT_FILE).is_file()
            else sorted(file.parent for file in folder.glob(f"*/{POINT_FILE}"))
        )
        complete = [point for point in points if is_trained(point) and _results_of(point).is_dir()]
        if not complete:
            raise FileNotFoundError(
                f"`{folder}` holds no complete run of `robust-vit sweep`: name the folder of a sweep, or give --html for the "
                "output folder of one `robust-vit train` or `evaluate`."
            )
        for point in complete:
            if point.name in taken:
                raise ValueError(f"`{point}` is named twice, or another folder holds the same run: name one of them.")
            taken.add(point.name)
            bound = (read_json(point.parent / SWEEP_FILE) or {}).get("validation_bound", bound)
            run = _run(point)
            class_names.setdefault(run["model"], _class_names(point))
            rows += [run | row for row in _set_rows(point)]
    metadata = {"version": VERSION, "validation_bound": bound, "class_names": class_names}
    schema = SCHEMA.with_metadata({"robust-vit": json.dumps(metadata)})
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows, schema), partial, compression="zstd")
    return len({row["run"] for row in rows})


def read_results(path: Path) -> Results:
    """Read a file that [`collect`] wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file, or of another version.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no `{path}`: expected folders of sweeps, or a {RESULTS_TABLE} of a report.")
    try:
        table = pq.read_table(path)
        facts = json.loads((table.schema.metadata or {}).get(b"robust-vit", b"{}"))
    except (pa.ArrowInvalid, json.JSONDecodeError) as error:
        raise ValueError(f"`{path}` is not a {RESULTS_TABLE} of `robust-vit report`: {error}") from None
    if facts.get("version") != VERSION:
        raise ValueError(
            f"`{path}` is of version {facts.get('version', 'none')}, and version {VERSION} is read here: make it again from "
            "the folders of its sweep with `robust-vit report FOLDER`."
        )
    runs: dict[str, RunResult] = {}
    for row in table.to_pylist():
        if row["run"] not in runs:
            validation = (row["validation_before"], row["validation_after"])
            classes = row["training_classes"]
            runs[row["run"]] = RunResult(
                row["run"],
                row["model"],
                _method(row["variant"], json.loads(row["crossed"])),
                row["seed"],
                row["learning_rate"],
                row["epochs"],
                None if None in validation else validation,
                row["train_images"],
                None if classes is None else frozenset(classes),
                {},
            )
        scores = {name: row[name] for name in row if name.startswith(SEGMENTATION) and row[name] is not None}
        labels, before, after = (
            np.array(row[name], dtype=np.int64) for name in ("classes", "ranks_before", "ranks_after")
        )
        runs[row["run"]].sets[row["set"]] = SetScores(row["shifted"], labels, before, after, scores)
    names = {
        model: {int(label): name for label, name in of_model.items()}
        for model, of_model in facts["class_names"].items()
    }
    return Results(list(runs.values()), names, facts["validation_bound"])


def _method(variant: str, crossed: dict) -> str:
    words = [f"{name} {str(value).rpartition('/')[2]}" for name, value in crossed.items()]
    return ", ".join([variant or "robustvit", *words])


def _run(point: Path) -> dict:
    """The columns that are the same for all sets of a run."""
    facts, results = read_json(point / POINT_FILE), read_json(point / RUN / RESULTS_FILE)
    training, data = results["settings"]["training"], read_json(point / RUN / RUN_FILE)["data"]
    state = read_json(point / RUN / TRAINER_STATE_NAME)
    name = facts["options"].get("model", BUNDLED_MODEL)
    registered = MODELS.get(find_model(name))
    measured = [entry for entry in state["log_history"] if "eval_top1" in entry and "eval_original_top1" in entry]
    if training["load_best_model_at_end"]:
        measured = [entry for entry in measured if entry["step"] == state["best_global_step"]]
    return {
        "run": point.name,
        "model": (registered and registered.paper_name) or name.rstrip("/").rpartition("/")[2],
        "variant": facts["variant"],
        "seed": facts["seed"],
        "crossed": json.dumps(facts["crossed"], sort_keys=True),
        "learning_rate": training["learning_rate"],
        "epochs": float(training["num_train_epochs"]),
        "seconds": results["settings"]["seconds"],
        "validation_before": measured[-1]["eval_original_top1"] if measured else None,
        "validation_after": measured[-1]["eval_top1"] if measured else None,
        "train_images": data["train_images"],
        "training_classes": data["training_classes"],
    }


def _results_of(point: Path) -> Path:
    """Folder of the results of a point by set: those of the paper's sets, or else those of `train`."""
    return point / read_json(point / POINT_FILE)["results"]


def _set_rows(point: Path) -> list[dict]:
    """The columns of each labelled set of a run."""
    dataset = read_json(point / POINT_FILE)["options"].get("dataset", BUNDLED_BENCHMARK)
    benchmark = benchmarks().get(dataset)
    folders = {folder.name: folder for folder in sorted(_results_of(point).iterdir())}
    order = ["val", *benchmark.shifted] if benchmark else list(PAPER_SETS)
    names = [name for name in order if name in folders] + [name for name in folders if name not in order]
    rows = []
    for name in names:
        before, after = (SetResult.load(folders[name] / side) for side in ("before", "after"))
        if before is None or after is None or before.accepted is None:
            continue
        shifted = name in benchmark.shifted if benchmark else name in PAPER_SETS and name not in UNSHIFTED
        row = {"set": name, "shifted": shifted, "classes": before.classes[before.usable].tolist()}
        for side, result in (("before", before), ("after", after)):
            row[f"ranks_{side}"] = np.minimum(result.ranks[before.usable], TOP).tolist()
            row |= {f"{score}_{side}": result.scores.get(score) for score in SEGMENTATION}
        rows.append(row)
    return rows


def _class_names(point: Path) -> dict[str, str]:
    """Names of the classes by label, if the saved model has them: an adapter has not."""
    return (read_json(point / RUN / "config.json") or {}).get("id2label", {})
