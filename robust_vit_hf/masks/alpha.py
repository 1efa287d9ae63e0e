"""Foreground masks from the transparency of images, such as PNG and WebP files whose background was removed."""

import io
from contextlib import suppress

import datasets
from PIL import Image, ImageOps

from ..data.schema import undecoded_rows
from .tokencut import MaskResult


def alpha_mask(encoded: dict) -> Image.Image | None:
    """Mask of an encoded image (`bytes` or `path`), upright according to EXIF: 255 where alpha is at least 128, and 0 elsewhere; `None`
    if it would be empty or full."""
    with Image.open(encoded["path"] if encoded["bytes"] is None else io.BytesIO(encoded["bytes"])) as image:
        if not image.has_transparency_data:
            return None
        alpha = ImageOps.exif_transpose(image).convert("RGBA").getchannel("A")
    mask = alpha.point([0] * 128 + [255] * 128)
    return mask if mask.getextrema() == (0, 255) else None


def make_alpha_masks(images: list[Image.Image], rows: list[dict]) -> list[MaskResult]:
    """Mask maker that reads the encoded images of the rows. A `ValueError` names images without an [`alpha_mask`]."""
    masks = [alpha_mask(row["image"]) for row in rows]
    if lacking := [f"`{row['file_name']}`" for row, mask in zip(rows, masks, strict=True) if mask is None]:
        raise ValueError(
            f"The transparency of {', '.join(lacking)} is not a mask: all pixels are opaque, or all are transparent. Remove these images, "
            "or make the masks of all images by another method, such as dinov2."
        )
    return [MaskResult(mask) for mask in masks]


def first_cut_out(dataset: datasets.Dataset) -> str | None:
    """Name of the first image with an [`alpha_mask`]; `None` if there is none."""
    for row in undecoded_rows(dataset):
        with suppress(Exception):  # codecs raise any type; the error is reported where the image is used
            if alpha_mask(row["image"]) is not None:
                return row["file_name"]
    return None
