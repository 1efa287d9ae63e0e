"""Choice of each method's settings, using only validation images."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from ..results.choice import Candidate, choose, loses_too_much
from ..results.markdown_latex import Table, percent
from ..results.results_file import MEASUREMENT_OPTIONS, ResultsFile
from ..results.run_results import Run
from .points import CUT_OUT


TOLERANCE = 1e-9  # for rounding: 0.98 - 0.96 > 0.02 in floats


def choose_settings(results: ResultsFile) -> tuple[list[Run], Table]:
    """Choose the runs of each model and method by the rule of the file, see [`~robust_vit_hf.experiments.grid.GridFile`].
    Only runs with all of the finetuned weights are chosen from.

    Returns:
        The chosen runs, and a table of all settings.
    """
    groups = _by_method(run for run in results.runs if run.share == 1)
    rule = _choose_by_mixed_rand if results.choose_by == "mixed_rand" else _choose_learning_rate
    chosen, rows = [], []
    for (model, method), runs in groups.items():
        if method == CUT_OUT:  # nothing was trained
            chosen += runs
            continue
        by_setting = {setting: [*of] for setting, of in groupby(sorted(runs, key=setting_of), setting_of)}
        _check_seeds(f"{model}, {method}", by_setting)
        of_method, described = rule(f"{model}, {method}", by_setting, results.validation_bound)
        chosen += by_setting[of_method]
        rows += [[model, method, *row] for row in described]
    bound = f"{100 * results.validation_bound:g}"
    if results.choose_by == "mixed_rand":
        title = (
            "Settings: top-1 on the validation images with the backgrounds of others, before and after, and its fall on these "
            f"images as they are, of which the rule allows {bound} points"
        )
        head = ["model", "method", "learning rate", "weights", "seeds", "before", "after", "fall", ""]
        return chosen, Table(title, head, rows)
    title = f"Learning rates: fall of top-1 on the validation images of unseen classes, of which the rule allows {bound} points"
    return chosen, Table(title, ["model", "method", "learning rate", "seeds", "fall", ""], rows)


def choose_mixtures(results: ResultsFile) -> list[Run]:
    """Choose by the same rule among settings whose mixtures with the original model were measured, at every share of the weights
    (WiSE-FT, https://huggingface.co/papers/2109.01903). None of a method for which all of the weights are chosen."""
    chosen = []
    for (model, method), runs in _by_method(run for run in results.runs if run.method != CUT_OUT).items():
        if mixed := {setting_of(run) for run in runs if run.share < 1}:
            by_setting: dict[tuple, list[Run]] = defaultdict(list)
            for run in runs:
                if setting_of(run) in mixed:
                    by_setting[(*setting_of(run), ("share", run.share))].append(run)
            _check_seeds(f"{model}, {method}", by_setting)
            settings, before = _measured(f"{model}, {method}", by_setting)
            best = by_setting[choose(settings, before, 100 * results.validation_bound).setting]
            chosen += [run for run in best if run.share < 1]
    return chosen


def _by_method(runs: Iterable[Run]) -> dict[tuple[str, str], list[Run]]:
    groups = defaultdict(list)
    for run in runs:
        groups[run.model, run.method].append(run)
    return dict(groups)


def setting_of(run: Run) -> tuple:
    """Learning rate of a run, and its other chosen options by name."""
    return (run.learning_rate, *sorted(run.tuned.items()))


def _check_seeds(name: str, by_setting: dict[tuple, list[Run]]) -> None:
    """Refuse two runs of a setting and seed, which differ in options that are not compared, such as the number format."""
    for runs in by_setting.values():
        seeds: dict[str, Run] = {}
        for run in runs:
            if (first := seeds.setdefault(run.seed, run)) is not run:
                one, other = (
                    json.loads(each.settings or "{}")
                    | {"num_train_epochs": each.epochs, "the original model": each.original}
                    for each in (first, run)
                )
                options = {*one, *other} - {*MEASUREMENT_OPTIONS}
                differing = sorted(option for option in options if one.get(option) != other.get(option))
                raise ValueError(
                    f"{name}: `{first.name}` and `{run.name}` have the same setting and seed, and differ in "
                    f"{', '.join(differing) or 'their images'}: report them apart."
                )


def _choose_learning_rate(
    name: str, by_setting: dict[tuple, list[Run]], bound: float
) -> tuple[tuple, list[list[str]]]:
    """The paper's rule: the highest learning rate at which validation top-1, on classes that are not trained on, drops by
    at most a bound, averaged over seeds. If there is none, the rate with the smallest drop is chosen and marked. A
    single rate is always chosen (https://huggingface.co/papers/2206.01161, section 4)."""
    rates = {setting[0]: runs for setting, runs in by_setting.items()}
    budgets = {frozenset((run.seed, run.epochs) for run in runs) for runs in rates.values()}
    falls = {
        rate: sum(run.validation[0] - run.validation[1] for run in runs) / len(runs)
        for rate, runs in rates.items()
        if all(run.validation for run in runs)
    }
    if len(rates) > 1 and (len(budgets) > 1 or len(falls) < len(rates)):
        what = "seeds or epochs" if len(budgets) > 1 else "validation images, some of which have no labels"
        raise ValueError(
            f"{name}: its learning rates {', '.join(f'{rate:g}' for rate in rates)} differ in their {what}. "
            "Complete the sweep, or leave rates out, before one is chosen."
        )
    within = [rate for rate, fall in falls.items() if fall <= bound + TOLERANCE]
    best = max(within) if within else min(falls, key=falls.get) if falls else next(iter(rates))
    rows = []
    for rate, runs in rates.items():
        verdict = "" if rate != best else "chosen" if rate in within or rate not in falls else "beyond the bound"
        rows.append([f"{rate:g}", str(len(runs)), percent(falls.get(rate)), verdict])
    return (best,), rows


@dataclass(frozen=True, eq=False)
class _Setting(Candidate):
    """A setting on the validation images of all seeds."""

    setting: tuple
    runs: list[Run]

    @property
    def strength(self) -> tuple[float, ...]:
        return (self.setting[0], *(value for _, value in self.setting[1:]))


def _choose_by_mixed_rand(
    name: str, by_setting: dict[tuple, list[Run]], bound: float
) -> tuple[tuple, list[list[str]]]:
    """The rule of `robust-vit improve`, see [`choose`]."""
    settings, before = _measured(name, by_setting)
    best = choose(settings, before, 100 * bound)
    edges = _edges(best.setting, [one.setting for one in settings])
    rows = []
    for one in settings:
        tuned = ", ".join(
            f"{option.removesuffix('_weight').replace('_', ' ')} {value:g}" for option, value in one.setting[1:]
        )
        falls = loses_too_much(one, before, 100 * bound)
        verdict = "" if one is not best else "beyond the bound" if falls else f"chosen{edges}"
        seeds = str(len({run.seed for run in by_setting[one.setting]}))
        values = (before.top1(), one.top1(), one.fall(before))
        rows.append([f"{one.setting[0]:g}", tuned or "–", seeds, *map(percent, values), verdict])
    return best.setting, rows


def _measured(name: str, by_setting: dict[tuple, list[Run]]) -> tuple[list[_Setting], Candidate]:
    """Settings, and the original model, on the validation images of the seeds that all settings have."""
    shared = set.intersection(*({run.seed for run in runs} for runs in by_setting.values()))
    if not shared or len({run.epochs for runs in by_setting.values() for run in runs}) > 1:
        raise ValueError(
            f"{name}: its {len(by_setting)} settings have no seed in common, or other epochs. Complete the sweep, or leave "
            "settings out, before one is chosen."
        )
    settings = []
    for setting, runs in by_setting.items():
        compared = sorted((run for run in runs if run.seed in shared), key=lambda run: run.seed)
        settings.append(_Setting(*_values(compared, "after"), setting, compared))
    return settings, Candidate(*_values(settings[0].runs, "before"))


def _values(runs: Sequence[Run], side: str) -> tuple[np.ndarray, np.ndarray]:
    """Whether each validation image is right on another background and as it is; NaN where it does not count."""
    of_condition = []
    for condition in ("mixed_rand", "original"):
        results = [run.composed[condition] for run in runs]
        values = [np.where(result.usable, result.correct(side), np.nan) for result in results]
        of_condition.append(np.concatenate(values))
    return of_condition[0], of_condition[1]


def _edges(best: tuple, settings: list[tuple]) -> str:
    """What of the chosen setting is the highest or lowest of several in the grid."""
    columns: dict[str, list] = defaultdict(list)
    for rate, *tuned in settings:
        for option, value in (("learning rate", rate), *tuned):
            columns[option].append(value)
    own = {"learning rate": best[0], **dict(best[1:])}
    several = {option: values for option, values in columns.items() if option in own and len(set(values)) > 1}
    at_edge = [option for option, values in several.items() if own[option] in (min(values), max(values))]
    return f", at the edge of: {', '.join(at_edge)}" if at_edge else ""
