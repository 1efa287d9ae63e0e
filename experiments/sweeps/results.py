"""The runs of an experiment by model, method and seed."""

from collections.abc import Sequence

from robust_vit_hf.data.known_sets import LATER_SETS
from robust_vit_hf.models.model_names import MODELS
from robust_vit_hf.results.run_results import SetResult

from .runs import Run


class Results:
    """Runs by model, method and seed, at most one of each. Models are in the order of the paper, methods in the given
    one; others follow."""

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
