"""Sets of another distribution than ImageNet's: ImageNet-V2, ImageNet-D, ObjectNet, SI-Score, and those with changed backgrounds,
ImageNet-9, CounterAnimal and Waterbirds."""

import csv
import json
import re
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps
from transformers.utils import logging

from ...utils.images import to_rgb
from ..classes import wnids
from ..known_sets import COUNTERANIMAL_PARTS, IMAGENET_9_VARIATIONS, IMAGENET_D_FACTORS, KNOWN_SETS, V2_VARIANTS
from ..schema import Source, decode, encode_image, with_mask
from .folders import class_folders, file_row, find_classes, open_class_folders, path_within, places_below, subfolders


logger = logging.get_logger(__name__)


def open_v2(root: Path, variant: str = "matched-frequency") -> Source:
    """One of the `V2_VARIANTS` (the paper uses the first): folders "0" to "999", named after labels."""
    parts = {name: (f"imagenetv2-{name}*",) for name in V2_VARIANTS}
    place = next((path for path in subfolders(root) if path.match(*parts[variant])), root)
    source = open_class_folders(place, {str(label): label for label in range(len(wnids()))}, variant, parts)
    return replace(source, shards=sorted(source.shards, key=lambda shard: shard.label))


def open_imagenet_d(root: Path, factor: str) -> Source:
    """The images of one of the `IMAGENET_D_FACTORS`, in `<factor>/<name>`. `root` is the folder with
    `imgnet_d2imgnet_id.txt`, or one above it, or that of the factor."""
    file = "imgnet_d2imgnet_id.txt"  # JSON: a folder's name to the ids that count, as numbers or as text
    path = next(iter(places_below(root, file)), root.parent / file)
    accepted = json.loads(path.read_text(encoding="utf-8"))
    labels = {name: [int(i) for i in (ids if isinstance(ids, list) else [ids])] for name, ids in accepted.items()}
    return open_class_folders(path.parent, labels, factor, {name: (name,) for name in IMAGENET_D_FACTORS})


def open_objectnet(root: Path, mappings: str | None = None, cropped: bool = False) -> Source:
    """Folders of images with ObjectNet's mapping files in `mappings`, by default in or beside the folder of images. `cropped`
    cuts the red border of 2 pixels: the paper keeps it, the protocol `native` cuts it."""
    places = [*root.parent.glob("mappings"), *places_below(root, "mappings"), root / "mappings"]
    labels = read_mappings(Path(mappings or places[0]))
    source = class_folders(
        root, {path: labels[path.name] for path in find_classes(root, labels.__contains__) if path.name in labels}
    )
    return source.changed(without_border) if cropped else source


def read_mappings(folder: Path) -> dict[str, list[int]]:
    """Accepted labels 0–999 of each ObjectNet folder that shows ImageNet classes, in the order of the mapping."""
    tables = ("folder_to_objectnet_label", "objectnet_to_imagenet_1k", "pytorch_to_imagenet_2012_id")
    folder_names, accepted_names, line_of_label = (
        json.loads((folder / f"{table}.json").read_text()) for table in tables
    )
    lines = [line.strip() for line in (folder / "imagenet_to_label_2012_v2").read_text().splitlines()]
    label_of_name = {lines[int(line)]: int(label) for label, line in line_of_label.items()}
    accepted = {
        directory: accepted_names[object_name].split("; ")
        for directory, object_name in folder_names.items()
        if object_name in accepted_names
    }
    if wrong := [name for names in accepted.values() for name in names if lines.count(name) != 1]:
        raise ValueError(f"`{folder}` is not of objectnet-1.0: `{wrong[0]}` names {lines.count(wrong[0])} classes.")
    return {directory: [label_of_name[name] for name in names] for directory, names in accepted.items()}


def without_border(row: dict) -> dict:
    """Row of ObjectNet, as BMP, without the red border."""
    row, image, _ = decode(row)
    if image is None:
        return row
    cropped = ImageOps.crop(image, KNOWN_SETS["objectnet"].border)
    return row | {"image": encode_image(to_rgb(cropped), Path(row["file_name"]).with_suffix(".bmp").name)}


# label_str_to_imagenet_classes.py of google-research/si-score at 94cf862 (Apache-2.0): folders have English names
# chosen by the authors, not ImageNet's. The sets have 61 of them.
LABELS: dict[str, int] = json.loads(Path(__file__).with_name("si_score_classes.json").read_text(encoding="utf-8"))
SI_SCORE_FOLDERS = {
    "size": ("area", "object_size"),
    "rotation": ("rotation", "object_rotation"),
    "location": ("location20_area02_min0pc", "object_location"),
}
METADATA_COLUMNS = {"x": "x_coord", "y": "y_coord", "area": "area", "angle": "rotation"}


def open_si_score(root: Path, factor: str) -> Source:
    """The set of one of the `SI_SCORE_FOLDERS`: class folders with English names, and `metadata.csv` beside them."""
    source = open_class_folders(root, LABELS, factor, SI_SCORE_FOLDERS)
    parent = source.shards[0].path.parent
    tables = [path for path in (parent / "metadata.csv", parent.parent / "metadata.csv") if path.is_file()][:1]
    if not tables:
        logger.warning(
            f"There is no metadata.csv beside the classes in `{parent}`, so {[*METADATA_COLUMNS]} are missing."
        )
    times = {path: path.stat().st_mtime_ns for path in tables}
    return source.changed(partial(_with_factors, times=times), tables)


