"""Relevance maps of vision transformers: attention × attention gradient, propagated to the tokens read by the head.

Source: *Optimizing Relevance Maps of Vision Transformers Improves Robustness*, appendix B, Eq. 6 and 7
(https://huggingface.co/papers/2206.01161), after https://huggingface.co/papers/2103.15679.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers.utils import ModelOutput

from .architectures import ImageModel, VisionTransformer
from .attention import EXPLICIT_ATTENTION, LINEAR_MEMORY_ATTENTION, cls_token_alone, switched_attention, switching
from .linear_memory import attention_for, propagate_recorded


@dataclass
class RelevanceOutput(ModelOutput):
    """Output of [`relevance_map`]."""

    relevance: torch.Tensor | None = None  # (B, 1, H, W), fp32, in [0, 1] unless `normalize=False`
    logits: torch.Tensor | None = None  # (B, C), of the same forward pass


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """Convert a tensor to fp32. fp64 stays fp64, for checks of derivatives."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def average_heads(attention: torch.Tensor, attention_gradient: torch.Tensor) -> torch.Tensor:
    """Relevance `(B, T, T)` of a layer, Eq. 6, at least fp32, from probabilities and their gradients `(B, h, T, T)`."""
    # (∇A ⊙ A)⁺ = (∇A)⁺ ⊙ A since A ≥ 0. Dividing the sum, unlike `mean`, saves a pass over all heads in backward.
    gradient, attention = at_least_float32(attention_gradient), at_least_float32(attention)
    return (gradient.clamp(min=0) * attention).sum(dim=1) / attention.shape[1]


def propagate_relevance(
    attentions: Sequence[torch.Tensor], attention_gradients: Sequence[torch.Tensor], row: torch.Tensor
) -> torch.Tensor:
    """Relevance `(B, T)` of every token, at least fp32: rows of R in Eq. 7. Multiplying a row vector from the last layer to
    the first gives the same product, in O(T²) for each layer.

    Args:
        attentions, attention_gradients: `(B, h, T, T)`, first layer first. Those of the last layer may be `(B, h, 1, T)`.
        row: weights `(B, T)` with which the head reads the tokens.
    """
    row = row.to(torch.promote_types(attentions[0].dtype, torch.float32))
    for attention, gradient in zip(reversed(attentions), reversed(attention_gradients), strict=True):
        weights = row[:, None, : attention.shape[2]]
        row = row + torch.bmm(weights, average_heads(attention, gradient)).squeeze(1)  # (B, T)
    return row


