"""Sample images of the page: the user's own, or those of installed packages."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from PIL import Image

from ..data.balanced_splits import choose_images
from ..data.emoji_shift import CLASS_NAMES, SHIFTED, background, compose, has_classes
from ..data.find_images import find_images
from ..evaluation.session import Session
from ..evaluation.sets import EvaluationSet
from ..utils.images import to_rgb


PHOTOGRAPHS = ("chelsea", "coffee", "motorcycle", "rocket")  # photographs of scikit-image, with classes of ImageNet


@dataclass(frozen=True)
class Sample:
    image: Image.Image
    caption: str
    mask: Image.Image | None = None


def load_samples(classes: Sequence[str]) -> list[Sample]:
    """Samples for a model with these classes: two images of each shifted set of emoji-shift, or photographs."""
    if not has_classes(classes):
        return [Sample(background(name), name) for name in PHOTOGRAPHS]
    samples = []
    for number, split in enumerate(2 * SHIFTED):
        # Only openly licensed artwork. Each set begins at another index, so that the classes differ.
        rows = (compose(split, index) for index in count(8 * number))
        row = next(row for row in rows if row["openly_licensed"])
        caption = f"{CLASS_NAMES[row['label']]} · {split.replace('_', ' ')}"
        samples.append(Sample(row["image"], caption, row["mask"]))
    return samples


def own_samples(path: str, split: str, session: Session) -> list[Sample]:
    """At most twelve labelled images of the user, balanced over the classes, and the same ones each time."""
    images = find_images(path, split, ("label",))
    rows = session.with_sets({split: EvaluationSet.of(choose_images(images.rows, 12))}).sets[split]
    labels = [accepted[0] for accepted in rows.accepted]
    return [
        Sample(to_rgb(row["image"]), session.classes[label], row.get("mask"))
        for row, label in zip(rows.dataset, labels, strict=True)
    ]
