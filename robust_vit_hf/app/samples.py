"""Sample images from installed packages."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import count

from PIL import Image

from ..data.benchmarks import BUNDLED_BENCHMARK, find_benchmark
from ..emoji_shift.artwork import background
from ..emoji_shift.images import CLASS_NAMES, SHIFTED, compose


PHOTOGRAPHS = ("chelsea", "coffee", "motorcycle", "rocket")  # from scikit-image, of ImageNet classes


@dataclass(frozen=True)
class Sample:
    """An RGB image with caption and, if known, mask and label."""

    image: Image.Image
    caption: str
    mask: Image.Image | None = None
    label: int | None = None


@lru_cache(maxsize=2)
def load_samples(classes: tuple[str, ...]) -> list[Sample]:
    """Samples for a model with these classes: two images of each shifted set of emoji-shift, or else photographs."""
    if find_benchmark(classes) != BUNDLED_BENCHMARK:
        return [Sample(background(name), name) for name in PHOTOGRAPHS]
    samples = []
    for number, split in enumerate(2 * SHIFTED):
        # Only openly licensed artwork, from a different offset in each set, so that the classes differ.
        rows = (compose(split, index) for index in count(8 * number))
        row = next(row for row in rows if row["openly_licensed"])
        caption = f"{CLASS_NAMES[row['label']]} · {split.replace('_', ' ')}"
        samples.append(Sample(row["image"], caption, row["mask"], row["label"]))
    return samples
