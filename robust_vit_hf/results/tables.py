"""Tables as Markdown, and how numbers are written in them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .intervals import Bootstrap, Difference, Interval
from .run_results import SetResult


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


def heads_of_sides(results: Sequence[SetResult]) -> list[str]:
    return ["before", "after", "change"] if all("after" in result.sides for result in results) else ["value"]


def cells_of_sides(values: Mapping[str, Bootstrap], kind: type[Interval] = Interval) -> list[str]:
    """Cells of a row: the value of each side, and the change; "–" for a value that is not defined."""
    intervals = [(drawn, kind) for drawn in values.values()]
    if len(values) == 2:
        intervals.append((values["after"] - values["before"], Difference))
    return ["–" if np.isnan(drawn.draws[0]) else str(drawn.interval(kind)) for drawn, kind in intervals]
