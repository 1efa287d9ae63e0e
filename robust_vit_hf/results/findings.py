"""Checks of an experiment against the paper's findings: agrees, disagrees or not measured.

Source: https://huggingface.co/papers/2206.01161, whose Tables 1, 2, 4 and 10 give the signs.
"""

from dataclasses import dataclass

import numpy as np

from .bootstrap import Difference, change, versus
from .paper_tables import METHODS, group_accuracy, sets_with_masks
from .published import PAPER_SETS, UNSHIFTED
from .table import OURS, Results
from .text_table import Table


@dataclass(frozen=True)
class Finding:
    """A statement of the paper.

    Args:
        source: table or figure of the paper.
        rises: whether the paper reports a positive value.
        value: measured value, as a fraction or with its interval; `None` if not measured.
    """

    source: str
    statement: str
    rises: bool
    value: Difference | float | None

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "not measured"
        mean = self.value if isinstance(self.value, float) else self.value.mean
        return "agrees" if (mean > 0) == self.rises and abs(mean) > 1e-9 else "disagrees"


# Sign of ablation minus full loss in Table 4, averaged over shifted sets and both models.
_LESS_ROBUST = ("without-confidence", "without-background", "without-foreground", "ground-truth")
_KEEPS_VALIDATION = ("without-background", "ground-truth")


def findings(results: Results) -> list[Finding]:
    """All findings, measured or not."""
    ours = results.of(OURS)
    unshifted = results.common(ours, results.unshifted)
    shifted = results.common(ours, results.shifted)
    names = shifted + [name for name in unshifted if name in (*UNSHIFTED, "val")]
    expected = {name: name not in UNSHIFTED and name != "val" for name in (*PAPER_SETS, *names)}
    if names and not set(names) & set(PAPER_SETS):  # a benchmark: its sets replace those of the paper
        expected = {name: rises for name, rises in expected.items() if name in names}
    found = [
        Finding(
            "Tables 1, 2",
            f"Top-1 {'rises' if rises else 'falls'} on {PAPER_SETS.get(name, name)}",
            rises,
            change(ours, [name]) if name in names else None,
        )
        for name, rises in expected.items()
    ]

    def group(shown: bool, sets: list[str]) -> float | None:
        values = [group_accuracy(run, name, shown, 1) for run in ours for name in sets]
        if not values or any(None in pair for pair in values):
            return None
        return float(np.mean([after - before for before, after in values]))

    shown, others = group(True, shifted), group(False, shifted)
    kept, lost = group(True, unshifted), group(False, unshifted)
    found += [
        Finding("Figure 4", "Classes that were trained on gain on the shifted sets", True, shown),
        Finding("Figure 4", "The other classes gain on the shifted sets too", True, others),
        Finding(
            "Figure 4",
            "Without a shift, classes that were trained on keep more than the others",
            True,
            None if kept is None or lost is None else round(kept - lost, 9) + 0.0,  # and not -0.0
        ),
    ]
    for method in _LESS_ROBUST:
        statement = f"{METHODS[method]}: less gain on the shifted sets than with the full loss"
        found.append(Finding("Table 4", statement, False, _against_ours(results, method, results.shifted)))
    for method in _KEEPS_VALIDATION:
        statement = f"{METHODS[method]}: higher top-1 without a shift than with the full loss"
        found.append(Finding("Table 4", statement, True, _against_ours(results, method, unshifted)))
    for method in ("gradmask", "rrr"):
        statement = f"{METHODS[method]} gains less on the shifted sets than Ours"
        found.append(Finding("Tables 1, 2", statement, False, _against_ours(results, method, results.shifted)))
    gains = [
        result.sides["after"].scores["mean_iou"] - result.sides["before"].scores["mean_iou"]
        for run in ours
        for result in sets_with_masks(run)
    ]
    miou = float(np.mean(gains)) if gains else None
    found.append(Finding("Table 3", "The relevance maps cover the masks better (mIoU)", True, miou))
    return found


def _against_ours(results: Results, method: str, sets: list[str]) -> Difference | None:
    ours, runs = results.of(OURS), results.of(method)
    return versus(ours, runs, results.common([*ours, *runs], sets)) if ours and runs else None


def findings_table(found: list[Finding]) -> Table:
    """Table of the findings with measured values, in points."""
    rows = [
        [
            finding.source,
            finding.statement,
            "–"
            if finding.value is None
            else f"{100 * finding.value:+.1f}"
            if isinstance(finding.value, float)
            else str(finding.value),
            finding.verdict,
        ]
        for finding in found
    ]
    return Table(
        "Findings of the paper, measured in points of top-1 or mIoU", ["source", "finding", "measured", ""], rows
    )
