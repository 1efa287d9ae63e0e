"""CounterAnimal: photographs of animals before common backgrounds and before counter ones, on which CLIP is worse.

Source: https://huggingface.co/papers/2403.11497
"""

import re
from pathlib import Path

from ..known_sets import COUNTERANIMAL_PARTS
from ..schema import Source
from .folders_of_sets import ClassFolder, class_folder_rows, find_classes, subfolders


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
