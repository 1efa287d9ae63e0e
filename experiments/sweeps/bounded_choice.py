"""The criterion that chose among settings of methods and among layers in the experiments: the highest top-1 on the
backgrounds of other classes within a bound of top-1 on the original images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from robust_vit_hf.evaluation.other_backgrounds import Outputs


@dataclass(frozen=True, eq=False)
class Candidate:
    """A setting, measured on validation images.

    Args:
        mixed_rand: `(N,)` share of the composites of each image that are right; NaN without any.
        original: likewise, for the image as it is.
        weight: interpolation weight, from 0 to 1.
    """

    mixed_rand: np.ndarray
    original: np.ndarray
    name: str = "original"
    weight: float = 0.0

    @classmethod
    def of(cls, logits: Outputs, **fields) -> Self:
        right = logits.right()
        return cls(right["mixed_rand"], right["original"], **fields)

    @property
    def strength(self) -> tuple[float, ...]:
        """How far it is from the original model: among equals, the least is chosen."""
        return (self.weight,)

    def top1(self) -> float:
        return float(np.nanmean(self.mixed_rand))

    def fall(self, before: "Candidate") -> float:
        return float(np.nanmean(before.original) - np.nanmean(self.original))


def loses_too_much(candidate: Candidate, before: Candidate, max_loss: float) -> bool:
    """Whether top-1 on the original images falls by more than `max_loss` points, rounded up to whole images."""
    count = int((~np.isnan(before.original)).sum())
    return round(candidate.fall(before) * count) > math.ceil(max_loss / 100 * count - 1e-9)


def rank(candidates: Sequence[Candidate], before: Candidate, max_loss: float) -> list[Candidate]:
    """Order by the criterion: those that do not lose too much by top-1 on other backgrounds, then the others by their
    fall."""

    def key(candidate: Candidate) -> tuple:
        fall, top1 = candidate.fall(before), candidate.top1()
        exceeds = loses_too_much(candidate, before, max_loss)
        return (exceeds, fall if exceeds else -top1, fall, *candidate.strength)

    return sorted(candidates, key=key)


def choose(candidates: Sequence[Candidate], before: Candidate, max_loss: float) -> Candidate:
    """Of those that do not lose too much, and whose top-1 on the backgrounds of other classes is within one standard
    error of the highest, the one with the highest top-1 on the original images. If all lose too much, the one that
    loses least.

    Which of several is highest is often chance, while their losses on the original images differ. The standard error
    is that of the difference, paired by image (the "1-SE rule" of https://doi.org/10.1201/9781315139470, section
    3.4.3).
    """
    order = rank(candidates, before, max_loss)
    best = order[0]

    def is_as_good(candidate: Candidate) -> bool:
        difference = candidate.mixed_rand - best.mixed_rand
        known = difference[~np.isnan(difference)]
        error = known.std(ddof=1) / math.sqrt(len(known)) if len(known) > 1 else 0.0
        return bool(known.mean() >= -error - 1e-12)

    good = [candidate for candidate in order if is_as_good(candidate)]
    allowed = [candidate for candidate in good if not loses_too_much(candidate, before, max_loss)]
    return min(allowed, key=lambda candidate: candidate.fall(before), default=best)
