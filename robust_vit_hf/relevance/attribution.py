"""Attribution methods by name, to compare by segmentation what different methods say about the same model.

`ATTRIBUTION_METHODS[name](model, pixel_values, target)` takes the arguments of [`relevance_map`] and returns its
[`RelevanceOutput`]: `relevance` `(B, 1, H, W)`, fp32 in [0, 1] (patches upsampled bilinearly, then min–max per image), and
`logits` `(B, C)`. The supported architectures, and the errors, are those of [`relevance_map`] too. Where gradients are
enabled, the maps of all methods but `input_gradient` are attached to the graph, so that a loss on them reaches the weights.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from .architectures import attention_modules, check_images, forward_arguments, head_row, patch_grid, unwrap_pretrained
from .attention import explicit_attention, record_attentions
from .method_names import ATTRIBUTION_METHOD_NAMES
from .relevance_map import RelevanceOutput, relevance_map, target_logits, upsample_and_normalize


# -- Parts that the methods share -------------------------------------------------------------------------------------


def _logits(model: nn.Module, pixel_values: torch.Tensor) -> torch.Tensor:
    if pixel_values.is_inference() and torch.is_grad_enabled():
        pixel_values = pixel_values.clone()  # a tensor of inference mode cannot be saved for backward
    return model(pixel_values=pixel_values, **forward_arguments(model, tuple(pixel_values.shape[2:]))).logits


def _attentions(model: nn.Module, pixel_values: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Attentions `(B, h, T, T)` of each layer, and the logits, of one forward pass."""
    with explicit_attention(model), record_attentions(model) as attentions:
        logits = _logits(model, pixel_values)
    return attentions, logits


def _head_row(model: nn.Module, attentions: list[torch.Tensor], image_size: tuple[int, int]) -> torch.Tensor:
    """Weights `(B, 1, T)` of the tokens that the head reads."""
    height, width = patch_grid(model, image_size)
    row = head_row(model, attentions[0].shape[-1], height * width)
    return row.expand(len(attentions[0]), 1, -1)


