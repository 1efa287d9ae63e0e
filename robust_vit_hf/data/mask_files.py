"""Masks of images: their check, their decoding, and masks from a folder of pictures that have the names of the images."""

from collections import Counter
from itertools import accumulate
from pathlib import Path, PurePosixPath

import datasets
import torch
from PIL import Image
from torchvision.transforms.v2 import functional
from transformers.utils import logging

from ..utils.images import readable_suffixes
from .classes import nfc


logger = logging.get_logger(__name__)

FULL = 0.95  # share of an image above which a mask leaves no background to train on


def check_masks(rows: dict[str, list]) -> None:
    """Raise a `ValueError` for the first mask of a batch of rows that has a problem, see [`mask_problem`]."""
    for image, mask in zip(rows["image"], rows["mask"], strict=True):
        if problem := mask_problem(image, mask):
            raise ValueError(problem)


def mask_problem(image: Image.Image, mask: Image.Image | None) -> str | None:
    """Problem of a mask, or `None`. Used by training, evaluation, `data describe` and `data prepare`.

    A mask has one channel and the size of its image; 0 is background, and foreground is 1 or 255, or soft towards its
    edges with a median of at least 128. Of a palette, whose first colour is black, the numbers of colours are taken. Empty masks pass.
    """
    if mask is None:
        return "mask is missing"
    if image.size != mask.size:
        return f"image is {image.width}×{image.height} but mask is {mask.width}×{mask.height}: expected equal sizes"
    if mask.mode not in ("1", "L", "P"):
        return f"mask has mode {mask.mode}, expected one channel (1 or L): 0 background, 1 or 255 foreground"
    if mask.mode == "P" and mask.getpalette()[:3] != [0, 0, 0]:
        return "colour 0 of the mask's palette, the background, is not black: save the mask with one channel (L)"
    counts = mask.histogram()
    counts[0] = 0
    foreground = [value for value, count in enumerate(counts) if count]
    if foreground == [1, 255]:
        return "the mask mixes the values 1 and 255, expected one of them as the foreground (none stands for `ignore`)"
    half = sum(counts) / 2
    median = next(value for value, reached in enumerate(accumulate(counts)) if reached >= half)
    if 1 < median < 128 or (median == 1 and foreground != [1]):
        return f"the usual value of the mask's foreground is {median}, expected 1 or 255 (class ids are not a mask)"
    # Class ids: few values without white, or with 255 (`ignore`) and a common value that is nearly black.
    few = 0 < len(foreground) <= 4 and foreground != [1]
    if few and (foreground[-1] < 250 or max(counts[1:32]) > half * 2 / 5 or max(counts[32:250]) > half):
        listed = ", ".join(map(str, foreground))
        return f"the mask has the values {listed}, expected 1 or 255 (class ids are not a mask)"
    return None


def mask_to_tensor(mask: Image.Image) -> torch.Tensor:
    """A mask as uint8 `(1, H, W)` in 0–255. Files that store the foreground as 1 rather than 255 are scaled."""
    tensor = functional.pil_to_tensor(mask.convert("L") if mask.mode == "1" else mask)
    return tensor * 255 if tensor.max() == 1 else tensor


def extent_without_edges(mask: Image.Image) -> str | None:
    """`empty` or `full` for masks without foreground or background, otherwise `None`."""
    low, high = mask_to_tensor(mask).aminmax()
    return None if low != high else "empty" if high == 0 else "full"


def uninformative_mask(mask: Image.Image) -> str | None:
    """Why a mask that was made tells nothing about object and background, or `None`: it is empty, or covers more than 95 %."""
    share = sum(mask.histogram()[1:]) / (mask.width * mask.height)
    if not share:
        return "the mask is empty"
    return f"the mask covers {share:.0%} of the image" if share > FULL else None


def with_mask_files(dataset: datasets.Dataset, folder: Path, split: str) -> datasets.Dataset:
    """Add masks from pictures named as the `file_name` of images, with another suffix maybe, in a folder or its `<split>/`.
    Images without one are left out with a warning."""
    if "file_name" not in dataset.column_names:
        raise ValueError(f"The masks of `{folder}` are found by a column `file_name`, which the images do not have.")
    masks = _pictures(folder / split if (folder / split).is_dir() else folder)
    names = [name and _stem(name) for name in dataset.with_format(None)["file_name"]]
    kept = [index for index, name in enumerate(names) if name in masks]
    if not kept:
        raise ValueError(
            f"`{folder}` has a mask for none of {len(names)} images: expected a folder with `{names[0]}.png`, or with it in `{split}/`, and "
            "so on, or one of tokencut, grounded, sam3 and auto to make masks."
        )
    counts = Counter(names[index] for index in kept)
    name, count = counts.most_common(1)[0]
    if count > 1:
        raise ValueError(f"`{masks[name]}` is the mask of {count} images: give each a name and a mask.")
    if left_out := len(names) - len(kept):
        logger.warning(f"{left_out} of {len(names)} images have no mask in `{folder}`, and are left out.")
    rows = dataset.select(kept)
    rows = rows.remove_columns("mask") if "mask" in rows.column_names else rows
    return rows.add_column("mask", [str(masks[name]) for name in counts]).cast_column("mask", datasets.Image())


def _pictures(folder: Path) -> dict[str, Path]:
    """Pictures below a folder by their name without suffix."""
    pictures: dict[str, Path] = {}
    suffixes = readable_suffixes()
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes):
        known = pictures.setdefault(_stem(path.relative_to(folder).as_posix()), path)
        if known != path:
            raise ValueError(f"`{known}` and `{path}` are masks of one image: leave one of them.")
    return pictures


def _stem(name: str) -> str:
    return nfc(PurePosixPath(name).with_suffix("").as_posix())
