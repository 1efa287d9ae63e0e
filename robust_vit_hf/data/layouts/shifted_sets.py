"""Shifted test sets of ImageNet classes: ImageNet-V2, ImageNet-D, ObjectNet and SI-Score."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import pandas as pd
from PIL import ImageOps
from transformers.utils import logging

from ...utils.images import to_rgb
from ..imagenet_classes import wnids
from ..known_sets import KNOWN_SETS
from ..schema import Source, decode, encode_image
from .folders import ClassFolder, class_folder_rows, find_classes, open_class_folders, places_below, subfolders


def open_v2(root: Path, variant: str = "matched-frequency") -> Source:
    """One of the `V2_VARIANTS` (the paper uses the first): folders "0" to "999", named after labels."""
    named = [path for path in subfolders(root) if path.name.startswith("imagenetv2-")]
    wanted = [path for path in named if path.name.startswith(f"imagenetv2-{variant}")]
    source = open_class_folders((wanted or named or [root])[0], {str(label): label for label in range(len(wnids()))})
    folder = source.shards[0].path.parent
    if any(part.startswith("imagenetv2-") and f"-{variant}" not in part for part in folder.parts):
        raise ValueError(f"`{folder}` is another variant of ImageNet-V2 than `{variant}`: name it with --variant.")
    return replace(source, shards=sorted(source.shards, key=lambda shard: shard.label))


LABELS_FILE = "imgnet_d2imgnet_id.txt"  # JSON: a folder's name to the ids that count, as numbers or as text


def open_imagenet_d(root: Path, factor: str) -> Source:
    """The images of one of the `IMAGENET_D_FACTORS`, in `<factor>/<name>`. `root` is the folder with
    `imgnet_d2imgnet_id.txt`, or one above it."""
    root = root.absolute()
    listed = next(iter(places_below(root, LABELS_FILE)), root.parent / LABELS_FILE)
    read = json.loads(listed.read_text(encoding="utf-8"))
    accepted = {
        name: [int(label) for label in (ids if isinstance(ids, list) else [ids])] for name, ids in read.items()
    }
    source = open_class_folders(listed.parent, accepted, listed.parent / factor)
    return replace(source, state=listed.stat().st_mtime_ns)


BORDER = KNOWN_SETS["objectnet"].border  # width in pixels of the red border
MAPPING_FILES = (
    "folder_to_objectnet_label.json",
    "objectnet_to_imagenet_1k.json",
    "pytorch_to_imagenet_2012_id.json",
    "imagenet_to_label_2012_v2",
)


def open_objectnet(root: Path, mappings: str | None = None, cropped: bool = False) -> Source:
    """Folders of images with ObjectNet's mapping files in `mappings`, by default in or beside the folder of images. `cropped`
    cuts the red border of 2 pixels: the paper keeps it, the protocol `native` cuts it."""
    found = [Path(mappings)] if mappings else [*root.parent.glob("mappings"), *places_below(root, "mappings")]
    if not found:
        raise FileNotFoundError(
            f"There is no folder `mappings` of objectnet-1.0.zip in or beside `{root}`: give it with --mappings."
        )
    accepted = read_mappings(found[0])
    folders = [folder for folder in find_classes(root, accepted.__contains__) if folder.name in accepted]
    source = Source(class_folder_rows, [ClassFolder(folder, root, accepted[folder.name]) for folder in folders])
    return without_border(source) if cropped else source


def read_mappings(folder: Path) -> dict[str, list[int]]:
    """Accepted labels 0–999 of each ObjectNet folder that shows ImageNet classes, in the order of the mapping."""
    *tables, names_of_classes = ((folder / name).read_text() for name in MAPPING_FILES)
    folder_names, accepted_names, line_of_label = map(json.loads, tables)
    lines = [line.strip() for line in names_of_classes.splitlines()]
    label_of_name = {lines[int(line)]: int(label) for label, line in line_of_label.items()}
    accepted = {
        directory: accepted_names[object_name].split("; ")
        for directory, object_name in folder_names.items()
        if object_name in accepted_names
    }
    if wrong := [name for names in accepted.values() for name in names if lines.count(name) != 1]:
        raise ValueError(
            f"`{folder}` is not of objectnet-1.0: `{wrong[0]}` is the name of {lines.count(wrong[0])} classes of ImageNet."
        )
    return {directory: [label_of_name[name] for name in names] for directory, names in accepted.items()}


def without_border(source: Source) -> Source:
    """Crop images by `BORDER` pixels at each edge. They become BMP."""
    return replace(source, rows=partial(cropped_rows, rows=source.rows))


def cropped_rows(shards: list, rows: Callable[[list], Iterator[dict]]) -> Iterator[dict]:
    for row, image, _ in map(decode, rows(shards)):
        if image is not None:
            name = Path(row["file_name"]).with_suffix(".bmp").name
            row = row | {"image": encode_image(to_rgb(ImageOps.crop(image, BORDER)), name)}
        yield row


logger = logging.get_logger(__name__)

FOLDERS = {"size": "area", "rotation": "rotation", "location": "location20_area02_min0pc"}
METADATA_FILE = "metadata.csv"
METADATA_COLUMNS = {"x": "x_coord", "y": "y_coord", "area": "area", "angle": "rotation"}

# label_str_to_imagenet_classes.py of google-research/si-score at 94cf862 (Apache-2.0): folders have English names
# chosen by the authors, not ImageNet's. The sets have 61 of them.
LABELS: dict[str, int] = json.loads(Path(__file__).with_name("si_score_classes.json").read_text(encoding="utf-8"))


def open_si_score(root: Path, factor: str) -> Source:
    """The set of one of the `FOLDERS`: class folders with English names, and `metadata.csv` beside them."""
    names = {name: (folder, f"object_{name}") for name, folder in FOLDERS.items()}
    place = next((root / name for name in names[factor] if (root / name).is_dir()), root)
    source = open_class_folders(root, LABELS, place)
    parent = source.shards[0].path.parent
    if any(parent.name in others for other, others in names.items() if other != factor):
        raise ValueError(f"`{parent}` is another set of SI-Score than that of {factor}.")
    metadata = next(filter(Path.is_file, (parent / METADATA_FILE, parent.parent / METADATA_FILE)), None)
    if metadata is None:
        logger.warning(
            f"There is no {METADATA_FILE} beside the classes in `{parent}`: {', '.join(METADATA_COLUMNS)} are not known."
        )
    rows = partial(factor_rows, metadata=metadata)
    return Source(rows, source.shards, None if metadata is None else metadata.stat().st_mtime_ns)


def factor_rows(shards: list[ClassFolder], metadata: Path | None) -> Iterator[dict]:
    """Rows with the factors of each image: centre `x` and `y` and `area`, as fractions of the image; `angle` in
    degrees, counter-clockwise. `None` for images missing in the metadata."""
    table = None if metadata is None else read_factors(metadata, metadata.stat().st_mtime_ns)
    for row in class_folder_rows(shards):
        stem = Path(row["file_name"]).stem
        known = table is not None and stem.isdecimal() and int(stem) in table.index
        factors = table.loc[int(stem)].tolist() if known else [None] * len(METADATA_COLUMNS)
        yield row | dict(zip(METADATA_COLUMNS, factors, strict=True))


@lru_cache(maxsize=1)
def read_factors(path: Path, changed: int) -> pd.DataFrame:
    """Factors of each image by its id, in the order of `METADATA_COLUMNS`. `changed`, the modification time, is a cache key."""
    columns = [*METADATA_COLUMNS.values()]
    return pd.read_csv(path, usecols=["image_id", *columns], index_col="image_id")[columns].astype("float64")
