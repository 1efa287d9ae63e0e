"""The supported vision transformers: their attention modules, and the tokens that their heads read."""

from dataclasses import dataclass
from inspect import signature

import torch
from torch import nn
from transformers import PreTrainedModel


@dataclass(frozen=True)
class TokenWeights:
    """Weights with which a classification head reads the tokens of the last layer.

    Args:
        prefix: weights of the first prefix tokens; those of further ones are 0.
        patches: weight of all patches together, each the same.
    """

    prefix: tuple[float, ...]
    patches: float

    def row(self, num_tokens: int, num_patches: int, device: torch.device) -> torch.Tensor:
        """Weights of all tokens, `(T,)` fp32: prefix tokens first, the patches last.

        Raises:
            ValueError: fewer prefix tokens than the head reads.
        """
        num_prefix_tokens = num_tokens - num_patches
        if num_prefix_tokens < len(self.prefix):
            raise ValueError(
                f"Expected {len(self.prefix)} or more prefix tokens + {num_patches} patches, but the attentions are over "
                f"{num_tokens} tokens."
            )
        row = torch.zeros(num_tokens, device=device)
        row[: len(self.prefix)] = torch.tensor(self.prefix, device=device)
        row[num_prefix_tokens:] = self.patches / num_patches
        return row


CLS = TokenWeights((1.0,), 0.0)
CLS_AND_PATCH_MEAN = TokenWeights((1.0,), 1.0)
PATCH_MEAN = TokenWeights((), 1.0)

# Tokens that the head of each class reads. With `config.use_mean_pooling`, it is the mean of the patches.
HEADS: dict[str, TokenWeights] = {
    "ViTForImageClassification": CLS,
    "ViTMSNForImageClassification": CLS,
    "DeiTForImageClassification": CLS,
    # The logits are the mean of two heads: one reads the CLS token, one the distillation token.
    "DeiTForImageClassificationWithTeacher": TokenWeights((0.5, 0.5), 0.0),
    "Dinov2ForImageClassification": CLS_AND_PATCH_MEAN,
    "Dinov2WithRegistersForImageClassification": CLS_AND_PATCH_MEAN,
    "DINOv3ViTForImageClassification": CLS_AND_PATCH_MEAN,
    "BeitForImageClassification": CLS,
    "Data2VecVisionForImageClassification": CLS,
    "IJepaForImageClassification": PATCH_MEAN,
}
SUPPORTED = (
    "Supported are plain vision transformers: ViT, DeiT, ViTMSN, Dinov2, Dinov2WithRegisters, DINOv3ViT, BEiT, "
    "Data2VecVision and IJepa."
)
# Attention class of models for which transformers does not declare what it records for `output_attentions=True`.
UNRECORDED_ATTENTION = {"Data2VecVisionForImageClassification": "Data2VecVisionAttention"}


def unwrap_pretrained(model: nn.Module) -> PreTrainedModel:
    """The Hugging Face model inside `model`, which may be wrapped by DDP, PEFT or Accelerate.

    Raises:
        ValueError: there is none, or `nn.DataParallel` replicates it, so that attentions are on different devices.
    """
    if isinstance(model, nn.DataParallel):
        raise ValueError("`nn.DataParallel` is not supported: use `accelerate launch`, which starts a process a GPU.")
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            return module
    raise ValueError(f"Expected a transformers model, possibly wrapped, but got `{type(model).__name__}`.")


def architecture(model: nn.Module) -> str:
    """Name of the class of the Hugging Face model inside `model`, to which FSDP2 adds a prefix when it shards it."""
    return type(unwrap_pretrained(model)).__name__.removeprefix("FSDP")


