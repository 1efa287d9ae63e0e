"""What may be chosen of a method's settings, and the choice, using only validation images."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from robust_vit_hf.results.tables import Table, percent

from .bounded_choice import Setting, choose_setting, loses_too_much
from .results_parquet import MEASUREMENT_OPTIONS, ResultsFile
from .runs import Run


# Options that are chosen for each variant of a grid on validation images, where the variant lists several values.
TUNED_OPTIONS = (
    "learning_rate",
    "relevance_weight",
    "confidence_weight",
    "background_weight",
    "foreground_weight",
    "background_swap",
)
BySetting = dict[tuple, dict[str, Run]]  # runs by seed, by setting, see [`setting_of`]
TOLERANCE = 1e-9  # for rounding: 0.98 - 0.96 > 0.02 in floats


def choose_settings(results: ResultsFile) -> tuple[list[Run], Table]:
    """The chosen runs of each model and method by the criterion of the file, see
    [`~experiments.sweeps.grid.GridFile`], and a table of all settings."""
    groups = _by_method(results.runs)
    rule = _choose_by_mixed_rand if results.choose_by == "mixed_rand" else _choose_learning_rate
    chosen, rows = [], []
    for (model, method), by_setting in groups.items():
        ordered = {setting: by_setting[setting] for setting in sorted(by_setting)}
        of_method, described = rule(f"{model}, {method}", ordered, results.validation_bound)
        chosen += by_setting[of_method].values()
        rows += [[model, method, *row] for row in described]
    bound = f"{100 * results.validation_bound:g}"
    if results.choose_by == "mixed_rand":
        title = (
            "Settings: top-1 on the validation images with the backgrounds of others, before and after, and its "
            "fall on these "
            f"original images, of which the criterion allows {bound} points"
        )
        head = ["model", "method", "learning rate", "weights", "seeds", "before", "after", "fall", ""]
        return chosen, Table(title, head, rows)
    title = "Learning rates: fall of top-1 on the validation images of unseen classes, "
    title += f"of which the criterion allows {bound} points"
    return chosen, Table(title, ["model", "method", "learning rate", "seeds", "fall", ""], rows)


def setting_of(run: Run) -> tuple:
    """Learning rate of a run, and its other chosen options by name."""
    return (run.learning_rate, *sorted(run.tuned.items()))


def _by_method(runs: Iterable[Run]) -> dict[tuple[str, str], BySetting]:
    """Runs by model and method. Rejects two of a setting and seed, which differ in options that are not compared, such
    as the number format."""
    groups: dict[tuple[str, str], BySetting] = defaultdict(lambda: defaultdict(dict))
    for run in runs:
        seeds = groups[run.model, run.method][setting_of(run)]
        if (first := seeds.setdefault(run.seed, run)) is not run:
            one, other = (
                json.loads(each.settings or "{}")
                | {"num_train_epochs": each.epochs, "the original model": each.original}
                for each in (first, run)
            )
            options = {*one, *other} - {*MEASUREMENT_OPTIONS}
            differing = sorted(option for option in options if one.get(option) != other.get(option))
            raise ValueError(
                f"{run.model}, {run.method}: `{first.name}` and `{run.name}` have the same setting and seed, and "
                "differ in "
                f"{', '.join(differing) or 'their images'}: report them apart."
            )
    return groups


def _choose_learning_rate(name: str, by_setting: BySetting, bound: float) -> tuple[tuple, list[list[str]]]:
    """The paper's rule: the highest learning rate at which validation top-1, on classes that are not trained on, drops
    by at most a bound, averaged over seeds. If there is none, the rate with the smallest drop is chosen and marked. A
    single rate is always chosen (https://huggingface.co/papers/2206.01161, section 4)."""
    rates = {rate: [*runs.values()] for (rate,), runs in by_setting.items()}
    budgets = {frozenset((run.seed, run.epochs) for run in runs) for runs in rates.values()}
    falls = {}
    for rate, runs in rates.items():
        if all(run.validation for run in runs):
            falls[rate] = sum(run.validation[0] - run.validation[1] for run in runs) / len(runs)
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
class _Swept(Setting):
    key: tuple = ()  # see [`setting_of`]

    @property
    def strength(self) -> tuple[float, ...]:
        rate, *tuned = self.key
        return (rate, *(value for _, value in tuned))


def _choose_by_mixed_rand(name: str, by_setting: BySetting, bound: float) -> tuple[tuple, list[list[str]]]:
    """The criterion of [`choose_setting`]."""
    settings, before = _measured(name, by_setting)
    best = choose_setting(settings, before, 100 * bound)
    rows = []
    for setting in settings:
        rate, *weights = setting.key
        tuned = ", ".join(f"{option.removesuffix('_weight').replace('_', ' ')} {value:g}" for option, value in weights)
        verdict = ""
        if setting is best:
            falls = loses_too_much(setting, before, 100 * bound)
            verdict = "beyond the bound" if falls else f"chosen{_edges(best, settings)}"
        top1 = (before.top1(), setting.top1(), setting.fall(before))
        rows.append([f"{rate:g}", tuned or "–", str(len(by_setting[setting.key])), *map(percent, top1), verdict])
    return best.key, rows


def _measured(name: str, by_setting: BySetting) -> tuple[list[_Swept], Setting]:
    """Settings, and the original model, on the validation images of the seeds that all settings have."""
    shared = sorted(set.intersection(*map(set, by_setting.values())))
    if not shared or len({run.epochs for runs in by_setting.values() for run in runs.values()}) > 1:
        raise ValueError(
            f"{name}: its {len(by_setting)} settings have no seed in common, or other epochs. Complete the sweep, "
            "or leave "
            "settings out, before one is chosen."
        )
    compared = {key: [runs[seed] for seed in shared] for key, runs in by_setting.items()}
    settings = [_Swept(*_values(runs, "after"), key=key) for key, runs in compared.items()]
    return settings, Setting(*_values(next(iter(compared.values())), "before"))


def _values(runs: Sequence[Run], side: str) -> tuple[np.ndarray, np.ndarray]:
    """Whether each validation image is right on another background and as it is; NaN where it does not count."""
    of_condition = []
    for condition in ("mixed_rand", "original"):
        results = [run.composed[condition] for run in runs]
        values = [np.where(result.usable, result.correct(side), np.nan) for result in results]
        of_condition.append(np.concatenate(values))
    return of_condition[0], of_condition[1]


def _edges(best: _Swept, settings: list[_Swept]) -> str:
    """What of the chosen setting is the highest or lowest of several in the grid."""
    columns: dict[str, set] = defaultdict(set)
    for rate, *tuned in (setting.key for setting in settings):
        for option, value in (("learning rate", rate), *tuned):
            columns[option].add(value)
    rate, *tuned = best.key
    own = {option: (value, columns[option]) for option, value in (("learning rate", rate), *tuned)}
    at_edge = [option for option, (value, of) in own.items() if len(of) > 1 and value in (min(of), max(of))]
    return f", at the edge of: {', '.join(at_edge)}" if at_edge else ""
