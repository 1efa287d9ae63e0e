"""Results of sets as tables and as JSON values: top-1 and calibration, changes by class and by factor, groups, reliance on
the background, and maps compared with masks."""

import re
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from ..metrics.robust_accuracy import TOP
from ..utils.privacy import public_settings
from .intervals import Bootstrap, Difference, Interval, mean_change, resample
from .run_results import SIDES, SetResult


MEAN_ROW = "mean of the shifted sets"
# Scores other than top-1 and top-5. They are fractions, except NLL (in nats) and Brier score (from 0 to 2).
SCORES = ("ece", "nll", "brier", "pixel_accuracy", "mean_iou", "mean_ap", "mean_per_class_top1", "mean_per_group_top1")
MANY_GROUPS = 100  # a table of more groups has no row for each


@dataclass
class Table:
    """Table of strings. The first column names the rows."""

    title: str
    head: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        head, *rows = ("| " + " | ".join(map(_cell, row)) + " |" for row in (self.head, *self.rows))
        return "\n".join([head, "|---|" + "---:|" * (len(self.head) - 1), *rows])


def _cell(text: str) -> str:
    text = re.sub(r"([\\|])", r"\\\1", text)
    return " ".join(text.replace("<", "&lt;").split())


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def change(before: float | None, after: float | None) -> str:
    return "–" if before is None or after is None else f"{100 * (after - before):+.1f}"


def change_with_interval(row: dict) -> str:
    before, after, low = row["top1_before"], row["top1_after"], row["change_low"]
    return change(before, after) if low is None else str(Difference(after - before, low, row["change_high"]))


def _heads(results: Collection[SetResult]) -> list[str]:
    return ["before", "after", "change"] if all("after" in result.sides for result in results) else ["value"]


def _cells(values: Mapping[str, Bootstrap], kind: type[Interval] = Interval) -> list[str]:
    """Cells of a row: the value of each side, and the change; "–" for a value that is not defined."""
    intervals = [(drawn, kind) for drawn in values.values()]
    if len(values) == 2:
        intervals.append((values["after"] - values["before"], Difference))
    return ["–" if np.isnan(drawn.draws[0]) else str(drawn.interval(kind)) for drawn, kind in intervals]


def _filled(title: str, cells: dict[str, list[str]]) -> Table:
    """Table of columns, without those that are empty. A name may end in a space, which tells it from an equal one."""
    cells = {name: column for name, column in cells.items() if {*column} != {"–"}}
    return Table(title, [name.strip() for name in cells], [list(row) for row in zip(*cells.values(), strict=True)])


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


def tables_of(results: Mapping[str, SetResult], training_classes: Collection[int] | None = None) -> list[Table]:
    rows, groups = set_rows(results), class_groups(results, training_classes)
    tables = [main_table(rows), *reliance_tables(results), *group_tables(results), calibration_table(rows)]
    return [*tables, class_group_table(groups)] if groups else tables


def sides_of(rows: list[dict]) -> list[str]:
    return [side for side in SIDES if any(row.get(f"top1_{side}") is not None for row in rows)]


def set_rows(results: Mapping[str, SetResult]) -> list[dict]:
    """A row for each set, and one for the mean over shifted sets, with scores of each side as fractions."""
    rows = []
    for result in results.values():
        row: dict = {"set": result.name, "num_images": int(result.usable.sum()) or len(result)}
        for score in ("top1", f"top{TOP}", *SCORES):
            for side in SIDES:
                row[f"{score}_{side}"] = result.sides[side].scores.get(score) if side in result.sides else None
        row |= dict.fromkeys(("change_low", "change_high", "corrected", "broken"))
        if "after" in result.sides and result.usable.any():
            gains = result.gains()
            row |= {"corrected": int((gains > 0).sum()), "broken": int((gains < 0).sum())} | _ends([result])
        rows.append(row)
    if shifted := [row for row in rows if results[row["set"]].shifted]:
        mean: dict = {"set": MEAN_ROW}
        for key in list(rows[0])[1:]:
            values = [row[key] for row in shifted]
            counted = key in ("num_images", "corrected", "broken")
            mean[key] = None if None in values else sum(values) if counted else sum(values) / len(values)
        if mean["change_low"] is not None:
            mean |= _ends([results[row["set"]] for row in shifted])
        rows.append(mean)
    return rows


