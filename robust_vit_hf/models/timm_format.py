"""The format of timm: bit-exact conversion of ViT and DeiT, and files of weights and configuration."""

import argparse
import math
import re
import struct
import zipfile
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from pickle import UnpicklingError

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    BaseImageProcessor,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    PreTrainedConfig,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.image_utils import PILImageResampling
from transformers.utils import logging

from ..data.classes import class_names, classes_of_model, wnids
from ..data.transforms import input_size
from ..utils.files import read_json, weights_read
from ..utils.privacy import is_hub_id
from .model_names import SAVED_BY_TIMM


logger = logging.get_logger(__name__)

LAYER_NORM_EPS = 1e-6  # of ViT and DeiT in timm; the default of transformers is 1e-12
# Name in timm and number of heads (which weights do not show), by hidden size, number of layers and MLP size.
SIZES = {
    (192, 12, 768): ("tiny", 3),
    (384, 12, 1536): ("small", 6),
    (768, 12, 3072): ("base", 12),
    (1024, 24, 4096): ("large", 16),
    (1280, 32, 5120): ("huge", 16),
}
# Arguments of the class in timm that follow from the weights, or do not affect the output of a trained model.
KNOWN_ARGUMENTS = {
    *("img_size", "patch_size", "in_chans", "num_classes", "embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias"),
    *("drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate"),
    *("dynamic_img_size", "strict_img_size", "weight_init", "fix_init"),
}


class OtherArchitecture(ValueError):
    """Weights of timm are not those of a plain ViT or DeiT."""


