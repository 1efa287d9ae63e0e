"""Summary of a run: changes on each set with intervals, by class and by factor, as JSON values and as tables."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd

from ..metrics.robust_accuracy import TOP
from ..utils.privacy import public_settings
from .intervals import mean_change
from .run_results import SIDES, SetResult
from .set_tables import group_tables, reliance_tables
from .tables import Table, change, change_with_interval, number, percent


MEAN_ROW = "mean of the shifted sets"
# Scores other than top-1 and top-5. They are fractions, except NLL (in nats) and Brier score (from 0 to 2).
SCORES = ("ece", "nll", "brier", "pixel_accuracy", "mean_iou", "mean_ap", "mean_per_class_top1", "mean_per_group_top1")


def summarize(results: Mapping[str, SetResult], training_classes: Collection[int] | None = None) -> dict:
    """Results by set as JSON values."""
    labelled = [result for result in results.values() if result.usable.any()]
    compared = [result for result in labelled if "after" in result.sides and result.by_class]
    return {
        "rows": set_rows(results),
        "sources": public_settings({name: result.source for name, result in results.items()}),
        "revisions": {name: result.revision for name, result in results.items() if result.revision},
        "reliance": [asdict(table) for table in [*reliance_tables(results), *group_tables(results)]],
        "class_groups": class_groups(results, training_classes),
        "class_changes": {result.name: class_changes([result]) for result in compared},
        "curves": {result.name: by_factor for result in labelled if (by_factor := curves(result))},
    }


def sides_of(rows: list[dict]) -> list[str]:
    return [side for side in SIDES if any(row.get(f"top1_{side}") is not None for row in rows)]


def set_rows(results: Mapping[str, SetResult]) -> list[dict]:
    """A row for each set, and one for the mean over shifted sets, with scores of each side as fractions."""
    rows = []
    for result in results.values():
        row: dict = {"set": result.name, "num_images": int(result.usable.sum()) or len(result)}
        for score in ("top1", f"top{TOP}", *SCORES):
            for side in SIDES:
                known = result.sides.get(side)
                row[f"{score}_{side}"] = None if known is None else known.scores.get(score)
        row |= dict.fromkeys(("change_low", "change_high", "corrected", "broken"))
        if "after" in result.sides and result.usable.any():
            gains = result.gains()
            row |= _ends_of_change([result])
            row |= {"corrected": int((gains > 0).sum()), "broken": int((gains < 0).sum())}
        rows.append(row)
    shifted = [row for row in rows if results[row["set"]].shifted]
    if shifted:
        mean: dict = {"set": MEAN_ROW}
        for key in list(rows[0])[1:]:
            values = [row[key] for row in shifted]
            counted = key in ("num_images", "corrected", "broken")
            mean[key] = None if None in values else sum(values) if counted else sum(values) / len(values)
        if mean["change_low"] is not None:
            mean |= _ends_of_change([results[row["set"]] for row in shifted])
        rows.append(mean)
    return rows


def _ends_of_change(results: Sequence[SetResult]) -> dict[str, float]:
    difference = mean_change(results)
    return {"change_low": difference.low, "change_high": difference.high}


def class_groups(results: Mapping[str, SetResult], training_classes: Collection[int] | None) -> list[dict]:
    """Rows of top-1 and top-5 on the `training` and the `other` classes of each set."""
    rows = []
    if training_classes is None:
        return []
    for result in (result for result in results.values() if result.by_class and result.usable.any()):
        shown = result.in_classes(training_classes)
        for classes, chosen in (("training", shown), ("other", ~shown)):
            row = {"set": result.name, "classes": classes, "num_images": int((chosen & result.usable).sum())}
            row |= {f"top{k}_{side}": result.accuracy(side, k, chosen) for k in (1, TOP) for side in result.sides}
            rows.append(row)
    return rows


def class_changes(results: Sequence[SetResult]) -> dict[int, float]:
    """Change in top-1 of each class, averaged over runs, sorted from the largest loss on."""
    means = [pd.Series(result.gains()).groupby(result.classes[result.usable]).mean() for result in results]
    return pd.concat(means, axis=1).mean(axis=1).sort_values(kind="stable").to_dict()


def curves(result: SetResult) -> dict[str, dict[str, list[float]]]:
    """Top-1 over each factor that varies: `value`, ascending, `num_images`, `before`, `after`."""
    by_factor = {}
    for factor, values in result.factors.items():
        steps, counts = np.unique(values[result.usable], return_counts=True)
        if len(np.unique(values)) > 1:
            curve = {"value": steps.tolist(), "num_images": counts.tolist()}
            for side in result.sides:
                curve[side] = [result.accuracy(side, chosen=values == step) for step in steps]
            by_factor[factor] = curve
    return by_factor


def tables_of(results: Mapping[str, SetResult], training_classes: Collection[int] | None = None) -> list[Table]:
    rows = set_rows(results)
    tables = [main_table(rows), *reliance_tables(results), *group_tables(results)]
    tables.append(calibration_table(rows))
    if groups := class_groups(results, training_classes):
        tables.append(class_group_table(groups))
    return tables


def main_table(rows: list[dict]) -> Table:
    """Top-1, its change with interval, and relevance, from [`set_rows`]."""
    compared = any(value is not None for row in rows for key, value in row.items() if key.endswith("_after"))
    columns: dict[str, Callable[..., str]] = {
        "set": lambda row: row["set"],
        "images": lambda row: str(row["num_images"]),
        "top-1 before" if compared else "top-1": lambda row: percent(row["top1_before"]),
        "after": lambda row: percent(row["top1_after"]),
        "change [95 % interval]": change_with_interval,
        "corrected / broken": lambda row: "–" if row["broken"] is None else f"{row['corrected']} / {row['broken']}",
        "cross-entropy control": lambda row: (
            "–"
            if row["top1_control"] is None
            else f"{percent(row['top1_control'])} ({change(row['top1_before'], row['top1_control'])})"
        ),
        "relevance mIoU before" if compared else "relevance mIoU": lambda row: percent(row["mean_iou_before"]),
        "after ": lambda row: percent(row["mean_iou_after"]),
    }
    cells = {name: [show(row) for row in rows] for name, show in columns.items()}
    relevance = any(row[f"mean_iou_{side}"] is not None for row in rows for side in ("before", "after"))
    return _without_empty_columns(f"Top-1{' and relevance' if relevance else ''}, in per cent", cells)


def calibration_table(rows: list[dict]) -> Table:
    """Top-5 and calibration, which the confidence loss may worsen, from [`set_rows`]."""
    cells, sides = {"set": [row["set"] for row in rows]}, sides_of(rows)
    scores = {"top5": ("top-5", percent), "ece": ("ECE", percent), "nll": ("NLL", number), "brier": ("Brier", number)}
    for score, (name, show) in scores.items():
        for side in sides:
            column = f"{name} {side}" if "after" in sides else name
            cells[column] = [show(row[f"{score}_{side}"]) for row in rows]
    title = "Top-5 accuracy and expected calibration error in per cent, negative log-likelihood in nats, Brier score"
    return _without_empty_columns(title, cells)


def _without_empty_columns(title: str, cells: dict[str, list[str]]) -> Table:
    # A column name may end in a space, which tells it from an equal heading.
    cells = {name: column for name, column in cells.items() if set(column) != {"–"}}
    return Table(title, [name.strip() for name in cells], [list(row) for row in zip(*cells.values(), strict=True)])


def class_group_table(rows: list[dict]) -> Table:
    """Top-1 and top-5 on training and other classes, from [`class_groups`]."""
    columns = {"set": [row["set"] for row in rows], "classes": [row["classes"] for row in rows]}
    columns["images"] = [str(row["num_images"]) for row in rows]
    for k in (1, TOP):
        for side in SIDES:
            columns[f"top-{k} {side}"] = [percent(row.get(f"top{k}_{side}")) for row in rows]
        columns[f"change of top-{k}"] = [change(row.get(f"top{k}_before"), row.get(f"top{k}_after")) for row in rows]
    return _without_empty_columns("Training classes and others, in per cent", columns)
