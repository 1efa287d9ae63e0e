"""Dataset card (README.md) of images written as parquet, with a contact sheet: sampled rows, each image beside its mask."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill

import datasets
import numpy as np
import pyarrow.dataset
from huggingface_hub import DatasetCardData
from PIL import Image
from pyarrow import parquet

from ..utils.files import write_atomically
from ..utils.images import to_rgb
from ..utils.plotting import save_picture_grid


CONTACT_SHEET = "contact_sheet"
NUM_COLUMNS = 6  # two images with masks, or six without


def save_contact_sheets(folder: Path, split: str) -> None:
    """Write `contact_sheet_<split>.png` and `contact_sheet_<split>_rejected.png`, with at most 24 evenly spaced
    rows of a split that [`SplitWriter`] wrote to the folder."""
    for place, name in ((folder, split), (folder / REJECTED_FOLDER, f"{split}_rejected")):
        rows = sample_rows(sorted(place.glob(f"{split}-*.parquet")), 24)
        pictures = [picture for row in rows if row["image"] for picture in _captioned(row)]
        lines = [pictures[first : first + NUM_COLUMNS] for first in range(0, len(pictures), NUM_COLUMNS)]
        if lines:
            save_picture_grid(lines, folder / f"{CONTACT_SHEET}_{name}.png")


def sample_rows(files: list[Path], count: int) -> list[dict]:
    """At most `count` evenly spaced rows."""
    if not files:
        return []
    rows = pyarrow.dataset.dataset(files)
    total = rows.count_rows()
    return rows.take(sorted({index * total // count for index in range(count)})).to_pylist()


def _captioned(row: dict) -> list[tuple[str, np.ndarray]]:
    """The image of a row and, if it has a mask, mask and image with the background painted over. The first has a caption."""
    decode = datasets.Image().decode_example
    pictures = [to_rgb(decode(row["image"]))]
    if row.get("mask"):
        foreground = Image.fromarray(255 * (np.asarray(decode(row["mask"])) > 0).astype(np.uint8))  # palettes: indices
        paint = Image.new("RGB", foreground.size, (255, 0, 255))
        pictures += [foreground.convert("RGB"), Image.composite(pictures[0], paint, foreground)]
    for picture in pictures:
        picture.thumbnail((360, 360))
    captions = [fill(row.get("problem") or row["file_name"], 26, max_lines=3), "", ""]
    return [(caption, np.asarray(picture)) for caption, picture in zip(captions, pictures, strict=False)]


CARD_FILE, REJECTED_FOLDER = "README.md", "rejected"
TEMPLATE = Path(__file__).with_name("dataset_card_template.md")


def write_card(
    folder: Path, title: str, text: str, columns: datasets.Features, splits: Mapping[str, Sequence[int]]
) -> None:
    """Write the card of a folder, with the numbers of rows and rejected rows of each complete split."""
    configurations = []
    for index, (name, place) in enumerate((("default", ""), ("rejected", f"{REJECTED_FOLDER}/"))):
        files = [{"split": split, "path": f"{place}{split}-*"} for split, counts in splits.items() if counts[index]]
        configurations += [{"config_name": name, "data_files": files}] if files else []
    card = TEMPLATE.read_text(encoding="utf-8").format(
        metadata=DatasetCardData(configs=configurations, tags=["robust-vit"]).to_yaml(),
        title=title,
        text=text,
        columns=", ".join(f"`{column}`" for column in columns if column != "image"),
        table="\n".join(f"| {split} | {kept} | {rejected} |" for split, (kept, rejected) in splits.items()),
        reasons=_reasons(folder),
    )
    write_atomically(folder / CARD_FILE, card)


def _reasons(folder: Path) -> str:
    """Table of the reasons of rejected rows, without names and numbers, the twenty most frequent; empty without any."""
    counts: Counter[str] = Counter()
    for path in (folder / REJECTED_FOLDER).glob("*.parquet"):
        problems = parquet.read_table(path, columns=["problem"])["problem"].to_pylist()
        counts.update(re.sub(r"`[^`]*`|'[^']*'|\d[\d.,]*", "…", problem) for problem in problems)
    if not counts:
        return ""
    rows = [f"| {reason.replace('|', ' ')} | {count} |" for reason, count in counts.most_common(20)]
    return "\n".join(["", "| reason of the rejection | rows |", "|---|---:|", *rows, ""])
