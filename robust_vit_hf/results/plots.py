"""Plots of an evaluation as PNG and PDF."""

import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..utils.files import atomic_file
from ..utils.images import plain
from .html_page import Picture, data_url
from .tables import sides_of


COLOURS = {"before": "#7f8c8d", "after": "#1f6fb2", "control": "#c77c11"}
OTHERS = ("#7b4fa3", "#0f9aa8")  # other series: a colour has one meaning in all pictures
NUM_CLASSES = 50  # most helped and most harmed classes in a plot, as in the paper's Figures 8 to 14


def run_figures(summary: dict, class_names: dict[int, str]) -> Iterator[tuple[str, Figure]]:
    """Figures of [`summarize`]'s results, with their names."""
    if any(row["top1_before"] is not None for row in summary["rows"]):
        yield "accuracy", accuracy_figure(summary["rows"])
    for name, changes in summary["class_changes"].items():
        if figure := class_figure(changes, class_names, name):
            yield f"classes_{name}", figure
    for name, curves in summary["curves"].items():
        yield f"curves_{name}", curve_figure(curves, name)


def save_figure(figure: Figure, folder: Path, name: str) -> None:
    """Write `<name>.png` and `<name>.pdf` to a folder."""
    name = re.sub(r"[/\\\0]", "_", name)
    for suffix in ("png", "pdf"):
        with atomic_file(folder / f"{name}.{suffix}") as partial:
            partial.write_bytes(figure_bytes(figure, suffix))


def figure_bytes(figure: Figure, suffix: str) -> bytes:
    """Render a figure as `png` or `pdf`. Deterministic for the same version of matplotlib."""
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, dpi=120, format=suffix, metadata={"CreationDate": None} if suffix == "pdf" else None)
    return file.getvalue()


def page_picture(figure: Figure, caption: str, alt: str, place: str = "") -> Picture:
    return Picture(caption, alt, data_url("png", figure_bytes(figure, "png")), place)


def accuracy_figure(rows: list[dict]) -> Figure:
    """Bars of top-1 by set and model, with the interval of the change."""
    rows = [row for row in rows if row["top1_before"] is not None]
    sides = sides_of(rows)
    top1 = pd.DataFrame({side: [100 * row[f"top1_{side}"] for row in rows] for side in sides})
    figure = Figure((1.2 + 1.1 * len(rows), 3.6), layout="constrained")
    axis = figure.subplots()
    bounds = None
    if "after" in sides:
        ends = [[100 * (row["top1_before"] + row[f"change_{end}"]) for row in rows] for end in ("low", "high")]
        bounds = {"after": abs(np.array(ends) - top1["after"].to_numpy())}
    top1.plot.bar(ax=axis, width=0.8, color=COLOURS, yerr=bounds, ecolor="black", capsize=3, legend=False)
    axis.set_xticks(range(len(rows)), [plain(row["set"].replace("_", " ")) for row in rows], rotation=25, ha="right")
    axis.set(ylabel="top-1, %", ylim=(0, 100))
    if len(sides) > 1:
        figure.legend(loc="outside upper right", ncols=3, frameon=False)
    return figure


def class_figure(changes: dict[int, float], class_names: dict[int, str], name: str) -> Figure | None:
    """Bars of the change by class, of at most 100 classes, from the largest loss on; `None` if no class changed."""
    if not any(changes.values()):
        return None
    labels = list(changes)
    panels = {"classes": labels}
    if len(labels) > 2 * NUM_CLASSES:
        ends = {"harmed": labels[:NUM_CLASSES], "helped": labels[-NUM_CLASSES:]}
        panels = {f"the {NUM_CLASSES} most {kind} classes": of_kind for kind, of_kind in ends.items()}
    longest = max(map(len, panels.values()))
    figure = Figure((max(6.0, 1 + 0.17 * longest), 3.4 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False)
    for axis, (title, shown) in zip(axes.flat, panels.items(), strict=True):
        values = [100 * changes[label] for label in shown]
        axis.bar(range(len(shown)), values, color=["#b23a3a" if value < 0 else "#2e7d4f" for value in values])
        axis.axhline(0, color="black", linewidth=0.8)
        names = [plain(class_names.get(label, str(label)).split(",")[0][:28]) for label in shown]
        axis.set_xticks(range(len(shown)), names, rotation=90, fontsize=7)
        axis.set_xlim(-0.6, len(shown) - 0.4)
        axis.set_ylabel("change of top-1, points")
        axis.set_title(plain(f"{name}: {title}"), fontsize=9)
    return figure


def curve_figure(curves: dict[str, dict[str, list[float]]], name: str) -> Figure:
    """Top-1 over each factor: one panel per factor, one line per model."""
    figure = Figure((0.6 + 3.6 * len(curves), 3.2), layout="constrained")
    axes = figure.subplots(1, len(curves), sharey=True, squeeze=False)
    for axis, (factor, curve) in zip(axes.flat, curves.items(), strict=True):
        top1 = 100 * pd.DataFrame({side: curve[side] for side in COLOURS if side in curve}, index=curve["value"])
        top1.plot(ax=axis, marker=".", color=COLOURS, legend=False)
        axis.set_xlabel({"angle": "angle, degrees", "area": "area of the object"}.get(factor, factor))
    axes[0, 0].set_ylabel("top-1, %")
    axes[0, 0].legend(frameon=False)
    figure.suptitle(plain(name), fontsize=9)
    return figure


def interpolation_figure(results: dict) -> Figure:
    """Top-1 by interpolation weight, and top-1 on shifted against in-distribution sets."""
    roles, weights = ("in_distribution", "shifted"), results["weights"]
    points = np.array([[100 * row[f"mean_{role}"] for role in roles] for row in weights.values()])
    sets = [results[role][0] if len(results[role]) == 1 else f"mean of {len(results[role])} sets" for role in roles]
    names = [f"{role.replace('_', '-')} ({text})" for role, text in zip(roles, sets, strict=True)]
    figure = Figure((9.0, 3.8), layout="constrained")
    over, against = figure.subplots(1, 2)
    for name, values, colour in zip(names, points.T, OTHERS, strict=True):
        over.plot(list(weights), values, marker="o", markersize=4, label=name, color=colour)
    over.set(xlabel="interpolation weight (0: before, 1: after)", ylabel="top-1, %")
    against.plot(*points.T, marker="o", markersize=4, color="black")
    labels: dict[tuple[float, float], list[str]] = {}  # equal points share a label
    for weight, point in zip(weights, points, strict=True):
        labels.setdefault(tuple(point), []).append(f"{weight:g}")
    for point, shared in labels.items():
        against.annotate(", ".join(shared), point, textcoords="offset points", xytext=(5, 4), fontsize=8)
    # Axes span at least two points of accuracy, so that noise does not fill them.
    middle, half = (points.max(0) + points.min(0)) / 2, np.maximum(1, 0.7 * np.ptp(points, axis=0))
    xlim, ylim = np.stack([middle - half, middle + half], axis=1).clip(-0.4, 100.4)
    against.set(xlim=xlim, ylim=ylim, xlabel=f"top-1 {names[0]}, %", ylabel=f"top-1 {names[1]}, %")
    against.locator_params(nbins=6)
    against.set_title("numbers at the points: interpolation weight", fontsize=9)
    figure.legend(loc="outside upper left", ncols=2, frameon=False)
    return figure
