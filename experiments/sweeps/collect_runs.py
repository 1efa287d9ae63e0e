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
from robust_vit_hf.evaluation.accuracy import side_results
from robust_vit_hf.evaluation.measurement import Measured, is_measured
from robust_vit_hf.metrics.robust_accuracy import TOP, ranks
from robust_vit_hf.models.model_names import MODELS, find_model
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
    is_current, folder = point.name in grid["points"], point / ROBUSTNESS / recorded["protocol"]
    weights = grid["interpolation_weights"]
    sets, weights = (grid["sets"], weights) if is_current else ([], weights[:1])
    return has_interpolated(point, weights) and all(is_measured(folder / name) for name in sets)


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
    if cut_out := _cut_out(point / CUT_OUT, trained[0], model):
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
    classes, on_paper_sets = data["training_classes"], point / ROBUSTNESS / recorded["protocol"]
    of_paper = of_grid["options"].get("dataset", BUNDLED_BENCHMARK) != BUNDLED_BENCHMARK
    run = Run(
        sets=read_sets(on_paper_sets if on_paper_sets.is_dir() else point / PREDICTIONS, of_paper),
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
        weight, composed = float(folder.name), _composed(folder / VALIDATION)
        if not composed:
            continue
        original = composed["original"]
        validation = (original.accuracy("before"), original.accuracy("after"))
        if weight == 1:
            run = replace(run, composed=composed, validation=run.validation or validation)
        else:
            between = replace(run, name=f"{run.name}, interpolation weight {weight:g}", interpolation_weight=weight)
            sets = read_sets(folder / SETS, of_paper)
            interpolated.append(replace(between, sets=sets, composed=composed, validation=validation))
    return [run, *interpolated]


def _cut_out(folder: Path, run: Run, model_digest: str) -> Run | None:
    """The original model on objects cut out by their masks, as a method that trains nothing; `None` if not measured."""
    sets = {}
    for name, result in run.sets.items():
        measured = Measured.load(Stage.of(folder / name / "before"))
        if measured is not None:
            after, best = np.full(len(result), TOP), np.array(measured.columns["only_fg"])[:, None]
            after[result.usable] = ranks(best, measured.columns["accepted"])  # of labelled images alone
            sides = {"before": result.sides["before"], "after": SideResult(after, num_ranked=1)}
            sets[name] = replace(result, sides=sides)
    name = f"{run.model} ({model_digest[:8]}) cut out, seed {run.seed}"
    if not sets:
        return None
    untrained: dict[str, Any] = {"tuned": {}, "learning_rate": 0.0, "epochs": None, "seconds": 0.0}
    return replace(run, sets=sets, name=name, method=CUT_OUT, validation=None, composed={}, **untrained)


def _seconds(history: list[dict]) -> float | None:
    """Duration of an unbroken training without its evaluations; `None` if unknown."""
    whole = [entry["train_runtime"] for entry in history if "train_runtime" in entry]
    seconds = whole[-1] - sum(entry.get("eval_runtime", 0) for entry in history) if len(whole) == 1 else -1.0
    return round(seconds, 1) if seconds > 0 else None


def _composed(folder: Path) -> dict[str, SetResult]:
    """Results on the validation images, as they are and on other backgrounds; empty if not measured."""
    measured = {side: Measured.load(Stage.of(folder / side)) for side in ("before", "after")}
    if None in measured.values():
        return {}
    images = Stage.of(folder / "after").inputs["rows"]
    classes, object_share = (np.array(measured["before"].columns[name]) for name in ("label", "object_share"))
    composed = {}
    for condition in COMPARED:
        predicted = {side: np.array(of_side.columns[condition]) for side, of_side in measured.items()}
        # -1 where no other image has a background; an image without object or background is on none.
        counts = (predicted["before"] >= 0) & (object_share > 0) & (object_share < 1)
        sides = {side: SideResult(np.where(ids == classes, 0, TOP)) for side, ids in predicted.items()}
        composed[condition] = SetResult(condition, sides, np.where(counts, classes, -1), images=images)
    return composed


def _last(value: Any) -> str:
    return str(value).rstrip("/").rpartition("/")[2]


def read_sets(folder: Path, of_paper: bool, sides: tuple[str, ...] = ("before", "after")) -> dict[str, SetResult]:
    """Results of a run's labelled sets in a folder: the paper's sets, or those of emoji-shift. Sets without results of all sides are left
    out, with a warning."""
    order = list(PAPER_SETS) if of_paper else ["val", *SHIFTED]
    folders = {path.name: path for path in sorted(folder.glob("*")) if path.is_dir()}
    sets = {}
    for name in sorted(folders, key=lambda name: order.index(name) if name in order else len(order)):
        shifted = name in PAPER_SETS and name not in UNSHIFTED if of_paper else name in SHIFTED
        measured = {side: Measured.load(Stage.of(folders[name] / side)) for side in sides}
        if missing := [side for side in sides if measured[side] is None]:  # in a run that left its grid
            logger.warning(f"`{folders[name]}` is left out, as not complete: `{missing[0]}` was not measured.")
            continue
        if (accepted := measured["before"].columns.get("accepted")) is None:
            continue
        groups = measured["before"].columns.get("group")
        sets[name] = SetResult(
            name,
            side_results(measured, accepted),
            np.array([labels[0] if labels else -1 for labels in accepted]),
            shifted,
            images=Stage.of(folders[name] / sides[-1]).inputs.get("rows"),
            groups=None if groups is None else np.array(groups, dtype=object),
            # Those of `before` may be of a run on other images, with which it is shared.
            group_weights=measured[sides[-1]].scores.get("group_weights"),
            by_class=name not in FAMILIES["imagenet-9"],
        )
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
