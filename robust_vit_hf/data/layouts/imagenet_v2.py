"""ImageNet-V2: folders of images named by their label.

Source: https://huggingface.co/papers/1902.10811
"""

from dataclasses import replace
from pathlib import Path

from ..imagenet_classes import wnids
from ..schema import Source
from .folders_of_sets import open_class_folders, subfolders


def open_v2(root: Path, variant: str = "matched-frequency") -> Source:
    """One of the `V2_VARIANTS` (the paper uses the first): folders "0" to "999", named after labels."""
    named = [path for path in subfolders(root) if path.name.startswith("imagenetv2-")]
    wanted = [path for path in named if path.name.startswith(f"imagenetv2-{variant}")]
    source = open_class_folders((wanted or named or [root])[0], {str(label): label for label in range(len(wnids()))})
    folder = source.shards[0].path.parent
    if any(part.startswith("imagenetv2-") and f"-{variant}" not in part for part in folder.parts):
        raise ValueError(f"`{folder}` is another variant of ImageNet-V2 than `{variant}`: name it with --variant.")
    return replace(source, shards=sorted(source.shards, key=lambda shard: shard.label))
