"""What a method gains under a shift, and what it costs at home: a table, and a curve for each method.

A method gains more with more steps of a higher rate, and costs more. A single point hides that: the curve goes through the
learning rates of a method, and from the chosen one back to the original model through mixtures of their weights.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from .bootstrap import Difference, change
from .table import Run
from .text_table import Table


@dataclass(frozen=True)
class Price:
    """A point of a curve.

    Args:
        learning_rate, share: setting; `share` is that of the finetuned weights.
        chosen: whether the rule on validation images chose it.
        gain: change of top-1 on the shifted set.
        home: change of top-1 without a shift.
        seconds: duration of the training, the mean over the seeds.
        seeds: number of seeds.
    """

    learning_rate: float
    share: float
    chosen: bool
    gain: Difference
    home: Difference
    seconds: float
    seeds: int


def prices(runs: Sequence[Run], chosen: Sequence[Run], shifted: str, home: str) -> dict[str, list[Price]]:
    """Points of each method, by learning rate and share of the finetuned weights.

    Args:
        runs: all runs, with mixtures; those without one of the sets are left out.
        chosen: the runs that the rule chose.
        shifted, home: names of the sets of gain and loss.
    """
    points: dict[str, dict[tuple, list[Run]]] = defaultdict(lambda: defaultdict(list))
    settings = {run.method: (run.learning_rate, run.tuned) for run in chosen}
    for run in runs:
        if shifted in run.sets and home in run.sets and run.method in settings:
            points[run.method][run.learning_rate, run.share, tuple(sorted(run.tuned.items()))].append(run)
    found = {}
    for method, of_method in points.items():
        rate, tuned = settings[method]
        found[method] = [
            Price(
                *key[:2],
                key[0] == rate and dict(key[2]) == tuned and key[1] == 1,
                change(of_point, [shifted]),
                change(of_point, [home]),
                float(np.mean([run.seconds or 0.0 for run in of_point])),
                len({run.seed for run in of_point}),
            )
            for key, of_point in sorted(of_method.items())
        ]
    return found


def price_table(found: Mapping[str, Sequence[Price]], labels: Mapping[str, str], shifted: str, home: str) -> Table:
    """The chosen setting of each method, the largest gain first."""
    rows = []
    for method, points in found.items():
        for point in points:
            if point.chosen:
                cells = [
                    f"{point.learning_rate:g}",
                    str(point.seeds),
                    f"{point.seconds:.0f}",
                    str(point.gain),
                    str(point.home),
                ]
                rows.append((point.gain.mean, [labels.get(method, method), *cells]))
    rows.sort(key=lambda row: -row[0])
    title = "Gain and price of each method at its chosen setting: change of top-1 in points [95 % interval over seeds and images]"
    return Table(title, ["method", "rate", "seeds", "seconds", shifted, home], [cells for _, cells in rows])


def price_figure(found: Mapping[str, Sequence[Price]], labels: Mapping[str, str], shifted: str, home: str) -> Figure:
    """Gain over loss: a line through the learning rates of each method, a dashed one through its mixtures with the
    original model, which is at the origin, and the chosen setting with its intervals."""
    figure = Figure((8.4, 4.6), layout="constrained")
    axis = figure.subplots()
    colours = [
        "#1f6fb2",
        "#c77c11",
        "#2e7d4f",
        "#b23a3a",
        "#7b4fa3",
        "#7f8c8d",
        "#0f9aa8",
        "#a3762b",
        "#d45a9a",
        "#333333",
    ]
    for place, (method, points) in enumerate(found.items()):
        colour, label = colours[place % len(colours)], labels.get(method, method)
        rates = [point for point in points if point.share == 1]
        axis.plot(
            [100 * point.home.mean for point in rates],
            [100 * point.gain.mean for point in rates],
            color=colour,
            marker=".",
            linewidth=1.4,
            label=label,
        )
        mixtures = sorted((point for point in points if point.share < 1), key=lambda point: point.share)
        for point in points:
            if point.chosen:
                mixed = [(0.0, 0.0), *((100 * p.home.mean, 100 * p.gain.mean) for p in (*mixtures, point))]
                if mixtures:
                    axis.plot(
                        *zip(*mixed, strict=True), color=colour, linestyle=":", linewidth=1.2, marker="x", markersize=4
                    )
                axis.errorbar(
                    100 * point.home.mean,
                    100 * point.gain.mean,
                    yerr=[[100 * (point.gain.mean - point.gain.low)], [100 * (point.gain.high - point.gain.mean)]],
                    xerr=[[100 * (point.home.mean - point.home.low)], [100 * (point.home.high - point.home.mean)]],
                    color=colour,
                    marker="o",
                    markersize=7,
                    linewidth=0.8,
                )
    axis.axhline(0, color="black", linewidth=0.8)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_xlabel(f"change of top-1 on {home}, points")
    axis.set_ylabel(f"change of top-1 on {shifted}, points")
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure
