"""Contact sheets: sampled rows of a dataset, each image beside its mask."""

from pathlib import Path
from textwrap import wrap

import datasets
import numpy as np
import pyarrow.dataset
from PIL import Image

from ..utils.images import to_rgb
from ..utils.plotting import PICTURE_AXES, plain
from .dataset_card import REJECTED_FOLDER


CONTACT_SHEET = "contact_sheet"
NUM_COLUMNS = 4


def save_contact_sheets(folder: Path, split: str) -> None:
    """Write `contact_sheet_<split>.png` and `contact_sheet_<split>_rejected.png`, with at most 24 evenly spaced
    rows of a split that [`SplitWriter`] wrote to the folder."""
    decode = datasets.Image().decode_example
    for place, name in ((folder, split), (folder / REJECTED_FOLDER, f"{split}_rejected")):
        rows = sample_rows(sorted(place.glob(f"{split}-*.parquet")), 24)
        examples = [
            (decode(row["image"]), row.get("mask") and decode(row["mask"]), row.get("problem") or row["file_name"])
            for row in rows
            if row["image"]
        ]
        if examples:
            save_contact_sheet(examples, folder / f"{CONTACT_SHEET}_{name}.png")


def save_contact_sheet(examples: list[tuple[Image.Image, Image.Image | None, str]], path: Path) -> None:
    """Save a figure of captioned images, each beside its mask (0 is background), if any."""
    from matplotlib.figure import Figure

    sheets = [_side_by_side(to_rgb(image), mask) for image, mask, _ in examples]
    num_rows = -(-len(sheets) // NUM_COLUMNS)
    width = 3.6 if any(mask is not None for _, mask, _ in examples) else 1.9  # inches, of a column
    height = width * max(sheet.height / sheet.width for sheet in sheets) + 0.3
    figure = Figure((NUM_COLUMNS * width, num_rows * height), layout="constrained")
    axes = figure.subplots(num_rows, NUM_COLUMNS, squeeze=False, subplot_kw=PICTURE_AXES)
    for axis, sheet, (*_, caption) in zip(axes.flat, sheets, examples, strict=False):
        axis.imshow(sheet)
        axis.set_title("\n".join(wrap(plain(caption), 60)[:3]), fontsize=6)
    figure.savefig(path, dpi=90)


def sample_rows(files: list[Path], count: int) -> list[dict]:
    """At most `count` evenly spaced rows."""
    if not files:
        return []
    rows = pyarrow.dataset.dataset(files)
    total = rows.count_rows()
    return rows.take(sorted({index * total // count for index in range(count)})).to_pylist()


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
