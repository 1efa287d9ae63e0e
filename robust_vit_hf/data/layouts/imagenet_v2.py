"""ImageNet-V2: folders of images named by their label.

Source: https://huggingface.co/papers/1902.10811
"""

from pathlib import Path

from ..imagenet_classes import wnids
from ..known_sets import V2_VARIANTS
from ..schema import Source
from .class_folders import ClassFolder, class_folder_rows, find_classes, subfolders


def open_v2(root: Path, variant: str = "matched-frequency") -> Source:
    """Open one of the `V2_VARIANTS` (the paper uses the first): folders "0" to "999", named after labels.

    Raises:
        ValueError: unknown variant, or the folder holds another one.
    """
    if variant not in V2_VARIANTS:
        raise ValueError(f"ImageNet-V2 has no variant `{variant}`; expected one of {', '.join(V2_VARIANTS)}.")
    named = [path for path in subfolders(root) if path.name.startswith("imagenetv2-")]
    wanted = [path for path in named if path.name.startswith(f"imagenetv2-{variant}")]
    root = (wanted or named or [root])[0]
    folders = find_classes(root, str.isdecimal)
    if any(part.startswith("imagenetv2-") and f"-{variant}" not in part for part in folders[0].parts):
        raise ValueError(
            f"`{folders[0].parent}` is another variant of ImageNet-V2 than `{variant}`: name it with --variant."
        )
    shards = []
    for folder in folders:
        label = int(folder.name) if folder.name.isdecimal() and int(folder.name) < len(wnids()) else None
        problem = f"`{folder}`: the folders of ImageNet-V2 are named 0 to 999." if label is None else None
        shards.append(ClassFolder(folder, root, label, problem=problem))
    return Source(class_folder_rows, sorted(shards, key=lambda shard: -1 if shard.label is None else shard.label))
