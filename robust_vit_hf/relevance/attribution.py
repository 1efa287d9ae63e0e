"""Attribution methods by name. All have the arguments, supported architectures and errors of [`relevance_map`].

If gradients are enabled, maps are differentiable with respect to the weights, except those of `input_gradient`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import nn

from . import ATTRIBUTION_METHOD_NAMES
from .architectures import ImageModel, VisionTransformer
from .attention import EXPLICIT_ATTENTION, switched_attention
from .hooks import hooks_of_this_thread
from .relevance_map import RelevanceOutput, make_output, map_of_tokens, min_max, relevance_map, target_logits


Target: TypeAlias = torch.Tensor | int | None


def _attentions(vit: VisionTransformer, pixel_values: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """Attentions `(B, h, T, T)` of each layer, and the logits, of one forward pass."""
    with switched_attention(vit, EXPLICIT_ATTENTION):
        output = vit(pixel_values, output_attentions=True)
    return output.attentions, output.logits


@contextmanager
def head_at_every_layer(vit: VisionTransformer) -> Iterator[tuple[list[torch.Tensor], list[torch.Tensor]]]:
    """Context manager in which the final norm and the head read the outputs of all L layers, so that logits are
    `(L·B, C)`, first layer first. A forward pass fills two lists: the outputs `(B, T, D)`, and one stack `(L·B, T, D)`."""
    pretrained, attentions = vit.pretrained, set(vit.attentions)
    lists = [module for module in pretrained.modules() if isinstance(module, nn.ModuleList | nn.Sequential)]
    layers = [layer for modules in lists for layer in modules if not attentions.isdisjoint(layer.modules())]
    norm = getattr(vit.encoder, "layernorm", None) or getattr(vit.encoder, "norm", None)
    outputs: list[torch.Tensor] = []
    stack: list[torch.Tensor] = []

    def record(module, args, output):
        outputs.append(output[0] if isinstance(output, tuple) else output)

    def stacked(tokens):
        if not outputs or tokens is not outputs[-1]:
            raise ValueError(f"LeGrad needs a final norm, which `{vit.name}` does not have: choose another method.")
        stack.append(torch.cat(outputs))
        return stack[0]

    def replace_output(module, args, output):
        output.last_hidden_state = stacked(output.last_hidden_state)
        return output

    hooks: list[tuple[Callable, Callable]] = [(layer.register_forward_hook, record) for layer in layers]
    if norm is not None:
        hooks.append((norm.register_forward_pre_hook, lambda module, args: (stacked(args[0]),)))
    else:  # the norm of CLIP, if there is one, reads only the CLS token
        hooks.append((vit.encoder.encoder.register_forward_hook, replace_output))
    with hooks_of_this_thread(*hooks):
        yield outputs, stack


def _attention_map(
    model: nn.Module | ImageModel, pixel_values: torch.Tensor, read: Callable[..., torch.Tensor], check_finite: bool
) -> RelevanceOutput:
    """Map of token weights `(B, 1, T)`, which `read` computes from those of the head and the attentions `(B, h, T, T)`."""
    vit = VisionTransformer(model)
    grid = vit.patch_grid(pixel_values)
    attentions, logits = _attentions(vit, pixel_values)
    with torch.autocast(pixel_values.device.type, enabled=False):
        row = vit.head_row(attentions[0].shape[-1], grid).expand(len(logits), 1, -1)
        relevance = map_of_tokens(read(row, attentions)[:, 0], grid, pixel_values)
    return make_output(relevance, logits, check_finite)


def attention_rollout(
    model: nn.Module | ImageModel, pixel_values: torch.Tensor, target: Target = None, *, check_finite: bool = True
) -> RelevanceOutput:
    """Attention rollout: product over the layers of 0.5·A + 0.5·I, where A is the mean over the heads. `target` is ignored,
    since all classes have the same map.

    Source: https://huggingface.co/papers/2005.00928
    """

    # The rows of A sum to 1, and so do the rows of its mean with the identity.
    def read(row, attentions):
        for attention in reversed(attentions):
            row = 0.5 * (row + torch.bmm(row, attention.float().mean(dim=1)))  # (B, 1, T)
        return row

    return _attention_map(model, pixel_values, read, check_finite)


def last_layer_attention(
    model: nn.Module | ImageModel, pixel_values: torch.Tensor, target: Target = None, *, check_finite: bool = True
) -> RelevanceOutput:
    """Attention, in the last layer, of the tokens that the classification head reads: mean over the attention heads.
    `target` is ignored, since all classes have the same map.

    Source: https://huggingface.co/papers/2104.14294
    """
    return _attention_map(
        model, pixel_values, lambda row, attentions: torch.bmm(row, attentions[-1].float().mean(dim=1)), check_finite
    )


def input_gradient(
    model: nn.Module | ImageModel, pixel_values: torch.Tensor, target: Target = None, *, check_finite: bool = True
) -> RelevanceOutput:
    """Gradient of the explained logit with respect to the normalised pixels: absolute value, maximum over the channels.
    For evaluation only: maps and logits are detached.

    Source: https://huggingface.co/papers/1312.6034
    """
    vit = VisionTransformer(model)
    vit.patch_grid(pixel_values)
    with torch.inference_mode(False), torch.enable_grad():
        pixels = pixel_values.detach().clone().requires_grad_()
        logits = vit.logits(pixels)
        (gradient,) = torch.autograd.grad(target_logits(logits, target).sum(), pixels)
    saliency = min_max(gradient.float().abs().amax(dim=1, keepdim=True))
    return make_output(saliency, logits.detach(), check_finite)


def legrad(
    model: nn.Module | ImageModel, pixel_values: torch.Tensor, target: Target = None, *, check_finite: bool = True
) -> RelevanceOutput:
    """LeGrad: how sensitive the score of each layer is to its attention.

    The score s of a layer is the logit of the target if the final norm and the head read the output of this layer. Its
    relevance is the positive part of ∂s/∂A, averaged over heads and queries, and the map is the mean over the layers. It
    has a second-order graph unless gradients are disabled. The authors' code for CLIP reads all tokens of the last two
    layers instead.

    Source: https://huggingface.co/papers/2404.03214
    """
    vit = VisionTransformer(model)
    grid = vit.patch_grid(pixel_values)
    wants_graph = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        with head_at_every_layer(vit) as (outputs, stack):
            attentions, logits = _attentions(vit, pixel_values)
        logits = logits.unflatten(0, (len(outputs), -1))  # (L, B, C)
        if target is None:
            target = logits[-1].argmax(dim=1)
        score = sum(target_logits(layer, target).sum() for layer in logits)
        # No layer reads the stack, so each of the following backward passes stays within its layer.
        (gradient,) = torch.autograd.grad(score, stack, create_graph=wants_graph)
        tokens = 0
        for output, output_gradient, attention in zip(outputs, gradient.chunk(len(outputs)), attentions, strict=True):
            (change,) = torch.autograd.grad(output, attention, output_gradient, create_graph=wants_graph)
            tokens = tokens + change.float().clamp(min=0).mean(dim=(1, 2)) / len(outputs)  # (B, T)
        relevance = map_of_tokens(tokens, grid, pixel_values)
    logits = logits[-1] if wants_graph else logits[-1].detach()
    return make_output(relevance, logits, check_finite)


_METHODS: tuple[Callable, ...] = (relevance_map, attention_rollout, last_layer_attention, input_gradient, legrad)
ATTRIBUTION_METHODS = dict(zip(ATTRIBUTION_METHOD_NAMES, _METHODS, strict=True))
