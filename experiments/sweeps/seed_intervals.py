"""Confidence intervals of changes over several runs: over images, clusters of images, and seeds."""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from robust_vit_hf.results import intervals
from robust_vit_hf.results.intervals import CONFIDENCE, Bootstrap
from robust_vit_hf.results.run_results import SetResult

from .runs import Run


@dataclass(frozen=True)
class Difference(intervals.Difference):
    """A mean difference of accuracy over seeds."""

    seeds: int = 1
    freedom: float = math.inf  # degrees of freedom of Student's t

    def level(self, bound: float, below: bool = False) -> float:
        """Level of significance, of two sides, from which on the interval lies above a bound, or `below` it; 1 if the
        mean does not."""
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
    # `(N,)` int: what each image was drawn with, see [`SetResult.clusters`]; otherwise its row. `(2, N)`: with two
    # things, such as a photograph and an object of a class
    drawn: np.ndarray
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

    The variance of the mean over seeds has two parts: that of Student's t over the means of the seeds, which holds the
    noise of images that each seed has of its own; and the covariance of two seeds by what they share, images, or the
    photographs that their images are composed with. The degrees of freedom are Satterthwaite's. Few seeds may happen
    to differ by less than the noise of their images: the variance is at least that of the same seeds over what was
    drawn. `experiments/benchmarks/coverage.py` simulates how often such an interval holds the true gain.

    Source: https://doi.org/10.1201/9780429246593 (Efron and Tibshirani, chapter 13), https://doi.org/10.2307/3002019
    (Satterthwaite), https://doi.org/10.1198/jbes.2010.07136 (Cameron, Gelbach and Miller: variance with two ways of
    clusters)
    """
    seeds = sorted({gain.seed for of_set in gains.values() for gain in of_set})
    means = np.array([[_mean_of(of_set, seed) for seed in seeds] for of_set in gains.values()])
    mean, freedom = float(means.mean()), math.inf
    if len(seeds) == 1:
        of_images = {name: np.mean([gain.values for gain in of_set], axis=0) for name, of_set in gains.items()}
        of_sets = [Bootstrap.means({"": of}, zlib.crc32(name.encode()))[""].draws for name, of in of_images.items()]
        margin = special.ndtri((1 + confidence) / 2) * np.mean(of_sets, axis=0)[1:].std()
        low, high = mean - margin, mean + margin
    else:
        of_seeds = float(means.mean(axis=0).var(ddof=1)) / len(seeds)
        shared = np.array([_shared(of_set, seeds) for of_set in gains.values()])
        covariance, of_covariance, fixed, of_fixed = shared.sum(axis=0) / len(gains) ** np.array([2, 4, 2, 4])
        of_variance = of_seeds**2 / (len(seeds) - 1) + of_covariance
        variance = of_seeds + covariance
        if fixed > variance:
            variance, of_variance = fixed, of_fixed
        if variance:
            freedom = float(variance**2 / of_variance)
            freedom = max(freedom, min(2, len(seeds) - 1))  # of less, estimated from little, t has no useful quantiles
        margin = special.stdtrit(freedom, (1 + confidence) / 2) * math.sqrt(variance)
        low, high = mean - margin, mean + margin
    count = min(len(gain.values) for of_set in gains.values() for gain in of_set)
    if math.isclose(low, high, abs_tol=1e-9):  # all images agree: the rule of three
        low, high = max(low - 3 / count, -1.0), min(high + 3 / count, 1.0)
    return Difference(mean, float(low), float(high), len(seeds), freedom)


def _mean_of(of_set: Sequence[Gains], seed: str) -> float:
    return float(np.mean([gain.values.mean() for gain in of_set if gain.seed == seed]))


def _shared(of_set: Sequence[Gains], seeds: Sequence[str]) -> np.ndarray:
    """[`_covariance`] by what images were drawn with. Of two things, each contains that of images that share both,
    which counts once."""
    if of_set[0].drawn.ndim == 1:
        return np.array(_covariance(of_set, seeds))
    ways = [(*gain.drawn, gain.drawn[0] << 16 | gain.drawn[1]) for gain in of_set]
    first, second, both = (
        np.array(_covariance([replace(gain, drawn=drawn) for gain, drawn in zip(of_set, way, strict=True)], seeds))
        for way in zip(*ways, strict=True)
    )
    signs = np.array([-1, 1, -1, 1])  # squares over degrees of freedom add up
    return np.maximum(first + second + signs * both, 0)


def _covariance(of_set: Sequence[Gains], seeds: Sequence[str]) -> tuple[float, float, float, float]:
    """Covariance of the means of two seeds by what their images share, 0 if it is negative, and its square over its
    degrees of freedom; and likewise the variance of the mean over these seeds by what was drawn."""
    digests, means = [gain.images for gain in of_set], {seed: _mean_of(of_set, seed) for seed in seeds}
    mean = np.mean([*means.values()])
    drawn = [gain.drawn + (digests.index(gain.images) << 32) for gain in of_set]
    distinct = np.unique(np.concatenate(drawn))
    # Of the deviation from the mean, and from the mean of the seed, by seed and what was drawn.
    parts, within = np.zeros((2, len(seeds), len(distinct)))
    for gain, of_gain in zip(of_set, drawn, strict=True):
        count = len(gain.values) * len(seeds) * sum(other.seed == gain.seed for other in of_set)
        places = np.searchsorted(distinct, of_gain)
        np.add.at(parts[seeds.index(gain.seed)], places, (gain.values - mean) / count)
        np.add.at(within[seeds.index(gain.seed)], places, (gain.values - means[gain.seed]) / count)
    others = max(len(distinct) - 1, 1)
    parts *= math.sqrt(len(distinct) / others)
    of_each = (parts**2).sum()
    covariance = max((parts.sum(axis=0) ** 2).sum() - of_each, 0.0) * len(seeds) / (len(seeds) - 1)
    fixed = (within.sum(axis=0) ** 2).sum() * len(distinct) / others
    return covariance, covariance * (covariance + of_each) / others, fixed, fixed**2 / others
