"""Preprocessing: the image processors of the evaluation presets, and the joint transforms of image and mask that match
them."""

from collections.abc import Callable
from typing import Literal

import torch
from PIL import ImageOps
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional
from transformers import BaseImageProcessor, ViTImageProcessor
from transformers.image_utils import PILImageResampling


def make_image_processor(
    preset: Literal["paper", "native"],
    image_size: int | tuple[int, int] = 224,
    native_processor: BaseImageProcessor | None = None,
) -> ViTImageProcessor:
    """Image processor of an evaluation preset. It is saved with the finetuned model, so that whoever loads the model gets
    the preprocessing that it was finetuned and measured with.

    Args:
        preset: `"paper"`: shortest side to 256 (bilinear), centre crop of 224, mean and standard deviation 0.5 for every
            model, DeiT included, as in the released code. `"native"`: shortest side to 248 (bicubic), crop of 224, and
            the statistics that the model was pretrained with, as timm evaluates these models.
        image_size: side of the crop in pixels, or `(height, width)`. For a side other than 224 the resize keeps the
            same proportion to it. If the sides differ, images are squashed to their proportion, as in training.
        native_processor: processor of the pretrained model, whose statistics the native preset takes.

    Raises:
        ValueError: unknown preset, or the native preset without a processor.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    crop_size = {"height": height, "width": width}
    if preset == "paper":
        return ViTImageProcessor(
            size=_resized(height, width, 256 / 224),
            resample=PILImageResampling.BILINEAR,
            do_center_crop=True,
            crop_size=crop_size,
            image_mean=[0.5, 0.5, 0.5],
            image_std=[0.5, 0.5, 0.5],
        )
    if preset != "native":
        raise ValueError(f"Unknown preprocessing preset `{preset}`; expected `paper` or `native`.")
    if native_processor is None:
        raise ValueError(
            "The `native` preset takes mean and standard deviation from `native_processor`, which is None."
        )
    return ViTImageProcessor(
        size=_resized(height, width, 248 / 224),
        resample=PILImageResampling.BICUBIC,
        do_center_crop=True,
        crop_size=crop_size,
        image_mean=list(native_processor.image_mean),
        image_std=list(native_processor.image_std),
    )


def _resized(height: int, width: int, factor: float) -> dict[str, int]:
    if height == width:
        return {"shortest_edge": round(height * factor)}
    return {"height": round(height * factor), "width": round(width * factor)}


def train_transform(processor: BaseImageProcessor) -> Callable[[dict[str, list]], dict[str, list]]:
    """Joint training transform of the released code, for `Dataset.set_transform`: squash to 256×256, random crop of 224
    (both in the proportion of the processor's crop), horizontal flip.

    It takes a batch of rows with `image`, `mask` (PIL images) and `label`, if there is one, and returns `pixel_values`,
    fp32 `(3, H, W)` normalised by the processor, `mask`, fp32 `(1, H, W)` in [0, 1], and `labels`.
    """
    height, width = processor.crop_size["height"], processor.crop_size["width"]
    geometry = v2.Compose(
        [
            v2.Resize((round(height * 256 / 224), round(width * 256 / 224)), InterpolationMode.BILINEAR),
            v2.RandomCrop((height, width)),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    normalize = v2.Normalize(list(processor.image_mean), list(processor.image_std))

    def transform(rows: dict[str, list]) -> dict[str, list]:
        batch = {"pixel_values": [], "mask": []}
        for image, mask in zip(rows["image"], rows["mask"], strict=True):
            # The mask travels as an image: `tv_tensors.Mask` would be resized by nearest neighbour, and the released
            # code resizes masks bilinearly, with fractional values at the edges.
            image = tv_tensors.Image(functional.pil_to_tensor(image.convert("RGB")))
            image, mask = geometry(image, tv_tensors.Image(mask_to_tensor(mask)))
            batch["pixel_values"].append(normalize(image).as_subclass(torch.Tensor))
            batch["mask"].append(mask.as_subclass(torch.Tensor))
        return batch | ({"labels": rows["label"]} if "label" in rows else {})

    return transform


def eval_transform(processor: BaseImageProcessor, border: int = 0) -> Callable[[dict[str, list]], dict[str, list]]:
    """Joint evaluation transform, with the inputs and outputs of [`train_transform`]: `pixel_values` are those of
    `processor`, and the mask, if there is one, goes through the same geometry, bilinearly.

    Args:
        border: pixels to cut first at each edge of an image without a mask, such as the red ones of ObjectNet.
    """

    def transform(rows: dict[str, list]) -> dict[str, list]:
        check_sizes(rows)
        images = [ImageOps.crop(image.convert("RGB"), border) for image in rows["image"]]
        batch = {"pixel_values": list(processor(images, return_tensors="pt")["pixel_values"])}
        if "mask" in rows:
            masks = processor(
                [mask_to_tensor(mask).expand(3, -1, -1) for mask in rows["mask"]],
                resample=PILImageResampling.BILINEAR,
                do_normalize=False,
                return_tensors="pt",
            )["pixel_values"]
            batch["mask"] = list(masks[:, :1])
        return batch | ({"labels": rows["label"]} if "label" in rows else {})

    return transform


def segmentation_transform(processor: BaseImageProcessor) -> Callable[[dict[str, list]], dict[str, list]]:
    """Transform of the paper's segmentation test, with the inputs and outputs of [`eval_transform`]: image (bilinearly) and
    mask (by nearest neighbour) are squashed to the size of the processor's crop, so that nothing is cut off."""
    height, width = processor.crop_size["height"], processor.crop_size["width"]

    def transform(rows: dict[str, list]) -> dict[str, list]:
        check_sizes(rows)
        pixel_values = processor(
            [image.convert("RGB") for image in rows["image"]],
            size={"height": height, "width": width},
            resample=PILImageResampling.BILINEAR,
            do_center_crop=False,
            return_tensors="pt",
        )["pixel_values"]
        masks = [
            functional.resize(mask_to_tensor(mask), [height, width], InterpolationMode.NEAREST_EXACT) / 255
            for mask in rows["mask"]
        ]
        return {"pixel_values": list(pixel_values), "mask": masks}

    return transform


def check_sizes(rows: dict[str, list]) -> None:
    """Refuse a mask of another size than its image, which would be laid over it all the same.

    Raises:
        ValueError: such a mask.
    """
    for image, mask in zip(rows["image"], rows.get("mask", rows["image"]), strict=True):
        if image.size != mask.size:
            raise ValueError(
                f"An image is {image.width}×{image.height} but its mask is {mask.width}×{mask.height}: expected equal sizes. "
                "`python -m robust_vit_hf.data describe` names the rows."
            )


def mask_to_tensor(mask) -> torch.Tensor:
    """A PIL mask as uint8 `(1, H, W)` in 0–255. Files that store the foreground as 1 rather than 255 are scaled."""
    tensor = functional.pil_to_tensor(mask.convert("L") if mask.mode == "1" else mask)
    return tensor * 255 if tensor.max() == 1 else tensor
