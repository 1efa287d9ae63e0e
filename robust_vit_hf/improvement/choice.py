"""The choice of a candidate by its expected top-1, the outcome of this choice by cross-validation, and the verdict."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..data.balanced_splits import turns_within_classes
from ..results.intervals import NORMAL, Bootstrap, Difference, resample
from ..results.plots import COLOURS, OTHERS
from ..results.tables import Table
from .candidates import Candidate


FOLDS = 5
# Standard deviation of a gain on composites minus the gain on photographs with random backgrounds, without the part that the samples add
# (docs/results.md).
COMPOSITES_ERROR = 0.07
CHANGED = 0.04, 0.3  # typical share of the predictions that change, on usual and on other backgrounds
OUTCOMES = {
    "better": "Better",
    "inconclusive": "Inconclusive, so keep your model",
    "worse": "Worse: keep your model",
    "kept": "Keep your model: no candidate was better on the validation images",
    "already_robust": "Keep your model: the background of another class costs it significantly less than 5 points of top-1 on the "
    "validation images, so there is little to gain, and nothing was trained",
}


def worth(usual: Any, other: Any, share: float) -> Any:
    """Expected top-1 if this share of the photographs has other backgrounds than usual."""
    return (1 - share) * usual + share * other


def choose(candidates: Sequence[Candidate], share: float, predicted: bool = False) -> Candidate:
    """The candidate with the highest worth on all validation images; among equals, the first. Candidates are compared by the probability of
    the right class, which tells more about an image than whether it is right. None is chosen that has a lower top-1 than the original at the share,
    on usual backgrounds, or on photographs with unusual backgrounds: those that lose there also lost on photographs that were taken elsewhere
    (docs/results.md). If labels are `predicted` by the original, which is then always right on photographs, only the share counts."""
    return candidates[int(_chosen(candidates, share, predicted, np.ones((1, len(candidates[0].usual))))[0])]


def _chosen(candidates: Sequence[Candidate], share: float, predicted: bool, counts: np.ndarray) -> np.ndarray:
    """Numbers `(R,)` of the candidates with the highest worth, if each image counts as often as `counts` `(R, N)` says."""
    values = [
        (
            of.usual,
            of.other if of.edited is None else of.edited,
            of.usual_probability,
            of.other_probability,
            of.unusual,
        )
        for of in candidates
    ]
    with np.errstate(invalid="ignore"):
        means = [_means(counts, np.stack(of_candidates)) for of_candidates in zip(*values, strict=True)]
        top1, probability = (worth(one, other, share).round(9) for one, other in (means[:2], means[2:4]))
        for never_lower in [top1] if predicted else [top1, means[0].round(9), means[4].round(9)]:
            probability[never_lower < never_lower[:, :1]] = -1.0
    return np.nan_to_num(probability, nan=-1.0).argmax(axis=1)


def _means(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Means `(R, C)` over the images of values `(C, N)`, without images that have NaN."""
    counts = counts * ~np.isnan(values).any(axis=0)
    return counts @ np.nan_to_num(values).T / counts.sum(axis=1, keepdims=True)


def cross_validated(
    candidates: Sequence[Candidate],
    labels: np.ndarray,
    shares: Sequence[float],
    seed: int = 0,
    predicted: bool = False,
) -> "Outcome":
    """What choosing among the candidates gains: in each of [`FOLDS`] folds of the images, the candidate that is best on the other folds is
    measured, and the folds are pooled, as in BBC-CV (https://doi.org/10.1007/s10994-018-5714-4). Intervals come from the same procedure,
    choices included, on resamples of the images. In simulations, they hold 95 to 98 % of the true changes of the chosen candidate."""
    count = len(labels)
    # Each class begins in another fold, so that the images of small classes are not all in the first folds.
    folds = (turns_within_classes(labels, seed) + np.unique(labels, return_inverse=True)[1]) % FOLDS
    kinds = [np.stack([getattr(of, name) for of in candidates]) for name in ("usual", "other", "unusual")]
    counts = resample(np.ones(count), seed=seed)
    before, after = np.zeros((2, len(counts), len(kinds)))
    for fold in range(FOLDS):
        inside = folds == fold
        chosen = _chosen(candidates, shares[-1], predicted, counts * ~inside)
        for place, values in enumerate(kinds):
            known = ~np.isnan(values).any(axis=0)
            weights, values = counts * known, np.where(known, values, 0)
            with np.errstate(invalid="ignore"):  # a resample may have no photograph with an unusual background
                total = weights.sum(axis=1)
                before[:, place] += weights[:, inside] @ values[0, inside] / total
                after[:, place] += (weights[:, inside] * values[chosen][:, inside]).sum(axis=1) / total
    return Outcome(tuple(shares), before, after, count, int((~np.isnan(kinds[2][0])).sum()), predicted)


