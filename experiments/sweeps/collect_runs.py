"""Collecting the results of sweeps."""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import logging

from robust_vit_hf.data.emoji_shift import SHIFTED
from robust_vit_hf.data.known_sets import BUNDLED_BENCHMARK, FAMILIES, PAPER_SETS
from robust_vit_hf.metrics.robust_accuracy import TOP, ranks
from robust_vit_hf.models.model_names import MODELS, find_model
from robust_vit_hf.results.predictions import PREDICTIONS_FILE, read_predictions
from robust_vit_hf.results.run_results import SetResult, SideResult
from robust_vit_hf.utils.files import RESULTS_FILE, RUN_FILE, json_digest, read_json
from robust_vit_hf.utils.stage import Stage

from ..paper.set_titles import UNSHIFTED
from .measure_interpolated import COMPARED
from .point_folder import (
    CUT_OUT,
    GRID_FILE,
    INTERPOLATED,
    PREDICTIONS,
    ROBUSTNESS,
    RUN,
    SETS,
    VALIDATION,
    has_interpolated,
)
from .results_parquet import ResultsFile
from .runs import OURS, Run


logger = logging.get_logger(__name__)

SEEDS = ("seed", "class_seed", "data_seed")  # options of which a run records what it used
SPLITS = ("train_split", "eval_split", "test_split")  # options that name the images whose digests a run records


@dataclass
class CollectedRun:
    """A run with what identifies it in addition to its setting."""

    run: Run  # its labels of model and method are not yet unique
    model: str  # digest of the original model; of models that the seeds name, their name in the grid
    seed: dict  # values of all options that are seeds
    settings: dict  # other options; datasets by their digests
    current: bool  # whether it is a run of the grid as it is now


def collect(folders: Iterable[Path]) -> ResultsFile:
    """Collect the complete runs in folders of sweeps or single points. Runs of a model and method that differ in
    settings other than seed and learning rate count as different methods, named by the differing settings."""
    collected: dict[str, CollectedRun] = {}  # by name, since points share the original model
    rules, class_names = set(), {}
    for folder in folders:
        points, grid = _complete_points(folder)
        rules.add((grid["validation_bound"], grid["choose_by"]))
        for point in points:
            first, *others = _collected_runs(point, grid)
            collected[point.name] = first
            for other in others:
                collected.setdefault(other.run.name, other)
            saved = read_json(point / RUN / "config.json") or {}  # an adapter has no configuration
            labels = {int(label): label_name for label, label_name in saved.get("id2label", {}).items()}
            class_names.setdefault(first.model, labels)
    if len(rules) > 1:
        raise ValueError(
            f"The sweeps have different `validation_bound` or `choose_by`, {sorted(rules)}: report them apart."
        )
    runs = _named_apart([*collected.values()])
    names = {run.model: class_names[known.model] for run, known in zip(runs, collected.values(), strict=True)}
    return ResultsFile(runs, names, *rules.pop())


def _complete_points(folder: Path) -> tuple[list[Path], dict]:
    """Complete points in the folder of a sweep, or the folder itself if it is a point, and what the last sweep recorded of its
    grid. Other points are named in a warning."""
    is_point = (folder / RUN).is_dir()
    points = [folder] if is_point else sorted(run.parent for run in folder.glob(f"*/{RUN}"))
    file = (folder.parent if is_point else folder) / GRID_FILE
    grid = read_json(file) or {}
    if points and "interpolation_weights" not in grid:
        raise FileNotFoundError(
            f"There is no `{file}` with the selection criterion, or it is of an earlier version: start the sweep again, which writes it."
        )
    complete = [point for point in points if _is_measured(point, grid)]
    names = dict.fromkeys([*(point.name for point in points), *([] if is_point else grid.get("points", ()))])
    if left_out := [name for name in names if name not in {point.name for point in complete}]:
        logger.warning(f"{len(left_out)} runs of `{folder}` are left out, as not complete: {', '.join(left_out)}.")
    if not complete:
        raise FileNotFoundError(
            f"`{folder}` holds no complete run of `python -m experiments sweep`: name the folder of a sweep or a run in it. Runs of "
            "version 0.2 have to be made again."
        )
    return complete, grid


