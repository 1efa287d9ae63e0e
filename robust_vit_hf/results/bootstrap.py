"""Changes of accuracy with confidence intervals over images and seeds."""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special  # not `stats`, which takes as long to import as the rest of this package

from .run_results import Run, SetResult


NUM_RESAMPLES = 10_000
NUM_RESAMPLED_MEANS = 2000  # fewer, as they are drawn for many columns
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval, as fractions."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


@dataclass(frozen=True)
class Difference(Interval):
    """A mean difference of accuracy and its 95 % interval, as fractions; an infinite one is unknown."""

    seeds: int = 1

    def __str__(self) -> str:
        mean = f"{100 * self.mean:+.1f}"
        return f"{mean} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]" if math.isfinite(self.low) else mean


def change(
    runs: Sequence[Run],
    names: Sequence[str],
    k: int = 1,
    shown: bool | None = None,
    confidence: float = CONFIDENCE,
) -> Difference:
    """Mean change of top-k over runs and sets, see [`bootstrap`]; `shown`: only of training classes, or of others."""
    gains = {name: [gains_of(run, run.sets[name], k, shown) for run in runs] for name in names}
    return bootstrap(gains, confidence)


def versus(first: Sequence[Run], second: Sequence[Run], names: Sequence[str]) -> Difference | None:
    """Difference in top-1, second method minus first, averaged over models, seeds and sets. Runs are paired by model
    and seed; `None` without pairs. See [`bootstrap`]."""
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
            of_set.append(Gains(values, run.seed, one.images or ""))
    return bootstrap(gains)


def mean_over(values: Sequence[float], seeds: Sequence[str]) -> Difference:
    """Mean of one value of each run with its interval over seeds (Student's t), infinitely wide with a single seed."""
    by_seed = [np.mean([v for v, of in zip(values, seeds, strict=True) if of == one]) for one in dict.fromkeys(seeds)]
    mean = float(np.mean(values))
    if len(by_seed) < 2:
        return Difference(mean, -math.inf, math.inf)
    error = np.std(by_seed, ddof=1) / math.sqrt(len(by_seed))
    margin = float(special.stdtrit(len(by_seed) - 1, (1 + CONFIDENCE) / 2) * error)
    return Difference(mean, mean - margin, mean + margin, len(by_seed))


@dataclass(frozen=True)
class Gains:
    """Gains `(N,)` of a run on a set, see [`SetResult.gains`], and a digest of the images, equal for the same ones."""

    values: np.ndarray
    seed: str
    images: str = ""


def gains_of(run: Run, result: SetResult, k: int, shown: bool | None) -> Gains:
    gains = result.gains(k)
    if shown is not None:
        gains = gains[(result.in_classes(run.training_classes) == shown)[result.usable]]
    classes = "" if shown is None else sorted(run.training_classes)
    return Gains(gains, run.seed, f"{result.images or ''}{classes}")


