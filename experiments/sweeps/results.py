"""The runs of an experiment by model, method and seed."""

from collections.abc import Sequence
from itertools import product

import numpy as np

from robust_vit_hf.data.known_sets import LATER_SETS
from robust_vit_hf.models.model_names import MODELS
from robust_vit_hf.results.run_results import SetResult
from robust_vit_hf.results.set_tables import Groups
from robust_vit_hf.results.tables import Table

from .intervals import mean_over
from .runs import Run


class Results:
    """Runs by model, method and seed, at most one of each. Models are in the order of the paper, methods in the given one; others
    follow."""

    def __init__(self, runs: Sequence[Run], methods: Sequence[str] = ()):
        self.runs, of_paper = list(runs), [entry.paper_name for entry in MODELS.values()]
        self.models = list(dict.fromkeys(run.model for run in runs))
        self.models.sort(key=lambda model: of_paper.index(model) if model in of_paper else len(of_paper))
        self.methods = list(dict.fromkeys(run.method for run in runs))
        self.methods.sort(key=lambda name: methods.index(name) if name in methods else len(methods))
        sets: dict[str, SetResult] = {}
        for run in sorted(self.runs, key=lambda run: -len(run.sets)):  # others may have a part in another order
            sets |= {name: result for name, result in run.sets.items() if name not in sets}
        self.sets = list(sets)
        self.shifted = [name for name in self.sets if sets[name].shifted]
        self.unshifted = [name for name in self.sets if name not in (*self.shifted, *LATER_SETS)]

    def of(self, method: str, model: str | None = None) -> list[Run]:
        return [run for run in self.runs if run.method == method and model in (None, run.model)]

    def common(self, runs: Sequence[Run], names: Sequence[str]) -> list[str]:
        """The given sets on which all runs were measured."""
        return [name for name in names if runs and all(name in run.sets for run in runs)]

    def common_by_class(self, runs: Sequence[Run], names: Sequence[str]) -> list[str]:
        """Those of [`common`] whose images have one class each."""
        return [name for name in self.common(runs, names) if all(run.sets[name].by_class for run in runs)]


def worst_group_table(results: Results) -> Table | None:
    """Top-1 of the worst group and on average over the groups, of each model and method, as means over the runs with the interval of
    their changes over seeds (Student's t); `None` without a set with groups."""
    rows = []
    for name, model, method in product(results.sets, results.models, results.methods):
        runs = [run for run in results.of(method, model) if name in run.sets and run.sets[name].groups is not None]
        if not runs:
            continue
        cells, weighted = [], all(Groups.of(run.sets[name]).weighted for run in runs)
        before, after = (
            np.array([_worst_and_average(run.sets[name], side, weighted) for run in runs]).T
            for side in ("before", "after")
        )
        for one, other in zip(before, after, strict=True):
            moved = mean_over((other - one).tolist(), [run.seed for run in runs])
            cells += [f"{100 * one.mean():.1f}", f"{100 * other.mean():.1f}", str(moved)]
        missing = {group for run in runs for group in Groups.of(run.sets[name]).missing}
        without = f", without {len(missing)} groups that have no images" if missing else ""
        cells.append(("as in training" if weighted else "equal") + without)
        rows.append([f"{model}, {method}, `{name}`", str(len({run.seed for run in runs})), *cells])
    heads = ["worst group before", "after", "change", "average of the groups before", "after", "change", "weights"]
    title = "Groups, top-1 in per cent [95 % interval over seeds]"
    return Table(title, ["model, method, set", "seeds", *heads], rows) if rows else None


def _worst_and_average(result: SetResult, side: str, weighted: bool) -> tuple[float, float]:
    """Top-1 of the worst group, and on average over the groups, which count the same unless `weighted`."""
    groups = Groups.of(result)
    top1 = np.bincount(groups.numbers, result.correct(side)[result.usable]) / groups.counts
    return float(top1.min()), float(np.average(top1, weights=groups.weights if weighted else None))
