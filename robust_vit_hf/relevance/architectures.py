"""Which vision transformers have relevance maps: where their attentions are, and which tokens their heads read."""

from dataclasses import dataclass
from inspect import signature

import torch
from torch import nn
from transformers import PreTrainedModel


@dataclass(frozen=True)
class TokenWeights:
    """How much a classification head reads of each token of the last layer.

    Args:
        prefix: of the tokens before the patches, from the first on; of those that are left over, nothing.
        patches: of all patches together, each the same.
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

# What the head of a class of transformers reads. With `config.use_mean_pooling` it is the mean of the patches.
HEADS: dict[str, TokenWeights] = {
    "ViTForImageClassification": CLS,
    "ViTMSNForImageClassification": CLS,
    "DeiTForImageClassification": CLS,
    # Its logits are the mean of those of two heads: one reads the CLS token, one the distillation token.
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
# Class of the attention where transformers does not declare which module it records for `output_attentions=True`.
UNRECORDED_ATTENTION = {"Data2VecVisionForImageClassification": "Data2VecVisionAttention"}


def unwrap_pretrained(model: nn.Module) -> PreTrainedModel:
    """The Hugging Face model inside `model`, which may be wrapped by DDP, PEFT or Accelerate.

    Raises:
        ValueError: there is none, or it is replicated over GPUs by `nn.DataParallel`, whose replicas' attentions lie on
            different devices.
    """
    if isinstance(model, nn.DataParallel):
        raise ValueError("`nn.DataParallel` is not supported: use `accelerate launch`, which starts a process a GPU.")
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            return module
    raise ValueError(f"Expected a transformers model, possibly wrapped, but got `{type(model).__name__}`.")


def attention_modules(model: nn.Module) -> list[nn.Module]:
    """Modules of a vision transformer whose second output is the attention, from the first layer to the last.

    They are those that transformers itself records for `output_attentions=True`.

    Raises:
        ValueError: the architecture has no attention over one patch grid: convolutional, windowed or hierarchical. The
            relevance map does not fit these. Or the tokens that its head reads are unknown.
    """
    pretrained = unwrap_pretrained(model)
    name, config = type(pretrained).__name__, pretrained.config
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
    """Weights `(T,)`, fp32, of the tokens that the classification head reads, see [`TokenWeights`].

    Args:
        model: one that [`attention_modules`] takes.
        num_tokens: T, of prefix tokens and patches.

    Raises:
        ValueError: fewer prefix tokens than the head reads.
    """
    pretrained = unwrap_pretrained(model)
    pools_patches = getattr(pretrained.config, "use_mean_pooling", False)
    weights = PATCH_MEAN if pools_patches else HEADS[type(pretrained).__name__]
    return weights.row(num_tokens, num_patches, pretrained.device)


def patch_grid(model: nn.Module, image_size: tuple[int, int]) -> tuple[int, int]:
    """Number of patches `(h, w)` of an image of `(H, W)` pixels.

    Raises:
        ValueError: the image size is not a multiple of the patch size.
    """
    patch_size = unwrap_pretrained(model).config.patch_size
    patch_height, patch_width = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
    height, width = image_size
    if height % patch_height or width % patch_width:
        raise ValueError(
            f"Image size {height}×{width} is not divisible by the patch size {patch_height}×{patch_width}: the border "
            f"would have no relevance. Use {height // patch_height * patch_height}×{width // patch_width * patch_width}."
        )
    return height // patch_height, width // patch_width


def check_images(model: nn.Module, pixel_values: torch.Tensor) -> tuple[int, int]:
    """Number of patches `(h, w)` of images `(B, 3, H, W)`.

    Raises:
        ValueError: another shape, a size that is no multiple of the patch size, or an unsupported architecture.
    """
    if pixel_values.ndim != 4:
        raise ValueError(f"Expected `pixel_values` of shape (B, 3, H, W), but got {tuple(pixel_values.shape)}.")
    attention_modules(model)  # refuses other architectures, which have no patch size either
    return patch_grid(model, (pixel_values.shape[2], pixel_values.shape[3]))


def forward_arguments(model: nn.Module, image_size: tuple[int, int]) -> dict[str, bool]:
    """Arguments with which a model takes images of `(H, W)` pixels where it does not adapt to another resolution by
    itself, and computes attentions where it would otherwise drop them."""
    pretrained = unwrap_pretrained(model)
    arguments = {"output_attentions": True} if type(pretrained).__name__ in UNRECORDED_ATTENTION else {}
    size = pretrained.config.image_size
    if image_size == ((size, size) if isinstance(size, int) else tuple(size)):
        return arguments
    if "interpolate_pos_encoding" in signature(pretrained.forward).parameters:
        arguments["interpolate_pos_encoding"] = True
    return arguments
