"""Sets with changed backgrounds: ImageNet-9, CounterAnimal and Waterbirds."""

import csv
import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ..known_sets import COUNTERANIMAL_PARTS, IMAGENET_9_VARIATIONS
from ..schema import Source, encode_image
from .folders import (
    ClassFolder,
    change_times,
    class_folder_rows,
    find_classes,
    open_class_folders,
    path_within,
    places_below,
    subfolders,
)


MASK_FOLDER = "fg_mask"
# The classes of ImageNet-1k in each of the nine: `in_to_in9.json` of the repository at 46d224b. The other 630 classes belong to none.
CLASSES: dict[str, list[int]] = json.loads(
    Path(__file__).with_name("imagenet_9_classes.json").read_text(encoding="utf-8")
)


def open_imagenet_9(root: Path, variation: str) -> Source:
    """One of the `IMAGENET_9_VARIATIONS`, in `bg_challenge/<variation>/val/<class>`, of which `root` is any folder. An image
    has all labels of its class; those of `original` have masks."""
    root = root.absolute()  # names of folders tell variations apart
    place = next(filter(Path.is_dir, places_below(root, variation)), root)
    source = open_class_folders(root, CLASSES, place)
    parent = source.shards[0].path.parent
    others = {name for name in IMAGENET_9_VARIATIONS if name != variation}
    if found := others & {part.name for part in (parent, parent.parent)}:
        raise ValueError(f"`{parent}` holds the variation `{found.pop()}` of ImageNet-9, not `{variation}`.")
    if variation != "original":
        return source
    places = [above / MASK_FOLDER / "val" for above in parent.parents[:3]]
    masks = next(filter(Path.is_dir, (*places, *places_below(root, f"{MASK_FOLDER}/val"))), places[0])
    rows, times = partial(masked_rows, masks=masks), change_times(sorted(masks.rglob("*.npy")))
    return Source(rows, source.shards, times)


def masked_rows(shards: list[ClassFolder], masks: Path) -> Iterator[dict]:
    """Rows of class folders with their masks (`<class>/<stem>.npy`, 0 is background)."""
    for row in class_folder_rows(shards):
        image = Path(row["file_name"])
        path = masks / image.parent.name / f"{image.stem}.npy"
        try:
            mask = 255 * (np.squeeze(np.load(path)) > 0).astype(np.uint8)
            row |= {"mask": encode_image(Image.fromarray(mask))}
        except (OSError, EOFError, ValueError, TypeError) as error:
            problem = f"`{path}` is not a mask ({error}): expected an array (H, W) of numbers."
            row = {"file_name": row["file_name"], "problem": problem}
        yield row


CLASS_FOLDER = re.compile(r"(\d{1,3})[ _]\S.*")  # `<class of ImageNet> <name>`


def open_counteranimal(root: Path, part: str) -> Source:
    """One of the `COUNTERANIMAL_PARTS`: the folders whose name holds it, in `LAION-final/<class of ImageNet> <name>`."""
    (other,) = (name for name in COUNTERANIMAL_PARTS if name != part)
    shards = []
    for folder in find_classes(root, lambda name: CLASS_FOLDER.fullmatch(name) is not None):
        named = CLASS_FOLDER.fullmatch(folder.name)
        # "common" is not a part of "counter", nor the reverse: a folder belongs to one part.
        chosen = [path for path in subfolders(folder) if part in path.name.lower() and other not in path.name.lower()]
        if not named or not chosen:
            raise ValueError(
                f"`{folder}`: expected a class of ImageNet, as in `9 ostrich`, and in it a folder whose name holds `{part}` alone."
            )
        shards += [ClassFolder(path, root, int(named[1])) for path in chosen]
    return Source(class_folder_rows, shards)


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
