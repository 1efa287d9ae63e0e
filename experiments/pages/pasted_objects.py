"""What models gain on the forty other photographs, by how objects are pasted on them (other_images.parquet)."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from robust_vit_hf.results.tables import Table

from ..sweeps.seed_intervals import Difference, Gains, mean_gain
from .text_blocks import by_group, outcomes


MODEL = "DINOv2-S"
WAYS = ("plain", "lit", "occluded", "scaled")
AFTER = {  # what made the models better
    "background-swap": "swap, 72 steps",
    "robustvit": "squared error, 72 steps",
    "layer": "last layer, fitted to the output",
    "lp-ft": "swap from this layer, 72 steps",
}
PAIRS = (("robustvit", "background-swap"), ("background-swap", "layer"), ("layer", "lp-ft"))  # compared in the page


def other_images() -> str:
    """Top-1 before and its change by way of pasting."""
    rows = []
    for method, gains in by_pasting():
        cells = [f"{100 * before.mean():.1f} {over_both(gain)}" for before, gain in gains.values()]
        rows.append([MODEL, AFTER[method], str(len(gains["plain"][1])), *cells])
    table = Table("", ["model", "after", "models", *(f"`{way}`" for way in WAYS)], rows).markdown()
    differences = [
        [AFTER[second], AFTER[first], *(str(difference(first, second, way)) for way in WAYS)]
        for first, second in PAIRS
    ]
    beside = Table("", ["gain of", "minus the gain of", *(f"`{way}`" for way in WAYS)], differences).markdown()
    return f"{table}\n\nDifferences between them, in points:\n\n{beside}"


def other_ways() -> str:
    """Changes of top-1 by another way of pasting, less those by `plain`."""
    rows = []
    for method, gains in by_pasting():
        less = [over_both(gain - gains["plain"][1]) for way, (_, gain) in gains.items() if way != "plain"]
        rows.append([MODEL, AFTER[method], *map(str, less)])
    return Table("", ["model", "after", *(f"`{way}`" for way in WAYS[1:])], rows).markdown()


def by_pasting() -> Iterator[tuple[str, dict[str, tuple[np.ndarray, np.ndarray]]]]:
    """What made the models better, see [`AFTER`], and by way top-1 before and its gain, `(models, photographs)`."""
    for method in AFTER:
        models = [methods[method] for methods in by_group("other_images").values()]
        yield method, {way: of_photographs(models, way) for way in WAYS}


def difference(first: str, second: str, way: str) -> Difference:
    """The gain of the second method on these photographs less that of the first, over all models."""
    gains = {method: of_way[way][1] for method, of_way in by_pasting()}
    return over_both(gains[second] - gains[first])


def of_photographs(models: Sequence[dict], way: str) -> tuple[np.ndarray, np.ndarray]:
    """Top-1 before and its gain, `(models, photographs)`."""
    objects = outcomes("other_images")[1]["objects"]
    before, after = (np.array([model[way][side] for model in models]) / objects for side in ("before", "after"))
    return before, after - before


def over_both(gains: np.ndarray) -> Difference:
    """Mean of `(models, photographs)` with its interval over both; of one model, over photographs."""
    photographs = np.arange(gains.shape[1])
    return mean_gain({"all": [Gains(values, str(model), photographs) for model, values in enumerate(gains)]})


BLOCKS: dict[str, Callable[[], str]] = {"other images": other_images, "other ways": other_ways}
