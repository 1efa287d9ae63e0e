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

from ..data.benchmarks import BUNDLED_BENCHMARK, benchmarks
from ..data.known_sets import FAMILIES, PAPER_SETS, UNSHIFTED
from ..evaluation.measurements.accuracy import side_results
from ..evaluation.measurements.base import Measured
from ..models.model_names import BUNDLED_MODEL, MODELS, find_model
from ..results.metrics.robust_accuracy import TOP
from ..results.results_file import ResultsFile
from ..results.run_results import OURS, Run, SetResult, SideResult
from ..utils.files import RESULTS_FILE, RUN_FILE, read_json
from ..utils.stage import Stage
from .grid import CHOICES, VALIDATION_BOUND
from .points import GRID_FILE, POINT_FILE, RUN, is_trained
from .validation import CONDITIONS, CUT_OUT, SETS, VALIDATION, has_shares


logger = logging.get_logger(__name__)

SEEDED = ("seed", "class_seed", "data_seed")  # seed options, if the run does not record them


def collect(folders: Iterable[Path]) -> ResultsFile:
    """Collect the complete runs in folders of sweeps or single points. Runs of a model and method that differ in
    settings other than seed and learning rate count as different methods, named by the differing settings.

    Raises:
        FileNotFoundError: a folder holds no complete run.
        ValueError: two runs have the same name, or are the same under different names; the sweeps have different
            validation bounds; a file of a run is incomplete (named).
    """
    found, rules, taken = [], {}, set()
    for folder in folders:
        points = [folder]
        if not (folder / POINT_FILE).is_file():
            points = sorted(file.parent for file in folder.glob(f"*/{POINT_FILE}"))
        complete = [point for point in points if is_trained(point) and _is_measured(point)]
        if left_out := [point.name for point in points if point not in complete]:
            logger.warning(
                f"{len(left_out)} runs of `{folder}` are not complete, and are left out: {', '.join(left_out)}."
            )
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
            rule = (grid.get("validation_bound", VALIDATION_BOUND), grid.get("choose_by", CHOICES[0]))
            rules[point.parent] = rule
            try:
                current = point.name in grid.get("points", [point.name])
                facts = _facts(point) | {"current": current}
                known = {run.name for _, run in found}  # points share the original model
                for run in _runs(point, facts["model"][1]):
                    if run.name not in known:
                        found.append((facts | {"settings": {}} if run.method == CUT_OUT else facts, run))
            except (KeyError, TypeError, AttributeError, IndexError) as error:
                raise ValueError(
                    f"`{point}` has an incomplete file ({type(error).__name__}: {error}): delete the folder, and run the sweep "
                    "again."
                ) from error
    if len(set(rules.values())) > 1:
        shown = ", ".join(f"{bound:g} and {rule} in `{folder.name}`" for folder, (bound, rule) in rules.items())
        raise ValueError(f"The sweeps have different `validation_bound` or `choose_by`: {shown}. Report them apart.")
    runs = _named_apart(found)
    class_names: dict[str, dict[int, str]] = {}
    for run, (facts, _) in zip(runs, found, strict=True):
        class_names.setdefault(run.model, facts["class_names"])
    return ResultsFile(runs, class_names, *next(iter(rules.values())))


def _is_measured(point: Path) -> bool:
    """Whether a point has all that the rule of its grid needs, and the mixtures if it is still in the grid."""
    grid = read_json(point.parent / GRID_FILE) or {}
    mixtures = grid.get("mixtures", ()) if point.name in grid.get("points", ()) else ()
    return grid.get("choose_by", CHOICES[0]) != "mixed_rand" or has_shares(point, mixtures)


def _facts(point: Path) -> dict:
    """What identifies a run beside its learning rate: `model`, as the grid names it and by its digest; `seed`, the values of all
    seeds; `datasets`, their digests; `settings`, all other options; and its `class_names`."""
    recorded, results = read_json(point / POINT_FILE), read_json(point / RUN / RESULTS_FILE)
    options, seeded = recorded["options"], recorded.get("seeded", SEEDED)
    digest = recorded.get("inputs", {}).get("model") or results["weights"]["before"]
    saved = read_json(point / RUN / "config.json") or {}  # which an adapter has not
    seeds = {**results["settings"]["training"], **results["settings"]["data"]}
    name = _model_of(recorded)
    return {
        "model": (name, name if "model" in seeded else digest),
        "seed": {name: seeds.get(name) for name in SEEDED}
        | {name: options.get(name) for name in seeded if name not in SEEDED},
        "datasets": recorded.get("inputs", {}).get("datasets"),
        "settings": {
            name: options[name]
            for name in options
            if name not in ("model", "learning_rate", *SEEDED, *seeded, *recorded.get("tuned", {}))
        },
        "class_names": {int(label): name for label, name in saved.get("id2label", {}).items()},
    }