def _is_measured(point: Path, grid: dict) -> bool:
    """Whether a point has all that the criterion of its grid needs; and, if it is still in the grid, all of its
    interpolation weights and sets."""
    if (recorded := Stage.of(point).result()) is None:
        return False
    is_current, file = point.name in grid["points"], point / ROBUSTNESS / recorded["protocol"] / PREDICTIONS_FILE
    weights = grid["interpolation_weights"]
    sets, weights = (grid["sets"], weights) if is_current else ([], weights[:1])
    measured = read_predictions(file) if file.is_file() else {}
    return has_interpolated(point, weights) and {*sets} <= {*measured}


def _collected_runs(point: Path, grid: dict) -> list[CollectedRun]:
    """The run of a point; the models between it and the original model, and that on objects cut out, if measured."""
    recorded, results = Stage.of(point).result(), read_json(point / RUN / RESULTS_FILE)
    if grid["choose_by"] != "mixed_rand":  # by which other options than the learning rate are chosen; it may have been
        recorded["point"]["tuned"] = {}
    of_grid, options = recorded["point"], recorded["point"]["options"]
    seeded = {*SEEDS, *of_grid["seeded"]}
    used = {**results["settings"]["training"], **results["settings"]["data"]}
    left_out = {"model", "learning_rate", *seeded, *of_grid["tuned"]}
    settings = {name: value for name, value in options.items() if name not in left_out}
    if settings.get("dataset", BUNDLED_BENCHMARK) != BUNDLED_BENCHMARK:
        # Seeds that name a split of their own have other images, and are seeds of one method.
        images = [digest for split, digest in zip(SPLITS, recorded["datasets"], strict=False) if split not in seeded]
        settings["dataset"] = f"{_last(settings['dataset'])} ({json_digest(images)[:8]})"
    model = of_grid["model"] if "model" in of_grid["seeded"] else recorded["model"]
    seed = {name: used.get(name) if name in SEEDS else options.get(name) for name in seeded}
    current = point.name in grid["points"]
    trained = _runs(point, recorded, results)
    collected = [CollectedRun(run, model, seed, settings, current) for run in trained]
    if (file := point / f"{CUT_OUT}.parquet").is_file():
        cut_out = _cut_out(file, trained[0], model)
        collected.append(CollectedRun(cut_out, model, seed, {}, current))
    return collected


def _runs(point: Path, recorded: dict, results: dict) -> list[Run]:
    """A run, and the models between it and the original model, with labels of model and method that are not yet unique."""
    trained, state = read_json(point / RUN / RUN_FILE), read_json(point / RUN / TRAINER_STATE_NAME)
    of_grid, training, data = recorded["point"], results["settings"]["training"], trained["data"]
    registered = MODELS.get(find_model(of_grid["model"]))
    shown = {row["set"]: row for row in results["rows"]}.get(results["settings"]["data"]["eval_split"], {})
    validation = shown.get("top1_before"), shown.get("top1_after")
    words = [f"{option} {_last(value)}" for option, value in of_grid["crossed"].items()]
    classes, on_paper_sets = data["training_classes"], point / ROBUSTNESS / recorded["protocol"] / PREDICTIONS_FILE
    of_paper = of_grid["options"].get("dataset", BUNDLED_BENCHMARK) != BUNDLED_BENCHMARK
    run = Run(
        sets=read_sets(on_paper_sets if on_paper_sets.is_file() else point / PREDICTIONS, of_paper),
        training_classes=None if classes is None else frozenset(classes),
        name=point.name,
        model=(registered and registered.paper_name) or _last(of_grid["model"]),
        method=", ".join([of_grid["variant"] or OURS, *words]),
        seed=of_grid["seed"],
        learning_rate=training["learning_rate"],
        epochs=float(training["num_train_epochs"]),
        validation=None if None in validation else validation,
        train_images=data["train_images"],
        tuned=of_grid["tuned"],
        seconds=None if recorded.get("resumed") else _seconds(state["log_history"]),
        commit=results.get("commit"),
        original=recorded["model"],
    )
    interpolated = []
    for folder in sorted((point / INTERPOLATED).glob("*"), key=lambda folder: -float(folder.name)):
        if not (folder / VALIDATION).is_file():
            continue
        weight, composed = float(folder.name), _composed(folder / VALIDATION)
        original = composed["original"]
        validation = (original.accuracy("before"), original.accuracy("after"))
        if weight == 1:
            run = replace(run, composed=composed, validation=run.validation or validation)
        else:
            between = replace(run, name=f"{run.name}, interpolation weight {weight:g}", interpolation_weight=weight)
            sets = read_sets(folder / SETS, of_paper)
            interpolated.append(replace(between, sets=sets, composed=composed, validation=validation))
    return [run, *interpolated]