@dataclass(frozen=True, eq=False)
class Outcome:
    """Top-1 `before` and `after` on usual and on other backgrounds, and on the photographs with unusual backgrounds, each `(1 + R, 3)`: as
    measured, and on resamples of the `count` images, of which `count_unusual` have unusual backgrounds. The candidate was chosen for the last
    of `shares`. If labels are `predicted` by the original model, it is always right on photographs."""

    shares: tuple[float, ...]
    before: np.ndarray
    after: np.ndarray
    count: int
    count_unusual: int = 0
    predicted: bool = False

    @cached_property
    def _draws(self) -> tuple[np.ndarray, np.ndarray]:
        """Changes `(1 + R,)` on usual and on other backgrounds; the latter have the error of composites added."""
        usual, other = (self.after - self.before).T[:2]
        error = np.random.default_rng(1).normal(0, COMPOSITES_ERROR, len(other))
        error[0] = 0
        return usual, other + error

    def _interval(self, draws: np.ndarray) -> Difference:
        return Bootstrap(draws, self.count).difference()

    @cached_property
    def usual(self) -> Difference:
        return self._interval(self._draws[0])

    @cached_property
    def other(self) -> Difference:
        return self._interval(self._draws[1])

    @cached_property
    def unusual(self) -> Difference | None:
        """Change on the photographs with unusual backgrounds, if there are any."""
        if not self.count_unusual:
            return None
        return Bootstrap((self.after - self.before)[:, 2], self.count_unusual).difference()

    @property
    def share(self) -> float:
        return self.shares[-1]

    def change_at(self, share: float) -> Difference:
        """Change of the worth at a share."""
        return self._interval(worth(*self._draws, share))

    @cached_property
    def change(self) -> Difference:
        return self.change_at(self.share)

    @cached_property
    def break_even(self) -> tuple[float, float]:
        """The share of other backgrounds from which on the new model is better, and its upper bound (95 %, one-sided); 1 if it never is."""
        usual, other = self._draws
        loss = np.maximum(-usual, 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = np.where(other > 0, np.minimum(1, loss / (loss + np.maximum(other, 0))), 1.0)
        shares = np.where((loss == 0) & (other >= 0), 0.0, shares)
        return float(shares[0]), float(np.quantile(shares[1:], 0.95))

    @property
    def key(self) -> str:
        """`better`, `worse` or `inconclusive`, by the interval of the change at the share. What is significantly worse on other backgrounds or
        on photographs, all or those with unusual backgrounds, is not `better`."""
        photographs = [] if self.predicted else [self.usual, *([self.unusual] if self.unusual else [])]
        if self.change.low > 0 and all(of.high >= 0 for of in (self.other, *photographs)):
            return "better"
        return "worse" if self.change.high < 0 else "inconclusive"

    @property
    def sentences(self) -> list[str]:
        even, at_most = self.break_even
        sentences = [
            f"{OUTCOMES[self.key]}: of 100 photographs, {100 * self.share:.0f} of them with other backgrounds than usual, the new model recognises "
            f"{self.change.of_100}."
        ]
        # Without an upper bound, the share says nothing; one below `share` would deny that the verdict is inconclusive, see [`_interval`].
        if (
            even < 1
            and at_most < 1
            and (self.key == "better" or (self.key == "inconclusive" and at_most > self.share))
        ):
            bound = f"{100 * at_most:.0f} %"
            sentences.append(
                f"It is better if more than {100 * even:.0f} % have other backgrounds (95 %: at most {bound})."
                if even > 0
                else f"It is better at any share of other backgrounds (95 %: above {bound})."
            )
        if self.predicted:
            sentences.append(
                f"On usual backgrounds, {100 * abs(self.usual.mean):.1f} % of its predictions are not those of your model."
            )
        elif self.usual.high < 0:
            sentences.append(f"On usual backgrounds it is significantly worse: {self.usual} points.")
        if self.unusual and self.unusual.high < 0 and not self.predicted:
            text = f"On the {self.count_unusual} photographs whose background is unusual for their class"
            sentences.append(f"{text}, it is significantly worse: {self.unusual} points.")
        if self.other.high < 0:
            sentences.append(f"On other backgrounds it is significantly worse: {self.other} points.")
        if self.key == "inconclusive" and self.change.low > 0:
            sentences.append("The gain and the loss contradict each other.")
        elif self.key == "inconclusive" and self.change.mean <= 0:
            sentences.append("On these images, the new one is not better.")
        elif self.key == "inconclusive":
            gain, spread = self.change.mean, NORMAL * float(np.nanstd(worth(*self._draws, self.share)[1:]))
            error = NORMAL * self.share * COMPOSITES_ERROR  # more images do not reduce it
            if gain > error:
                needed = max(self.count * (spread**2 - error**2) / (gain**2 - error**2), 3 / gain, 1)
                unit = 10 ** max(0, int(math.log10(needed)) - 1)
                images = f"{unit * math.ceil(needed / unit):,} validation images instead of {self.count}"
                sentences.append(f"About {images} would suffice to tell.")
            else:
                sentences.append(
                    "More validation images would not tell, since composites are not photographs: measure both models on photographs with "
                    "other backgrounds."
                )
        return sentences

    @property
    def table(self) -> Table:
        """Top-1 before and after on usual, unusual and other backgrounds, and at each share."""
        named = {"usual backgrounds": (0.0, self.usual), "other backgrounds, composites": (1.0, self.other)}
        named |= {f"{100 * share:.0f} % other backgrounds": (share, self.change_at(share)) for share in self.shares}
        rows = []
        for name, (share, change) in named.items():
            sides = (f"{100 * worth(*of[0, :2], share):.1f}" for of in (self.before, self.after))
            rows.append([name, *sides, str(change)])
        if self.unusual:
            sides = (f"{100 * of[0, 2]:.1f}" for of in (self.before, self.after))
            rows.insert(1, [f"unusual backgrounds, {self.count_unusual} photographs", *sides, str(self.unusual)])
        title = "Top-1 on the validation images, in per cent [95 % interval]"
        return Table(title, ["", "before", "after", "change"], rows)

    def record(self) -> dict:
        names, sides = ("usual", "other"), {"before": self.before, "after": self.after}
        unusual = (
            {} if self.unusual is None else {"unusual": asdict(self.unusual) | {"photographs": self.count_unusual}}
        )
        return {
            "share": self.share,
            **{side: dict(zip(names, map(float, values[0, :2]), strict=True)) for side, values in sides.items()},
            **{name: asdict(getattr(self, name)) for name in (*names, "change")},
            **unusual,
            "changes": {f"{share:g}": asdict(self.change_at(share)) for share in self.shares},
            "break_even": dict(zip(("share", "at_most"), self.break_even, strict=True)),
        }


def resolution(count: int, share: float) -> float:
    """The least change of worth, in points, that this many validation images can tell if [`CHANGED`] of the predictions change, see
    [`Outcome`]."""
    usual, other = (NORMAL * math.sqrt(changed / count) for changed in CHANGED)
    return 100 * max(math.hypot((1 - share) * usual, share * other, share * NORMAL * COMPOSITES_ERROR), 3 / count)


def candidates_table(candidates: Sequence[Candidate], chosen: Candidate, share: float) -> Table:
    rows, before, changes = [], candidates[0], {}
    for number, candidate in enumerate(candidates):
        changes[number, "usual"] = candidate.usual - before.usual
        changes[number, "other"] = candidate.other - before.other
    drawn = Bootstrap.means(changes)
    for number, candidate in sorted(enumerate(candidates), key=lambda pair: -worth(*pair[1].top1, share)):
        shown = [str(drawn[number, name].difference()) for name in ("usual", "other")]
        weight = f"{candidate.weight:g}" if candidate.weight else "–"
        value = f"{100 * worth(*candidate.top1, share):.1f}"
        rows.append([candidate.name, weight, value, *shown, "chosen" if candidate is chosen else ""])
    head = ["candidate", "interpolation weight", "worth", "change on usual backgrounds", "on other backgrounds", ""]
    title = f"Candidates on {len(before.usual)} validation images, by top-1 at {100 * share:.0f} % other backgrounds"
    return Table(title, head, rows)


def candidates_figure(candidates: Sequence[Candidate], chosen: Candidate, share: float) -> Figure:
    """Top-1 on other against usual backgrounds. Models on the line are worth as much as the original at the share."""
    figure = Figure((5.0, 4.0), layout="constrained")
    axis = figure.subplots()
    before, *others = (100 * np.array(candidate.top1) for candidate in candidates)
    axis.plot(*np.transpose(others), ".", color=OTHERS[0], label="candidates")
    axis.plot(*before, "o", color=COLOURS["before"], label="your model")
    axis.plot(*(100 * np.array(chosen.top1)), "o", color=COLOURS["after"], label="chosen")
    if share > 0:
        axis.axline(tuple(before), slope=-(1 - share) / share, color="black", linewidth=0.8, label="as good as yours")
    axis.set(xlabel="top-1 on usual backgrounds, %", ylabel="top-1 on other backgrounds, %")
    axis.legend(frameon=False, fontsize=8)
    return figure
