"""Options of `robust-vit convert`."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

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

    POSITIONAL: ClassVar[tuple[str, ...]] = ("source",)

    source: str = option(text="file of weights or checkpoint, folder, Hub id, or name of a model of the paper")
    output_dir: Path = output_dir()
    to: Literal["hf", "timm"] = option("hf", "format to write")
    image_size: int | None = option(None, "side of the images, to which position embeddings are interpolated")
    num_heads: int | None = option(None, "attention heads, for weights of an unusual size")
    classes: Path | None = option(
        None,
        "file with the name of a class on each line, for a new head: for CLIP a zero-shot head, for other models a head of zeros, to be "
        "trained by `robust-vit train --method finetune`",
        metavar="FILE",
    )
    templates: list[str] | None = option(
        None,
        "texts for the classes of CLIP, with {} in place of the name (default: 'a photo of a {}.')",
        metavar="TEXT",
    )
    protocol: Protocol | None = option(
        None,
        "image processor to save; by default `paper` for registered models and weights without timm's configuration, otherwise `model`, "
        "the preprocessing in that configuration",
    )
    statistics: Literal["imagenet", "half"] | None = option(None, "mean and standard deviation of the native protocol")

    def __post_init__(self):
        super().__post_init__()
        self.check(image_size=COUNT, num_heads=COUNT)
        kind, used = f"--to {self.to}", {"image_size", "num_heads", "protocol"} if self.to == "hf" else {"statistics"}
        if self.classes:
            kind, used = "--classes", {"classes", "templates", "protocol"}
        elif self.protocol == "native":
            used |= {"statistics"}
        names = ("image_size", "num_heads", "classes", "templates", "protocol", "statistics")
        if unused := [f"--{name}" for name in names if getattr(self, name) and name not in used]:
            raise ValueError(
                f"{', '.join(unused)} has no effect with {kind}. Leave it out; --statistics needs --protocol native"
            )
