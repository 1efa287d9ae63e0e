"""ImageNet-9, the Backgrounds Challenge: objects of nine classes with other backgrounds, or without one.

Source: https://huggingface.co/papers/2006.09994, https://github.com/MadryLab/backgrounds_challenge
"""

import json
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
CLASSES: dict[str, list[int]] = json.loads(
    Path(__file__).with_name("imagenet_9_classes.json").read_text(encoding="utf-8")
)


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
