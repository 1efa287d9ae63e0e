"""Reading and writing timm's weights and configuration files."""

import argparse
import math
import struct
import zipfile
from pathlib import Path
from pickle import UnpicklingError

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_file
from torch import Tensor
from transformers import BaseImageProcessor, DeiTForImageClassificationWithTeacher, PreTrainedConfig, PreTrainedModel
from transformers.image_utils import PILImageResampling

from ..data.geometry import input_size
from ..data.label_mapping import classes_of_model
from ..utils.files import read_json
from ..utils.public_names import is_hub_id
from .timm_weights import SIZES
from .weight_checks import reading


WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


def load_timm(source: str | Path) -> tuple[dict[str, Tensor], dict | None]:
    """Weights in timm's names, also of a training checkpoint, and timm's `config.json`, if any. No pickled code is run."""
    path, config = timm_files(source)
    with reading(path):
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            try:
                # Checkpoints of timm and DeiT hold the command line as a Namespace.
                with torch.serialization.safe_globals([argparse.Namespace]):
                    weights = torch.load(path, "cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
            except (LookupError, TypeError, ValueError, struct.error) as error:
                # torch reads any file as a pickle, also a text.
                raise UnpicklingError(str(error)) from error
    for key in ("model", "state_dict"):
        if isinstance(weights.get(key), dict):
            weights = weights[key]
    if all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}  # of `DataParallel`
    return weights, config


def timm_files(source: str | Path) -> tuple[Path, dict | None]:
    """File of the weights, and timm's `config.json` if there is one, from a file, a folder, such as a snapshot of a model of timm on
    the Hub, or a Hub id, of which only the configuration and one file of weights are downloaded, preferably safetensors."""
    folder, source = Path(source), str(source)
    if folder.is_file():
        return folder, None
    if not folder.is_dir():
        if not is_hub_id(source):
            raise FileNotFoundError(f"There is no file or folder `{source}`, and a Hub id has the form `owner/name`.")
        for name in WEIGHT_FILES:
            folder = Path(snapshot_download(source, allow_patterns=["config.json", name]))
            if (folder / name).is_file():
                break
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name, read_json(folder / "config.json")
    raise FileNotFoundError(f"`{source}` holds no {' and no '.join(f'`{name}`' for name in WEIGHT_FILES)}.")


def save_timm(model: PreTrainedModel, weights: dict, processor: BaseImageProcessor, folder: Path) -> None:
    """Write the `weights` of [`hf_to_timm`] and `config.json`, with the settings of a processor, into an existing folder, from which
    `timm.create_model(f"local-dir:{folder}", pretrained=True)` loads the model."""
    import timm
    from timm.models import save_for_hf

    config = model.config
    preprocessing = _preprocessing(processor, config)
    size = SIZES.get((config.hidden_size, config.num_hidden_layers, config.intermediate_size), ("base", None))[0]
    if isinstance(model, DeiTForImageClassificationWithTeacher):
        architecture = f"deit_{size if size in ('tiny', 'small') else 'base'}_distilled_patch16_224"
    else:
        architecture = f"vit_{size}_patch{14 if size == 'huge' else 16}_224"
    mlp_ratio = config.intermediate_size / config.hidden_size
    if int(config.hidden_size * mlp_ratio) != config.intermediate_size:  # as timm computes it
        mlp_ratio = math.nextafter(mlp_ratio, math.inf)
    # All settings, so that the architecture's name does not matter.
    model_args = {
        "img_size": config.image_size,
        "patch_size": config.patch_size,
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
    exported.pretrained_cfg |= {"tag": None}  # timm gives the first of the architecture's weights
    labels = classes_of_model(config)
    save_for_hf(
        exported,
        str(folder),
        model_config={} if labels[0] == "LABEL_0" else {"label_names": labels},
        model_args=model_args,
        safe_serialization=True,
        data_config=preprocessing,
    )


def _preprocessing(processor: BaseImageProcessor, config: PreTrainedConfig) -> dict:
    """Settings of timm's evaluation transform, which resizes to floor(image size / `crop_pct`), then crops."""
    size, image_size = processor.size, input_size(processor)[0]
    squash = size["shortest_edge"] is None
    resized = size["height"] if squash else size["shortest_edge"]
    switches = processor.do_resize and processor.do_rescale and processor.do_normalize
    square = input_size(processor) == (image_size, image_size) and size["width"] in (None, resized)
    if not switches or not square or config.image_size not in (image_size, [image_size] * 2) or resized < image_size:
        raise ValueError(
            f"The image processor has the size {size} and the model takes images of {config.image_size} px. timm always resizes to the "
            "same or a larger square, crops, rescales and normalises: give `--statistics imagenet` or `half` for the native preset."
        )
    crop_pct = image_size / resized
    if math.floor(image_size / crop_pct) != resized:
        crop_pct = math.nextafter(crop_pct, 0)
    return {
        "crop_pct": crop_pct,
        "crop_mode": "squash" if squash else "center",
        "interpolation": PILImageResampling(processor.resample).name.lower(),
        # For models with fewer channels than the processor.
        "mean": list(processor.image_mean)[: config.num_channels],
        "std": list(processor.image_std)[: config.num_channels],
    }