def _model_of(recorded: dict) -> str:
    """Model of a point as its grid names it."""
    return recorded.get("model") or recorded["options"].get("model", BUNDLED_MODEL)


def _runs(point: Path, model_digest: str) -> list[Run]:
    """A run with labels of its model and method that are not yet unique, and its mixtures with the original model."""
    recorded, results = read_json(point / POINT_FILE), read_json(point / RUN / RESULTS_FILE)
    trained = read_json(point / RUN / RUN_FILE)
    training, data = results["settings"]["training"], trained["data"]
    state = read_json(point / RUN / TRAINER_STATE_NAME)
    name = _model_of(recorded)
    registered = MODELS.get(find_model(name))
    measured = [entry for entry in state["log_history"] if "eval_top1" in entry and "eval_original_top1" in entry]
    if training["load_best_model_at_end"]:
        measured = [entry for entry in measured if entry["step"] == state["best_global_step"]]
    words = [f"{option} {_last(value)}" for option, value in recorded["crossed"].items()]
    classes = data["training_classes"]
    run = Run(
        sets=_sets(point / recorded["results"], recorded),
        training_classes=None if classes is None else frozenset(classes),
        name=point.name,
        model=(registered and registered.paper_name) or _last(name),
        method=", ".join([recorded["variant"] or OURS, *words]),
        seed=recorded["seed"],
        learning_rate=training["learning_rate"],
        epochs=float(training["num_train_epochs"]),
        validation=(measured[-1]["eval_original_top1"], measured[-1]["eval_top1"]) if measured else None,
        train_images=data["train_images"],
        tuned=recorded.get("tuned", {}),
        seconds=None if trained["resumed"] else _seconds(state["log_history"]),
        commit=results.get("commit"),
        original=recorded.get("inputs", {}).get("model"),
    )
    runs = []
    for folder in sorted((point / "shares").glob("*"), key=lambda folder: -float(folder.name)):
        share, composed = float(folder.name), _composed(folder / VALIDATION)
        if not composed:
            continue
        original = composed["original"]
        validation = (original.accuracy("before"), original.accuracy("after"))
        if share == 1:
            run = replace(run, composed=composed, validation=run.validation or validation)
        else:
            name, sets = f"{run.name}, share {share:g}", _sets(folder / SETS, recorded)
            runs.append(replace(run, name=name, share=share, sets=sets, composed=composed, validation=validation))
    if cut_out := _cut_out(point / CUT_OUT, run, model_digest):
        runs.append(cut_out)
    return [run, *runs]


def _cut_out(folder: Path, run: Run, model_digest: str) -> Run | None:
    """The original model of a run on the objects cut out by their masks, as a method that trains nothing; `None` if not
    measured."""
    sets = {}
    for name, result in run.sets.items():
        measured = Measured.load(Stage.of(folder / name / "before"))
        if measured is not None:
            right = np.array(measured.columns["only_fg"]) == np.array(measured.columns["label"])
            after = np.full(len(result), TOP)
            after[result.usable] = np.where(right, 0, TOP)  # objects of labelled images alone are cut out
            sides = {"before": result.sides["before"], "after": SideResult(after, known=1)}
            sets[name] = replace(result, sides=sides)
    name = f"{run.model} ({model_digest[:8]}) cut out, seed {run.seed}"
    return (
        replace(
            run,
            sets=sets,
            name=name,
            method=CUT_OUT,
            tuned={},
            learning_rate=0.0,
            epochs=None,
            seconds=0.0,
            validation=None,
            composed={},
        )
        if sets
        else None
    )


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
    classes, share = (np.array(measured["before"].columns[name]) for name in ("label", "object_share"))
    composed = {}
    for condition in CONDITIONS:
        predicted = {side: np.array(found.columns[condition]) for side, found in measured.items()}
        # -1 where no other image has a background; an image without object or background is on none.
        counts = (predicted["before"] >= 0) & (share > 0) & (share < 1)
        sides = {side: SideResult(np.where(of_side == classes, 0, TOP)) for side, of_side in predicted.items()}
        composed[condition] = SetResult(condition, sides, np.where(counts, classes, -1), images=images)
    return composed


def _last(value: Any) -> str:
    return str(value).rstrip("/").rpartition("/")[2]


