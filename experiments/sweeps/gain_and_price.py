"""Gain of each method under a shift, and its loss without one, as a table and as curves.

A method gains more with more steps of a higher rate, and costs more. A single point hides that: the curve goes through
the learning rates of a method.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from robust_vit_hf.results.tables import Table
from robust_vit_hf.utils.images import plain

from .choose_settings import setting_of
from .runs import Run
from .seed_intervals import Difference, change


# None has a meaning elsewhere: there, blue is after, grey before, orange the control, green better, and red worse.
COLOURS = "#7b4fa3 #0f9aa8 #d45a9a #a89f14 #6b4423 #b09ad6 #6fd0d6 #eda3c8 #c4a98a #111111".split()


@dataclass(frozen=True)
class Price:
    """A point of a curve: a setting, and what it gains and costs."""

    learning_rate: float
    tuned: dict[str, float]
    chosen: bool  # by the criterion on validation images
    gain: Difference  # change of top-1 on the shifted set
    home: Difference  # change of top-1 without a shift
    seconds: float | None  # of the training, the median over the seeds that were not resumed
    seeds: int  # their number


def prices(runs: Sequence[Run], chosen: Sequence[Run], shifted: str, home: str) -> dict[str, list[Price]]:
    """Points of each method, by learning rate and weights. Of several models, the name of a method begins with the
    model's. Runs that were not measured on both sets are left out.

    Args:
        chosen: runs at the settings that were chosen.
        shifted, home: names of the sets on which gain and loss are measured.

    Raises:
        ValueError: a chosen setting was not measured on both sets, while others of its method were.
    """
    several = len({run.model for run in chosen}) > 1
    settings: dict[tuple[str, str], set[tuple]] = defaultdict(set)
    points: dict[tuple[str, str], dict[tuple, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in chosen:
        settings[run.model, run.method].add(setting_of(run))
    for run in runs:
        if (run.model, run.method) in settings and {shifted, home} <= run.sets.keys():
            points[run.model, run.method][setting_of(run)].append(run)
    curves: dict[str, list[Price]] = {}
    for (model, method), of_method in points.items():
        if missing := settings[model, method] - of_method.keys():
            raise ValueError(
                f"{model}, {method}: the chosen setting, {min(missing)}, was not measured on `{shifted}` and "
                f"`{home}`, while "
                "others were: run it too."
            )
        of_name = curves[f"{model}, {method}" if several else method] = []
        for setting, same in sorted(of_method.items()):
            first, is_chosen = same[0], setting in settings[model, method]
            seconds = [run.seconds for run in same if run.seconds is not None]
            median = float(np.median(seconds)) if seconds else None
            changes, seeds = (change(same, [shifted]), change(same, [home])), len({run.seed for run in same})
            of_name.append(Price(first.learning_rate, first.tuned, is_chosen, *changes, median, seeds))
    return curves


def price_table(curves: Mapping[str, Sequence[Price]], labels: Mapping[str, str], shifted: str, home: str) -> Table:
    """The chosen setting of each method, the largest gain first."""
    rows = []
    chosen = [(method, point) for method, points in curves.items() for point in points if point.chosen]
    for method, point in sorted(chosen, key=lambda item: -item[1].gain.mean):
        seconds = "–" if point.seconds is None else f"{point.seconds:.0f}"
        cells = [f"{point.learning_rate:g}", str(point.seeds), seconds, str(point.gain), str(point.home)]
        rows.append([_label(method, labels), *cells])
    title = "Gain and loss of each method at its chosen setting: change of top-1 in points "
    title += "[95 % interval over seeds and images]"
    return Table(title, ["method", "rate", "seeds", "seconds", shifted, home], rows)


def price_figure(curves: Mapping[str, Sequence[Price]], labels: Mapping[str, str], shifted: str, home: str) -> Figure:
    """Gain over loss: a line through the learning rates of each method, and the chosen setting with its intervals. A
    line has no points of fewer seeds than the chosen setting: their means would be of other models and images."""
    figure = Figure((8.4, 4.6), layout="constrained")
    axis = figure.subplots()
    for place, (method, points) in enumerate(curves.items()):
        colour, label = COLOURS[place % len(COLOURS)], plain(_label(method, labels))
        best = next(point for point in points if point.chosen)
        rates = [point for point in points if point.seeds >= best.seeds and point.tuned == best.tuned]
        axis.plot(*_places(rates), color=colour, marker=".", linewidth=1.4, label=label)
        (x,), (y,) = _places([best])
        xerr, yerr = ([[100 * (of.mean - of.low)], [100 * (of.high - of.mean)]] for of in (best.home, best.gain))
        axis.errorbar(x, y, xerr=xerr, yerr=yerr, color=colour, marker="o", markersize=7, linewidth=0.8)
    axis.axhline(0, color="black", linewidth=0.8)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_xlabel(plain(f"change of top-1 on {home}, points"))
    axis.set_ylabel(plain(f"change of top-1 on {shifted}, points"))
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def _places(points: Sequence[Price]) -> tuple[list[float], list[float]]:
    """Losses and gains, in points of top-1."""
    return [100 * point.home.mean for point in points], [100 * point.gain.mean for point in points]


def _label(name: str, labels: Mapping[str, str]) -> str:
    """Label of a method, or of one after its model."""
    model, _, method = name.partition(", ")
    return labels.get(name) or (f"{model}, {labels[method]}" if method in labels else name)
