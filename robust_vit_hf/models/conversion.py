"""Bit-exact conversion of ViT and DeiT between timm weights and transformers model folders."""

import math
from pathlib import Path

import torch
from transformers import AutoImageProcessor, BaseImageProcessor, DeiTForImageClassificationWithTeacher, PreTrainedModel
from transformers.image_utils import PILImageResampling

from ..class_names.label_mapping import classes_of_model
from ..utils.files import atomic_folder, write_json
from ..utils.publishable import public_name
from .loading import load_complete
from .options import ConvertOptions
from .preprocessing import Preset, make_image_processor
from .registry import CONVERSION_FILE, resolve
from .timm_files import SIZES, load_timm, native_processor
from .timm_weights import hf_to_timm, timm_to_hf


def convert(options: ConvertOptions) -> str:
    """Convert weights, see [`convert_to_timm`] and [`convert_to_transformers`].

    Returns:
        Message about what was written.
    """
    source, output = options.source, options.output_dir
    if options.to == "timm":
        model = convert_to_timm(source, output, options.statistics)
    else:
        sizes = {"image_size": options.image_size, "num_heads": options.num_heads}
        preset = options.preset or "paper"
        model = convert_to_transformers(source, output, preset, statistics=options.statistics, **sizes)
    return f"{output}: {model.num_parameters():,} parameters of {type(model).__name__}"


def convert_to_transformers(
    source: str,
    output: Path,
    preset: Preset = "paper",
    *,
    image_size: int | None = None,
    num_heads: int | None = None,
    statistics: str | None = None,
) -> PreTrainedModel:
    """Write a model folder of transformers atomically, with the image processor of a preset and `conversion.json`,
    which names the source.

    Args:
        source: file of weights, checkpoint, folder or Hub id of timm, or name of a registered model.
        image_size, num_heads: as for [`timm_to_hf`].
        statistics: mean and standard deviation of the native preset, as for [`native_processor`].

    Raises:
        FileExistsError: `output` is not empty.
        OSError, ValueError: see [`load_timm`], [`timm_to_hf`] and [`native_processor`].
    """
    source = resolve(source)
    with atomic_folder(output) as folder:
        weights, config = load_timm(source)
        model = timm_to_hf(weights, config, image_size=image_size, num_heads=num_heads)
        native = native_processor(config, statistics) if preset == "native" else None
        model.save_pretrained(folder)
        make_image_processor(preset, model.config.image_size, native).save_pretrained(folder)
        write_json(folder / CONVERSION_FILE, {"source": public_name(source)})
    return model


def convert_to_timm(source: str, output: Path, statistics: str | None = None) -> PreTrainedModel:
    """Write a model folder of timm atomically, with the preprocessing of the source's image processor.

    Args:
        source: folder or Hub id of transformers, or name of a registered model.
        statistics: use the native preset with this mean and standard deviation instead, see [`native_processor`].

    Raises:
        FileExistsError: `output` is not empty.
        OSError, ValueError: see [`load_complete`] and [`save_timm`], or the source has no image processor.
    """
    source = resolve(source)
    with atomic_folder(output) as folder:
        model = load_complete(source, dtype="auto")
        if statistics:
            processor = make_image_processor("native", model.config.image_size, native_processor(None, statistics))
        else:
            try:
                processor = AutoImageProcessor.from_pretrained(source)
            except OSError as error:
                raise ValueError(
                    f"`{source}` has no image processor: give `--statistics imagenet` or `half` for the native preset."
                ) from error
        save_timm(model, processor, folder)
    return model


def save_timm(model: PreTrainedModel, processor: BaseImageProcessor, folder: Path) -> None:
    """Write `model.safetensors` and `config.json`, with the settings of a processor, into an existing folder.

    `timm.create_model(f"local-dir:{folder}", pretrained=True)` loads the model.

    Raises:
        ValueError: images or patches that are not square, preprocessing that timm has no settings for, or see
            [`hf_to_timm`].
    """
    import timm
    from timm.models import save_for_hf

    config = model.config
    image_size, patch_size = _side("image_size", config.image_size), _side("patch_size", config.patch_size)
    preprocessing = _preprocessing(processor, image_size, config.num_channels)
    weights = hf_to_timm(model)
    size = SIZES.get((config.hidden_size, config.num_hidden_layers, config.intermediate_size), ("base", None))[0]
    if isinstance(model, DeiTForImageClassificationWithTeacher):
        architecture = f"deit_{size if size in ('tiny', 'small') else 'base'}_distilled_patch16_224"
    else:
        architecture = f"vit_{size}_patch{14 if size == 'huge' else 16}_224"
    mlp_ratio = config.intermediate_size / config.hidden_size
    if int(config.hidden_size * mlp_ratio) != config.intermediate_size:  # as timm computes it
        mlp_ratio = math.nextafter(mlp_ratio, math.inf)
    # All of them, so that the name of the architecture does not matter.
    model_args = {
        "img_size": image_size,
        "patch_size": patch_size,
        "in_chans": config.num_channels,
        "embed_dim": config.hidden_size,
        "depth": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "mlp_ratio": mlp_ratio,
        "qkv_bias": config.qkv_bias,
    }
    with torch.device("meta"):  # without initialising weights that are overwritten
        exported = timm.create_model(architecture, num_classes=config.num_labels, **model_args)
    exported.load_state_dict(weights, assign=True)
    labels = classes_of_model(config)
    save_for_hf(
        exported,
        str(folder),
        model_config={} if labels[0] == "LABEL_0" else {"label_names": labels},
        model_args=model_args,
        safe_serialization=True,
        data_config=preprocessing,
    )


def _preprocessing(processor: BaseImageProcessor, image_size: int, num_channels: int) -> dict:
    """Settings of timm's evaluation transform, which resizes to floor(image size / `crop_pct`), then crops."""
    if not (processor.do_resize and processor.do_rescale and processor.do_normalize):
        raise ValueError("The image processor does not resize, rescale or normalise, and timm always does.")
    squash = processor.size["shortest_edge"] is None
    resized = processor.size["shortest_edge"] or _side("size", (processor.size["height"], processor.size["width"]))
    if getattr(processor, "do_center_crop", False):
        cropped = _side("crop_size", (processor.crop_size["height"], processor.crop_size["width"]))
    else:
        cropped = resized if squash else None
    if cropped != image_size or resized < image_size:
        raise ValueError(
            f"The image processor has size {processor.size} and crop {cropped}, which does not give the images of "
            f"{image_size} px that the model takes."
        )
    crop_pct = image_size / resized
    if math.floor(image_size / crop_pct) != resized:
        crop_pct = math.nextafter(crop_pct, 0)
    return {
        "crop_pct": crop_pct,
        "crop_mode": "squash" if squash else "center",
        "interpolation": PILImageResampling(processor.resample).name.lower(),
        # For models with fewer channels than the processor.
        "mean": list(processor.image_mean)[:num_channels],
        "std": list(processor.image_std)[:num_channels],
    }


def _side(name: str, value: int | tuple[int, int] | list[int]) -> int:
    height, width = (value, value) if isinstance(value, int) else value
    if height != width:
        raise ValueError(f"`{name}` is {height}×{width}, expected a square, as timm has for these models.")
    return height
