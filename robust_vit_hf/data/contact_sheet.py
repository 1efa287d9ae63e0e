"""Contact sheets: sampled rows of a dataset, each image beside its mask."""

import io
from pathlib import Path
from textwrap import wrap

import numpy as np
from PIL import Image, ImageOps

from ..utils.figures import PICTURE_AXES, plain
from ..utils.images import to_rgb
from .parquet_writer import CONTACT_SHEET, REJECTED_FOLDER, sample_rows


def save_contact_sheets(folder: Path, splits: list[str], count: int = 24) -> None:
    """Write `contact_sheet_<split>.png` and `contact_sheet_<split>_rejected.png`, with at most `count` evenly spaced
    rows of each split of a folder written by [`ShardWriter`]."""
    for split in splits:
        for place, name in ((folder, split), (folder / REJECTED_FOLDER, f"{split}_rejected")):
            rows = sample_rows(sorted(place.glob(f"{split}-*.parquet")), count)
            examples = [
                (_picture(row["image"]), _picture(row.get("mask")), row.get("problem") or row["file_name"])
                for row in rows
                if row["image"]
            ]
            if examples:
                save_contact_sheet(examples, folder / f"{CONTACT_SHEET}_{name}.png")


def save_contact_sheet(
    examples: list[tuple[Image.Image, Image.Image | None, str]], path: Path, num_columns: int = 4
) -> None:
    """Save a figure of captioned images, each beside its mask (0 is background), if any."""
    from matplotlib.figure import Figure

    sheets = [_side_by_side(to_rgb(image), mask) for image, mask, _ in examples]
    num_rows = -(-len(sheets) // num_columns)
    width = 3.6 if any(mask is not None for _, mask, _ in examples) else 1.9  # inches, of a column
    height = width * max(sheet.height / sheet.width for sheet in sheets) + 0.3
    figure = Figure((num_columns * width, num_rows * height), layout="constrained")
    axes = figure.subplots(num_rows, num_columns, squeeze=False, subplot_kw=PICTURE_AXES)
    for axis, sheet, (*_, caption) in zip(axes.flat, sheets, examples, strict=False):
        axis.imshow(sheet)
        axis.set_title("\n".join(wrap(plain(caption), 60)[:3]), fontsize=6)
    figure.savefig(path, dpi=90)


def _side_by_side(image: Image.Image, mask: Image.Image | None) -> Image.Image:
    """Image | mask | image with the background painted over."""
    panels = [image]
    if mask is not None:
        foreground = Image.fromarray(255 * (np.asarray(mask) > 0).astype(np.uint8))  # palette images: the indices
        panels += [foreground, Image.composite(image, Image.new("RGB", image.size, (255, 0, 255)), foreground)]
    sheet = Image.new("RGB", (len(panels) * image.width, image.height))
    for position, panel in enumerate(panels):
        sheet.paste(panel, (position * image.width, 0))
    sheet.thumbnail((720, 720))
    return sheet


def _picture(encoded: dict | None) -> Image.Image | None:
    return None if encoded is None else ImageOps.exif_transpose(Image.open(io.BytesIO(encoded["bytes"])))