def _with_factors(row: dict, times: dict[Path, int]) -> dict:
    """The row with the factors of its image by the metadata: centre `x` and `y` and `area`, as fractions of the image; `angle` in
    degrees, counter-clockwise. `None` for images without."""
    stem, factors = Path(row["file_name"]).stem, [None] * len(METADATA_COLUMNS)
    for path, time in times.items():
        table = _read_factors(path, time)
        if stem.isdecimal() and int(stem) in table.index:
            factors = table.loc[int(stem)].tolist()
    return row | dict(zip(METADATA_COLUMNS, factors, strict=True))


@lru_cache(maxsize=1)
def _read_factors(path: Path, time: int) -> pd.DataFrame:
    """Factors of each image by its id, in the order of `METADATA_COLUMNS`. `time`, that of the last change, is a key of the cache."""
    columns = [*METADATA_COLUMNS.values()]
    return pd.read_csv(path, usecols=["image_id", *columns], index_col="image_id")[columns].astype("float64")


# The classes of ImageNet-1k in each of the nine: `in_to_in9.json` of the repository at 46d224b. The other 630 classes belong to none.
CLASSES: dict[str, list[int]] = json.loads(
    Path(__file__).with_name("imagenet_9_classes.json").read_text(encoding="utf-8")
)


def open_imagenet_9(root: Path, variation: str) -> Source:
    """One of the `IMAGENET_9_VARIATIONS`, in `bg_challenge/<variation>/val/<class>`, of which `root` is any folder. An image
    has all labels of its class; those of `original` have masks, in `fg_mask/val/<class>/<stem>.npy`."""
    source = open_class_folders(root, CLASSES, variation, {name: (name,) for name in IMAGENET_9_VARIATIONS})
    if variation != "original":
        return source
    places = [above / "fg_mask" / "val" for above in source.shards[0].path.parents[1:4]]
    masks = next(filter(Path.is_dir, (*places, *places_below(root, "fg_mask/val"))), places[0])
    return source.changed(partial(_with_imagenet_9_mask, masks=masks), sorted(masks.rglob("*.npy")))


def _with_imagenet_9_mask(row: dict, masks: Path) -> dict:
    image = Path(row["file_name"])
    return with_mask(row | {"mask": masks / image.parent.name / f"{image.stem}.npy"}, _read_imagenet_9_mask)


def _read_imagenet_9_mask(path: Path) -> Image.Image:
    return Image.fromarray(255 * (np.squeeze(np.load(path)) > 0).astype(np.uint8))


CLASS_FOLDER = re.compile(r"(\d{1,3})[ _]\S.*")  # `<class of ImageNet> <name>`


def open_counteranimal(root: Path, part: str) -> Source:
    """One of the `COUNTERANIMAL_PARTS`: the folders whose name holds it, in `LAION-final/<class of ImageNet> <name>`."""
    (other,) = (name for name in COUNTERANIMAL_PARTS if name != part)
    labels = {}
    for folder in find_classes(root, lambda name: CLASS_FOLDER.fullmatch(name) is not None):
        named = CLASS_FOLDER.fullmatch(folder.name)
        # "common" is not a part of "counter", nor the reverse: a folder belongs to one part.
        chosen = [path for path in subfolders(folder) if part in path.name.lower() and other not in path.name.lower()]
        if not named or not chosen:
            raise ValueError(
                f"`{folder}` is not a class, such as `9 ostrich`, with a folder named after `{part}` alone."
            )
        labels |= dict.fromkeys(chosen, int(named[1]))
    return class_folders(root, labels)


def open_waterbirds(root: Path, split: str = "train", segmentations: str | None = None) -> Source:
    """A split (`train`, `validation` or `test`) of `waterbird_complete95_forest2water2`, as its `metadata.csv` lists it, at most two
    levels below `root`. `segmentations` is the folder of that name of CUB-200-2011, whose masks composed the images."""
    path = next(iter(places_below(root, "metadata.csv")), root / "metadata.csv")
    reader = csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines())
    if not {"img_filename", "y", "split", "place"} <= {*(reader.fieldnames or ())}:
        raise ValueError(f"`{path}` has the columns {reader.fieldnames}: take the file that comes with the set.")
    rows = []
    for line in reader:
        if line["split"] == {"train": "0", "validation": "1", "test": "2"}[split]:
            name, label = path_within(path.parent, path.name, "", line["img_filename"]), int(line["y"])
            rows.append(file_row(path.parent / name, name, label=label) | {"group": 2 * label + int(line["place"])})
    if segmentations is None:
        return Source(iter, rows)
    rows = [row | {"mask": (Path(segmentations) / row["file_name"]).with_suffix(".png")} for row in rows]
    return Source(iter, rows).changed(partial(with_mask, read=_read_segmentation), [row["mask"] for row in rows])


def _read_segmentation(path: Path) -> Image.Image:
    # Levels are shares of the annotators: the object is where half of them agree.
    return Image.open(path).convert("L").point(lambda level: 255 * (level > 127))


def row_of_hub(row: dict, name: str) -> dict:
    """A row of the copy of Waterbirds on the Hub, with `label` (1 is a waterbird) and `place` (1 is water)."""
    label, place = row["label"], row["place"]
    if label not in (0, 1) or place not in (0, 1):
        return {"file_name": name, "problem": f"`{name}` has label {label} and place {place}, expected 0 or 1."}
    return {"image": row["image"], "label": label, "file_name": name, "group": 2 * label + place}
