"""Options of `robust-vit convert`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..utils.options import COUNT, Options, option, output_dir
from .image_processors import Protocol


@dataclass(kw_only=True)
class ConvertOptions(Options):
    """Convert ViT and DeiT weights between timm and transformers, or give a new head.

    robust-vit convert timm/vit_base_patch16_224.augreg_in21k_ft_in1k --output_dir models/augreg-b
    robust-vit convert checkpoint.pth.tar --output_dir models/released --image_size 384
    robust-vit convert models/augreg-b --to timm --output_dir models/augreg-b-timm
    robust-vit convert openai/clip-vit-base-patch16 --classes classes.txt --output_dir models/clip
    """

    source: str = option(
        text="file of weights or checkpoint, folder, Hub id, or name of a model of the paper", positional=True
    )
    output_dir: Path = output_dir()
    to: Literal["hf", "timm"] = option("hf", "format to write")
    image_size: int | None = option(None, "side of the images, for new position embeddings", within=COUNT)
    num_heads: int | None = option(None, "attention heads, for weights of an unusual size", within=COUNT)
    classes: Path | None = option(
        None, "file with a class on each line, for a new head: zero-shot for CLIP, zeros for others", metavar="FILE"
    )
    templates: list[str] | None = option(
        None, "texts for CLIP, with {} for the name (default: 'a photo of a {}.')", metavar="TEXT"
    )
    protocol: Protocol | None = option(
        None, "image processor to save (default: `paper` for registered models and weights without config, or `model`)"
    )
    statistics: Literal["imagenet", "half"] | None = option(None, "mean and standard deviation of the native protocol")

    def __post_init__(self):
        super().__post_init__()
        kind, used = f"--to {self.to}", {"image_size", "num_heads", "protocol"} if self.to == "hf" else {"statistics"}
        if self.classes:
            kind, used = "--classes", {"classes", "templates", "protocol"}
        elif self.protocol == "native":
            used |= {"statistics"}
        names = ("image_size", "num_heads", "classes", "templates", "protocol", "statistics")
        if unused := [f"--{name}" for name in names if getattr(self, name) and name not in used]:
            raise ValueError(f"{', '.join(unused)} has no effect with {kind}; --statistics needs --protocol native")
