"""Checks of masks: their size, values and extent."""

from itertools import accumulate

import datasets
import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional


FULL = 0.95  # share of the image above which a mask leaves too little background to train on


def mask_problem(image: Image.Image, mask: Image.Image | None) -> str | None:
    """Return the problem of a mask, or `None`. A mask has one channel and the size of its image. 0 is background; the foreground is 1
    or 255, or soft with a median of at least 128. Empty masks pass."""
    if mask is None:
        return "mask is missing"
    if image.size != mask.size:
        turned = " (one seems to be rotated, perhaps by EXIF)" if image.size == mask.size[::-1] else ""
        return f"image is {image.width}×{image.height} but mask is {mask.width}×{mask.height}: expected equal sizes{turned}"
    if mask.mode not in ("1", "L", "P"):
        return f"mask has mode {mask.mode}, expected one channel (1 or L): 0 background, 1 or 255 foreground"
    if mask.mode == "P" and mask.getpalette()[:3] != [0, 0, 0]:
        return "colour 0 of the mask's palette, the background, is not black: save the mask with one channel (L)"
    counts = mask.histogram()
    counts[0] = 0
    foreground = [value for value, count in enumerate(counts) if count]
    if foreground == [1, 255]:
        return "the mask has the values 1 and 255, expected only one of them, for the foreground (none stands for `ignore`)"
    half = sum(counts) / 2
    median = next(value for value, reached in enumerate(accumulate(counts)) if reached >= half)
    if 1 < median < 128 or (median == 1 and foreground != [1]):
        return f"the median of the mask's foreground is {median}, expected 1 or 255 (class ids are not a mask)"
    # Class ids: few values without white, or 255 (`ignore`) and a frequent value that is nearly black.
    few = 0 < len(foreground) <= 4 and foreground != [1]
    if few and (foreground[-1] < 250 or max(counts[1:32]) > half * 2 / 5 or max(counts[32:250]) > half):
        listed = ", ".join(map(str, foreground))
        return f"the mask has the values {listed}, expected 1 or 255 (class ids are not a mask)"
    return None


def mask_to_tensor(mask: Image.Image) -> torch.Tensor:
    """Convert a mask to uint8 `(1, H, W)` in 0–255; a foreground of 1 becomes 255."""
    tensor = functional.pil_to_tensor(mask.convert("L") if mask.mode == "1" else mask)
    return tensor * 255 if tensor.max() == 1 else tensor


def extent_without_edges(mask: Image.Image) -> str | None:
    """`empty` or `full` for masks without foreground or background, otherwise `None`."""
    low, high = mask_to_tensor(mask).aminmax()
    return None if low != high else "empty" if high == 0 else "full"


def uninformative_mask(mask: Image.Image) -> str | None:
    """Why a mask is of no use: it is empty, or covers more than 95 % of the image; otherwise `None`."""
    share = sum(mask.histogram()[1:]) / (mask.width * mask.height)
    if not share:
        return "the mask is empty"
    return f"the mask covers {share:.0%} of the image" if share > FULL else None


def confirmed(rows: datasets.Dataset) -> np.ndarray:
    """Which masks, `(N,)` bool, are not in doubt: the column `doubt` has no reason, or there is no such column."""
    doubts = rows.with_format(None)["doubt"][:] if "doubt" in rows.column_names else [None] * len(rows)
    return np.array([doubt is None for doubt in doubts], dtype=bool)
