"""The criterion that chose among settings of methods and among layers in the experiments: the highest top-1 on the
backgrounds of other classes within a bound of top-1 on the original images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from robust_vit_hf.evaluation.other_backgrounds import Outputs


@dataclass(frozen=True, eq=False)
class Setting:
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

    def fall(self, before: "Setting") -> float:
        return float(np.nanmean(before.original) - np.nanmean(self.original))


def loses_too_much(setting: Setting, before: Setting, max_loss: float) -> bool:
    """Whether top-1 on the original images falls by more than `max_loss` points, rounded up to whole images."""
    count = int((~np.isnan(before.original)).sum())
    return round(setting.fall(before) * count) > math.ceil(max_loss / 100 * count - 1e-9)


def rank(settings: Sequence[Setting], before: Setting, max_loss: float) -> list[Setting]:
    """Order by the criterion: those that do not lose too much by top-1 on other backgrounds, then the others by their
    fall."""

    def key(setting: Setting) -> tuple:
        fall, top1 = setting.fall(before), setting.top1()
        exceeds = loses_too_much(setting, before, max_loss)
        return (exceeds, fall if exceeds else -top1, fall, *setting.strength)

    return sorted(settings, key=key)


def choose_setting(settings: Sequence[Setting], before: Setting, max_loss: float) -> Setting:
    """Of those that do not lose too much, and whose top-1 on the backgrounds of other classes is within one standard
    error of the highest, the one with the highest top-1 on the original images. If all lose too much, the one that
    loses least.

    Which of several is highest is often chance, while their losses on the original images differ. The standard error
    is that of the difference, paired by image (the "1-SE rule" of https://doi.org/10.1201/9781315139470, section
    3.4.3).
    """
    order = rank(settings, before, max_loss)
    best = order[0]

    def is_as_good(setting: Setting) -> bool:
        difference = setting.mixed_rand - best.mixed_rand
        known = difference[~np.isnan(difference)]
        error = known.std(ddof=1) / math.sqrt(len(known)) if len(known) > 1 else 0.0
        return bool(known.mean() >= -error - 1e-12)

    good = [setting for setting in order if is_as_good(setting)]
    allowed = [setting for setting in good if not loses_too_much(setting, before, max_loss)]
    return min(allowed, key=lambda setting: setting.fall(before), default=best)