def _ends(results: Sequence[SetResult]) -> dict[str, float]:
    difference = mean_change(results)
    return {"change_low": difference.low, "change_high": difference.high}


def class_groups(results: Mapping[str, SetResult], training_classes: Collection[int] | None) -> list[dict]:
    """Rows of top-1 and top-5 on the `training` and the `other` classes of each set."""
    rows: list[dict] = []
    if training_classes is None:
        return rows
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
            sides = {side: [result.accuracy(side, chosen=values == step) for step in steps] for side in result.sides}
            by_factor[factor] = {"value": steps.tolist(), "num_images": counts.tolist()} | sides
    return by_factor


def main_table(rows: list[dict]) -> Table:
    """Top-1, its change with interval, and relevance, from [`set_rows`]."""
    compared = any(value is not None for row in rows for key, value in row.items() if key.endswith("_after"))
    cells: dict[str, list[str]] = {"set": [row["set"] for row in rows]}
    cells["images"] = [str(row["num_images"]) for row in rows]
    cells["top-1 before" if compared else "top-1"] = [percent(row["top1_before"]) for row in rows]
    cells["after"] = [percent(row["top1_after"]) for row in rows]
    cells["change [95 % interval]"] = [change_with_interval(row) for row in rows]
    of_all = ("–" if row["broken"] is None else f"{row['corrected']} / {row['broken']}" for row in rows)
    cells["corrected / broken"] = [*of_all]
    controls = [(row["top1_before"], row["top1_control"]) for row in rows]
    cells["cross-entropy control"] = [
        "–" if top1 is None else f"{percent(top1)} ({change(before, top1)})" for before, top1 in controls
    ]
    cells["relevance mIoU before" if compared else "relevance mIoU"] = [
        percent(row["mean_iou_before"]) for row in rows
    ]
    cells["after "] = [percent(row["mean_iou_after"]) for row in rows]
    relevance = any(row[f"mean_iou_{side}"] is not None for row in rows for side in ("before", "after"))
    return _filled(f"Top-1{' and relevance' if relevance else ''}, in per cent", cells)


def calibration_table(rows: list[dict]) -> Table:
    """Top-5 and calibration, which the confidence loss may worsen, from [`set_rows`]."""
    cells, sides = {"set": [row["set"] for row in rows]}, sides_of(rows)
    scores = {"top5": ("top-5", percent), "ece": ("ECE", percent), "nll": ("NLL", number), "brier": ("Brier", number)}
    for score, (name, show) in scores.items():
        for side in sides:
            cells[f"{name} {side}" if "after" in sides else name] = [show(row[f"{score}_{side}"]) for row in rows]
    title = "Top-5 accuracy and expected calibration error in per cent, negative log-likelihood in nats, Brier score"
    return _filled(title, cells)


def class_group_table(rows: list[dict]) -> Table:
    """Top-1 and top-5 on training and other classes, from [`class_groups`]."""
    cells = {name: [str(row[key]) for row in rows] for name, key in (("set", "set"), ("classes", "classes"))}
    cells["images"] = [str(row["num_images"]) for row in rows]
    for k in (1, TOP):
        for side in SIDES:
            cells[f"top-{k} {side}"] = [percent(row.get(f"top{k}_{side}")) for row in rows]
        cells[f"change of top-{k}"] = [change(row.get(f"top{k}_before"), row.get(f"top{k}_after")) for row in rows]
    return _filled("Training classes and others, in per cent", cells)


def group_tables(results: Mapping[str, SetResult]) -> list[Table]:
    """[`groups_table`] for each labelled set that has groups."""
    return [groups_table(result) for result in results.values() if result.groups is not None and result.usable.any()]


