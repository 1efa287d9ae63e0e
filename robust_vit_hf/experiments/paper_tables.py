"""The paper's tables in its own layout, from the runs of an experiment, with its figures beside ours.

Source: https://huggingface.co/papers/2206.01161
"""

from collections.abc import Sequence
from itertools import product

import numpy as np

from ..evaluation.published import published_cell, published_models
from ..evaluation.set_names import PAPER_SETS
from ..evaluation.tables import Table
from ..training.ablations import ABLATIONS
from .differences import change, versus
from .results import SEGMENTATION, RunResult


OURS = "robustvit"
# Variants of a grid, in the order of the tables, with the names that the paper gives them.
METHODS = {
    OURS: "Ours",
    "unsupervised-masks": "Ours, unsupervised masks",
    "gradmask": "GradMask",
    "rrr": "RRR",
    "without-confidence": "w/o classification loss (Eq. 4)",
    "without-background": "w/o background loss (Eq. 1)",
    "without-foreground": "w/o foreground loss (Eq. 2)",
    "ground-truth": "w/ ground-truth",
}
SYNTHETIC = ("si-score-location", "si-score-rotation", "si-score-size", "location", "rotation", "size")
VALIDATION = "unseen classes"  # the validation images of the finetuning


class Experiment:
    """Runs by model and method, each at its chosen learning rate.

    Args:
        runs: those of [`choose_learning_rates`].
    """

    def __init__(self, runs: Sequence[RunResult]):
        order = list(METHODS)
        self.runs = list(runs)
        self.models = list(dict.fromkeys(run.model for run in runs))
        self.models.sort(
            key=lambda model: list(published_models()).index(model) if model in published_models() else 99
        )
        methods = dict.fromkeys(run.method for run in runs)
        self.methods = sorted(methods, key=lambda method: order.index(method) if method in order else len(order))
        self.sets = list(dict.fromkeys(name for run in runs for name in run.sets))
        self.shifted = [name for name in self.sets if self._first(name).sets[name].shifted]
        self.real = [name for name in self.sets if name not in SYNTHETIC]
        self.synthetic = [name for name in self.sets if name in SYNTHETIC]

    def _first(self, name: str) -> RunResult:
        return next(run for run in self.runs if name in run.sets)

    def of(self, method: str, model: str | None = None) -> list[RunResult]:
        """Runs of a method, of one model or of all."""
        return [run for run in self.runs if run.method == method and model in (None, run.model)]

    def common(self, runs: Sequence[RunResult], names: Sequence[str]) -> list[str]:
        """Those of some sets that all runs were measured on."""
        return [name for name in names if runs and all(name in run.sets for run in runs)]


def accuracy_tables(experiment: Experiment) -> dict[str, Table]:
    """Tables 1 and 2: top-1 and top-5 of each method; the changes of Table 2, and the average changes of both with their 95 %
    intervals."""
    methods = [method for method in experiment.methods if not method.startswith(tuple(ABLATIONS))]
    parts = {
        "table_1": ("Table 1: real images, top-1 and top-5 in per cent", experiment.real),
        "table_2": (
            "Table 2: synthetic images, top-1 and top-5 in per cent, and the change of top-1",
            experiment.synthetic,
        ),
    }
    return {
        name: _accuracy_table(experiment, title, methods, sets, (1, 5), with_changes=name == "table_2")
        for name, (title, sets) in parts.items()
        if sets and methods
    }


def ablation_tables(experiment: Experiment) -> dict[str, Table]:
    """Tables 4 and 12: the full loss and its ablations, top-1 and top-5."""
    methods = [method for method in experiment.methods if method == OURS or method.startswith(tuple(ABLATIONS))]
    if len(methods) < 2:
        return {}
    titles = {"table_4": ("Table 4: ablations, top-1", 1), "table_12": ("Table 12: ablations, top-5", 5)}
    return {
        name: _accuracy_table(experiment, f"{title} in per cent", methods, experiment.sets, (k,), ours="full-loss")
        for name, (title, k) in titles.items()
    }


