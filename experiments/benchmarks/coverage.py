"""How often 95 % intervals over seeds hold the true gain, on simulated outcomes like those of the experiment.

    python -m experiments coverage    # four minutes on one core

Writes `experiments/benchmarks/coverage.json`: for each kind of data, the share of trials whose interval holds the
gain, and half its mean width, in points. Each seed has 300 images, of which 10 % are corrected or broken. Seeds differ
in their gain by a standard deviation of 0, 1 or 2 points. Their images are of their own, the same, or composed with
the same photographs, whose gains differ by 4 points as well, or by 8, with 30 % corrected or broken, as those of swap
do.
"""

from functools import partial
from pathlib import Path

import numpy as np

from robust_vit_hf.utils.environment import environment
from robust_vit_hf.utils.files import write_json

from ..scripts import script_parser
from ..sweeps.seed_intervals import Gains, mean_gain


TRIALS, IMAGES, CHANGED = 4000, 300, 0.1
ROWS = np.arange(IMAGES)


def main() -> None:
    script_parser(__doc__).parse_args()
    kinds = {
        "images of each seed": of_own_images,
        "the same images": of_same_images,
        "4 photographs": partial(of_photographs, photographs=4),
        "4 photographs that differ more": partial(of_photographs, photographs=4, apart=0.08, changed=0.3),
        "20 photographs": partial(of_photographs, photographs=20),
    }
    found = [
        {"data": name, "seeds": seeds, "seeds differ by": 100 * spread, **coverage(draw, seeds, spread)}
        for name, draw in kinds.items()
        for seeds in (3, 5)
        for spread in (0.0, 0.01, 0.02)
    ]
    write_json(Path(__file__).with_suffix(".json"), {"trials": TRIALS, "found": found, **environment()})


def coverage(draw, seeds: int, spread: float) -> dict[str, float]:
    """Share of intervals that hold the true gain, 0, and half their mean width in points."""
    rng, held, widths = np.random.default_rng(0), 0, []
    for _ in range(TRIALS):
        found = mean_gain({"set": draw(rng, rng.normal(0, spread, seeds))})
        held += found.low <= 0 <= found.high
        widths.append(found.high - found.low)
    return {"coverage": held / TRIALS, "half the width": round(50 * float(np.mean(widths)), 2)}


def of_own_images(rng: np.random.Generator, of_seeds: np.ndarray) -> list[Gains]:
    return [
        Gains(outcomes(rng.random(IMAGES), gain), str(seed), ROWS, str(seed)) for seed, gain in enumerate(of_seeds)
    ]


def of_same_images(rng: np.random.Generator, of_seeds: np.ndarray) -> list[Gains]:
    """An image has the same outcome in all seeds, or, one in two, another in each."""
    shared, own = rng.random(IMAGES), rng.random((len(of_seeds), IMAGES))
    places = np.where(rng.random(own.shape) < 0.5, shared, own)
    return [Gains(outcomes(places[seed], gain), str(seed), ROWS) for seed, gain in enumerate(of_seeds)]


def of_photographs(
    rng: np.random.Generator, of_seeds: np.ndarray, photographs: int, apart: float = 0.04, changed: float = CHANGED
) -> list[Gains]:
    drawn, of_drawn = ROWS % photographs, rng.normal(0, apart, photographs)
    return [
        Gains(outcomes(rng.random(IMAGES), gain + of_drawn[drawn], changed), str(seed), drawn)
        for seed, gain in enumerate(of_seeds)
    ]


def outcomes(places: np.ndarray, gain: float | np.ndarray, changed: float = CHANGED) -> np.ndarray:
    """Corrected images (1), broken ones (-1) and others (0) by places in [0, 1], with this difference of their
    rates."""
    corrected, broken = (np.clip((changed + sign * gain) / 2, 0, 1) for sign in (1, -1))
    return (places < corrected).astype(int) - (places >= 1 - broken)
