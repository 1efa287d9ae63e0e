"""ImageNet-9, the Backgrounds Challenge: objects of nine classes with other backgrounds, or without one.

Source: https://huggingface.co/papers/2006.09994, https://github.com/MadryLab/backgrounds_challenge
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ..known_sets import IMAGENET_9_VARIATIONS
from ..schema import Source, encode_image
from .folders_of_sets import ClassFolder, change_times, class_folder_rows, open_class_folders, places_below


MASK_FOLDER = "fg_mask"
# The classes of ImageNet-1k in each of the nine: `in_to_in9.json` of the repository at 46d224b. The other 630 classes belong to none.
# fmt: off
CLASSES: dict[str, list[int]] = {
    "00_dog": [*range(151, 171), *range(173, 269)],
    "01_bird": [*range(7, 25), *range(87, 101), *range(127, 147)],
    "02_wheeled vehicle": [
        407, 408, 428, 436, 444, 468, 511, 547, 555, 561, 565, 569, 573, 586, 603, 609, 612, 627, 656, 661, 665, 670, 671, 675, 690,
        705, 717, 734, 751, 757, 791, 802, 803, 817, 820, 829, 847, 864, 866, 867, 870, 880,
    ],
    "03_reptile": [*range(33, 69)],
    "04_carnivore": [*range(269, 281), *range(286, 300), *range(356, 363), 387, 388],
    "05_insect": [*range(300, 327)],
    "06_musical instrument": [
        401, 402, 420, 432, 486, 494, 513, 541, 546, 558, 566, 577, 579, 593, 594, 641, 642, 683, 684, 687, 699, 776, 822, 875, 881, 889,
    ],
    "07_primate": [*range(365, 385)],
    "08_fish": [*range(7), *range(389, 398)],
}
# fmt: on


def open_imagenet_9(root: Path, variation: str) -> Source:
    """One of the `IMAGENET_9_VARIATIONS`, in `bg_challenge/<variation>/val/<class>`, of which `root` is any folder. An image
    has all labels of its class; those of `original` have masks."""
    root = root.absolute()  # names of folders tell variations apart
    place = next(filter(Path.is_dir, places_below(root, variation)), root)
    source = open_class_folders(root, CLASSES, place)
    parent = source.shards[0].path.parent
    others = {name for name in IMAGENET_9_VARIATIONS if name != variation}
    if found := others & {part.name for part in (parent, parent.parent)}:
        raise ValueError(f"`{parent}` holds the variation `{found.pop()}` of ImageNet-9, not `{variation}`.")
    if variation != "original":
        return source
    places = [above / MASK_FOLDER / "val" for above in parent.parents[:3]]
    masks = next(filter(Path.is_dir, (*places, *places_below(root, f"{MASK_FOLDER}/val"))), places[0])
    rows, times = partial(masked_rows, masks=masks), change_times(sorted(masks.rglob("*.npy")))
    return Source(rows, source.shards, times)


def masked_rows(shards: list[ClassFolder], masks: Path) -> Iterator[dict]:
    """Rows of class folders with their masks (`<class>/<stem>.npy`, 0 is background)."""
    for row in class_folder_rows(shards):
        image = Path(row["file_name"])
        path = masks / image.parent.name / f"{image.stem}.npy"
        try:
            mask = 255 * (np.squeeze(np.load(path)) > 0).astype(np.uint8)
            row |= {"mask": encode_image(Image.fromarray(mask))}
        except (OSError, EOFError, ValueError, TypeError) as error:
            problem = f"`{path}` is not a mask ({error}): expected an array (H, W) of numbers."
            row = {"file_name": row["file_name"], "problem": problem}
        yield row
