"""ObjectNet: 113 of its 313 folders show ImageNet classes, nine of them several. Its terms forbid training on it.

The mapping files use English names, which can be ambiguous ("crane"). Here they are joined by line in the list of
names, and ambiguous names are refused.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from PIL import ImageOps

from ...utils.images import to_rgb
from ..known_sets import KNOWN_SETS
from ..schema import Source, decode, encode_image
from .folders_of_sets import ClassFolder, class_folder_rows, find_classes, places_below


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