def seed_tables(experiment: Experiment) -> dict[str, Table]:
    """Tables 8 and 9: mean and standard deviation over the seeds, top-1 and top-5."""
    if len({run.seed for run in experiment.runs}) < 2 or OURS not in experiment.methods:
        return {}
    titles = {"table_8": ("Table 8: seeds, top-1", 1), "table_9": ("Table 9: seeds, top-5", 5)}
    return {
        name: _accuracy_table(
            experiment, f"{title} in per cent, mean ± standard deviation", [OURS], experiment.sets, (k,)
        )
        for name, (title, k) in titles.items()
    }


def _accuracy_table(
    experiment: Experiment,
    title: str,
    methods: Sequence[str],
    sets: Sequence[str],
    ks: Sequence[int],
    with_changes: bool = False,
    ours: str = "finetuned",
) -> Table:
    rows = []
    scores = tuple(f"top{k}" for k in ks)
    # Unshifted sets stand in every table beside the gain: a method that forgets must not look good.
    sets = [name for name in experiment.sets if name in sets or name not in experiment.shifted]
    for model in experiment.models:
        of_model = [run for run in experiment.runs if run.model == model and run.method in methods]
        if not of_model:
            continue
        names = {name: name in of_model[0].sets for name in sets}
        original = [_accuracy(of_model[:1], name, ks, "before") if known else "–" for name, known in names.items()]
        rows.append([model, "Original", _validation(of_model, 0), *original])
        rows += _published_row(model, "Original", "original", sets, scores)
        for method in methods:
            runs = experiment.of(method, model)
            if not runs:
                continue
            cells = []
            for name in sets:
                if not experiment.common(runs, [name]):
                    cells.append("–")
                    continue
                moved = f" ({100 * change(runs, [name]).mean:+.1f})" if with_changes else ""
                cells.append(_accuracy(runs, name, ks, "after") + moved)
            rows.append([model, METHODS.get(method, method), _validation(runs, 1), *cells])
            version = ours if method == OURS else method
            rows += _published_row(model, METHODS.get(method, method), version, sets, scores)
    for method, k in product(methods, ks):
        runs = experiment.of(method)
        if {run.model for run in runs} == set(experiment.models):  # as in the paper, only over all models
            cells = [str(change(runs, [name], k)) if experiment.common(runs, [name]) else "–" for name in sets]
            validation = _validation_change(runs) if k == 1 else "–"
            rows.append([f"Avg. change of top-{k}", METHODS.get(method, method), validation, *cells])
    head = ["model", "method", VALIDATION, *(PAPER_SETS.get(name, name.replace("_", " ")) for name in sets)]
    return Table(title, head, rows)


def _published_row(
    model: str, method: str, version: str, sets: Sequence[str], scores: tuple[str, ...], marks: Sequence[str] = ()
) -> list[list]:
    cells = [published_cell(published_models().get(model), "paper", version, name, scores) for name in sets]
    return [[model, *marks, f"{method}, published", "–", *(cell or "–" for cell in cells)]] if any(cells) else []


def _accuracy(runs: Sequence[RunResult], name: str, ks: Sequence[int], side: str) -> str:
    return " ".join(mean_std([(getattr(run.sets[name], side) < k).mean() for run in runs]) for k in ks)


def _validation(runs: Sequence[RunResult], side: int) -> str:
    known = [run.validation[side] for run in runs if run.validation]
    return mean_std(known) if known else "–"


def _validation_change(runs: Sequence[RunResult]) -> str:
    known = [run.validation[1] - run.validation[0] for run in runs if run.validation]
    return f"{100 * np.mean(known):+.1f}" if known else "–"


def mean_std(values: Sequence[float]) -> str:
    """Mean of fractions in per cent, and of several the sample standard deviation."""
    mean = f"{100 * np.mean(values):.1f}"
    return f"{mean}±{100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else mean


def segmentation_table(experiment: Experiment) -> dict[str, Table]:
    """Table 3: relevance and masks, as means over the sets with masks."""
    titles = dict(zip(SEGMENTATION, ("Pixel acc.", "mIoU", "mAP"), strict=True))
    rows = []
    for model in experiment.models:
        for method in experiment.methods:
            runs = [
                run for run in experiment.of(method, model) if any(scores.segmentation for scores in run.sets.values())
            ]
            if not runs:
                continue
            cells = {"before": [], "after": []}
            for score in SEGMENTATION:
                for side in cells:
                    means = [
                        float(
                            np.mean([s.segmentation[f"{score}_{side}"] for s in run.sets.values() if s.segmentation])
                        )
                        for run in runs
                    ]
                    cells[side].append(mean_std(means if side == "after" else means[:1]))
            if not any(row[0] == model for row in rows):
                rows.append([model, "Orig", _validation(runs, 0), *cells["before"]])
            rows.append([model, METHODS.get(method, method), _validation(runs, 1), *cells["after"]])
    title = "Table 3: relevance and masks, mean over the sets with masks, in per cent"
    return {"table_3": Table(title, ["model", "method", VALIDATION, *titles.values()], rows)} if rows else {}


