"""Waterbirds: birds of CUB before photographs of Places, where most waterbirds are on water and most landbirds on land.

Source: https://huggingface.co/papers/1911.08731, https://github.com/kohpangwei/group_DRO
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import datasets
from PIL import Image

from ..schema import Source, encode_image
from .class_folders import path_within, places_below


CLASSES = ("landbird", "waterbird")
PLACES = ("land", "water")
GROUPS = tuple(f"{name} on {place}" for name in CLASSES for place in PLACES)  # group = 2 y + place
METADATA_FILE = "metadata.csv"
COLUMNS = ("img_filename", "y", "split", "place")
HUB_COLUMNS = ("image", "label", "place")
SPLITS = {"train": "0", "validation": "1", "test": "2"}
GROUP = {"group": datasets.ClassLabel(names=list(GROUPS))}


@dataclass(frozen=True)
class Images:
    """Images of a split: names, classes and places, and the folder of their masks."""

    path: Path
    rows: tuple[tuple[str, int, int], ...]
    segmentations: Path | None


def open_waterbirds(
    root: Path, split: Literal["train", "validation", "test"] = "train", segmentations: str | None = None
) -> Source:
    """A split of `waterbird_complete95_forest2water2`, as its `metadata.csv` lists it.

    Args:
        root: the folder of `metadata.csv`, or one or two levels above it.
        segmentations: the folder `segmentations` of CUB-200-2011, whose masks composed the images; without it, there are no
            masks.

    Raises:
        FileNotFoundError: there is no `metadata.csv`, or no folder of segmentations.
        ValueError: it has other columns or values, names files outside of its folder, or there is no such split, or no image of it.
    """
    if split not in SPLITS:
        raise ValueError(f"Waterbirds has no split `{split}`; expected {', '.join(SPLITS)}.")
    path = next(iter(places_below(root, METADATA_FILE)), None)
    if path is None:
        raise FileNotFoundError(
            f"There is no `{METADATA_FILE}` in `{root}`: unpack waterbird_complete95_forest2water2.tar.gz."
        )
    masks = None if segmentations is None else Path(segmentations)
    if masks is not None and not masks.is_dir():
        raise FileNotFoundError(f"There is no folder `{masks}`: give the segmentations of CUB-200-2011.")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"`{path}` is not text in UTF-8 ({error}): take the file that comes with the set.") from error
    reader = csv.DictReader(lines)
    if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
        raise ValueError(f"`{path}` has no column {', '.join(missing)}: take the file that comes with the set.")
    read = list(reader)
    if wrong := [row for row in read if row["split"] not in SPLITS.values()]:
        raise ValueError(
            f"`{path}`: `{wrong[0]['img_filename']}` has the split {wrong[0]['split']}, expected 0, 1 or 2."
        )
    listed = [row for row in read if row["split"] == SPLITS[split]]
    if not listed:
        known = ", ".join(sorted({row["split"] for row in read})) or "no rows"
        raise ValueError(
            f"`{path}` has no image of the split `{split}`, which is {SPLITS[split]} there; it has {known}."
        )
    if bad := [row for row in listed if row["y"] not in ("0", "1") or row["place"] not in ("0", "1")]:
        raise ValueError(
            f"`{path}`: `{bad[0]['img_filename']}` has y {bad[0]['y']} and place {bad[0]['place']}, expected 0 or 1."
        )
    rows = tuple(
        (path_within(path.parent, METADATA_FILE, "", row["img_filename"]), int(row["y"]), int(row["place"]))
        for row in listed
    )
    drawn = [] if masks is None else [(masks / name).with_suffix(".png") for name, _, _ in rows]
    times = [file.stat().st_mtime_ns for file in (path, *drawn) if file.is_file()]
    return Source(bird_rows, [Images(path.parent, rows, masks)], times)


def bird_rows(shards: list[Images]) -> Iterator[dict]:
    """Rows in the order of the metadata."""
    for shard in shards:
        for name, label, place in shard.rows:
            row = {
                "image": {"bytes": None, "path": str(shard.path / name)},
                "label": label,
                "file_name": name,
                "group": 2 * label + place,
            }
            try:
                if not (shard.path / name).is_file():
                    raise FileNotFoundError("there is no such image: unpack the set again")
                if shard.segmentations is not None:
                    drawn = Image.open((shard.segmentations / name).with_suffix(".png")).convert("L")
                    # Levels are shares of the annotators: the object is where half of them agree.
                    row["mask"] = encode_image(drawn.point(lambda value: 255 * (value > 127)))
            except OSError as error:
                row = {"file_name": name, "problem": f"`{shard.path / name}`: {error}"}
            yield row


def row_of_hub(row: dict, name: str) -> dict:
    """A row of the copy on the Hub, with `label` (1 is a waterbird) and `place` (1 is water)."""
    label, place = row["label"], row["place"]
    if label not in (0, 1) or place not in (0, 1):
        return {"file_name": name, "problem": f"`{name}` has label {label} and place {place}, expected 0 or 1."}
    return {"image": row["image"], "label": label, "file_name": name, "group": 2 * label + place}
