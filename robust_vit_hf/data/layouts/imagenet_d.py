"""ImageNet-D: synthetic images of objects with unusual backgrounds, textures or materials.

Source: https://huggingface.co/papers/2403.18775, https://huggingface.co/datasets/zcs15/ImageNet-D
"""

import json
from pathlib import Path

from ..imagenet_classes import wnids
from ..known_sets import IMAGENET_D_FACTORS
from ..schema import Source
from .class_folders import ClassFolder, class_folder_rows, find_classes, places_below


LABELS_FILE = "imgnet_d2imgnet_id.txt"  # JSON: a folder's name to the ids that count, as numbers or as text


def open_imagenet_d(root: Path, factor: str) -> Source:
    """The images of one of the `IMAGENET_D_FACTORS`, in `<factor>/<name>`.

    Args:
        root: the folder with `imgnet_d2imgnet_id.txt`, or one above it.

    Raises:
        FileNotFoundError: there is no `imgnet_d2imgnet_id.txt`.
        ValueError: it is not valid, or there are no folders of its classes.
    """
    root = root.absolute()
    listed = next(iter(places_below(root, LABELS_FILE)), None)
    if listed is None and (root.parent / LABELS_FILE).is_file():
        listed = root.parent / LABELS_FILE
    if listed is None:
        raise FileNotFoundError(
            f"There is no `{LABELS_FILE}` in `{root}`, which maps the folders of ImageNet-D to classes: take the whole set."
        )
    accepted = _read_labels(listed)
    if not (listed.parent / factor).is_dir():
        raise ValueError(f"`{listed.parent}` has no folder `{factor}`; expected {', '.join(IMAGENET_D_FACTORS)}.")
    shards = []
    for folder in find_classes(listed.parent / factor, accepted.__contains__):
        problem = None
        if folder.name not in accepted:
            problem = f"`{folder}`: `{LABELS_FILE}` has no `{folder.name}`. Remove the folder, or correct its name."
        shards.append(ClassFolder(folder, listed.parent, accepted.get(folder.name), problem=problem))
    return Source(class_folder_rows, shards, listed.stat().st_mtime_ns)


def _read_labels(path: Path) -> dict[str, list[int]]:
    """Labels 0–999 that count, by the name of a folder."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        accepted = {
            name: [_id(label) for label in (ids if isinstance(ids, list) else [ids])] for name, ids in read.items()
        }
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"`{path}` is not JSON of names and lists of ids: {error}") from error
    if bad := [
        name for name, ids in accepted.items() if not ids or not all(0 <= label < len(wnids()) for label in ids)
    ]:
        raise ValueError(f"`{path}`: `{bad[0]}` has the ids {accepted[bad[0]]}, expected some of 0 to 999.")
    return accepted


def _id(label: object) -> int:
    if type(label) is int or isinstance(label, str):
        return int(label)
    raise TypeError(f"{label!r} is no id")
