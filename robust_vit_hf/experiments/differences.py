"""Changes of accuracy over runs, and their confidence intervals."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..evaluation.compare import CONFIDENCE, NUM_RESAMPLES
from .results import RunResult


@dataclass(frozen=True)
class Difference:
    """A mean difference of accuracy and its 95 % interval, as fractions."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.mean:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"


def change(runs: Sequence[RunResult], names: Sequence[str], k: int = 1) -> Difference:
    """Change of top-k from before to after, as a mean over runs and sets, see [`bootstrap`]."""
    return bootstrap(
        names, lambda name: [(run.sets[name].before < k, run.sets[name].after < k) for run in runs if name in run.sets]
    )


def versus(
    first: Sequence[RunResult], second: Sequence[RunResult], names: Sequence[str], k: int = 1
) -> Difference | None:
    """Top-k of the second method less that of the first, as a mean over models, seeds and sets; runs of a model and seed that
    both have are paired. `None` if there are none. See [`bootstrap`]."""
    others = {(run.model, run.seed): run for run in second}
    pairs = [(run, others[run.model, run.seed]) for run in first if (run.model, run.seed) in others]
    if not pairs or not names:
        return None
    return bootstrap(
        names, lambda name: [(run.sets[name].after < k, other.sets[name].after < k) for run, other in pairs]
    )


def bootstrap(names: Sequence[str], pairs_of: Callable[[str], list[tuple[np.ndarray, np.ndarray]]]) -> Difference:
    """Paired bootstrap over the images of each set. An image that is drawn is drawn for all runs, which share the images, and
    sets are drawn independently.

    The images with the same number of corrected less broken predictions over the runs are alike, so that one multinomial
    draw over these numbers stands for a draw of all images.

    Args:
        names: sets, which count alike.
        pairs_of: for each set, what each run has right before and after, `(N,)` bool.

    Raises:
        ValueError: the runs were measured on other images of a set.

    Source: https://doi.org/10.1201/9780429246593 (Efron and Tibshirani, chapter 13)
    """
    means, resamples = [], []
    for name in names:
        pairs = pairs_of(name)
        if len({len(right) for pair in pairs for right in pair}) > 1:
            raise ValueError(f"The runs were measured on other images of `{name}` each: report them apart.")
        gains = sum(after.astype(np.int64) - before for before, after in pairs)
        values, counts = np.unique(gains, return_counts=True)
        rng = np.random.default_rng(zlib.crc32(name.encode()))  # an interval does not depend on the other sets
        draws = rng.multinomial(len(gains), counts / len(gains), NUM_RESAMPLES) @ values
        means.append(gains.mean() / len(pairs))
        resamples.append(draws / len(gains) / len(pairs))
    low, high = np.quantile(np.mean(resamples, axis=0), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Difference(float(np.mean(means)), float(low), float(high))
