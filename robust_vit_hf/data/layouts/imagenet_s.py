"""ImageNet-S919: 10 annotated training images of each of 919 classes, and the paper's split of them.

Source: https://huggingface.co/papers/2106.03149, https://github.com/LUSSeg/ImageNet-S
"""

import random
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from ...utils.images import to_rgb
from ..schema import Source
from .folders_of_sets import change_times, image_files, places_below, subfolders
from .masks_of_imagenet import mask_rows


MASK_FOLDER, IMAGE_FOLDER = "train-semi-segmentation", "train-semi"
IGNORE = 1000
# Pairs of ImageNet-1k classes merged in ImageNet-S (folder and mask id) under the second wnid.
MERGED = {
    "n04356056": "n04355933",
    "n04493381": "n02808440",
    "n03642806": "n03832673",
    "n04008634": "n03773504",
    "n03887697": "n15075141",
}
PAPER_VALIDATION_CLASSES = 414


def open_imagenet_s(root: Path, imagenet: str | None = None) -> Source:
    """All annotated training images in a folder with `train-semi-segmentation`, at most two levels down. `imagenet` is your
    ImageNet-1k, with `train/<wnid>` or `<wnid>`, for images that are not in `train-semi`."""
    masks = _find_masks(root)
    return _source_of(subfolders(masks), masks, imagenet)


def _find_masks(root: Path) -> Path:
    found = [path for path in places_below(root, MASK_FOLDER) if path.is_dir()]
    if len(found) > 1:  # the official script writes ImageNetS50 and ImageNetS300 beside it
        found = [path for path in found if "S919" in path.parent.name] or found
    if len(found) != 1:
        raise ValueError(
            f"Expected one folder `{MASK_FOLDER}`, from ImageNetS919.zip, the annotations of ImageNet-S, in `{root}`, but found "
            f"{', '.join(f'`{path}`' for path in found) or 'none'}."
        )
    return found[0]


def _source_of(folders: list[Path], masks: Path, imagenet: str | None, first: int | None = None) -> Source:
    """The first masks of each folder, sorted by name, with their images."""
    image_folders = [masks.parent / IMAGE_FOLDER]
    if imagenet is not None:
        image_folders += [Path(imagenet) / name for name in ("train", "ILSVRC/Data/CLS-LOC/train", ".")]
    paths = [path for folder in folders for path in image_files(folder)[:first]]
    rows = partial(mask_rows, image_folders=image_folders, names_of=_names, read=_read)
    return Source(rows, paths, change_times(paths))


def _names(mask: Path) -> tuple[str, list[str]]:
    """By its name, since merged folders hold images of two classes."""
    wnid = mask.stem.split("_")[0]
    return wnid, [f"{folder}/{mask.stem}.JPEG" for folder in (mask.parent.name, wnid)]


def _read(mask: Path) -> Image.Image:
    red, green, _ = to_rgb(Image.open(mask)).split()
    ids = np.asarray(red) + 256 * np.asarray(green, dtype=np.uint16)  # the documented code of a class
    foreground = (ids != 0) & (ids != IGNORE)
    present = np.unique(ids[foreground]).tolist()
    if len(present) != 1:
        raise ValueError(f"the mask has the classes {present}, expected one: draw it again, or leave it out")
    return Image.fromarray(255 * foreground.astype(np.uint8))


def open_paper_split(
    root: Path,
    imagenet: str | None = None,
    split: Literal["train", "validation"] = "train",
    class_seed: int | None = None,
    num_classes: int = 500,
    samples_per_class: int = 3,
) -> Source:
    """The paper's split of ImageNet-S919, section 4: classes in sorted order without those of the five merged pairs;
    the first 500 give three training images each (Figures 7b and 7a change these numbers), and the last 414 one
    validation image each. `class_seed` shuffles the classes first, for Tables 8 and 9. The released split is not
    reproducible, since it depends on the file system's order of folders."""
    masks = _find_masks(root)
    folders = [folder for folder in subfolders(masks) if folder.name not in {*MERGED, *MERGED.values()}]
    if class_seed is not None:
        random.Random(class_seed).shuffle(folders)
    chosen, first = folders[:num_classes], samples_per_class
    if split == "validation":
        chosen, first = folders[max(num_classes, len(folders) - PAPER_VALIDATION_CLASSES) :], 1
    fewest = min((len(image_files(folder)) for folder in chosen), default=0)
    if num_classes >= len(folders) or fewest < first:
        raise ValueError(
            f"`{root}` has {len(folders)} classes beside the merged ones, of at least {fewest} masks each: {num_classes} classes for "
            f"training, with some left for validation, and {first} masks of each are asked for."
        )
    return _source_of(chosen, masks, imagenet, first)