def upsample(token_relevance: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
    """Upsample the relevance of patches `(B, 1, h, w)` to pixels `(B, 1, H, W)` (bilinear), at least fp32."""
    return F.interpolate(at_least_float32(token_relevance), image_size, mode="bilinear", align_corners=False)


def min_max(relevance: torch.Tensor) -> torch.Tensor:
    """Scale each of the maps `(B, 1, H, W)` to [0, 1]. Constant maps become 0, with finite gradients."""
    low, high = relevance.amin(dim=(1, 2, 3), keepdim=True), relevance.amax(dim=(1, 2, 3), keepdim=True)
    span = high - low
    # A constant map may vary by a few units in the last place, since the interpolation rounds.
    numbers = torch.finfo(torch.float32)
    flat = span <= (8 * numbers.eps * high).clamp(min=numbers.tiny)
    return torch.where(flat, 0.0, (relevance - low) / torch.where(flat, 1.0, span))


def map_of_tokens(
    tokens: torch.Tensor, grid: tuple[int, int], pixel_values: torch.Tensor, normalize: bool = True
) -> torch.Tensor:
    """Maps `(B, 1, H, W)` from the relevance `(B, T)` of all tokens, of which the patches come last."""
    patches = tokens[:, -grid[0] * grid[1] :].unflatten(1, (1, *grid))
    relevance = upsample(patches, tuple(pixel_values.shape[2:]))
    return min_max(relevance) if normalize else relevance


def relevance_map(
    model: nn.Module | ImageModel,
    pixel_values: torch.Tensor,
    target: torch.Tensor | int | None = None,
    *,
    create_graph: bool = False,
    start_layer: int = 0,
    normalize: bool = True,
    check_finite: bool = True,
) -> RelevanceOutput:
    """Relevance maps of a batch of images, in one forward and one backward pass.

    Works with any attention implementation, autocast and `torch.no_grad()`. Propagation is in fp32.

    Args:
        model: image classifier of transformers with one patch grid, possibly wrapped by PEFT or Accelerate, or by DDP, within which
            it is called. Call `eval()` first for maps without dropout.
        pixel_values: `(B, 3, H, W)`, normalised as the model expects. H and W are multiples of the patch size.
        target: class to explain: `(B,)` integers, one integer for all images, or `None` for the predicted class.
        create_graph: whether the attention gradients are differentiable (second order) instead of constants.
        start_layer: first layer of the propagation, counted from 0. Lower layers count as the identity.
        normalize: whether to scale each map to [0, 1], instead of returning the propagated relevance (non-negative).
        check_finite: whether to raise an error for non-finite logits or maps, instead of returning them.

    Returns:
        [`RelevanceOutput`], attached to the graph unless gradients are disabled.

    Raises:
        ValueError: the architecture does not have one patch grid (Swin, ConvNeXt, …); pixel values have another shape, or
            their size is not a multiple of the patch size; `target` or `start_layer` does not exist; logits or maps are
            NaN or infinite; DDP, or activation checkpointing, would give wrong gradients in training.

    Example:
        output = relevance_map(model.eval(), processor(image, return_tensors="pt").pixel_values)
        output.relevance, output.logits

    Source: Eq. 6 and 7 of https://huggingface.co/papers/2206.01161
    """
    vit = VisionTransformer(model)
    if not 0 <= start_layer < len(vit.attentions):
        raise ValueError(f"Expected `start_layer` from 0 to {len(vit.attentions) - 1}, but got {start_layer}.")
    wants_graph, grid = torch.is_grad_enabled(), vit.patch_grid(pixel_values)
    with switching, torch.inference_mode(False), torch.enable_grad():
        implementation = attention_for(vit, grid[0] * grid[1], create_graph)
        linear, kept = implementation == LINEAR_MEMORY_ATTENTION, vit.attention in ("eager", EXPLICIT_ATTENTION)
        if wants_graph and not linear and not kept and vit.is_checkpointing and vit.pretrained.training:
            raise ValueError(
                "With activation checkpointing, `loss.backward()` needs the attention implementation of the forward pass. First call "
                '`model.set_attn_implementation("eager")`; before building a model of timm, `timm.layers.set_fused_attn(False)`.'
            )
        with switched_attention(vit, implementation):
            with cls_token_alone(vit):
                output = vit(pixel_values, output_attentions=True)
            attentions, logits = output.attentions[start_layer:], output.logits
            score = target_logits(logits, target).sum()  # images do not interact, so one backward pass is enough
            read = [attention.output for attention in attentions] if linear else attentions
            gradients = torch.autograd.grad(
                score, read, retain_graph=wants_graph or create_graph, create_graph=create_graph
            )
    device = pixel_values.device.type
    with torch.inference_mode(False), torch.set_grad_enabled(wants_graph), torch.autocast(device, enabled=False):
        row = vit.head_row(attentions[0].key.shape[2] if linear else attentions[0].shape[3], grid)
        if linear:
            tokens = propagate_recorded(attentions, gradients, row)
        else:
            tokens = propagate_relevance(attentions, gradients, row.expand(len(logits), -1))
        relevance = map_of_tokens(tokens, grid, pixel_values, normalize)
    return make_output(relevance, logits if wants_graph else logits.detach(), check_finite)


def make_output(relevance: torch.Tensor, logits: torch.Tensor, check: bool) -> RelevanceOutput:
    """Output of an attribution method: maps `(B, 1, H, W)` and logits `(B, C)`. `check` raises an error unless they are finite."""
    if check:
        # A NaN in a pixel reaches every token, so pixels need no check of their own.
        sums = relevance.detach().sum(dim=(1, 2, 3)) + logits.detach().float().sum(dim=1)
        check_finite("logits or relevance map", sums)
    return RelevanceOutput(relevance=relevance, logits=logits)


def check_finite(name: str, values: torch.Tensor) -> None:
    """Raise an error for NaN and infinite values `(B, …)` of a batch. `name` is what the error calls them."""
    finite = values.detach().isfinite().flatten(1).all(dim=1) if values.dim() > 1 else values.detach().isfinite()
    if not finite.all():
        images = ", ".join(map(str, (~finite).nonzero().flatten().tolist()))
        raise ValueError(
            f"The {name} of image {images} of the batch is NaN or infinite. Check pixels and weights, or use float32."
        )


def forward_logits(model: nn.Module | ImageModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """Logits `(B, C)` of images of any size that is a multiple of the patch size."""
    return ImageModel(model).logits(pixel_values)


def target_logits(logits: torch.Tensor, target: torch.Tensor | int | None) -> torch.Tensor:
    """Logits `(B, 1)` of the explained classes. `target` is checked; `None` means the predicted classes."""
    batch_size, num_classes = logits.shape
    if target is None:
        return logits.gather(1, logits.argmax(dim=1, keepdim=True))
    classes = torch.as_tensor(target, device=logits.device)
    integers = not (classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool)
    known = integers and classes.shape in ((), (batch_size,)) and 0 <= classes.min() and classes.max() < num_classes
    if not known:
        raise ValueError(
            f"Expected `target` to be one integer, or {batch_size} integers, from 0 to {num_classes - 1}, but got {target}."
        )
    return logits.gather(1, classes.long().expand(batch_size).unsqueeze(1))
