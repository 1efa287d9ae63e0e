"""Confidence intervals over images, by one bootstrap."""

import math
import zlib
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np

from .run_results import SetResult


NUM_RESAMPLES = 2000
MANY_IMAGES = 10_000  # of more, those with equal values are drawn together, which is faster
CONFIDENCE, NORMAL = 0.95, 1.96  # NORMAL: half the width of the interval of a normal distribution, in standard errors
K = TypeVar("K", bound=Hashable)  # names of statistics


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval, as fractions."""

    mean: float
    low: float
    high: float

    def shown(self, factor: float = 100, decimals: int = 1) -> str:
        """The interval as text, by default in per cent or points. A difference has its sign."""
        sign = "+" if isinstance(self, Difference) else ""
        values = (round(factor * value, decimals) + 0.0 for value in (self.mean, self.low, self.high))  # no -0.0
        mean, low, high = (f"{value:{sign}.{decimals}f}" for value in values)
        return f"{mean} [{low}, {high}]" if math.isfinite(self.low) else mean

    __str__ = shown

    @property
    def unsigned(self) -> "Interval":
        """The interval of a difference that is called a loss, which has no sign unless it is a gain."""
        return Interval(self.mean, self.low, self.high)


@dataclass(frozen=True)
class Difference(Interval):
    """A mean difference of accuracy and its 95 % interval, as fractions. An infinite interval is unknown."""

    @property
    def of_100(self) -> str:
        """How many more or fewer of 100 images are right."""
        if self.mean < 0:
            return f"{Interval(-self.mean, -self.high, -self.low)} fewer"
        return f"{self.unsigned} more"


def resample(counts: np.ndarray, strata: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    """How often each of N images (or kinds of images, of which there are `counts`) is in the sample, and in each of R
    resamples: `(1 + R, N)` int32. Within `strata` `(N,)`, each resample has as many images as the sample."""
    rng, weights = np.random.default_rng(seed), np.empty((1 + NUM_RESAMPLES, len(counts)), np.int32)
    weights[0] = counts
    for stratum in np.unique(strata) if strata is not None else [...]:
        rows = np.flatnonzero(strata == stratum) if strata is not None else slice(None)
        total = counts[rows].sum()
        weights[1:, rows] = rng.multinomial(total, counts[rows] / total, NUM_RESAMPLES)
    return weights


@dataclass(frozen=True)
class Bootstrap:
    """A statistic of images, and of resamples of these images (https://doi.org/10.1201/9780429246593, chapter 13)."""

    draws: np.ndarray  # `(1 + R,)` float, first the measured value; NaN if a resample has none
    count: int  # number N of images; the smallest one, if the statistic is of several groups
    limit: float = 1.0  # largest absolute value; infinite for logits and ratios

    @classmethod
    def means(
        cls, columns: Mapping[K, np.ndarray], seed: int = 0, of_any_size: Collection[K] = ()
    ) -> dict[K, "Bootstrap"]:
        """Means of columns `(N,)` over images, of the same resamples. NaN is no value; columns of only NaN are left
        out. Those `of_any_size` are no shares."""
        known = {name: column for name, column in columns.items() if not np.isnan(column).all()}
        if not known:
            return {}
        values = np.stack(list(known.values()), axis=1).astype(float)
        kinds = np.concatenate([np.nan_to_num(values), ~np.isnan(values)], axis=1)
        counts = np.ones(len(kinds), int)
        if len(kinds) > MANY_IMAGES:
            kinds, counts = np.unique(kinds, axis=0, return_counts=True)
        totals, numbers = np.split(resample(counts, seed=seed) @ kinds, 2, axis=1)
        draws = np.divide(totals, numbers, out=np.full_like(totals, np.nan), where=numbers > 0).T
        limits = (math.inf if name in of_any_size else 1.0 for name in known)
        of_columns = zip(known, draws, numbers[0].astype(int).tolist(), limits, strict=True)
        return {name: cls(of, count, limit) for name, of, count, limit in of_columns}

    @classmethod
    def of(cls, function: Callable[..., np.ndarray], *parts: "Bootstrap") -> "Bootstrap":
        return cls(function(*(part.draws for part in parts)), min(part.count for part in parts))

    def __sub__(self, other: "Bootstrap") -> "Bootstrap":
        return Bootstrap.of(np.subtract, self, other)

    def interval(self, kind: type[Interval] = Interval, width: float = NORMAL, together: int = 1) -> Interval:
        """The value ± `width` standard errors. A share has at least ± 3 / N, since few images may agree by chance (the
        rule of three, https://doi.org/10.1001/jama.1983.03330370053031, with Bonferroni's correction for all
        `together`)."""
        value, margin = float(self.draws[0]), width * float(np.nanstd(self.draws[1:]))
        if self.limit == 1.0 or not margin:
            margin = max(margin, (3 + math.log(together)) / self.count)
        is_signed = kind is Difference or float(np.nanmin(self.draws)) < 0  # such as Object Focus
        lowest = -self.limit if is_signed else 0.0
        return kind(value, max(lowest, value - margin), min(self.limit, value + margin))

    def difference(self, width: float = NORMAL, together: int = 1) -> Difference:
        return cast(Difference, self.interval(Difference, width, together))


def simultaneous(drawn: Mapping[K, Bootstrap]) -> dict[K, Difference]:
    """Intervals that hold for all of these statistics together with 95 % confidence
    (https://doi.org/10.1017/CBO9780511802843, section 4.2.4). They are of the same resamples."""
    if not drawn:
        return {}
    draws = np.stack([of.draws for of in drawn.values()])
    errors = np.nanstd(draws[:, 1:], axis=1, keepdims=True)
    furthest = np.abs(draws[:, 1:] - draws[:, :1]) / np.where(errors > 0, errors, np.inf)
    width = float(np.nanquantile(np.fmax.reduce(furthest), CONFIDENCE))  # in a resample, a statistic may have no image
    return {name: of.difference(width, len(drawn)) for name, of in drawn.items()}


def mean_change(results: Sequence[SetResult]) -> Difference:
    """Change of top-1, averaged over sets."""
    drawn = (Bootstrap.means({0: of.gains()}, zlib.crc32(of.name.encode()))[0] for of in results)
    return Bootstrap.of(lambda *changes: np.mean(changes, axis=0), *drawn).difference()