def bootstrap(gains: Mapping[str, Sequence[Gains]], confidence: float = CONFIDENCE) -> Difference:
    """Mean gain by set and run with its interval, by a bootstrap over seeds, the same for each set, and, within them,
    the images of each set. Runs on the same images are paired, sets are resampled independently, and the same seeds
    are drawn for all sets.

    A few seeds resampled vary less than seeds do. With several seeds the quantiles are therefore further out
    ("expanded percentiles", https://doi.org/10.1080/00031305.2015.1089789, section 3.3): of n seeds, by the factor √(n
    / (n − 1)) and with Student's t of n − 1 degrees of freedom instead of the normal distribution. Of two to four
    seeds these quantiles are beyond what the resamples can tell: their tenth smallest and largest are taken, and the
    interval is at least that of Student's t over the means of the seeds.

    Images with the same gains in all runs are exchangeable, so one multinomial draw over the distinct gains replaces a
    draw of all images.

    Source: https://doi.org/10.1201/9780429246593 (Efron and Tibshirani, chapters 8 and 13)
    """
    seeds = sorted({gain.seed for of_set in gains.values() for gain in of_set})
    count = len(seeds)
    drawn = np.random.default_rng(0).integers(count, size=(NUM_RESAMPLES, count))
    means, resamples = [], []
    for name, of_set in gains.items():
        means.append([np.mean([gain.values.mean() for gain in of_set if gain.seed == seed]) for seed in seeds])
        rng = np.random.default_rng(zlib.crc32(name.encode()))  # draws do not depend on the other sets
        members = {seed: [gain for gain in of_set if gain.seed == seed] for seed in seeds}
        if len({gain.images for gain in of_set}) == 1:  # the same images for all seeds: drawn once for all
            means_of_seeds = _resampled(list(members.values()), rng, NUM_RESAMPLES)
            resamples.append(np.take_along_axis(means_of_seeds, drawn, axis=1).mean(axis=1))
        else:
            picked = np.empty(drawn.shape)
            for place, index in np.ndindex(count, count):
                of_seed = drawn[:, place] == index
                picked[of_seed, place] = _resampled([members[seeds[index]]], rng, of_seed.sum())[:, 0]
            resamples.append(picked.mean(axis=1))
    tail = (1 - confidence) / 2
    if count > 1:
        expanded = float(special.ndtr(special.stdtrit(count - 1, tail) * math.sqrt(count / (count - 1))))
        tail = max(expanded, 9 / (NUM_RESAMPLES - 1))  # nine are beyond it
    low, high = np.quantile(np.mean(resamples, axis=0), [tail, 1 - tail])
    if low == high:  # as in `Resamples.interval`
        margin = 3 / min(len(gain.values) for of_set in gains.values() for gain in of_set)
        low, high = low - margin, high + margin
    over_seeds = mean_over(np.mean(means, axis=0), seeds)
    if count > 1:
        low, high = min(low, over_seeds.low), max(high, over_seeds.high)
    return Difference(over_seeds.mean, float(low), float(high), count)


def _resampled(groups: Sequence[Sequence[Gains]], rng: np.random.Generator, size: int) -> np.ndarray:
    """Mean gains `(size, groups)` of groups of runs, all on the same images, which are drawn once for all."""
    means = np.stack([np.mean([gain.values for gain in group], axis=0) for group in groups])
    patterns, counts = np.unique(means.T, axis=0, return_counts=True)
    order = sorted(range(len(patterns)), key=lambda index: (not patterns[index].any(), *-patterns[index]))
    patterns, counts = patterns[order], counts[order]
    return rng.multinomial(means.shape[1], counts / counts.sum(), size) @ patterns / means.shape[1]


@dataclass(frozen=True)
class Resamples:
    """A statistic of images as measured, and of the same images drawn again, for its interval."""

    values: np.ndarray  # `(1 + R,)` float, first the measured value; NaN where a draw has none
    count: int  # number N of images, of the smallest group if there are several
    outcomes: np.ndarray | None = None  # `(N,)` float, what the statistic is a mean of, if it is one

    @classmethod
    def means(cls, columns: Mapping[str, np.ndarray], seed: int = 0) -> dict[str, "Resamples"]:
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


def simultaneous(drawn: Mapping[str, Resamples]) -> dict[str, Difference]:
    """Intervals of statistics of the same draws that hold for all of them together with 95 % confidence: each is as many standard
    errors wide as the furthest of all is from its value in 95 % of the draws. Of N images without any difference, the rule of three
    is widened as often as there are statistics, see [`Resamples.interval`].

    Source: https://doi.org/10.1017/CBO9780511802843 (Davison and Hinkley, section 4.2.4)
    """
    values = np.stack([one.values for one in drawn.values()])
    errors = np.nanstd(values[:, 1:], axis=1)
    varied = errors > 0
    furthest = np.abs(values[varied, 1:] - values[varied, :1]) / errors[varied, None]
    width = float(np.nanquantile(furthest.max(axis=0, initial=0), CONFIDENCE))
    least = [-math.log((1 - CONFIDENCE) / len(drawn)) / one.count for one in drawn.values()]
    margins = np.where(varied, width * errors, least)
    return {
        name: Difference(float(value), max(-1.0, float(value - margin)), min(1.0, float(value + margin)))
        for name, value, margin in zip(drawn, values[:, 0], margins, strict=True)
    }
