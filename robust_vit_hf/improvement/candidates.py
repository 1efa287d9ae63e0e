"""Candidates: settings to train, and the rule that chooses among them on validation images."""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Any

import numpy as np

from ..results.bootstrap import Difference, interval_of, resampled_means
from ..results.diagnosis import Diagnosis
from ..results.text_table import Table


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


@dataclass(frozen=True)
class Measured:
    """A candidate, or a mixture of its weights with the original's, on the images that choose.

    Args:
        candidate: `None` for the original model.
        alpha: share of the finetuned weights.
        mixed_rand, original: `(N,)` whether each image is right, on the background of another class and as it is; NaN where
            it does not count.
    """

    candidate: Candidate | None
    alpha: float
    mixed_rand: np.ndarray
    original: np.ndarray

    @classmethod
    def of(cls, candidate: Candidate | None, alpha: float, diagnosis: Diagnosis) -> "Measured":
        return cls(candidate, alpha, diagnosis.values["mixed_rand"], diagnosis.values["original"])

    def top1(self) -> float:
        """Top-1 on the backgrounds of other classes."""
        return float(np.nanmean(self.mixed_rand))

    def fall(self, before: "Measured") -> float:
        """Fall of top-1 on the images as they are."""
        return float(np.nanmean(before.original) - np.nanmean(self.original))

    def changes(self, before: "Measured") -> tuple[Difference, Difference]:
        """Changes of both from another, with their intervals, paired by image."""
        values = [self.mixed_rand - before.mixed_rand, self.original - before.original]
        resampled = resampled_means(np.stack(values, axis=1))
        gain, home = (interval_of(one, drawn) for one, drawn in zip(values, resampled.T, strict=True))
        return Difference(*astuple(gain)), Difference(*astuple(home))


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


def may_be_lost(before: Measured, max_loss: float) -> tuple[int, int]:
    """Number of images that `max_loss` points of top-1 are, rounded up, so that one of a few may be lost; and of all."""
    count = int((~np.isnan(before.original)).sum())
    return math.ceil(max_loss / 100 * count - 1e-9), count


def loses_too_much(one: Measured, before: Measured, max_loss: float) -> bool:
    """Whether top-1 on the images as they are falls by more than `max_loss` points, see [`may_be_lost`]."""
    bound, count = may_be_lost(before, max_loss)
    return round(one.fall(before) * count) > bound


def rank(measured: Sequence[Measured], before: Measured, max_loss: float) -> list[Measured]:
    """Order by the rule: first those that do not lose too much, see [`loses_too_much`], by top-1 on the backgrounds of
    other classes, the highest first; then the others, by their fall. Among equals, the smaller fall, the lower
    learning rate, and the smaller share of the finetuned weights come first."""

    def key(one: Measured) -> tuple:
        fall, top1 = one.fall(before), one.top1()
        exceeds = loses_too_much(one, before, max_loss)
        rate = one.candidate.learning_rate if one.candidate else 0.0
        return (exceeds, fall if exceeds else -top1, fall, rate, one.alpha)

    return sorted(measured, key=key)


def choose(measured: Sequence[Measured], before: Measured, max_loss: float) -> Measured:
    """The candidate that the rule chooses: of those that do not lose too much, and whose top-1 on the backgrounds of other
    classes is within one standard error of the highest, the one with the highest top-1 on the images as they are.

    Which of several is highest is often chance; their loss at home is not the same. The standard error is that of the
    difference, paired by image (the "1-SE rule" of https://doi.org/10.1201/9781315139470, section 3.4.3).

    Args:
        measured: candidates, the original among them.
    """
    order = rank(measured, before, max_loss)
    best = order[0]

    def is_as_good(one: Measured) -> bool:
        difference = one.mixed_rand - best.mixed_rand
        known = difference[~np.isnan(difference)]
        error = known.std(ddof=1) / math.sqrt(len(known)) if len(known) > 1 else 0.0
        return bool(known.mean() >= -error - 1e-12)

    allowed = [one for one in order if not loses_too_much(one, before, max_loss) and is_as_good(one)]
    return min(allowed, key=lambda one: one.fall(before))


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