def is_checkpointing(model: nn.Module) -> bool:
    """Whether activation checkpointing is on, by the flag of layers that every transformers 5 sets."""
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def attention_modules(model: nn.Module) -> list[nn.Module]:
    """Modules that transformers records for `output_attentions=True`, from the first layer to the last. Their second output
    is the attention.

    Raises:
        ValueError: the architecture has no attention over one patch grid (convolutional, windowed or hierarchical), or the
            tokens that its head reads are unknown.
    """
    pretrained = unwrap_pretrained(model)
    name, config = architecture(model), pretrained.config
    if name.startswith("TimmWrapper"):
        raise ValueError(
            f"`{name}` gives no attentions. Convert the weights of a ViT or DeiT to transformers: "
            f"`robust-vit convert SOURCE --output_dir FOLDER`. {SUPPORTED}"
        )
    if name in UNRECORDED_ATTENTION:
        modules = [module for module in pretrained.modules() if type(module).__name__ == UNRECORDED_ATTENTION[name]]
    else:
        recorded = (getattr(module, "_can_record_outputs", None) or {} for module in pretrained.modules())
        types = tuple({outputs["attentions"] for outputs in recorded if isinstance(outputs.get("attentions"), type)})
        modules = [module for module in pretrained.modules() if isinstance(module, types)]
    one_a_layer = len(modules) == getattr(config, "num_hidden_layers", len(modules))
    if not modules or not one_a_layer or hasattr(config, "window_size"):
        raise ValueError(
            f"`{name}` has no attention over one patch grid in each of its layers (convolutional, windowed or "
            f"hierarchical architecture), so it has no relevance map. {SUPPORTED}"
        )
    if not hasattr(config, "patch_size"):
        raise ValueError(f"`{name}` has no `config.patch_size` of its own (an image–text model?). {SUPPORTED}")
    if name not in HEADS:
        raise ValueError(
            f"Unknown classification head `{name}`. {SUPPORTED} For a head of your own, register the tokens that it reads: "
            f'`robust_vit_hf.relevance.architectures.HEADS["{name}"] = CLS` (or `PATCH_MEAN`, `CLS_AND_PATCH_MEAN`).'
        )
    return modules


def head_row(model: nn.Module, num_tokens: int, num_patches: int) -> torch.Tensor:
    """Weights `(T,)`, fp32, of the tokens that the head of a supported model reads, see [`TokenWeights`].

    Raises:
        ValueError: fewer prefix tokens than the head reads.
    """
    pretrained = unwrap_pretrained(model)
    pools_patches = getattr(pretrained.config, "use_mean_pooling", False)
    weights = PATCH_MEAN if pools_patches else HEADS[architecture(model)]
    return weights.row(num_tokens, num_patches, pretrained.device)


def patch_size(model: nn.Module) -> tuple[int, int]:
    """Height and width of a patch in pixels."""
    size = unwrap_pretrained(model).config.patch_size
    return (size, size) if isinstance(size, int) else tuple(size)


def patch_grid(model: nn.Module, image_size: tuple[int, int]) -> tuple[int, int]:
    """Number of patches `(h, w)` of an image of `(H, W)` pixels.

    Raises:
        ValueError: the image size is not a multiple of the patch size.
    """
    (height, width), (patch_height, patch_width) = image_size, patch_size(model)
    if height % patch_height or width % patch_width:
        raise ValueError(
            f"Image size {height}×{width} is not divisible by the patch size {patch_height}×{patch_width}: the border "
            f"would have no relevance. Use {height // patch_height * patch_height}×{width // patch_width * patch_width}."
        )
    return height // patch_height, width // patch_width


def check_images(model: nn.Module, pixel_values: torch.Tensor) -> tuple[int, int]:
    """Number of patches `(h, w)` of images `(B, 3, H, W)`.

    Raises:
        ValueError: no tensor, integers (images that are not normalised), another shape, no image, a size that is not a
            multiple of the patch size, or an unsupported architecture.
    """
    if not isinstance(pixel_values, torch.Tensor):
        raise ValueError(
            f"Expected `pixel_values` to be a tensor, but got a {type(pixel_values).__name__}: take "
            '`processor(images, return_tensors="pt").pixel_values`.'
        )
    if not pixel_values.is_floating_point():
        raise ValueError(
            f"Expected `pixel_values` to be floating-point numbers, normalised as the model expects, but got {pixel_values.dtype}: "
            "prepare images with the model's image processor."
        )
    attention_modules(model)  # refuses other architectures, which have no patch size either
    num_channels = getattr(unwrap_pretrained(model).config, "num_channels", 3)
    if pixel_values.ndim != 4 or pixel_values.shape[1] != num_channels or not pixel_values.numel():
        raise ValueError(
            f"Expected `pixel_values` of shape (B, {num_channels}, H, W) with one image or more, but got "
            f"{tuple(pixel_values.shape)}."
        )
    return patch_grid(model, tuple(pixel_values.shape[2:]))


def forward_arguments(model: nn.Module, image_size: tuple[int, int]) -> dict[str, bool]:
    """Arguments for models that need one to accept images of `(H, W)` pixels, or to compute attentions."""
    pretrained = unwrap_pretrained(model)
    arguments = {"output_attentions": True} if architecture(model) in UNRECORDED_ATTENTION else {}
    if "interpolate_pos_encoding" in signature(pretrained.forward).parameters:
        size = pretrained.config.image_size
        resized = image_size != ((size, size) if isinstance(size, int) else tuple(size))
        arguments |= {"interpolate_pos_encoding": True} if resized else {}
    return arguments