def _cut_out(file: Path, run: Run, model_digest: str) -> Run:
    """The original model on objects cut out by their masks, as a method that trains nothing."""
    sets, predictions = {}, read_predictions(file)
    for name, result in run.sets.items():
        if name in predictions:
            table, after = predictions[name]["before"], np.full(len(result), TOP)
            after[result.usable] = ranks(table[["only_fg"]].to_numpy(), table["accepted"])  # of labelled images alone
            sides = {"before": result.sides["before"], "after": SideResult(after, num_ranked=1)}
            sets[name] = replace(result, sides=sides)
    name = f"{run.model} ({model_digest[:8]}) cut out, seed {run.seed}"
    untrained: dict[str, Any] = {"tuned": {}, "learning_rate": 0.0, "epochs": None, "seconds": 0.0}
    return replace(run, sets=sets, name=name, method=CUT_OUT, validation=None, composed={}, **untrained)


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


def _named_apart(collected: list[CollectedRun]) -> list[Run]:
    """The runs with unique names for different models and methods. Rejects two of the same setting and seed."""
    models: dict[str, set[str]] = defaultdict(set)  # digests by label
    for known in collected:
        models[known.run.model].add(known.model)
    for known in collected:
        if len(models[known.run.model]) > 1:
            known.run = replace(known.run, model=f"{known.run.model} ({known.model[:8]})")
    methods: dict[tuple[str, str], list[CollectedRun]] = defaultdict(list)
    for known in collected:
        methods[known.run.model, known.run.method].append(known)
    runs: dict[str, Run] = {}
    for known in collected:
        run, key = known.run, (known.run.model, known.run.method)
        current = [other.settings for other in methods[key] if other.current]
        in_grid = current and all(settings == known.settings for settings in current)
        qualifier = "" if in_grid else _what_differs([other.settings for other in methods[key]], known)
        setting = (run.learning_rate, run.tuned, run.interpolation_weight)
        identity = json.dumps([key, qualifier, *setting, known.seed], sort_keys=True)
        if identity in runs:
            raise ValueError(
                f"`{runs[identity].name}` and `{run.name}` are both seed `{run.seed}` of {run.model}, {run.method}{qualifier}: report "
                "one of them."
            )
        recorded = json.dumps(known.settings, sort_keys=True)
        method = f"{run.method}{qualifier}"
        runs[identity] = replace(run, method=method, qualifier=qualifier, settings=recorded)
    return list(runs.values())


def _what_differs(others: list[dict], known: CollectedRun) -> str:
    """Options that differ from other runs of the method. An option not given is named only for a run that left the grid."""
    own, words = known.settings, []
    for name in sorted({name for settings in others for name in settings}):
        if any(settings.get(name) != own.get(name) for settings in others) and (name in own or not known.current):
            words.append(f", {name} {own.get(name, 'default')}")
    return "".join(words)