def _patches_to_pixels(model: nn.Module, tokens: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
    """Map `(B, 1, H, W)` of the relevance `(B, T)` of all tokens, of which the patches are the last."""
    height, width = patch_grid(model, image_size)
    patches = tokens[:, tokens.shape[1] - height * width :].unflatten(1, (1, height, width))
    return upsample_and_normalize(patches, image_size)


@contextmanager
def head_at_every_layer(model: nn.Module) -> Iterator[tuple[list[torch.Tensor], list[torch.Tensor]]]:
    """Context in which the model's final norm and head read the output tokens of all L layers in place of the last's.

    The outputs are stacked on the batch dimension where the norm takes its input, so that a forward pass gives logits
    `(L·B, C)`, layer by layer, whatever the head reads of the tokens; the last B are the model's own.

    Yields:
        The outputs `(B, T, D)` of the layers, and a list of one tensor, the stack `(L·B, T, D)` that the norm reads.

    Raises:
        ValueError: on entry or in the forward pass, where no norm named `layernorm` or `norm` reads the last layer's output.
    """
    pretrained, attentions = unwrap_pretrained(model), set(attention_modules(model))
    layers = [module for module in pretrained.modules() if not attentions.isdisjoint(module.children())]
    norm = getattr(pretrained.base_model, "layernorm", None) or getattr(pretrained.base_model, "norm", None)
    message = f"`{type(pretrained).__name__}` has no final norm through which its head could read any layer."
    if norm is None:
        raise ValueError(message)
    outputs: list[torch.Tensor] = []
    stack: list[torch.Tensor] = []

    def record(module, args, output):
        outputs.append(output[0] if isinstance(output, tuple) else output)

    def replace_input(module, args):
        if not outputs or args[0] is not outputs[-1]:
            raise ValueError(message)
        stack.append(torch.cat(outputs))
        return (stack[0],)

    with ExitStack() as hooks:
        for layer in layers:
            hooks.callback(layer.register_forward_hook(record).remove)
        hooks.callback(norm.register_forward_pre_hook(replace_input).remove)
        yield outputs, stack


# -- Methods ----------------------------------------------------------------------------------------------------------


def attention_rollout(
    model: nn.Module, pixel_values: torch.Tensor, target: torch.Tensor | int | None = None
) -> RelevanceOutput:
    """Attention rollout: product of 0.5·A + 0.5·I over the layers, A the mean over the attention heads, in the row of the
    CLS token, or of what else the classification head reads.

    The map is the same for every class: `target` is ignored.

    Source: https://huggingface.co/papers/2005.00928
    """
    check_images(model, pixel_values)
    attentions, logits = _attentions(model, pixel_values)
    with torch.autocast(pixel_values.device.type, enabled=False):
        # Rows of A sum to 1, and so do those of the mean with the identity. As in `propagate_relevance`, a row vector
        # carried from the last layer to the first is the same product in O(T²) a layer.
        row = _head_row(model, attentions, tuple(pixel_values.shape[2:]))
        for attention in reversed(attentions):
            row = 0.5 * (row + torch.bmm(row, attention.float().mean(dim=1)))  # (B, 1, T)
        relevance = _patches_to_pixels(model, row[:, 0], tuple(pixel_values.shape[2:]))
    return RelevanceOutput(relevance=relevance, logits=logits)


def last_layer_attention(
    model: nn.Module, pixel_values: torch.Tensor, target: torch.Tensor | int | None = None
) -> RelevanceOutput:
    """Attention of the CLS token, or of what else the classification head reads, in the last layer, mean over the
    attention heads.

    The map is the same for every class: `target` is ignored.

    Source: https://huggingface.co/papers/2104.14294
    """
    check_images(model, pixel_values)
    attentions, logits = _attentions(model, pixel_values)
    row = _head_row(model, attentions, tuple(pixel_values.shape[2:]))
    row = torch.bmm(row, attentions[-1].float().mean(dim=1))  # (B, 1, T)
    relevance = _patches_to_pixels(model, row[:, 0], tuple(pixel_values.shape[2:]))
    return RelevanceOutput(relevance=relevance, logits=logits)


def input_gradient(
    model: nn.Module, pixel_values: torch.Tensor, target: torch.Tensor | int | None = None
) -> RelevanceOutput:
    """Gradient of the explained logit with respect to the pixels: absolute value, maximum over the channels.

    For evaluation only: maps and logits are detached. The pixels are those that the model gets, after normalisation.

    Source: https://huggingface.co/papers/1312.6034
    """
    check_images(model, pixel_values)
    with torch.inference_mode(False), torch.enable_grad():
        pixels = pixel_values.detach().clone().requires_grad_()
        logits = _logits(model, pixels)
        (gradient,) = torch.autograd.grad(target_logits(logits, target).sum(), pixels)
    # To the same size, bilinear interpolation changes nothing.
    saliency = upsample_and_normalize(gradient.abs().amax(dim=1, keepdim=True), tuple(pixels.shape[2:]))
    return RelevanceOutput(relevance=saliency, logits=logits.detach())


def legrad(model: nn.Module, pixel_values: torch.Tensor, target: torch.Tensor | int | None = None) -> RelevanceOutput:
    """LeGrad: what each layer's attention adds to the score that the head gives to that layer's own output.

    The score s of layer l is the logit of the target that the final norm and the head give to the output tokens of layer
    l. Its relevance is the positive part of ∂s/∂A, the gradient with respect to the attention of the same layer, averaged
    over heads and queries; the map is the mean over all layers.

    The map consists of gradients, so where gradients are enabled it holds a graph of second order; call it under `torch.no_grad()` for evaluation. The head reads the tokens that it was
    trained to read, as in the paper; the authors' code for CLIP reads the mean of all tokens instead, and by default the
    last two layers alone.

    Source: https://huggingface.co/papers/2404.03214
    """
    check_images(model, pixel_values)
    wants_graph = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        with head_at_every_layer(model) as (outputs, stack):
            attentions, logits = _attentions(model, pixel_values)
        logits = logits.unflatten(0, (len(outputs), -1))  # (L, B, C)
        if target is None:
            target = logits[-1].argmax(dim=1)
        score = sum(target_logits(layer, target).sum() for layer in logits)
        # A layer's output feeds the layers above as well. The stack does not, so this is the gradient of the head alone,
        # and each of the passes below stays within its layer.
        (gradient,) = torch.autograd.grad(score, stack, create_graph=wants_graph)
        tokens = 0
        for output, output_gradient, attention in zip(outputs, gradient.chunk(len(outputs)), attentions, strict=True):
            (change,) = torch.autograd.grad(output, attention, output_gradient, create_graph=wants_graph)
            tokens = tokens + change.float().clamp(min=0).mean(dim=(1, 2)) / len(outputs)  # (B, T)
        relevance = _patches_to_pixels(model, tokens, tuple(pixel_values.shape[2:]))
    logits = logits[-1]
    return RelevanceOutput(relevance=relevance, logits=logits if wants_graph else logits.detach())


ATTRIBUTION_METHODS: dict[str, Callable[..., RelevanceOutput]] = dict(
    zip(
        ATTRIBUTION_METHOD_NAMES,
        (relevance_map, attention_rollout, last_layer_attention, input_gradient, legrad),
        strict=True,
    )
)
