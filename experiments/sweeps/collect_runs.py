"""Collecting the results of sweeps."""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import logging

from robust_vit_hf.data.emoji_shift import SHIFTED
from robust_vit_hf.data.known_sets import BUNDLED_BENCHMARK, FAMILIES, PAPER_SETS
from robust_vit_hf.metrics.robust_accuracy import TOP
from robust_vit_hf.models.model_names import MODELS, find_model
from robust_vit_hf.results.run_results import SetResult, SideResult, read_predictions
from robust_vit_hf.utils.files import RESULTS_FILE, RUN_FILE, json_digest, read_json

from ..paper.set_titles import UNSHIFTED
from .measure_validation import COMPARED
from .point_folder import (
    GRID_FILE,
    PREDICTIONS,
    RECORD,
    ROBUSTNESS,
    RUN,
    VALIDATION,
    measured_sets,
    training_of,
)
from .results_parquet import ResultsFile
from .runs import OURS, Run


logger = logging.get_logger(__name__)

SEEDS = ("seed", "class_seed", "data_seed")  # options of which a run records what it used
SPLITS = ("train_split", "eval_split", "test_split")  # options that name the images whose digests a run records


def collect(folders: Iterable[Path]) -> ResultsFile:
    """Collect the complete runs in folders of sweeps or single points, as far as the grids still have them."""
    runs: dict[str, tuple[Run, str]] = {}  # by name, with what tells original models apart
    rules, class_names, models = set(), {}, defaultdict(set)
    for folder in folders:
        points, grid = _complete_points(folder)
        rules.add((grid["validation_bound"], grid["choose_by"]))
        for point in points:
            run, digest = runs[point.name] = _run(point, grid["points"][point.name])
            models[run.model].add(digest)
            saved = read_json(point / RUN / "config.json") or {}  # an adapter has no configuration
            class_names[digest] = {int(label): name for label, name in saved.get("id2label", {}).items()}
    if len(rules) > 1:
        raise ValueError(
            f"The sweeps have different `validation_bound` or `choose_by`, {sorted(rules)}: report them apart."
        )
    collected, names, settings = [], {}, {}
    for run, digest in runs.values():
        model = run.model if len(models[run.model]) == 1 else f"{run.model} ({digest[:8]})"
        if settings.setdefault((model, run.method), run.settings) != run.settings:
            raise ValueError(f"{model}, {run.method}: the runs have different settings. Report them apart.")
        collected.append(replace(run, model=model))
        names[model] = class_names[digest]
    return ResultsFile(collected, names, *rules.pop())


def _complete_points(folder: Path) -> tuple[list[Path], dict]:
    """Complete points in the folder of a sweep, or the folder itself if it is a point, and what the last sweep
    recorded of its grid. Other points are named in a warning."""
    is_point = (folder / RUN).is_dir()
    points = [folder] if is_point else sorted(run.parent for run in folder.glob(f"*/{RUN}"))
    file = (folder.parent if is_point else folder) / GRID_FILE
    grid = read_json(file) or {}
    if points and not isinstance(grid.get("points"), dict):
        raise FileNotFoundError(
            f"There is no `{file}` with the selection criterion, or it is of an earlier version: start the sweep "
            "again, which writes it."
        )
    complete = [point for point in points if _is_measured(point, grid)]
    names = dict.fromkeys([*(point.name for point in points), *([] if is_point else grid.get("points", ()))])
    if left_out := [name for name in names if name not in {point.name for point in complete}]:
        logger.warning(
            f"{len(left_out)} runs of `{folder}` are left out, as not complete or not in its grid: "
            f"{', '.join(left_out)}."
        )
    if not complete:
        raise FileNotFoundError(
            f"`{folder}` holds no complete run of `python -m experiments sweep`: name the folder of a sweep or a "
            "run in it."
        )
    return complete, grid


def _is_measured(point: Path, grid: dict) -> bool:
    """Whether a point of a grid has all that its criterion and its tables need."""
    training = training_of(point)
    if training is None or point.name not in grid["points"]:
        return False
    is_validated = grid["choose_by"] != "mixed_rand" or (point / VALIDATION).is_file()
    return is_validated and {*grid["sets"]} <= measured_sets(point, training["protocol"])


