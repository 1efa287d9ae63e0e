"""The rule that chooses among models on validation images alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from .intervals import Difference, Interval, Resamples


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model on the N selection images."""

    mixed_rand: np.ndarray  # `(N,)` float, right on the background of another class; NaN where it does not count
    original: np.ndarray  # likewise, for the image as it is

    @property
    def strength(self) -> tuple[float, ...]:
        """How far it is from the original model, for example its learning rate: among equals, the least is chosen."""
        return ()

    def top1(self) -> float:
        """Top-1 on the backgrounds of other classes."""
        return float(np.nanmean(self.mixed_rand))

    def fall(self, before: "Candidate") -> float:
        """Fall of top-1 on the images as they are."""
        return float(np.nanmean(before.original) - np.nanmean(self.original))

    def changes(self, before: "Candidate") -> tuple[Interval, Interval]:
        """Changes of `mixed_rand` and `original` from another model, paired by image."""
        changes = {"gain": self.mixed_rand - before.mixed_rand, "loss": self.original - before.original}
        gain, loss = (drawn.interval(Difference) for drawn in Resamples.means(changes).values())
        return gain, loss


C = TypeVar("C", bound=Candidate)


def may_be_lost(before: Candidate, max_loss: float) -> tuple[int, int]:
    """Number of images that `max_loss` points of top-1 are, rounded up, so that one of a few may be lost; and of all."""
    count = int((~np.isnan(before.original)).sum())
    return math.ceil(max_loss / 100 * count - 1e-9), count


def loses_too_much(one: Candidate, before: Candidate, max_loss: float) -> bool:
    """Whether top-1 on the images as they are falls by more than `max_loss` points, see [`may_be_lost`]."""
    bound, count = may_be_lost(before, max_loss)
    return round(one.fall(before) * count) > bound


def rank(candidates: Sequence[C], before: Candidate, max_loss: float) -> list[C]:
    """Order by the rule: first those that do not lose too much, see [`loses_too_much`], by top-1 on the backgrounds of
    other classes, the highest first; then the others, by their fall. Among equals, the smaller fall and the smaller
    strength come first."""

    def key(one: C) -> tuple:
        fall, top1 = one.fall(before), one.top1()
        exceeds = loses_too_much(one, before, max_loss)
        return (exceeds, fall if exceeds else -top1, fall, *one.strength)

    return sorted(candidates, key=key)


def choose(candidates: Sequence[C], before: Candidate, max_loss: float) -> C:
    """The candidate that the rule chooses: of those that do not lose too much, and whose top-1 on the backgrounds of other
    classes is within one standard error of the highest, the one with the highest top-1 on the images as they are. If all
    lose too much, the one that loses least.

    Which of several is highest is often chance, while their losses on the images as they are differ. The standard error is that of the
    difference, paired by image (the "1-SE rule" of https://doi.org/10.1201/9781315139470, section 3.4.3).
    """
    order = rank(candidates, before, max_loss)
    best = order[0]

    def is_as_good(one: C) -> bool:
        difference = one.mixed_rand - best.mixed_rand
        known = difference[~np.isnan(difference)]
        error = known.std(ddof=1) / math.sqrt(len(known)) if len(known) > 1 else 0.0
        return bool(known.mean() >= -error - 1e-12)

    allowed = [one for one in order if not loses_too_much(one, before, max_loss) and is_as_good(one)]
    return min(allowed, key=lambda one: one.fall(before), default=best)
