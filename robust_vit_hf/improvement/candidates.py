"""Candidates: settings to train, and the table of what they are worth on validation images."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..diagnosis.verdict import Diagnosis
from ..results import choice
from ..results.bootstrap import Difference, Interval, Resamples
from ..results.choice import loses_too_much, may_be_lost, rank
from ..results.markdown_latex import Table


# Candidates beside each other, by name, unless a method is named. On photographs, swap with the original's output gained most
# on backgrounds that nothing was trained on; whether the relevance loss adds to it depends on the images.
SWAP = {"confidence_target": "original", "background_swap": 0.75}
VARIANTS: dict[str, dict[str, Any]] = {
    "swap": {**SWAP, "relevance_weight": 0.0},
    "swap and relevance": {**SWAP, "relevance_distance": "bce"},
}
# Shares of the finetuned weights that are measured, of the short trainings and of those of all steps.
FIRST_MIXTURES, MIXTURES = (0.5, 1.0), (0.25, 0.5, 0.75, 1.0)
FINALISTS, FIRST_SHARE = 2, 3  # trainings of all steps; all others are shorter by this factor
ORIGINAL = "original"


@dataclass(frozen=True)
class Candidate:
    """Settings of a training.

    Args:
        variant: name in [`VARIANTS`], or of a method.
        learning_rate: initial learning rate.
        steps: number of steps.
        options: options of the method.
    """

    variant: str
    learning_rate: float
    steps: int
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.variant.replace(' ', '-')}-{self.learning_rate:g}-{self.steps}"

    def __str__(self) -> str:
        return f"{self.variant}, learning rate {self.learning_rate:g}, {self.steps} steps"


@dataclass(frozen=True, eq=False)
class Measured(choice.Candidate):
    """A candidate, or a mixture of its weights with the original's, on the images that choose.

    Args:
        candidate: `None` for the original model.
        alpha: share of the finetuned weights.
    """

    candidate: Candidate | None
    alpha: float

    @classmethod
    def of(cls, candidate: Candidate | None, alpha: float, diagnosis: Diagnosis) -> "Measured":
        return cls(diagnosis.values["mixed_rand"], diagnosis.values["original"], candidate, alpha)

    @property
    def strength(self) -> tuple[float, ...]:
        return (self.candidate.learning_rate if self.candidate else 0.0, self.alpha)

    def changes(self, before: "Measured") -> tuple[Interval, Interval]:
        """Changes of both from another, with their intervals, paired by image."""
        changes = {"gain": self.mixed_rand - before.mixed_rand, "home": self.original - before.original}
        gain, home = (drawn.interval(Difference) for drawn in Resamples.means(changes).values())
        return gain, home


def first_candidates(method: str | None, learning_rates: Sequence[float], max_steps: int) -> list[Candidate]:
    """The short trainings: each variant at each rate."""
    variants = VARIANTS if method is None else {method: {"method": method}}
    steps = max(1, max_steps // FIRST_SHARE)
    return [Candidate(name, rate, steps, options) for name, options in variants.items() for rate in learning_rates]


def finalists(measured: Sequence[Measured], before: Measured, max_loss: float, max_steps: int) -> list[Candidate]:
    """The trainings of all steps: the settings that the rule puts first, of each variant if there are several."""
    chosen: list[Candidate] = []
    ranked = [one.candidate for one in rank(measured, before, max_loss) if one.candidate is not None]
    for candidate in ranked:
        if candidate.variant not in {other.variant for other in chosen}:
            chosen.append(candidate)
    for candidate in ranked:
        if candidate not in chosen:
            chosen.append(candidate)
    return [replace(candidate, steps=max_steps) for candidate in chosen[:FINALISTS]]


def candidates_table(measured: Sequence[Measured], before: Measured, chosen: Measured, max_loss: float) -> Table:
    """Table of all candidates in the order of the rule."""
    rows = []
    for one in rank(measured, before, max_loss):
        gain, home = one.changes(before)
        name = ORIGINAL if one.candidate is None else one.candidate.variant
        settings = ["–"] * 3
        if one.candidate is not None:
            settings = [f"{one.candidate.learning_rate:g}", str(one.candidate.steps), f"{one.alpha:g}"]
        marked = "chosen" if one is chosen else "loses too much" if loses_too_much(one, before, max_loss) else ""
        rows.append([name, *settings, f"{100 * one.top1():.1f}", str(gain), str(home), marked])
    head = [
        "candidate",
        "learning rate",
        "steps",
        "share of its weights",
        "`mixed_rand`",
        "change",
        "change at home",
        "",
    ]
    bound, count = may_be_lost(before, max_loss)
    title = f"Candidates on {count} validation images, of which a candidate may lose {bound}; top-1 in per cent [95 % interval]"
    return Table(title, head, rows)
