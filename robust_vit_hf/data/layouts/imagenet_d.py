"""ImageNet-D: synthetic images of objects with unusual backgrounds, textures or materials.

Source: https://huggingface.co/papers/2403.18775, https://huggingface.co/datasets/zcs15/ImageNet-D
"""

import json
from dataclasses import replace
from pathlib import Path

from ..schema import Source
from .folders_of_sets import open_class_folders, places_below


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
