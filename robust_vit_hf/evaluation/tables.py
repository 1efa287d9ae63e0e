"""Tables of an evaluation, as Markdown and LaTeX."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from .compare import sides_of
from .published import published_cell, published_models
from .set_names import PAPER_SETS


VERSIONS = {"before": "original", "after": "finetuned"}
BASELINES = {"gradmask": "GradMask", "rrr": "RRR"}


@dataclass
class Table:
    """A table of text, whose first column names the rows."""

    title: str
    head: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """Markdown, without the title."""
        lines = ["| " + " | ".join(self.head) + " |", "|---|" + "---:|" * (len(self.head) - 1)]
        return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in self.rows)])

    def latex(self) -> str:
        """LaTeX (booktabs), the title as the caption."""
        import pandas as pd

        caption = re.sub(r"([%&_#])", r"\\\1", self.title)
        alignment = "l" + "r" * (len(self.head) - 1)
        table = pd.DataFrame(self.rows, columns=self.head)
        return table.to_latex(index=False, escape=True, caption=caption, column_format=alignment)


def main_table(rows: list[dict]) -> Table:
    """Top-1 before and after, the change with its confidence interval, and relevance, from [`Comparison.rows`]. Columns
    without any value are left out."""
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
    return _without_empty_columns("Top-1 and relevance, in per cent", columns, rows)


def calibration_table(rows: list[dict]) -> Table:
    """Top-5, and calibration, which the confidence loss may worsen, from [`Comparison.rows`]."""
    columns: dict[str, Callable[..., str]] = {"set": lambda row: row["set"]}
    sides = sides_of(rows)
    scores = {"top5": ("top-5", percent), "ece": ("ECE", percent), "nll": ("NLL", number), "brier": ("Brier", number)}
    for score, (name, show) in scores.items():
        for side in sides:
            column = f"{name} {side}" if "after" in sides else name
            columns[column] = lambda row, key=f"{score}_{side}", show=show: show(row[key])
    title = "Top-5 accuracy and expected calibration error in per cent, negative log-likelihood in nats, Brier score"
    return _without_empty_columns(title, columns, rows)


def class_group_table(rows: list[dict]) -> Table | None:
    """Tables 10 and 11 of the paper, from [`Comparison.class_groups`]: training classes and the others. `None` if the former are
    not known."""
    sides = sides_of(rows)
    columns: dict[str, Callable[..., str]] = {
        "set": lambda row: row["set"],
        "classes": lambda row: row["classes"],
        "images": lambda row: str(row["num_images"]),
    }
    for k, change_name in ((1, "change"), (5, "change ")):
        for side in sides:
            columns[f"top-{k} {side}"] = lambda row, key=f"top{k}_{side}": percent(row[key])
        if "after" in sides:
            columns[change_name] = lambda row, k=k: change(row[f"top{k}_before"], row[f"top{k}_after"])
    title = "Classes of the finetuning's images, and the others, in per cent"
    return _without_empty_columns(title, columns, rows) if rows else None


def paper_tables(rows: list[dict], protocol: str, paper_model: str | None) -> list[Table]:
    """Tables in the layout of the paper's Tables 1 and 2: sets as columns, top-1 and top-5, published figures beside ours.

    Args:
        rows: those of [`Comparison.rows`].
        paper_model: the paper's name of the model, such as `ViT-B`; `None` if the paper does not have it.
    """
    entry, sides = published_models().get(paper_model), sides_of(rows)
    rows = {row["set"]: row for row in rows}
    ordered = [name for name in PAPER_SETS if name in rows]
    groups = {
        "Real images, as in Table 1 of the paper": [name for name in ordered if not name.startswith("si-score")],
        "SI-Score, as in Table 2 of the paper": [name for name in ordered if name.startswith("si-score")],
    }
    source = {
        "paper": "its Tables 8 and 9, where finetuned is the mean of three class seeds, and of baselines Tables 1 and 2",
        "native": "timm's results",
    }[protocol]
    tables = []
    for title, names in groups.items():
        cells = []
        for side, version in VERSIONS.items():
            if side in sides:
                both = [[percent(rows[name][f"{score}_{side}"]) for score in ("top1", "top5")] for name in names]
                cells.append([version.capitalize(), *map(" ".join, both)])
            published = [published_cell(entry, protocol, version, name, ("top1", "top5")) for name in names]
            if any(published):
                cells.append([f"{version.capitalize()}, published", *(text or "–" for text in published)])
        if "after" in sides:
            cells.append(["Change of top-1 [95 % interval]", *(change_with_interval(rows[name]) for name in names)])
        for version, method in BASELINES.items():
            published = [published_cell(entry, protocol, version, name, ("top1", "top5")) for name in names]
            if any(published):
                cells.append([f"{method}, published", *(text or "–" for text in published)])
        if names:
            head = ["top-1 top-5, per cent", *(PAPER_SETS[name] for name in names)]
            named = f"{title}, {paper_model} (published figures: {source})" if entry else title
            tables.append(Table(named, head, cells))
    return tables


SEGMENTATION_SCORES = {
    "pixel_accuracy": "pixel accuracy",
    "mean_iou": "mIoU",
    "mean_ap": "mAP",
    "pointing_game": "pointing game",
    "energy": "energy",
    "auc": "AUC",
}


def segmentation_table(
    scores: dict[str, dict[str, dict]], set_name: str, num_images: int, paper_model: str | None
) -> Table:
    """Table 3 of the paper, with further attribution methods and scores, in per cent.

    Args:
        scores: by side (`before`, `after`) and method, what [`RelevanceSegmentation`] computes.
        paper_model: as for [`paper_tables`].
    """
    entry, cells = published_models().get(paper_model), []
    for method in scores["before"]:
        for side, version in VERSIONS.items():
            if side in scores:
                cells.append(
                    [f"{method}, {version}", *(percent(scores[side][method][name]) for name in SEGMENTATION_SCORES)]
                )
            published = [published_cell(entry, "paper", version, set_name, (name,)) for name in SEGMENTATION_SCORES]
            if method == "gae" and any(published):
                cells.append([f"gae, {version}, published", *(text or "–" for text in published)])
        if "after" in scores:
            before, after = scores["before"][method], scores["after"][method]
            cells.append([f"{method}, change", *(change(before[name], after[name]) for name in SEGMENTATION_SCORES)])
    title = f"Relevance maps and masks of {set_name}, {num_images} images, in per cent"
    return Table(title, ["method, model", *SEGMENTATION_SCORES.values()], cells)


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def change(before: float | None, after: float | None) -> str:
    return "–" if before is None or after is None else f"{100 * (after - before):+.1f}"


def change_with_interval(row: dict) -> str:
    text = change(row["top1_before"], row["top1_after"])
    if row["change_low"] is None:
        return text
    return f"{text} [{100 * row['change_low']:+.1f}, {100 * row['change_high']:+.1f}]"


def _without_empty_columns(title: str, columns: dict, rows: list[dict]) -> Table:
    # Names of columns may end in spaces, which tell equal heads apart.
    cells = {name: [show(row) for row in rows] for name, show in columns.items()}
    cells = {name: column for name, column in cells.items() if set(column) != {"–"}}
    return Table(title, [name.strip() for name in cells], [list(row) for row in zip(*cells.values(), strict=True)])
