"""Candidates: models that may be chosen, the rule that chooses among them on the selection images, and the table of all."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from transformers import PreTrainedModel

from ..evaluation.composites import Outputs
from ..results.intervals import Difference, Interval, Resamples
from ..results.tables import Table


# Interpolation weights of a new layer, or of finetuned weights, that are measured: of all steps, and of the short trainings.
INTERPOLATION_WEIGHTS, FIRST_INTERPOLATION_WEIGHTS = (0.25, 0.5, 0.75, 1.0), (0.5, 1.0)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model that may be chosen: the original, or one between it and a new layer or a training.

    Args:
        mixed_rand: `(N,)` float, whether each selection image is right on the background of another class, as a share of several; NaN
            where it does not count.
        original: likewise, for the image as it is.
        name: how it was made.
        weight: interpolation weight, from 0, the model before, to 1, the new layer or the finetuned weights.
        learning_rate: of the training; 0 where nothing was trained.
        outputs: computes its logits on the selection images.
        build: makes the model, with logits divided by a temperature, and the contents of the files beside it by name.
    """

    mixed_rand: np.ndarray
    original: np.ndarray
    name: str = "original"
    weight: float = 0.0
    learning_rate: float = 0.0
    outputs: Callable[[], Outputs] | None = None
    build: Callable[[float], tuple[PreTrainedModel, dict[str, dict]]] | None = None

    @classmethod
    def of(cls, logits: Outputs, **fields) -> Self:
        return cls(**logits.right(), **fields)

    @property
    def strength(self) -> tuple[float, ...]:
        """How far it is from the original model: among equals, the least is chosen."""
        return (self.learning_rate, self.weight)

    def __str__(self) -> str:
        return f"{self.name}, interpolation weight {self.weight:g}" if self.weight else self.name

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


def may_be_lost(before: Candidate, max_loss: float) -> tuple[int, int]:
    """Number of images that `max_loss` points of top-1 are, rounded up, so that one of a few may be lost; and of all."""
    count = int((~np.isnan(before.original)).sum())
    return math.ceil(max_loss / 100 * count - 1e-9), count


def loses_too_much(candidate: Candidate, before: Candidate, max_loss: float) -> bool:
    """Whether top-1 on the images as they are falls by more than `max_loss` points, see [`may_be_lost`]."""
    bound, count = may_be_lost(before, max_loss)
    return round(candidate.fall(before) * count) > bound


def rank(candidates: Sequence[Candidate], before: Candidate, max_loss: float) -> list[Candidate]:
    """Order by the rule: first those that do not lose too much, see [`loses_too_much`], by top-1 on the backgrounds of
    other classes, the highest first; then the others, by their fall. Among equals, the smaller fall and the smaller
    strength come first."""

    def key(candidate: Candidate) -> tuple:
        fall, top1 = candidate.fall(before), candidate.top1()
        exceeds = loses_too_much(candidate, before, max_loss)
        return (exceeds, fall if exceeds else -top1, fall, *candidate.strength)

    return sorted(candidates, key=key)


def choose(candidates: Sequence[Candidate], before: Candidate, max_loss: float) -> Candidate:
    """The candidate that the rule chooses: of those that do not lose too much, and whose top-1 on the backgrounds of other
    classes is within one standard error of the highest, the one with the highest top-1 on the images as they are. If all
    lose too much, the one that loses least.

    Which of several is highest is often chance, while their losses on the images as they are differ. The standard error is that of the
    difference, paired by image (the "1-SE rule" of https://doi.org/10.1201/9781315139470, section 3.4.3).

    Args:
        max_loss: points of top-1 on the images as they are that may be lost, from 0 to 100.
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


def choose_cheapest(candidates: Sequence[Candidate], before: Candidate, max_loss: float) -> Candidate:
    """The candidate that [`choose`] chooses; a training only if its gain over the best new layer is resolved."""
    untrained = [candidate for candidate in candidates if not candidate.learning_rate]
    cheap, chosen = (choose(of, before, max_loss) for of in (untrained, candidates))
    gain, _ = chosen.changes(cheap)
    keeps_layer = cheap.weight > 0 and not loses_too_much(cheap, before, max_loss)
    return cheap if keeps_layer and gain.low <= 0 else chosen


def candidates_table(candidates: Sequence[Candidate], before: Candidate, chosen: Candidate, max_loss: float) -> Table:
    """Table of all candidates in the order of the rule."""
    rows = []
    for candidate in rank(candidates, before, max_loss):
        exceeds = loses_too_much(candidate, before, max_loss)
        marked = "chosen" if candidate is chosen else "loses too much" if exceeds else ""
        gain, loss = candidate.changes(before)
        weight = f"{candidate.weight:g}" if candidate.weight else "–"
        rows.append([candidate.name, weight, f"{100 * candidate.top1():.1f}", str(gain), str(loss), marked])
    head = ["candidate", "interpolation weight", "`mixed_rand`", "change", "change of `original`", ""]
    bound, count = may_be_lost(before, max_loss)
    title = f"Candidates on {count} selection images, of which a candidate may lose {bound}; top-1 in per cent [95 % interval]"
    return Table(title, head, rows)
