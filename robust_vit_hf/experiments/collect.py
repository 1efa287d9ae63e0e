"""Collecting the results of sweeps."""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers.trainer import TRAINER_STATE_NAME

from ..data.benchmarks import BUNDLED_BENCHMARK, benchmarks
from ..evaluation.measurements.accuracy import Accuracy
from ..evaluation.store import Measured
from ..metrics.robust_accuracy import ranks
from ..models.registry import BUNDLED_MODEL, MODELS, find_model
from ..results.file import ResultsFile
from ..results.published import PAPER_SETS, UNSHIFTED
from ..results.table import OURS, Run, SetResult, SideResult
from ..utils.files import RESULTS_FILE, RUN_FILE, read_json
from .grid import VALIDATION_BOUND
from .sweep import GRID_FILE, POINT_FILE, RUN, is_trained


SEEDED = ("seed", "class_seed", "data_seed")  # seed options, if the run does not record them


def collect(folders: Iterable[Path]) -> ResultsFile:
    """Collect the complete runs in folders of sweeps or single points. Runs of a model and method that differ in
    settings other than seed and learning rate count as different methods, named by the differing settings.

    Raises:
        FileNotFoundError: a folder holds no complete run.
        ValueError: two runs have the same name, or are the same under different names; the sweeps have different
            validation bounds; a file of a run is incomplete (named).
    """
    found, bounds, taken = [], {}, set()
    for folder in folders:
        points = [folder]
        if not (folder / POINT_FILE).is_file():
            points = sorted(file.parent for file in folder.glob(f"*/{POINT_FILE}"))
        complete = [point for point in points if is_trained(point)]
        if not complete:
            raise FileNotFoundError(
                f"`{folder}` holds no complete run of `robust-vit sweep`: name the folder of a sweep, or give --html for the "
                "output folder of one `robust-vit train` or `evaluate`."
            )
        for point in complete:
            if point.name in taken:
                raise ValueError(f"`{point}` is named twice, or another folder holds the same run: name one of them.")
            taken.add(point.name)
            grid = read_json(point.parent / GRID_FILE) or read_json(point.parent / "sweep.json") or {}
            bounds[point.parent] = grid.get("validation_bound", VALIDATION_BOUND)
            try:
                found.append((_facts(point), _run(point)))
            except (KeyError, TypeError, AttributeError, IndexError) as error:
                raise ValueError(
                    f"`{point}` has an incomplete file ({type(error).__name__}: {error}): delete the folder, and run the sweep "
                    "again."
                ) from error
    if len(set(bounds.values())) > 1:
        shown = ", ".join(f"{bound:g} in `{folder.name}`" for folder, bound in bounds.items())
        raise ValueError(f"The sweeps have different `validation_bound`: {shown}. Report them apart.")
    runs = _named_apart(found)
    class_names: dict[str, dict[int, str]] = {}
    for run, (facts, _) in zip(runs, found, strict=True):
        class_names.setdefault(run.model, facts["class_names"])
    return ResultsFile(runs, class_names, next(iter(bounds.values())))


def _facts(point: Path) -> dict:
    """Identity of a run apart from seed and learning rate: `model` (name in the grid and digest) and `settings` (all
    other options); also its `class_names`."""
    recorded = read_json(point / POINT_FILE)
    options, seeded = recorded["options"], recorded.get("seeded", SEEDED)
    digest = recorded.get("inputs", {}).get("model") or read_json(point / RUN / RESULTS_FILE)["weights"]["before"]
    saved = read_json(point / RUN / "config.json") or {}  # adapters have none
    return {
        "model": (options.get("model", BUNDLED_MODEL), digest),
        "settings": {name: options[name] for name in options if name not in ("model", "learning_rate", *seeded)},
        "class_names": {int(label): name for label, name in saved.get("id2label", {}).items()},
    }


def _run(point: Path) -> Run:
    """A run with labels of its model and method that are not yet unique."""
    recorded, results = read_json(point / POINT_FILE), read_json(point / RUN / RESULTS_FILE)
    training, data = results["settings"]["training"], read_json(point / RUN / RUN_FILE)["data"]
    state = read_json(point / RUN / TRAINER_STATE_NAME)
    name = recorded["options"].get("model", BUNDLED_MODEL)
    registered = MODELS.get(find_model(name))
    measured = [entry for entry in state["log_history"] if "eval_top1" in entry and "eval_original_top1" in entry]
    if training["load_best_model_at_end"]:
        measured = [entry for entry in measured if entry["step"] == state["best_global_step"]]
    words = [f"{option} {_last(value)}" for option, value in recorded["crossed"].items()]
    classes = data["training_classes"]
    return Run(
        sets=_sets(point, recorded),
        training_classes=None if classes is None else frozenset(classes),
        name=point.name,
        model=(registered and registered.paper_name) or _last(name),
        method=", ".join([recorded["variant"] or OURS, *words]),
        seed=recorded["seed"],
        learning_rate=training["learning_rate"],
        epochs=float(training["num_train_epochs"]),
        validation=(measured[-1]["eval_original_top1"], measured[-1]["eval_top1"]) if measured else None,
        train_images=data["train_images"],
    )


