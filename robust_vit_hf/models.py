"""Models and their preprocessing by name: a folder, a Hub id, or the bundled model."""

import hashlib

import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel, ViTImageProcessor

from .emoji_shift.model import IMAGE_SIZE, load_biased_model
from .transforms import make_image_processor


EMOJI_SHIFT = "emoji-shift"  # name of the bundled model, and of its images


def load_model(name: str, trust_remote_code: bool = False) -> PreTrainedModel:
    """Image classification model in fp32.

    Args:
        name: folder, Hub id, or `emoji-shift` for the bundled model.
        trust_remote_code: run model code that comes with the weights.

    Raises:
        OSError: there is no such model.
    """
    if name == EMOJI_SHIFT:
        return load_biased_model()
    return AutoModelForImageClassification.from_pretrained(
        name, trust_remote_code=trust_remote_code, dtype=torch.float32
    )


def load_processor(name: str, preset: str, model: PreTrainedModel, image_size: int | None = None) -> ViTImageProcessor:
    """Image processor of a model under a preset, see [`make_image_processor`].

    Args:
        name: what the model was loaded from.
        preset: `"paper"` or `"native"`. The bundled model is native to the statistics of the paper.
        image_size: side of the images in pixels; by default that of the crop of the saved processor, or that of the
            model's configuration where the processor crops nothing.

    Raises:
        OSError: the native preset, and no processor is saved with the model.
        ValueError: a model without an image size.
    """
    if name == EMOJI_SHIFT:
        return make_image_processor(preset, image_size or IMAGE_SIZE, make_image_processor("paper", IMAGE_SIZE))
    try:
        saved = AutoImageProcessor.from_pretrained(name)
    except OSError:
        if preset == "native":
            raise
        saved = None  # the paper's preset depends on the size alone
    if image_size is None:
        if not hasattr(model.config, "image_size"):
            raise ValueError(
                f"`{name}` is a `{type(model).__name__}`, whose configuration has no image size. Weights of timm must be "
                "converted to a ViT of transformers first."
            )
        crop = saved.crop_size if getattr(saved, "do_center_crop", False) else None
        image_size = (crop["height"], crop["width"]) if crop else model.config.image_size
    return make_image_processor(preset, image_size, saved)


def weights_digest(model: PreTrainedModel) -> str:
    """16 hexadecimal digits that change with any weight."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
