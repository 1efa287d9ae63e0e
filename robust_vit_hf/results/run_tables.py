"""Tables of one run: accuracy, relevance and calibration of each set."""

from collections.abc import Callable

from ..metrics.robust_accuracy import TOP
from .run_results import SIDES, Run
from .set_tables import group_tables, reliance_tables
from .summary import class_groups, set_rows, sides_of
from .tables import Table, change, change_with_interval, number, percent


def tables_of(run: Run) -> list[Table]:
    """All tables of a run: each set, reliance on the background, calibration, and training classes beside others."""
    rows = set_rows(run)
    tables = [main_table(rows), *reliance_tables(run), *group_tables(run)]
    tables.append(calibration_table(rows))
    if groups := class_groups(run):
        tables.append(class_group_table(groups))
    return tables


def main_table(rows: list[dict]) -> Table:
    """Top-1, its change with confidence interval, and relevance, from [`set_rows`], without empty columns."""
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
    # Column names may end in spaces to distinguish equal headings.
    cells = {name: column for name, column in cells.items() if set(column) != {"–"}}
    return Table(title, [name.strip() for name in cells], [list(row) for row in zip(*cells.values(), strict=True)])


def class_group_table(rows: list[dict]) -> Table:
    """Top-1 and top-5 on the classes that were trained on and on the others, from [`class_groups`], without empty columns."""
    columns = {"set": [row["set"] for row in rows], "classes": [row["classes"] for row in rows]}
    columns["images"] = [str(row["num_images"]) for row in rows]
    for k in (1, TOP):
        for side in SIDES:
            columns[f"top-{k} {side}"] = [percent(row.get(f"top{k}_{side}")) for row in rows]
        columns[f"change of top-{k}"] = [change(row.get(f"top{k}_before"), row.get(f"top{k}_after")) for row in rows]
    return _without_empty_columns("Training classes and others, in per cent", columns)