def _run(point: Path, of_grid: dict) -> tuple[Run, str]:
    """A run, whose label of the model is not yet unique, and what tells models of a label apart: the digest of the
    original model or, of models that the seeds name, their name in the grid."""
    record, results = read_json(point / RECORD), read_json(point / RUN / RESULTS_FILE)
    trained, state = read_json(point / RUN / RUN_FILE), read_json(point / RUN / TRAINER_STATE_NAME)
    facts, training, data = record["training"], results["settings"]["training"], trained["data"]
    options, registered = of_grid["options"], MODELS.get(find_model(of_grid["model"]))
    settings = {
        name: value
        for name, value in options.items()
        if name not in ("model", "learning_rate", *SEEDS, *of_grid["seeded"], *of_grid["tuned"])
    }
    of_paper = options.get("dataset", BUNDLED_BENCHMARK) != BUNDLED_BENCHMARK
    if "dataset" in settings and of_paper:
        # Seeds that name a split of their own have other images, and are seeds of one method.
        splits = zip(SPLITS, record["datasets"], strict=False)
        images = [digest for split, digest in splits if split not in of_grid["seeded"]]
        settings["dataset"] = f"{_last(settings['dataset'])} ({json_digest(images)[:8]})"
    words = [f"{name} {settings.get(name, _last(value))}" for name, value in of_grid["crossed"].items()]
    shown = {row["set"]: row for row in results["rows"]}.get(results["settings"]["data"]["eval_split"], {})
    top1 = shown.get("top1_before"), shown.get("top1_after")
    composed = _composed(point / VALIDATION) if (point / VALIDATION).is_file() else {}
    if None in top1 and composed:
        top1 = composed["original"].accuracy("before"), composed["original"].accuracy("after")
    classes, on_paper_sets = data["training_classes"], point / ROBUSTNESS / facts["protocol"] / PREDICTIONS
    run = Run(
        sets=read_sets(on_paper_sets if on_paper_sets.is_file() else point / PREDICTIONS, of_paper),
        training_classes=None if classes is None else frozenset(classes),
        name=point.name,
        model=(registered and registered.paper_name) or _last(of_grid["model"]),
        method=", ".join([of_grid["variant"] or OURS, *words]),
        seed=of_grid["seed"],
        settings=json.dumps(settings, sort_keys=True),
        learning_rate=training["learning_rate"],
        epochs=float(training["num_train_epochs"]),
        validation=None if None in top1 else top1,
        train_images=data["train_images"],
        tuned=of_grid["tuned"],
        seconds=None if facts["resumed"] else _seconds(state["log_history"]),
        commit=results.get("commit"),
        original=record["model"],
        composed=composed,
    )
    return run, of_grid["model"] if "model" in of_grid["seeded"] else record["model"]


def _seconds(history: list[dict]) -> float | None:
    """Duration of an unbroken training without its evaluations; `None` if unknown."""
    whole = [entry["train_runtime"] for entry in history if "train_runtime" in entry]
    seconds = whole[-1] - sum(entry.get("eval_runtime", 0) for entry in history) if len(whole) == 1 else -1.0
    return round(seconds, 1) if seconds > 0 else None


def _composed(file: Path) -> dict[str, SetResult]:
    """Results on the validation images, as they are and on other backgrounds."""
    (measured,) = read_predictions(file).values()
    first, composed = measured["before"], {}
    for condition in COMPARED:
        # -1 where no other image has a background; an image without object or background is on none.
        counts = (first[condition] >= 0) & first["object_share"].between(0, 1, inclusive="neither")
        ranked = {side: np.where(table[condition] == table["label"], 0, TOP) for side, table in measured.items()}
        sides = {side: SideResult(of_side) for side, of_side in ranked.items()}
        labels = np.where(counts, first["label"], -1)
        composed[condition] = SetResult(condition, sides, labels, images=first["digest"][0])
    return composed


def _last(value: Any) -> str:
    return str(value).rstrip("/").rpartition("/")[2]


def read_sets(file: Path, of_paper: bool) -> dict[str, SetResult]:
    """Results on a run's labelled sets from its predictions: on the paper's sets, or on those of emoji-shift."""
    order, measured = list(PAPER_SETS) if of_paper else ["val", *SHIFTED], read_predictions(file)
    sets = {}
    for name in sorted(measured, key=lambda name: (order.index(name) if name in order else len(order), name)):
        first = next(iter(measured[name].values()))
        if (first["label"] >= 0).any():
            facts: dict[str, Any] = {"images": first["digest"][0], "by_class": name not in FAMILIES["imagenet-9"]}
            facts["shifted"] = name in PAPER_SETS and name not in UNSHIFTED if of_paper else name in SHIFTED
            if "weight" in first:
                facts["group_weights"] = dict(zip(first["group"], first["weight"], strict=True))
            sets[name] = SetResult.of(name, measured[name], **facts)
    return sets
