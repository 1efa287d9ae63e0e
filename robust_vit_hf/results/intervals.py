"""Confidence intervals: of values and changes over images, clusters of images, and seeds."""

import math
import zlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import special  # not `stats`, which takes as long to import as the rest of this package

from .run_results import Run, SetResult


NUM_RESAMPLES = 10_000
NUM_RESAMPLED_MEANS = 2000  # fewer, as they are drawn for many columns
CONFIDENCE = 0.95
K = TypeVar("K", bound=Hashable)  # names of statistics


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval, as fractions."""

    mean: float
    low: float
    high: float

    def shown(self, factor: float = 100, decimals: int = 1) -> str:
        """In per cent or points by default; a difference with its sign."""
        sign = "+" if isinstance(self, Difference) else ""
        mean, low, high = (f"{factor * value:{sign}.{decimals}f}" for value in (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}]" if math.isfinite(self.low) else mean

    __str__ = shown


@dataclass(frozen=True)
class Difference(Interval):
    """A mean difference of accuracy and its 95 % interval, as fractions; an infinite one is unknown."""

    seeds: int = 1
    freedom: float = math.inf  # degrees of freedom of Student's t

    def level(self, bound: float, below: bool = False) -> float:
        """Level of significance, of two sides, from which on the interval lies above a bound, or `below` it; 1 if the mean does not."""
        sign, end = (-1, self.high) if below else (1, self.low)
        distance, margin = sign * (self.mean - bound), sign * (self.mean - end)
        quantile = special.stdtrit(self.freedom, (1 + CONFIDENCE) / 2)
        found = 2 * special.stdtr(self.freedom, -distance * quantile / max(margin, 1e-12))
        return float(found) if distance > 0 else 1.0


def change(
    runs: Sequence[Run],
    names: Sequence[str],
    k: int = 1,
    shown: bool | None = None,
    confidence: float = CONFIDENCE,
) -> Difference:
    """Mean change of top-k over runs and sets, see [`mean_gain`]; `shown`: only of training classes, or of others."""
    gains = {name: [gains_of(run, run.sets[name], k, shown) for run in runs] for name in names}
    return mean_gain(gains, confidence)


def versus(first: Sequence[Run], second: Sequence[Run], names: Sequence[str]) -> Difference | None:
    """Difference in top-1, second method minus first, averaged over models, seeds and sets. Runs are paired by model
    and seed; `None` without pairs. See [`mean_gain`]."""
    others = {(run.model, run.seed): run for run in second}
    pairs = [(run, others[run.model, run.seed]) for run in first if (run.model, run.seed) in others]
    if not pairs or not names:
        return None
    gains: dict[str, list[Gains]] = {name: [] for name in names}
    for name, of_set in gains.items():
        for run, other in pairs:
            one, two = (side.sets[name] for side in (run, other))
            if one.images != two.images or not np.array_equal(one.classes, two.classes):
                raise ValueError(f"The runs were measured on other images of `{name}` each: report them apart.")
            values = (two.correct("after").astype(np.int64) - one.correct("after"))[one.usable]
            of_set.append(Gains(values, run.seed, *_drawn(one, one.usable)))
    return mean_gain(gains)


def mean_over(values: Sequence[float], seeds: Sequence[str]) -> Difference:
    """Mean of one value of each run with its interval over seeds (Student's t), infinitely wide with a single seed."""
    by_seed = [np.mean([v for v, of in zip(values, seeds, strict=True) if of == one]) for one in dict.fromkeys(seeds)]
    mean = float(np.mean(values))
    if len(by_seed) < 2:
        return Difference(mean, -math.inf, math.inf)
    error = np.std(by_seed, ddof=1) / math.sqrt(len(by_seed))
    margin = float(special.stdtrit(len(by_seed) - 1, (1 + CONFIDENCE) / 2) * error)
    return Difference(mean, mean - margin, mean + margin, len(by_seed), len(by_seed) - 1)


@dataclass(frozen=True)
class Gains:
    """Gains `(N,)` of a run on a set, see [`SetResult.gains`]."""

    values: np.ndarray
    seed: str
    drawn: np.ndarray  # `(N,)` int: what each image was drawn with, see [`SetResult.clusters`]; otherwise its row
    images: str = ""  # digest of the images whose rows these are, equal for the same ones


def gains_of(run: Run, result: SetResult, k: int, shown: bool | None) -> Gains:
    known = result.usable
    if shown is not None:
        known = known & (result.in_classes(run.training_classes) == shown)
    return Gains(result.gains(k)[known[result.usable]], run.seed, *_drawn(result, known))


def _drawn(result: SetResult, known: np.ndarray) -> tuple[np.ndarray, str]:
    """What the known images were drawn with, and the digest within which it is numbered."""
    if result.clusters is not None:
        return result.clusters[known], ""
    return np.flatnonzero(known), result.images or ""


def mean_gain(gains: Mapping[str, Sequence[Gains]], confidence: float = CONFIDENCE) -> Difference:
    """Mean gain over sets and seeds with its interval: of one seed by a bootstrap over images, of several Student's t.

    The variance of the mean over seeds has two parts: that of Student's t over the means of the seeds, which holds the noise of
    images that each seed has of its own; and the covariance of two seeds by what they share, images, or the photographs that
    their images are composed with. The degrees of freedom are Satterthwaite's. `benchmarks/coverage.py` simulates how often
    such an interval holds the true gain.

    Source: https://doi.org/10.1201/9780429246593 (Efron and Tibshirani, chapter 13), https://doi.org/10.2307/3002019
    (Satterthwaite), https://doi.org/10.1198/jbes.2010.07136 (Cameron, Gelbach and Miller: variance with two ways of clusters)
    """
    seeds = sorted({gain.seed for of_set in gains.values() for gain in of_set})
    means = np.array([[_mean_of(of_set, seed) for seed in seeds] for of_set in gains.values()])
    mean, freedom = float(means.mean()), math.inf
    if len(seeds) == 1:
        resamples = np.mean([_resampled(name, of_set) for name, of_set in gains.items()], axis=0)
        low, high = np.quantile(resamples, [(1 - confidence) / 2, (1 + confidence) / 2])
    else:
        of_seeds = float(means.mean(axis=0).var(ddof=1)) / len(seeds)
        shared = np.array([_covariance(of_set, seeds) for of_set in gains.values()])
        covariance, of_covariance = shared.sum(axis=0) / len(gains) ** np.array([2, 4])
        if variance := of_seeds + covariance:
            freedom = float(variance**2 / (of_seeds**2 / (len(seeds) - 1) + of_covariance))
            freedom = max(freedom, min(2, len(seeds) - 1))  # of less, estimated from little, t has no useful quantiles
        margin = special.stdtrit(freedom, (1 + confidence) / 2) * math.sqrt(variance)
        low, high = mean - margin, mean + margin
    if math.isclose(low, high, abs_tol=1e-9):  # as in `Resamples.interval`
        margin = 3 / min(len(gain.values) for of_set in gains.values() for gain in of_set)
        low, high = max(low - margin, -1.0), min(high + margin, 1.0)
    return Difference(mean, float(low), float(high), len(seeds), freedom)


def _mean_of(of_set: Sequence[Gains], seed: str) -> float:
    return float(np.mean([gain.values.mean() for gain in of_set if gain.seed == seed]))


def _resampled(name: str, of_set: Sequence[Gains]) -> np.ndarray:
    """Mean gains `(R,)` of one seed's runs, on images drawn once for all of them. Images with the same gains are
    exchangeable, so one multinomial draw over the distinct gains replaces a draw of all images."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))  # draws do not depend on the other sets
    means = np.mean([gain.values for gain in of_set], axis=0)
    distinct, counts = np.unique(means, return_counts=True)
    order = np.lexsort([-distinct, distinct != 0])
    return rng.multinomial(len(means), counts[order] / len(means), NUM_RESAMPLES) @ distinct[order] / len(means)


def _covariance(of_set: Sequence[Gains], seeds: Sequence[str]) -> tuple[float, float]:
    """Covariance of the means of two seeds by what their images share, 0 if it is negative; and its square over its degrees of
    freedom."""
    digests, mean = [gain.images for gain in of_set], np.mean([_mean_of(of_set, seed) for seed in seeds])
    drawn = [gain.drawn + (digests.index(gain.images) << 32) for gain in of_set]
    distinct = np.unique(np.concatenate(drawn))
    parts = np.zeros((len(seeds), len(distinct)))  # of the mean's deviation, by seed and what was drawn
    for gain, of_gain in zip(of_set, drawn, strict=True):
        count = len(gain.values) * len(seeds) * sum(other.seed == gain.seed for other in of_set)
        np.add.at(parts[seeds.index(gain.seed)], np.searchsorted(distinct, of_gain), (gain.values - mean) / count)
    others = max(len(distinct) - 1, 1)
    parts *= math.sqrt(len(distinct) / others)
    of_each = (parts**2).sum()
    covariance = max((parts.sum(axis=0) ** 2).sum() - of_each, 0.0) * len(seeds) / (len(seeds) - 1)
    return covariance, covariance * (covariance + of_each) / others


@dataclass(frozen=True)
class Resamples:
    """A statistic of images as measured, and of the same images drawn again, for its interval."""

    values: np.ndarray  # `(1 + R,)` float, first the measured value; NaN where a draw has none
    count: int  # number N of images, of the smallest group if there are several
    outcomes: np.ndarray | None = None  # `(N,)` float, what the statistic is a mean of, if it is one

    @classmethod
    def means(cls, columns: Mapping[K, np.ndarray], seed: int = 0) -> dict[K, "Resamples"]:
        """Means of columns `(N,)` float over images, which are drawn once for all columns, the same ones with the same
        seed and N. An image has no value where it is NaN; columns without values are left out."""
        known = {name: column for name, column in columns.items() if not np.isnan(column).all()}
        if not known:
            return {}
        values = np.stack(list(known.values()), axis=1)
        both = np.concatenate([np.nan_to_num(values), ~np.isnan(values)], axis=1)
        rng, count, sums = np.random.default_rng(seed), len(values), []
        for _ in range(0, NUM_RESAMPLED_MEANS, 100):  # all draws at once would take memory for N × 2000
            drawn = rng.multinomial(count, np.full(count, 1 / count), 100)
            sums.append(drawn.astype(np.float64) @ both)
        totals, counts = np.split(np.concatenate(sums), 2, axis=1)
        drawn = np.divide(totals, counts, out=np.full_like(totals, np.nan), where=counts > 0)
        means = np.concatenate([np.nanmean(values, axis=0, keepdims=True), drawn]).T
        outcomes = {name: column[~np.isnan(column)] for name, column in known.items()}
        return {name: cls(of, len(outcomes[name]), outcomes[name]) for name, of in zip(known, means, strict=True)}

    @classmethod
    def of(cls, function: Callable[..., np.ndarray], *parts: "Resamples") -> "Resamples":
        """A function of statistics of the same draws, or of other images."""
        return cls(function(*(part.values for part in parts)), min(part.count for part in parts))

    def __sub__(self, other: "Resamples") -> "Resamples":
        return Resamples.of(np.subtract, self, other)

    def interval(self, kind: type[Interval] = Interval, least: float = 0.0) -> Interval:
        """The measured value with its interval; `least` is the least possible value of an `Interval`, while that of a
        `Difference` is -1. The largest is 1.

        Resampling does not know of what was seen in none of N images, whose rate is at most 3 / N with 95 % confidence
        ("rule of three", https://doi.org/10.1001/jama.1983.03330370053031). So the interval reaches at least that far
        from the value where all draws agree, and that of a difference of outcomes towards a sign that no image has.
        """
        value, margin, known = self.values[0], 3 / self.count, self.outcomes
        low, high = np.nanquantile(self.values[1:], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        agree = low == high and (known is None or known[0] in (-1, 0, 1))
        differs = kind is Difference and known is not None
        if agree or (differs and known.min() >= 0):
            low = max(min(low, value - margin), -1.0 if kind is Difference else least)
        if agree or (differs and known.max() <= 0):
            high = min(max(high, value + margin), 1.0)
        return kind(float(value), float(low), float(high))


def simultaneous(drawn: Mapping[K, Resamples]) -> dict[K, Difference]:
    """Intervals of statistics of the same draws that hold for all of them together with 95 % confidence: each is as many standard
    errors wide as the furthest of all is from its value in 95 % of the draws. Of N images without any difference, the rule of three
    counts them, see [`Resamples.interval`].

    Source: https://doi.org/10.1017/CBO9780511802843 (Davison and Hinkley, section 4.2.4)
    """
    if not drawn:
        return {}
    values = np.stack([one.values for one in drawn.values()])
    errors = np.nanstd(values[:, 1:], axis=1)
    varied = errors > 0
    furthest = np.abs(values[varied, 1:] - values[varied, :1]) / errors[varied, None]
    width = float(np.nanquantile(furthest.max(axis=0, initial=0), CONFIDENCE))
    least = [-math.log((1 - CONFIDENCE) / len(drawn)) / one.count for one in drawn.values()]
    margins = np.where(varied, width * errors, least)
    found = {}
    for (name, one), margin in zip(drawn.items(), margins.tolist(), strict=True):
        value, limit = float(one.values[0]), 1.0 if np.isin(one.outcomes, (-1, 0, 1)).all() else math.inf
        found[name] = Difference(value, max(-limit, value - margin), min(limit, value + margin))
    return found