def group_change(run: RunResult, name: str, shown: bool, k: int) -> tuple[float, float] | None:
    """Top-k before and after on the classes of a set that were trained on, or on the others; `None` without such images."""
    scores = run.sets[name]
    chosen = np.isin(scores.classes, list(run.training_classes or ())) == shown
    if run.training_classes is None or not chosen.any():
        return None
    return float((scores.before[chosen] < k).mean()), float((scores.after[chosen] < k).mean())


def class_group_tables(experiment: Experiment) -> dict[str, Table]:
    """Tables 10 and 11: training classes (✓) and the others (✗), with the average change of each."""
    parts = {
        "table_10": ("Table 10: real images", experiment.real),
        "table_11": ("Table 11: synthetic", experiment.synthetic),
    }
    tables = {}
    for table, (title, kind) in parts.items():
        if not kind:
            continue
        sets = [name for name in experiment.sets if name in kind or name not in experiment.shifted]
        rows, changes = [], {True: [], False: []}
        for model in experiment.models:
            runs = [run for run in experiment.of(OURS, model) if run.training_classes]
            for shown, mark in ((True, "✓"), (False, "✗")) if runs else ():
                values = np.array(
                    [
                        [[group_change(run, name, shown, k) or (np.nan, np.nan) for k in (1, 5)] for name in sets]
                        for run in runs
                    ]
                )  # runs, sets, k, side
                for side, version in enumerate(("Original", "Ours")):
                    means = 100 * values.mean(axis=0)[:, :, side]
                    cells = [" ".join("–" if np.isnan(v) else f"{v:.1f}" for v in pair) for pair in means]
                    rows.append([model, mark, version, _validation(runs, side), *cells])
                    published = f"{('original', 'finetuned')[side]}-{'training' if shown else 'other'}-classes"
                    rows += _published_row(model, version, published, sets, ("top1", "top5"), [mark])
                changes[shown].append((values[..., 1] - values[..., 0]).mean(axis=0))
        for shown, mark in ((True, "✓"), (False, "✗")) if rows else ():
            means = 100 * np.mean(changes[shown], axis=0)
            cells = [" ".join("–" if np.isnan(v) else f"{v:+.1f}" for v in pair) for pair in means]
            rows.append(["Avg. change", mark, "", _validation_change(experiment.of(OURS)), *cells])
        if rows:
            head = ["model", "train classes", "", VALIDATION, *(PAPER_SETS.get(n, n.replace("_", " ")) for n in sets)]
            tables[table] = Table(f"{title}, training classes and others, top-1 and top-5 in per cent", head, rows)
    return tables


def difference_table(experiment: Experiment) -> dict[str, Table]:
    """Each method against the original and against the full loss, over the shifted sets."""
    rows = []
    ours = experiment.of(OURS)
    for method in experiment.methods:
        runs = experiment.of(method)
        shifted = experiment.common(runs, experiment.shifted)
        unshifted = experiment.common(runs, [name for name in experiment.sets if name not in experiment.shifted])
        both = experiment.common([*runs, *ours], shifted)
        against = versus(ours, runs, both) if method != OURS and ours else None
        rows.append(
            [
                METHODS.get(method, method),
                str(len(runs)),
                str(change(runs, shifted)) if shifted else "–",
                str(against) if against else "–",
                str(change(runs, unshifted)) if unshifted else "–",
                _validation_change(runs),
            ]
        )
    head = ["method", "runs", "shifted sets", "shifted sets, less Ours", "unshifted sets", VALIDATION]
    title = "Changes of top-1 in points, means over sets, models and seeds, with 95 % intervals of a paired bootstrap"
    return {"differences": Table(title, head, rows)}
