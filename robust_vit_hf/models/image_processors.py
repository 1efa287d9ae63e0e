"""Image processors under a preset: the paper's preprocessing, or that of the pretraining."""

from transformers import AutoImageProcessor, BaseImageProcessor, PreTrainedModel, ViTImageProcessor
from transformers.image_utils import PILImageResampling

from .loading import is_timm
from .presets import Preset
from .registry import MODELS, resolve
from .timm_files import native_processor, timm_files


def make_image_processor(
    preset: Preset,
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


def load_processor(
    name: str, preset: Preset, model: PreTrainedModel, image_size: int | None = None
) -> ViTImageProcessor:
    """Image processor of a model under a preset, see [`make_image_processor`].

    Args:
        name: what the model was loaded from.
        preset: as for [`make_image_processor`]. A bundled model was trained with the statistics of the paper.
        image_size: side of the images in pixels; by default that of the crop of the saved processor, or that of the
            model's configuration where the processor crops nothing.

    Raises:
        OSError: the native preset, and no processor is saved with the model.
        ValueError: a model without an image size.
    """
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
        saved = None  # the paper's preset depends on the size alone
    if image_size is None:
        if not hasattr(model.config, "image_size"):
            raise ValueError(f"`{name}` is a `{type(model).__name__}`, whose configuration has no image size.")
        crop = saved.crop_size if getattr(saved, "do_center_crop", False) else None
        image_size = (crop["height"], crop["width"]) if crop else model.config.image_size
    return make_image_processor(preset, image_size, saved)