def timm_to_hf(
    state_dict: Mapping[str, Tensor],
    config: dict | None = None,
    *,
    image_size: int | None = None,
    num_heads: int | None = None,
) -> PreTrainedModel:
    """Model of transformers with the output of a model of timm, in evaluation mode, with copied weights in their dtype: a
    `DeiTForImageClassificationWithTeacher` if there is a distillation token, otherwise a `ViTForImageClassification`.

    Args:
        state_dict: weights with their names in timm. They define all sizes except the number of heads.
        config: `config.json` of timm, for the number of heads and the names of the classes, by default those of ImageNet.
        image_size: new side of the images in pixels, for which position embeddings are interpolated as in timm.
        num_heads: number of attention heads, required for sizes other than tiny, small, base, large and huge.

    Source: https://github.com/huggingface/pytorch-image-models/blob/main/timm/models/vision_transformer.py
    """
    distilled = "dist_token" in state_dict or "head_dist.weight" in state_dict
    options = _sizes(state_dict, config or {}, distilled)
    patch_size, side = options["patch_size"], options["image_size"]
    names = _names(options["num_hidden_layers"], distilled, options["qkv_bias"])
    if options["num_attention_heads"] is None and num_heads is None:
        raise ValueError(
            "The weights have none of the sizes from tiny to huge, so the number of attention heads is not known. Give `--num_heads`."
        )
    options |= {"num_attention_heads": num_heads or options["num_attention_heads"], "image_size": image_size or side}
    tensors = dict(state_dict)
    if options["image_size"] != side:
        if image_size % patch_size:
            raise ValueError(f"The image size is {image_size}. Expected a multiple of the patch size, {patch_size}.")
        from timm.layers import resample_abs_pos_embed

        grid = 2 * [image_size // patch_size]
        tensors["pos_embed"] = resample_abs_pos_embed(tensors["pos_embed"], grid, num_prefix_tokens=1 + distilled)
    with torch.device("meta"):  # without initialising weights that are overwritten
        if distilled:
            model = DeiTForImageClassificationWithTeacher(DeiTConfig(**options))
        else:
            model = ViTForImageClassification(ViTConfig(**options))
    pieces = {
        part: piece.detach().clone(memory_format=torch.contiguous_format)
        for name, parts in names.items()
        for part, piece in zip(parts, tensors[name].chunk(len(parts)), strict=True)
    }
    model.load_state_dict(pieces, assign=True)
    return model.eval()


def _sizes(state_dict: Mapping[str, Tensor], config: dict, distilled: bool) -> dict:
    """Configuration of the model. The number of heads is `None` if it is not known."""
    settings = {name: config[name] for name in ("global_pool",) if name in config} | (config.get("model_args") or {})
    for name, value in settings.items():
        if name not in KNOWN_ARGUMENTS and (name, value) != ("global_pool", "token"):
            raise OtherArchitecture(
                f"The `config.json` of timm sets `{name}` to `{value}`, which a plain ViT or DeiT does not have."
            )
    blocks = [int(name.split(".")[1]) for name in state_dict if re.match(r"blocks\.\d+\.", name)]
    depth = max(blocks, default=0) + 1
    qkv_bias = any(name.endswith(".attn.qkv.bias") for name in state_dict)
    _check_names(state_dict.keys(), _names(depth, distilled, qkv_bias).keys())
    hidden_size, num_channels, patch_size, _ = state_dict["patch_embed.proj.weight"].shape
    intermediate_size = len(state_dict["blocks.0.mlp.fc1.weight"])
    labels = _label_names(len(state_dict["head.weight"]), config)
    usual_heads = SIZES.get((hidden_size, depth, intermediate_size), ("", None))[1]
    return {
        "hidden_size": hidden_size,
        "num_hidden_layers": depth,
        "num_attention_heads": settings.get("num_heads", usual_heads),
        "intermediate_size": intermediate_size,
        "hidden_act": "gelu",
        "layer_norm_eps": LAYER_NORM_EPS,
        "qkv_bias": qkv_bias,
        "num_channels": num_channels,
        "patch_size": patch_size,
        "image_size": math.isqrt(max(state_dict["pos_embed"].shape[1] - 1 - distilled, 1)) * patch_size,
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "dtype": state_dict["head.weight"].dtype,
    }


def hf_to_timm(model: PreTrainedModel) -> dict[str, Tensor]:
    """Copied weights with their names in timm: the inverse of [`timm_to_hf`], bit for bit. Warn if the epsilon differs from timm's."""
    distilled, config = isinstance(model, DeiTForImageClassificationWithTeacher), model.config
    activation = getattr(config, "hidden_act", None)
    if not (distilled or isinstance(model, ViTForImageClassification)) or activation != "gelu":
        raise ValueError(
            f"`{type(model).__name__}` with `hidden_act` {activation} cannot be converted to timm: expected "
            "`ViTForImageClassification` or `DeiTForImageClassificationWithTeacher` with `gelu`."
        )
    if config.layer_norm_eps != LAYER_NORM_EPS:
        logger.warning(
            f"`layer_norm_eps` is {config.layer_norm_eps}, but {LAYER_NORM_EPS} in timm, so the logits will differ slightly."
        )
    parameters = model.state_dict()
    names = _names(config.num_hidden_layers, distilled, config.qkv_bias)
    _check_names(parameters.keys(), {part for parts in names.values() for part in parts})
    return {name: torch.cat([parameters[part] for part in parts]) for name, parts in names.items()}


def _names(depth: int, distilled: bool, qkv_bias: bool) -> dict[str, list[str]]:
    """Parameters of transformers by parameter of timm: one, or query, key and value."""
    base = "deit" if distilled else "vit"
    names = {"cls_token": [f"{base}.embeddings.cls_token"], "pos_embed": [f"{base}.embeddings.position_embeddings"]}
    modules = {
        "patch_embed.proj": [f"{base}.embeddings.patch_embeddings.projection"],
        "norm": [f"{base}.layernorm"],
        "head": ["cls_classifier" if distilled else "classifier"],
    }
    if distilled:
        names["dist_token"] = [f"{base}.embeddings.distillation_token"]
        modules["head_dist"] = ["distillation_classifier"]
    for index in range(depth):
        block, layer = f"blocks.{index}", f"{base}.layers.{index}"
        modules |= {
            f"{block}.norm1": [f"{layer}.layernorm_before"],
            f"{block}.attn.qkv": [f"{layer}.attention.{projection}_proj" for projection in "qkv"],
            f"{block}.attn.proj": [f"{layer}.attention.o_proj"],
            f"{block}.norm2": [f"{layer}.layernorm_after"],
            f"{block}.mlp.fc1": [f"{layer}.mlp.fc1"],
            f"{block}.mlp.fc2": [f"{layer}.mlp.fc2"],
        }
    for module, parts in modules.items():
        names[f"{module}.weight"] = [f"{part}.weight" for part in parts]
        if qkv_bias or len(parts) == 1:
            names[f"{module}.bias"] = [f"{part}.bias" for part in parts]
    return names


def _label_names(count: int, config: dict) -> list[str]:
    names = config.get("label_names")
    if isinstance(names, list) and len(names) == len(set(names)) == count:
        return names
    if count != 1000:
        return [f"LABEL_{index}" for index in range(count)]
    names = class_names()  # two of them are "crane"
    return [f"{name} ({wnid})" if names.count(name) > 1 else name for name, wnid in zip(names, wnids(), strict=True)]


def _check_names(names: AbstractSet[str], expected: AbstractSet[str]) -> None:
    """Raise an error for missing and unexpected weights."""
    missing, unexpected = sorted(expected - names), sorted(names - expected)
    if missing or unexpected:
        raise OtherArchitecture(
            f"Expected the weights of a plain ViT or DeiT whose classifier reads the CLS token, but {len(missing)} are missing "
            f"({', '.join(missing[:3])}) and {len(unexpected)} unexpected ({', '.join(unexpected[:3])}). Other models need no "
            f"conversion: `{SAVED_BY_TIMM}` writes a folder that all commands accept. If the model has no classifier, "
            "`robust-vit convert … --classes FILE` adds one."
        )


WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


def load_timm(source: str | Path) -> tuple[dict[str, Tensor], dict | None]:
    """Weights with their names in timm, also from a checkpoint of a training, and the `config.json` of timm if there is one.
    No pickled code is run."""
    path, config = timm_files(source)
    with weights_read(path):
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            try:
                # Checkpoints of timm and DeiT contain the command line, a Namespace.
                with torch.serialization.safe_globals([argparse.Namespace]):
                    weights = torch.load(path, "cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
            except (LookupError, TypeError, ValueError, struct.error) as error:
                # torch reads any file as a pickle, even a text.
                raise UnpicklingError(str(error)) from error
    for key in ("model", "state_dict"):
        if isinstance(weights.get(key), dict):
            weights = weights[key]
    if all(name.startswith("module.") for name in weights):  # saved from `DataParallel`
        weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    return weights, config


def timm_files(source: str | Path) -> tuple[Path, dict | None]:
    """File of the weights, and the `config.json` of timm if there is one. Of a Hub id, only these files are downloaded."""
    folder, on_hub = Path(source), is_hub_id(str(source))
    if folder.is_file():
        return folder, None
    for name in WEIGHT_FILES:
        if on_hub:
            folder = Path(snapshot_download(str(source), allow_patterns=["config.json", name]))
        if (folder / name).is_file():
            return folder / name, read_json(folder / "config.json")
    raise FileNotFoundError(
        f"`{source}` is neither a file, nor a folder or Hub id (`owner/name`) with {' or '.join(WEIGHT_FILES)}."
    )


def save_timm(model: PreTrainedModel, weights: dict, processor: BaseImageProcessor, folder: Path) -> None:
    """Write a model to an existing folder, from which `timm.create_model(f"local-dir:{folder}", pretrained=True)` loads it. `weights` are those
    of [`hf_to_timm`]."""
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
    if int(config.hidden_size * mlp_ratio) != config.intermediate_size:  # timm rounds the product down
        mlp_ratio = math.nextafter(mlp_ratio, math.inf)
    # With all of these settings, the name of the architecture does not matter.
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
    exported.pretrained_cfg |= {"tag": None}  # timm would name the first weights of the architecture
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
    """Settings of the evaluation transform of timm, which resizes to floor(image size / `crop_pct`) and then crops."""
    size, image_size = processor.size, input_size(processor)[0]
    squash = size["shortest_edge"] is None
    resized = size["height"] if squash else size["shortest_edge"]
    switches = processor.do_resize and processor.do_rescale and processor.do_normalize
    square = input_size(processor) == (image_size, image_size) and size["width"] in (None, resized)
    if not switches or not square or config.image_size not in (image_size, [image_size] * 2) or resized < image_size:
        raise ValueError(
            f"The image processor has the size {size}, and the model takes images of {config.image_size} px. timm always resizes to a "
            "square at least as large, crops, rescales and normalises. For the native protocol, give `--statistics imagenet` or `half`."
        )
    crop_pct = image_size / resized
    if math.floor(image_size / crop_pct) != resized:
        crop_pct = math.nextafter(crop_pct, 0)
    return {
        "crop_pct": crop_pct,
        "crop_mode": "squash" if squash else "center",
        "interpolation": PILImageResampling(processor.resample).name.lower(),
        # The model may have fewer channels than the processor.
        "mean": list(processor.image_mean)[: config.num_channels],
        "std": list(processor.image_std)[: config.num_channels],
    }