def _last(value: Any) -> str:
    return str(value).rstrip("/").rpartition("/")[2]


def _sets(point: Path, recorded: dict) -> dict[str, SetResult]:
    """Results of a run's labelled sets: the paper's sets, or else those measured by `train`."""
    folder = point / recorded["results"]
    if not folder.is_dir():
        raise ValueError(f"`{folder}` is missing: run the sweep again, which measures what is missing.")
    benchmark = benchmarks().get(recorded["options"].get("dataset", BUNDLED_BENCHMARK))
    folders = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir()}
    order = ["val", *benchmark.shifted] if benchmark else list(PAPER_SETS)
    sets = {}
    for name in [*(name for name in order if name in folders), *(name for name in folders if name not in order)]:
        shifted = name in benchmark.shifted if benchmark else name in PAPER_SETS and name not in UNSHIFTED
        measured = {side: Measured.load(folders[name] / side, Accuracy.rows_file) for side in ("before", "after")}
        if missing := [side for side, found in measured.items() if found is None]:
            raise ValueError(f"`{folders[name] / missing[0]}` has no complete result: run the sweep again.")
        accepted = measured["before"].columns.get("accepted")
        if accepted is None:
            continue
        sides = {}
        for side, found in measured.items():
            predictions = np.array(found.columns["predictions"])
            sides[side] = SideResult(ranks(predictions, accepted), found.scores, predictions)
        classes = np.array([labels[0] if labels else -1 for labels in accepted])
        sets[name] = SetResult(name, sides, classes, shifted)
    return sets


def _named_apart(found: list[tuple[dict, Run]]) -> list[Run]:
    """The runs with unique names for different models and methods, and each seed once.

    Raises:
        ValueError: two runs have the same model, method, learning rate and seed.
    """
    models: dict[str, list] = defaultdict(list)
    for facts, run in found:
        models[run.model] += [facts["model"]] * (facts["model"] not in models[run.model])
    named = [
        (facts, replace(run, model=_model_apart(run.model, models[run.model], facts["model"]))) for facts, run in found
    ]
    settings: dict[tuple[str, str], list] = defaultdict(list)
    for facts, run in named:
        known = settings[run.model, run.method]
        known += [facts["settings"]] * (facts["settings"] not in known)
    runs: list[Run] = []
    taken: dict[tuple, str] = {}
    for facts, run in named:
        method = _method_apart(run.method, settings[run.model, run.method], facts["settings"])
        key = (run.model, method, run.learning_rate, run.seed)
        if key in taken:
            raise ValueError(
                f"`{taken[key]}` and `{run.name}` are both seed `{run.seed}` of {run.model}, {method}: report one of them."
            )
        taken[key] = run.name
        runs.append(replace(run, method=method, settings=json.dumps(facts["settings"], sort_keys=True)))
    return runs


def _model_apart(label: str, others: list[tuple[str, str]], own: tuple[str, str]) -> str:
    """Unique name of a model: its label, else the shortest unique ending of its path, else its digest."""
    if len(others) == 1:
        return label
    if sum(path == own[0] for path, _ in others) > 1:
        return f"{label} ({own[1][:8]})"
    return _ending(own[0], [path for path, _ in others])


def _method_apart(label: str, others: list[dict], own: dict) -> str:
    """Unique name of a method: its label, plus the options in which it differs from others with this label."""
    names = sorted({name for settings in others for name in settings})
    words = []
    for name in names:
        values = [settings.get(name) for settings in others]
        if name in own and any(value != own[name] for value in values):
            paths = [value for value in values if isinstance(value, str)]
            words.append(f"{name} {_ending(own[name], paths) if isinstance(own[name], str) else own[name]}")
    return ", ".join([label, *words])


def _ending(path: str, others: list[str]) -> str:
    """Shortest ending of a path that no other path has."""
    parts = path.rstrip("/").split("/")
    endings = ("/".join(parts[-count:]) for count in range(1, len(parts) + 1))
    different = {other.rstrip("/") for other in others} - {"/".join(parts)}
    return next((end for end in endings if not any(f"/{other}".endswith(f"/{end}") for other in different)), path)