def groups_table(result: SetResult) -> Table:
    """Top-1 of up to 100 groups, of the worst, and on average, weighted by the shares of the training images if all are
    known. Resamples have as many images of each group."""
    names, numbers, counts = np.unique(result.groups[result.usable], return_inverse=True, return_counts=True)
    weights = result.group_weights or {}
    sides: list[str] = [side for side in ("before", "after") if side in result.sides]
    right = [result.correct(side)[result.usable] for side in sides]
    kinds, of_kind = np.unique(np.stack([numbers, *right], axis=1), axis=0, return_counts=True)
    drawn = resample(of_kind, kinds[:, 0], zlib.crc32(result.name.encode()))
    starts = np.unique(kinds[:, 0], return_index=True)[1]
    top1 = {side: np.add.reduceat(drawn * kinds[:, at], starts, axis=1) / counts for at, side in enumerate(sides, 1)}
    weighted, few = {*names} <= weights.keys(), len(names) <= MANY_GROUPS
    shares = np.array([weights[name] if weighted else 1.0 for name in names])
    rows = []
    for place, name in enumerate(names if few else ()):
        of_group = {side: Bootstrap(of[:, place], counts[place]) for side, of in top1.items()}
        rows.append([str(name), str(counts[place]), *_cells(of_group)])
    worst = {side: Bootstrap(of.min(axis=1), counts.min()) for side, of in top1.items()}
    rows.append(["worst group" if few else f"worst of {len(names):,} groups", "–", *_cells(worst)])
    average = {side: Bootstrap(of @ (shares / shares.sum()), counts.sum()) for side, of in top1.items()}
    text = "average, weighted by the training groups" if weighted else "average over the groups"
    rows.append([text, str(counts.sum()), *_cells(average)])
    title = f"Groups of `{result.name}`, top-1 in per cent [95 % interval]"
    if missing := sorted(weights.keys() - {*names}):
        listed = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        title += f". Without groups of the training that have no images here ({len(missing)}): {listed}"
    return Table(title, ["group", "images", *_heads([result])], rows)


def object_focus(whole: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """1 − BG-Gap / top-1 on the original images; NaN if none is right."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(whole > 0, 1 - gap / whole, np.nan)


_MIXED = ("imagenet-9-mixed_same", "imagenet-9-mixed_rand")
# Sets by title of the measure: the two whose difference it is, or, for Object Focus, the original images and these two.
# Sources: https://huggingface.co/papers/2006.09994; visinf/beyond-accuracy, which divides by top-1 on ImageNet;
# 2403.11497
MEASURES = {
    "ImageNet-9: BG-Gap, `mixed_same` − `mixed_rand`": _MIXED,
    "ImageNet-9: Object Focus, 1 − BG-Gap / `original`": ("imagenet-9-original", *_MIXED),
    "ImageNet-9: Object Focus, 1 − BG-Gap / top-1 on ImageNet": ("imagenet-1k", *_MIXED),
    "CounterAnimal: common − counter": ("counteranimal-common", "counteranimal-counter"),
}


def reliance_tables(results: Mapping[str, SetResult]) -> list[Table]:
    """Table of those of [`MEASURES`] whose sets were measured, in per cent; none without any."""
    known, rows = {name: result for name, result in results.items() if result.usable.any()}, []
    for measure, sets in MEASURES.items():
        if known.keys() >= {*sets}:
            *whole, first, second = (_top1(known[name]) for name in sets)
            values, kind = {side: first[side] - second[side] for side in first}, Difference
            if whole:
                values = {side: Bootstrap.of(object_focus, whole[0][side], gap) for side, gap in values.items()}
                kind = Interval
            rows.append([measure, *_cells(values, kind)])
    title = "Reliance on the background, in per cent [95 % interval]"
    return [Table(title, ["measure", *_heads(known.values())], rows)] if rows else []


def _top1(result: SetResult) -> dict[str, Bootstrap]:
    sides = [side for side in ("before", "after") if side in result.sides]
    columns: dict[str, np.ndarray] = {side: np.where(result.usable, result.correct(side), np.nan) for side in sides}
    return Bootstrap.means(columns, seed=zlib.crc32(result.name.encode()))


SEGMENTATION = {
    "pixel_accuracy": "pixel accuracy",
    "mean_iou": "mIoU",
    "mean_ap": "mAP",
    "pointing_game": "pointing game",
    "energy": "energy",
    "auc": "AUC",
}


def attribution_table(scores: Mapping[str, Mapping[str, Mapping]], set_name: str, num_images: int) -> Table:
    """Agreement of relevance maps with masks in per cent, from fractions by side, method and name."""
    rows = []
    for method in scores["before"]:
        for side, version in {"before": "original", "after": "finetuned"}.items():
            if side in scores:
                rows.append([f"{method}, {version}", *(percent(scores[side][method][name]) for name in SEGMENTATION)])
        if "after" in scores:
            before, after = scores["before"][method], scores["after"][method]
            rows.append([f"{method}, change", *(change(before[name], after[name]) for name in SEGMENTATION)])
    title = f"Relevance maps and masks of {set_name}, {num_images} images, in per cent"
    return Table(title, ["method, model", *SEGMENTATION.values()], rows)
