"""Changes of accuracy with confidence intervals over images and seeds."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .table import Run


NUM_RESAMPLES = 10_000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval, as fractions."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


class Difference(Interval):
    """A mean difference of accuracy and its 95 % interval, as fractions."""

    def __str__(self) -> str:
        return f"{100 * self.mean:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"


def change(runs: Sequence[Run], names: Sequence[str], k: int = 1) -> Difference:
    """Change of top-k from before to after, as a mean over runs and sets, see [`bootstrap`]."""
    for name in names:
        _check_same_images(name, *runs)
    gains = {name: [run.sets[name].gains(k) for run in runs] for name in names}
    return bootstrap(gains, [run.seed for run in runs])


def versus(first: Sequence[Run], second: Sequence[Run], names: Sequence[str], k: int = 1) -> Difference | None:
    """Difference in top-k, second method minus first, averaged over models, seeds and sets. Runs are paired by model
    and seed; `None` without pairs. See [`bootstrap`]."""
    others = {(run.model, run.seed): run for run in second}
    pairs = [(run, others[run.model, run.seed]) for run in first if (run.model, run.seed) in others]
    if not pairs or not names:
        return None
    gains: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for name, of_set in gains.items():
        for run, other in pairs:
            _check_same_images(name, run, other)
            one, two = (side.sets[name] for side in (run, other))
            of_set.append((two.correct("after", k).astype(np.int64) - one.correct("after", k))[one.usable])
    return bootstrap(gains, [run.seed for run, _ in pairs])


def bootstrap(gains: Mapping[str, Sequence[np.ndarray]], seeds: Sequence[str]) -> Difference:
    """Mean gain over runs and sets with its interval, by a paired bootstrap over the images of each set and over the
    seeds, if there are several. The same images are drawn for all runs, and the same seeds for all sets; sets are
    resampled independently.

    Images with the same gains in all seeds are exchangeable, so one multinomial draw over the distinct gains replaces
    a draw of all images.

    Args:
        gains: gains `(N,)` int of each run on the images of each set, see [`SetResult.gains`].
        seeds: seeds of the runs.

    Raises:
        ValueError: the runs were measured on different images of a set.

    Source: https://doi.org/10.1201/9780429246593 (Efron and Tibshirani, chapters 8 and 13)
    """
    names = sorted(set(seeds))
    members = np.array([[seed == name for seed in seeds] for name in names], dtype=np.int64)  # seeds, runs
    drawn = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), NUM_RESAMPLES)
    means, resamples = [], []
    for name, of_runs in gains.items():
        if len({len(gain) for gain in of_runs}) > 1:
            raise ValueError(_other_images(name))
        runs = np.stack(of_runs)
        means.append(runs.mean())
        by_seed = members @ runs
        patterns, counts = np.unique(by_seed.T, axis=0, return_counts=True)
        order = sorted(range(len(patterns)), key=lambda index: (not patterns[index].any(), *-patterns[index]))
        patterns, counts = patterns[order], counts[order]
        rng = np.random.default_rng(zlib.crc32(name.encode()))  # draws do not depend on the other sets
        totals = rng.multinomial(runs.shape[1], counts / runs.shape[1], NUM_RESAMPLES) @ patterns
        resamples.append((drawn * totals).sum(axis=1) / (drawn @ members.sum(axis=1)) / runs.shape[1])
    low, high = np.quantile(np.mean(resamples, axis=0), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Difference(float(np.mean(means)), float(low), float(high))


def resampled_means(columns: np.ndarray, num_resamples: int = 2000) -> np.ndarray:
    """Means of columns over resampled images, the same images for all columns.

    Args:
        columns: `(N, M)` float; NaN where an image has no value.

    Returns:
        `(num_resamples, M)`; NaN for a column without values.
    """
    known = ~np.isnan(columns)
    both = np.concatenate([np.where(known, columns, 0), known], axis=1)
    rng, count, sums = np.random.default_rng(0), len(columns), []
    for start in range(0, num_resamples, 100):  # all draws at once would take memory for N × num_resamples
        drawn = rng.multinomial(count, np.full(count, 1 / count), min(100, num_resamples - start))
        sums.append(drawn.astype(np.float64) @ both)
    totals, counts = np.split(np.concatenate(sums), 2, axis=1)
    return np.divide(totals, counts, out=np.full_like(totals, np.nan), where=counts > 0)


def interval_of(values: np.ndarray, resampled: np.ndarray) -> Interval:
    """A mean with the interval of its resampled means.

    Where all images have the same outcome (-1, 0 or 1), resampling finds no width: the interval is then wider by 3 / N,
    the 95 % bound on the rate of what was seen in none of N images ("rule of three",
    https://doi.org/10.1001/jama.1983.03330370053031).

    Args:
        values: `(N,)` float, at most 1 apart from each other; NaN where an image has no value.
        resampled: `(R,)`.
    """
    known = values[~np.isnan(values)]
    low, high = np.nanquantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    margin = 3 / len(known) if (known == known[0]).all() and known[0] in (-1, 0, 1) else 0.0
    return Interval(float(known.mean()), float(low) - margin, float(high) + margin)


def _check_same_images(name: str, *runs: Run) -> None:
    first = runs[0].sets[name].classes
    if any(not np.array_equal(first, run.sets[name].classes) for run in runs[1:]):
        raise ValueError(_other_images(name))


def _other_images(name: str) -> str:
    return f"The runs were measured on other images of `{name}` each: report them apart."
