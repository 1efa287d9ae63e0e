"""Waterbirds: birds of CUB before photographs of Places, where most waterbirds are on water and most landbirds on land.

Source: https://huggingface.co/papers/1911.08731, https://github.com/kohpangwei/group_DRO
"""

import csv
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from PIL import Image

from ..schema import Source, encode_image
from .folders_of_sets import change_times, path_within, places_below


METADATA_FILE = "metadata.csv"
SPLITS = {"train": "0", "validation": "1", "test": "2"}


def open_waterbirds(root: Path, split: str = "train", segmentations: str | None = None) -> Source:
    """A split (of `SPLITS`) of `waterbird_complete95_forest2water2`, as its `metadata.csv` lists it, at most two levels below
    `root`. `segmentations` is the folder of that name of CUB-200-2011, whose masks composed the images."""
    path = next(iter(places_below(root, METADATA_FILE)), root / METADATA_FILE)
    reader = csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines())
    if not {"img_filename", "y", "split", "place"} <= {*(reader.fieldnames or ())}:
        raise ValueError(f"`{path}` has the columns {reader.fieldnames}: take the file that comes with the set.")
    shards = [
        (path_within(path.parent, METADATA_FILE, "", row["img_filename"]), int(row["y"]), int(row["place"]))
        for row in reader
        if row["split"] == SPLITS[split]
    ]
    masks = None if segmentations is None else Path(segmentations)
    drawn = [] if masks is None else [(masks / name).with_suffix(".png") for name, _, _ in shards]
    times = change_times(file for file in (path, *drawn) if file.is_file())
    return Source(partial(bird_rows, folder=path.parent, masks=masks), shards, times)


def bird_rows(shards: list[tuple[str, int, int]], folder: Path, masks: Path | None) -> Iterator[dict]:
    """Rows of images by name, class and place, with the masks of a folder."""
    for name, label, place in shards:
        image = {"bytes": None, "path": str(folder / name)}
        row = {"image": image, "label": label, "file_name": name, "group": 2 * label + place}
        try:
            if masks is not None:
                drawn = Image.open((masks / name).with_suffix(".png")).convert("L")
                # Levels are shares of the annotators: the object is where half of them agree.
                row["mask"] = encode_image(drawn.point(lambda value: 255 * (value > 127)))
        except OSError as error:
            row = {"file_name": name, "problem": f"`{folder / name}`: {error}"}
        yield row


def row_of_hub(row: dict, name: str) -> dict:
    """A row of the copy on the Hub, with `label` (1 is a waterbird) and `place` (1 is water)."""
    label, place = row["label"], row["place"]
    if label not in (0, 1) or place not in (0, 1):
        return {"file_name": name, "problem": f"`{name}` has label {label} and place {place}, expected 0 or 1."}
    return {"image": row["image"], "label": label, "file_name": name, "group": 2 * label + place}
