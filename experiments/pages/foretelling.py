"""Whether composites foretell top-1 on random backgrounds: tables of docs/measured.md (improve.json, foretelling.json)."""

import math
import re
from collections.abc import Callable, Sequence

from robust_vit_hf.diagnosis import verdict
from robust_vit_hf.results.intervals import Difference, Interval
from robust_vit_hf.results.tables import Table

from .text_blocks import benchmark


TEST_IMAGES = 300  # of a set of improve.py
NORMAL = 1.96  # quantile of 95 % intervals


def foretold() -> str:
    """Top-1 on random backgrounds as the report foretells it from the test images, beside top-1 itself, before and after, and how often
    top-1 lies in the report's interval."""
    rows, differences, of_mixed, held = [], [], [], 0
    for name, efforts in benchmark("improve")["sets"].items():
        first = next(iter(efforts))
        sides = [(first, "before", "before"), *((effort, "after", f"after `{effort}`") for effort in efforts)]
        for effort, side, label in sides:
            run = efforts[effort]
            mixed, sample = of_sample(run, side)
            expected, top1 = verdict.foretold(sample), run["places"]["random"][side]
            differences.append(beside_random(expected.mean, (sample.high - sample.low) / 2 / NORMAL, top1))
            of_mixed.append(beside_random(mixed.mean, (mixed.high - mixed.low) / 2 / NORMAL, top1))
            held += expected.low <= top1 <= expected.high
            rows.append([name, label, str(mixed), str(expected), f"{100 * top1:.1f}", str(differences[-1])])
    means = [100 * difference.mean for difference in differences]
    head = ["set", "model", "`mixed_rand`", "foretold", "random backgrounds", "foretold − random"]
    return (
        f"{Table('', head, rows).markdown()}\n\nDifferences range from {min(means):+.1f} to {max(means):+.1f} points, with a mean of "
        f"{sum(means) / len(means):+.1f}. Their standard deviation around 0 is {beyond(differences):.1f} points beyond what the samples explain; "
        f"that of `mixed_rand` minus top-1, {beyond(of_mixed):.1f}. "
        f"Top-1 on random backgrounds lies in the report's interval for {held} of these {len(rows)} models, from which its width was made."
    )


def of_sample(run: dict, side: str) -> tuple[Interval, Interval]:
    """`mixed_rand` of the test images, and top-1 at home · `mixed_rand` / `mixed_same`, with the interval of `mixed_rand` times that factor.

    `mixed_same` is `mixed_rand` plus the BG-Gap, which improve.json has in the verdict's sentence about the side alone:
    "Before: Decides by the background: of … costs +57.4 [+48.0, +67.3] points of top-1."
    """
    mixed = Interval(*(run["mixed_rand"][side][key] for key in ("mean", "low", "high")))
    (gap,) = re.findall(rf"^{side.title()}: .* costs ([+-][\d.]+) \[.*\] points", run["verdict"], re.MULTILINE)
    factor = run["places"]["home"][side] / (mixed.mean + float(gap) / 100)
    return mixed, Interval(*(factor * bound for bound in (mixed.mean, mixed.low, mixed.high)))


def foretold_by_masks() -> str:
    """`mixed_rand` beside top-1 on random backgrounds, with true masks and with those that `improve` made, on the same images."""
    results, measured = (benchmark(name)["sets"] for name in ("improve", "foretelling"))
    rows = []
    differences: dict[str, list[Difference]] = {"made": [], "true": []}
    for name, efforts in measured.items():
        first = next(iter(efforts))
        for effort, side in [(first, "before"), *((effort, "after") for effort in efforts)]:
            if side not in efforts[effort]:
                continue
            top1 = results[name][effort]["places"]["random"][side]
            for masks, known in differences.items():
                known.append(beside_random(*efforts[effort][side][masks].values(), top1))
            label = side if side == "before" else f"after `{effort}`"
            rows.append([name, label, f"{100 * top1:.1f}", *(str(known[-1]) for known in differences.values())])
    table = Table("", ["set", "model", "random backgrounds", "made masks", "true masks"], rows).markdown()
    within = {masks: sum(abs(known.mean) <= 0.03 for known in of_masks) for masks, of_masks in differences.items()}
    by_chance = sum(
        math.erf(0.03 * NORMAL * 2 / (known.high - known.low) / math.sqrt(2)) for known in differences["made"]
    )
    return (
        f"{table}\n\nBeyond what the samples explain, the standard deviation is {beyond(differences['made']):.1f} points with made masks and "
        f"{beyond(differences['true']):.1f} with true ones. Within 3 points are {within['made']} and {within['true']} of {len(rows)} models; if only the "
        f"samples differed, {by_chance:.0f} would be. "
        f"Not in the table: {', '.join(name for name in results if name not in measured)}."
    )


def beside_random(expected: float, error: float, top1: float) -> Difference:
    """Difference of the forecast and the measured top-1 on random backgrounds. Its interval covers the errors of both samples."""
    margin = NORMAL * math.hypot(error, math.sqrt(top1 * (1 - top1) / TEST_IMAGES))
    return Difference(expected - top1, expected - top1 - margin, expected - top1 + margin)


def beyond(differences: Sequence[Difference]) -> float:
    """Standard deviation beyond what the samples explain, in points: the square root of the mean of difference² − its variance, at
    least 0."""
    left = [known.mean**2 - ((known.high - known.low) / 2 / NORMAL) ** 2 for known in differences]
    return 100 * math.sqrt(max(0, sum(left) / len(left)))


BLOCKS: dict[str, Callable[[], str]] = {"foretold": foretold, "foretold by masks": foretold_by_masks}
