"""Bit-exact conversion of ViT and DeiT weights between timm and transformers."""

import math
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

import torch
from torch import Tensor, nn
from transformers import (
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.utils import logging

from ..data.imagenet_classes import class_names, wnids


logger = logging.get_logger(__name__)

LAYER_NORM_EPS = 1e-6  # for all ViT and DeiT in timm; transformers defaults to 1e-12
# Name in timm and number of heads (not visible in weights) by hidden size, layers and MLP size.
SIZES = {
    (192, 12, 768): ("tiny", 3),
    (384, 12, 1536): ("small", 6),
    (768, 12, 3072): ("base", 12),
    (1024, 24, 4096): ("large", 16),
    (1280, 32, 5120): ("huge", 16),
}
# Weights whose shapes define the model's sizes, with their numbers of dimensions.
SIZING = {"patch_embed.proj.weight": 4, "pos_embed": 3, "blocks.0.mlp.fc1.weight": 2, "head.weight": 2}
# Arguments of timm's class that follow from the weights or do not affect a trained model's output.
KNOWN_ARGUMENTS = {
    *("img_size", "patch_size", "in_chans", "num_classes", "embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias"),
    *("drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate"),
    *("dynamic_img_size", "strict_img_size", "weight_init", "fix_init"),
}
# Causes of unexpected names.
HINTS = {
    r"\.ls[12]\.gamma$|\.gamma_[12]$": "ViT in transformers has no layer scale (DeiT III, DINOv2); for DINOv2 take a "
    "checkpoint of transformers, such as `facebook/dinov2-base-imagenet1k-1-layer`.",
    r"^fc_norm\.": "The head reads the mean of the patches (`fc_norm`), expected one that reads CLS.",
    r"^norm_pre\.": "ViT in transformers has no norm before the first block (CLIP).",
    r"^pre_logits\.": "ViT in transformers has no layer between norm and head (`pre_logits`).",
    r"^(layers|stages)\.\d|^layer\d\.": "Swin, ConvNeXt, ResNet and the like are not plain ViTs.",
    r"^(vit|deit)\.": "The names are those of transformers: there is nothing to convert.",
}


def timm_to_hf(
    state_dict: Mapping[str, Tensor],
    config: dict | None = None,
    *,
    image_size: int | None = None,
    num_heads: int | None = None,
) -> PreTrainedModel:
    """Model equivalent to timm's, in evaluation mode and with copied weights in their dtype: a
    `DeiTForImageClassificationWithTeacher` if there is a distillation token, otherwise a `ViTForImageClassification`.

    Args:
        state_dict: weights in timm's names. They define all sizes except the number of heads.
        config: timm's `config.json`, for the number of heads and the names of the classes (`label_names`). Without
            names, 1000 classes get those of ImageNet, others `LABEL_0`, ….
        image_size: side of the images in pixels, for which the position embeddings are interpolated as timm does
            (bicubic, antialiased, in fp32). By default, the weights' size.
        num_heads: number of attention heads, required for sizes other than tiny, small, base, large and huge.

    Raises:
        ValueError: names, shapes or dtypes are not those of a plain ViT or DeiT with a head, the number of heads is
            unknown, or the image size is not a multiple of the patch size.

    Source: https://github.com/huggingface/pytorch-image-models/blob/main/timm/models/vision_transformer.py
    """
    config = config or {}
    settings = {name: config[name] for name in ("global_pool",) if name in config} | config.get("model_args", {})
    for name, value in settings.items():
        if name not in KNOWN_ARGUMENTS and (name, value) != ("global_pool", "token"):
            raise ValueError(f"timm's configuration sets `{name}` to `{value}`, expected that of a plain ViT or DeiT.")

    distilled = "dist_token" in state_dict or "head_dist.weight" in state_dict
    blocks = [int(name.split(".")[1]) for name in state_dict if re.match(r"blocks\.\d+\.", name)]
    depth = max(blocks, default=0) + 1
    qkv_bias = any(name.endswith(".attn.qkv.bias") for name in state_dict)
    names = _names(depth, distilled, qkv_bias)
    missing, unexpected = names.keys() - state_dict.keys(), state_dict.keys() - names.keys()
    misshapen = {
        f"{name}: {tuple(state_dict[name].shape)}, expected {count} dimensions"
        for name, count in SIZING.items()
        if name in state_dict and state_dict[name].ndim != count
    }
    if misshapen or missing & SIZING.keys():
        raise _key_error(missing, unexpected, misshapen)

    hidden_size, num_channels, patch_size, _ = state_dict["patch_embed.proj.weight"].shape
    intermediate_size, dtype = state_dict["blocks.0.mlp.fc1.weight"].shape[0], state_dict["head.weight"].dtype
    if num_heads is None:
        usual = SIZES.get((hidden_size, depth, intermediate_size), ("", None))[1]
        num_heads = settings.get("num_heads", usual)
    if num_heads is not None and (num_heads < 1 or hidden_size % num_heads):
        raise ValueError(f"{num_heads} heads do not divide the hidden size of the weights, {hidden_size}.")
    prefix = 1 + distilled
    grid = math.isqrt(max(state_dict["pos_embed"].shape[1] - prefix, 1))
    labels = _label_names(state_dict["head.weight"].shape[0], config)
    options = {
        "hidden_size": hidden_size,
        "num_hidden_layers": depth,
        "num_attention_heads": num_heads or 1,  # does not affect the checked shapes
        "intermediate_size": intermediate_size,
        "hidden_act": "gelu",
        "layer_norm_eps": LAYER_NORM_EPS,
        "qkv_bias": qkv_bias,
        "num_channels": num_channels,
        "patch_size": patch_size,
        "image_size": grid * patch_size,
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "dtype": dtype,
    }
    parameters = dict(_empty_model(distilled, options).named_parameters())
    for name in names.keys() & state_dict.keys():
        tensor, shape = state_dict[name], parameters[names[name][0]].shape
        shape = (len(names[name]) * shape[0], *shape[1:])
        if tensor.shape != shape:
            expected = f"(1, {prefix} + a square number of patches, {hidden_size})" if name == "pos_embed" else shape
            misshapen.add(f"{name}: {tuple(tensor.shape)}, expected {expected}")
        elif tensor.dtype != dtype or not dtype.is_floating_point:
            misshapen.add(f"{name}: {tensor.dtype}, expected one floating dtype for all weights")
    if missing or unexpected or misshapen:
        raise _key_error(missing, unexpected, misshapen)
    if num_heads is None:
        raise ValueError(
            f"The weights do not show the number of heads, and hidden size {hidden_size} with {depth} layers and MLP size "
            f"{intermediate_size} is not a tiny, small, base, large or huge ViT or DeiT: give `num_heads` (`--num_heads`)."
        )

    tensors = dict(state_dict)
    if image_size not in (None, options["image_size"]):
        if image_size < patch_size or image_size % patch_size:
            raise ValueError(f"The image size {image_size} is not a multiple of the patch size, {patch_size}.")
        tensors["pos_embed"] = _resized_positions(tensors["pos_embed"], prefix, image_size // patch_size)
        options["image_size"] = image_size
    model = _empty_model(distilled, options)
    pieces = {
        part: piece.detach().clone(memory_format=torch.contiguous_format)
        for name, parts in names.items()
        for part, piece in zip(parts, tensors[name].chunk(len(parts)), strict=True)
    }
    model.load_state_dict(pieces, assign=True)
    return model.eval()


def _resized_positions(positions: Tensor, prefix: int, side: int) -> Tensor:
    """Position embeddings for another number of patches, interpolated as timm does.

    Args:
        positions: `(1, prefix + n · n, C)`, of any floating dtype; the first `prefix` tokens stay.
        side: patches along a side of the new grid.

    Returns:
        `(1, prefix + side · side, C)`, in the same dtype.
    """
    grid = math.isqrt(positions.shape[1] - prefix)
    patches = positions[:, prefix:].float().reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
    patches = nn.functional.interpolate(patches, side, mode="bicubic", antialias=True)
    patches = patches.permute(0, 2, 3, 1).flatten(1, 2).to(positions.dtype)
    return torch.cat([positions[:, :prefix], patches], dim=1)


def hf_to_timm(model: PreTrainedModel) -> dict[str, Tensor]:
    """Weights in timm's names, copied, in their dtype: the inverse of [`timm_to_hf`], bit for bit. Warns if the
    epsilon of the norms is not 1e-6, which timm uses in any case.

    Raises:
        ValueError: the class is not `ViTForImageClassification` or `DeiTForImageClassificationWithTeacher`, the
            activation is not `gelu`, or there are adapter parameters.
    """
    distilled = isinstance(model, DeiTForImageClassificationWithTeacher)
    if not distilled and not isinstance(model, ViTForImageClassification):
        raise ValueError(
            f"`{type(model).__name__}` cannot be converted to timm: expected `ViTForImageClassification` or "
            "`DeiTForImageClassificationWithTeacher`."
        )
    config = model.config
    if config.hidden_act != "gelu":
        raise ValueError(f"`hidden_act` is `{config.hidden_act}`, expected `gelu`, which ViTs of timm use.")
    if config.layer_norm_eps != LAYER_NORM_EPS:
        logger.warning(
            f"`layer_norm_eps` is {config.layer_norm_eps} and in timm {LAYER_NORM_EPS}: logits will differ slightly."
        )
    parameters = model.state_dict()
    names = _names(config.num_hidden_layers, distilled, config.qkv_bias)
    expected = {part for parts in names.values() for part in parts}
    if parameters.keys() != expected:
        raise _key_error(expected - parameters.keys(), parameters.keys() - expected, set())
    return {name: torch.cat([parameters[part] for part in parts]) for name, parts in names.items()}


def _names(depth: int, distilled: bool, qkv_bias: bool) -> dict[str, list[str]]:
    """transformers parameters by timm parameter: query, key and value, or a single one."""
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


def _empty_model(distilled: bool, options: dict) -> PreTrainedModel:
    """Model on the meta device, so that no weights are initialised only to be overwritten."""
    with torch.device("meta"):
        if distilled:
            return DeiTForImageClassificationWithTeacher(DeiTConfig(**options))
        return ViTForImageClassification(ViTConfig(**options))


def _label_names(count: int, config: dict) -> list[str]:
    names = config.get("label_names")
    if isinstance(names, list) and len(names) == len(set(names)) == count:
        return names
    if count != 1000:
        return [f"LABEL_{index}" for index in range(count)]
    names = class_names()  # two of them are "crane"
    return [f"{name} ({wnid})" if names.count(name) > 1 else name for name, wnid in zip(names, wnids(), strict=True)]


def _key_error(missing: AbstractSet[str], unexpected: AbstractSet[str], misshapen: AbstractSet[str]) -> ValueError:
    """Error with the wrong names and their probable cause."""
    problems = []
    for kind, names in {"missing": missing, "unexpected": unexpected, "of another shape or type": misshapen}.items():
        if names:
            first = ", ".join(f"`{name}`" for name in sorted(names)[:4])
            problems.append(f"{len(names)} {kind} ({first}{', …' if len(names) > 4 else ''})")
    hints = [hint for pattern, hint in HINTS.items() if any(re.search(pattern, name) for name in unexpected)]
    if "cls_token" in missing and "pos_embed" not in missing:
        hints.append("Without `cls_token` the head reads a mean of the patches, expected one that reads CLS.")
    if missing and all(name.startswith("head") for name in missing):
        hints.append(
            "A backbone without a classifier cannot be converted: take its checkpoint of transformers, such as "
            "`facebook/dino-vitb16`, to which `robust-vit convert … --classes FILE` gives one."
        )
    problem = f"The weights are not those of a plain ViT or DeiT with a classifier: {', '.join(problems)}."
    return ValueError(" ".join([problem, *hints]))
