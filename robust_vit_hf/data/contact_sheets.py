"""Contact sheets: pictures of rows of a written dataset, each next to its mask."""

from pathlib import Path
from textwrap import fill

import datasets
import numpy as np
import pyarrow.dataset as ds
from PIL import Image

from ..utils.images import save_picture_grid, to_rgb


CONTACT_SHEET = "contact_sheet"  # the start of the file names
IN_DOUBT = "in_doubt"
NUM_COLUMNS = 6  # two images with masks, or six without


def save_contact_sheets(folder: Path, split: str, rejected: str) -> None:
    """Write `contact_sheet_<split>.png`, `…_in_doubt.png` and, for the folder `rejected`, `…_rejected.png`: at most 24 evenly spaced rows each."""
    for place, kind in ((folder, ""), (folder, f"_{IN_DOUBT}"), (folder / rejected, "_rejected")):
        rows = sample_rows(sorted(place.glob(f"{split}-*.parquet")), 24, in_doubt=IN_DOUBT in kind)
        pictures = [picture for row in rows if row["image"] for picture in _captioned(row)]
        lines = [pictures[first : first + NUM_COLUMNS] for first in range(0, len(pictures), NUM_COLUMNS)]
        if lines:
            save_picture_grid(lines, folder / f"{CONTACT_SHEET}_{split}{kind}.png")


def sample_rows(files: list[Path], count: int, *, in_doubt: bool = False) -> list[dict]:
    if not files:
        return []
    rows = ds.dataset(files)
    if in_doubt:
        rows = rows.filter(ds.field("doubt").is_valid() if "doubt" in rows.schema.names else ds.scalar(False))
    total = rows.count_rows()
    return rows.take(sorted({index * total // count for index in range(count)})).to_pylist() if total else []


def _captioned(row: dict) -> list[tuple[str, np.ndarray]]:
    decode = datasets.Image().decode_example
    pictures = [to_rgb(decode(row["image"]))]
    if row.get("mask"):
        foreground = Image.fromarray(255 * (np.asarray(decode(row["mask"])) > 0).astype(np.uint8))
        paint = Image.new("RGB", foreground.size, (255, 0, 255))
        pictures += [foreground.convert("RGB"), Image.composite(pictures[0], paint, foreground)]
    for picture in pictures:
        picture.thumbnail((360, 360))
    texts = filter(None, [row.get("problem") or row.get("doubt"), row["file_name"]])
    captions = [*(fill(text, 26, max_lines=3) for text in texts), "", ""]
    return [(caption, np.asarray(picture)) for caption, picture in zip(captions, pictures, strict=False)]