def _sets(folder: Path, recorded: dict) -> dict[str, SetResult]:
    """Results of a run's labelled sets: the paper's sets, or else those measured by `train`, if any."""
    if not folder.is_dir():
        if not recorded["options"].get("benchmark_sets", True):
            return {}
        raise ValueError(f"`{folder}` is missing: run the sweep again, which measures what is missing.")
    benchmark = benchmarks().get(recorded["options"].get("dataset", BUNDLED_BENCHMARK))
    folders = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir()}
    order = ["val", *benchmark.shifted] if benchmark else list(PAPER_SETS)
    sets = {}
    for name in [*(name for name in order if name in folders), *(name for name in folders if name not in order)]:
        shifted = name in benchmark.shifted if benchmark else name in PAPER_SETS and name not in UNSHIFTED
        measured = {side: Measured.load(Stage.of(folders[name] / side)) for side in ("before", "after")}
        if missing := [side for side, found in measured.items() if found is None]:
            raise ValueError(f"`{folders[name] / missing[0]}` has no complete result: run the sweep again.")
        accepted = measured["before"].columns.get("accepted")
        if accepted is None:
            continue
        classes = np.array([labels[0] if labels else -1 for labels in accepted])
        images = Stage.of(folders[name] / "after").inputs.get("rows")
        groups = measured["before"].columns.get("group")
        groups = None if groups is None else np.array(groups, dtype=object)
        by_class = name not in FAMILIES["imagenet-9"]
        # Those of `before` may be of a run on other images, with which it is shared.
        weights = measured["after"].scores.get("group_weights")
        sets[name] = SetResult(
            name,
            side_results(measured, accepted),
            classes,
            shifted,
            images=images,
            groups=groups,
            group_weights=weights,
            by_class=by_class,
        )
    return sets


def _named_apart(found: list[tuple[dict, Run]]) -> list[Run]:
    """The runs with unique names for different models and methods, and each seed once.

    Raises:
        ValueError: two runs have the same model, method, learning rate and seed.
    """
    models: dict[str, dict[str, str]] = defaultdict(dict)  # by label, a path for each digest
    paths: dict[str, str] = {}  # the first path of a dataset, which may have been moved, by its seeds and contents
    for facts, run in found:
        path, digest = facts["model"]
        models[run.model].setdefault(digest, path)
        if facts["datasets"] and "dataset" in facts["settings"]:
            key = json.dumps([facts["seed"], facts["datasets"]])
            facts["settings"]["dataset"] = paths.setdefault(key, facts["settings"]["dataset"])
    named = [
        (facts, replace(run, model=_model_apart(run.model, models[run.model], facts["model"][1])))
        for facts, run in found
    ]
    settings: dict[tuple[str, str], list] = defaultdict(list)
    current: dict[tuple[str, str], list] = defaultdict(list)
    for facts, run in named:
        for known in (settings, current) if facts["current"] else (settings,):
            of_method = known[run.model, run.method]
            of_method += [facts["settings"]] * (facts["settings"] not in of_method)
    runs: list[Run] = []
    taken: dict[str, str] = {}
    for facts, run in named:
        key = (run.model, run.method)
        qualifier = "" if current[key] == [facts["settings"]] else _what_differs(settings[key], facts)
        settings_of_run = [run.learning_rate, run.tuned, run.share]
        seed = json.dumps([key, qualifier, settings_of_run, facts["seed"]], sort_keys=True)
        if seed in taken:
            raise ValueError(
                f"`{taken[seed]}` and `{run.name}` are both seed `{run.seed}` of {run.model}, {run.method}{qualifier}: report "
                "one of them."
            )
        taken[seed] = run.name
        recorded = json.dumps(facts["settings"], sort_keys=True)
        runs.append(replace(run, method=f"{run.method}{qualifier}", qualifier=qualifier, settings=recorded))
    return runs


def _model_apart(label: str, paths: dict[str, str], digest: str) -> str:
    """A model by its label, or by as much of its path as tells it from others of this label, or else by its digest."""
    if len(paths) == 1:
        return label
    if list(paths.values()).count(paths[digest]) > 1:
        return f"{label} ({digest[:8]})"
    return _ending(paths[digest], [*paths.values()])


def _what_differs(others: list[dict], facts: dict) -> str:
    """The options of a run that differ from those of others of its method, as they follow the name of the method. Of the grid as it
    is now, an option that is not given is left out."""
    own, words = facts["settings"], []
    for name in sorted({name for settings in others for name in settings}):
        values = [settings.get(name) for settings in others]
        if any(value != own.get(name) for value in values) and (name in own or not facts["current"]):
            paths = [value for value in values if isinstance(value, str)]
            value = own.get(name, "default")
            words.append(f", {name} {_ending(value, paths) if isinstance(value, str) else value}")
    return "".join(words)


def _ending(path: str, others: list[str]) -> str:
    """Shortest ending of a path that no other path has."""
    parts = path.rstrip("/").split("/")
    endings = ("/".join(parts[-count:]) for count in range(1, len(parts) + 1))
    different = {other.rstrip("/") for other in others} - {"/".join(parts)}
    return next((end for end in endings if not any(f"/{other}".endswith(f"/{end}") for other in different)), path)
