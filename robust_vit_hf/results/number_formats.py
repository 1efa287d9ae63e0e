"""How numbers are written in tables and model cards: decimals, per cent, changes, and values with intervals."""

from collections.abc import Mapping, Sequence

import numpy as np

from .bootstrap import Difference, Interval, Resamples
from .run_results import SetResult


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def change(before: float | None, after: float | None) -> str:
    return "–" if before is None or after is None else f"{100 * (after - before):+.1f}"


def change_with_interval(row: dict) -> str:
    before, after, low = row["top1_before"], row["top1_after"], row["change_low"]
    return change(before, after) if low is None else str(Difference(after - before, low, row["change_high"]))


def heads_of_sides(results: Sequence[SetResult]) -> list[str]:
    """Heads of the columns of [`cells_of_sides`]."""
    return ["before", "after", "change"] if all("after" in result.sides for result in results) else ["value"]


def cells_of_sides(values: Mapping[str, Resamples], kind: type[Interval] = Interval) -> list[str]:
    """Cells of a row: the value of each side, and the change; "–" where no image is right, by whose share is divided."""
    pairs = [(of_side, kind) for of_side in values.values()]
    if len(values) == 2:
        pairs.append((values["after"] - values["before"], Difference))
    return ["–" if np.isnan(one.values[0]) else str(one.interval(of)) for one, of in pairs]
