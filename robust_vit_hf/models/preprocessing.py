"""Presets of image preprocessing: the paper's and the pretraining's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from PIL.Image import Resampling

from .registry import MODELS, resolve


if TYPE_CHECKING:  # names are read without importing transformers
    from transformers import BaseImageProcessor, PreTrainedModel, ViTImageProcessor


Preset = Literal["paper", "native"]  # see `make_image_processor`


def make_image_processor(
    preset: Preset, image_size: int | tuple[int, int] = 224, native_processor: BaseImageProcessor | None = None
) -> ViTImageProcessor:
    """Image processor of a preset. It is saved with the finetuned model.

    Args:
        preset: `"paper"`: shortest side to 256 (bilinear), centre crop of 224, mean and standard deviation 0.5 for
            every model, DeiT included, as in the released code. `"native"`: shortest side to 248 (bicubic), crop of
            224, and the statistics of the pretraining, as timm evaluates these models.
        image_size: side of the crop in pixels, or `(height, width)`. The resize scales with it. If the sides differ,
            images are squashed to their aspect ratio, as in training.
        native_processor: processor of the pretrained model, with the statistics of the native preset.

    Raises:
        ValueError: unknown preset, or native preset without a processor.
    """
    from transformers import ViTImageProcessor

    if preset == "paper":
        factor, resample, mean, std = 256 / 224, Resampling.BILINEAR, [0.5] * 3, [0.5] * 3
    elif preset != "native":
        raise ValueError(f"Unknown preprocessing preset `{preset}`; expected `paper` or `native`.")
    elif native_processor is None:
        raise ValueError(
            "The `native` preset takes mean and standard deviation from `native_processor`, which is None."
        )
    else:
        factor, resample = 248 / 224, Resampling.BICUBIC
        mean, std = list(native_processor.image_mean), list(native_processor.image_std)
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    resized = {"height": round(height * factor), "width": round(width * factor)}
    return ViTImageProcessor(
        size={"shortest_edge": resized["height"]} if height == width else resized,
        resample=resample,
        do_center_crop=True,
        crop_size={"height": height, "width": width},
        image_mean=mean,
        image_std=std,
    )


def load_processor(
    name: str, preset: Preset, model: PreTrainedModel, image_size: int | None = None
) -> ViTImageProcessor:
    """Image processor of a model under a preset, see [`make_image_processor`].

    Args:
        name: name, Hub id or folder that the model was loaded from. The native statistics of a bundled model are the
            paper's.
        image_size: side of the images in pixels; by default the saved processor's crop, or the model's configuration
            if the processor does not crop.

    Raises:
        OSError: native preset, but no processor is saved with the model.
        ValueError: the model has no image size.
    """
    from transformers import AutoImageProcessor

    from .loading import is_timm
    from .timm_files import native_processor, timm_files

    if name in MODELS and MODELS[name].load is not None:
        size = image_size or MODELS[name].image_size
        return make_image_processor(preset, size, make_image_processor("paper", size))
    name = resolve(name)
    if is_timm(name):
        return make_image_processor(
            preset, image_size or model.config.image_size, native_processor(timm_files(name)[1])
        )
    try:
        saved = AutoImageProcessor.from_pretrained(name)
    except OSError:
        if preset == "native":
            raise
        saved = None  # the paper's preset depends only on the size
    if image_size is None:
        if not hasattr(model.config, "image_size"):
            raise ValueError(f"`{name}` is a `{type(model).__name__}`, whose configuration has no image size.")
        crop = saved.crop_size if getattr(saved, "do_center_crop", False) else None
        image_size = (crop["height"], crop["width"]) if crop else model.config.image_size
    return make_image_processor(preset, image_size, saved)
