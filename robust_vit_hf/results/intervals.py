"""Confidence intervals of values and changes over images."""

import math
import zlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from .run_results import SetResult


NUM_RESAMPLES = 10_000
NUM_RESAMPLED_MEANS = 2000  # fewer, since they are drawn for many columns
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
        mean, low, high = (f"{factor * value:{sign}.{decimals}f}" for value in (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}]" if math.isfinite(self.low) else mean

    __str__ = shown

    @property
    def unsigned(self) -> "Interval":
        """The interval of a difference that is called a loss, which has no sign unless it is a gain."""
        return Interval(self.mean + 0.0, self.low, self.high)  # -0.0 becomes 0.0


@dataclass(frozen=True)
class Difference(Interval):
    """A mean difference of accuracy and its 95 % interval, as fractions. An infinite interval is unknown."""

    @property
    def of_100(self) -> str:
        """How many more or fewer of 100 images are right."""
        if self.mean < 0:
            return f"{Interval(-self.mean, -self.high, -self.low)} fewer"
        return f"{self.unsigned} more"


def mean_change(results: Sequence[SetResult]) -> Difference:
    """Change of top-1, averaged over sets, with the interval of a bootstrap over the images of each set
    (https://doi.org/10.1201/9780429246593, chapter 13)."""
    gains = {result.name: result.gains() for result in results}
    resamples = np.mean([resampled_means(name, values) for name, values in gains.items()], axis=0)
    low, high = np.quantile(resamples, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    mean = float(np.mean([values.mean() for values in gains.values()]))
    return Difference(mean, *by_rule_of_three(float(low), float(high), min(map(len, gains.values()))))


def resampled_means(name: str, values: np.ndarray) -> np.ndarray:
    """Means `(R,)` of resamples of a set's values `(N,)`, by a multinomial draw over the distinct values,
    seeded by name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    distinct, counts = np.unique(values, return_counts=True)
    order = np.lexsort([-distinct, distinct != 0])
    return rng.multinomial(len(values), counts[order] / len(values), NUM_RESAMPLES) @ distinct[order] / len(values)


def by_rule_of_three(low: float, high: float, count: int) -> tuple[float, float]:
    """Bounds of the interval of a difference; they are made to differ if all images agree, see [`Resamples.interval`]."""
    if not math.isclose(low, high, abs_tol=1e-9):
        return low, high
    return max(low - 3 / count, -1.0), min(high + 3 / count, 1.0)


@dataclass(frozen=True)
class Resamples:
    """A statistic of images, and of resamples of these images, from which its interval follows."""

    values: np.ndarray  # `(1 + R,)` float, first the measured value; NaN if a resample has none
    count: int  # number N of images; the smallest one, if the statistic is of several groups
    outcomes: np.ndarray | None = None  # `(N,)` float, the values of the images, if the statistic is their mean

    @classmethod
    def means(cls, columns: Mapping[K, np.ndarray], seed: int = 0) -> dict[K, "Resamples"]:
        """Means of columns `(N,)` over images. All columns have the same resamples. NaN is no value."""
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
        return {name: cls(mean, len(outcomes[name]), outcomes[name]) for name, mean in zip(known, means, strict=True)}

    @classmethod
    def of(cls, function: Callable[..., np.ndarray], *parts: "Resamples") -> "Resamples":
        return cls(function(*(part.values for part in parts)), min(part.count for part in parts))

    def __sub__(self, other: "Resamples") -> "Resamples":
        return Resamples.of(np.subtract, self, other)

    def interval(self, kind: type[Interval] = Interval, least: float = 0.0) -> Interval:
        """The value with its interval; `least` is the least possible value. If all resamples agree, the interval extends by 3 / N from the
        value, and so does the interval of a difference in a direction in which no image changes ("rule of three",
        https://doi.org/10.1001/jama.1983.03330370053031)."""
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
    """Intervals that hold for all of these statistics together with 95 % confidence (https://doi.org/10.1017/CBO9780511802843, section
    4.2.4). They are of the same resamples. The rule of three is applied as in [`Resamples.interval`]."""
    if not drawn:
        return {}
    values = np.stack([resamples.values for resamples in drawn.values()])
    errors = np.nanstd(values[:, 1:], axis=1)
    varied = errors > 0
    furthest = np.abs(values[:, 1:] - values[:, :1]) / np.where(varied, errors, 1)[:, None]
    width = float(np.nanquantile(np.fmax.reduce(furthest), CONFIDENCE))  # in a resample, a statistic may have no image
    least = [-math.log((1 - CONFIDENCE) / len(drawn)) / resamples.count for resamples in drawn.values()]
    margins = np.where(varied, width * errors, least)
    differences = {}
    for (name, resamples), margin in zip(drawn.items(), margins.tolist(), strict=True):
        value, limit = float(resamples.values[0]), 1.0 if np.isin(resamples.outcomes, (-1, 0, 1)).all() else math.inf
        differences[name] = Difference(value, max(-limit, value - margin), min(limit, value + margin))
    return differences
