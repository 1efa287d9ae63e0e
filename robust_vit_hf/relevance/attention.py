"""Reading attention probabilities from a model, inside its graph, and leaving the model as it was."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface

from .architectures import attention_modules, unwrap_pretrained


EXPLICIT_ATTENTION = "explicit"  # its name in transformers' registry

# Models whose last layer can be spared for all tokens but the CLS token, which alone their head reads.
CLS_HEADS = ("ViTForImageClassification", "ViTMSNForImageClassification", "DeiTForImageClassification")


def attention_with_probabilities(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention function for `transformers.AttentionInterface`: eager attention that scales the queries and not the
    scores, which spares a pass over all pairs of tokens in the forward and in each backward pass.

    Args:
        query, key, value: `(B, h, T, d)`.
        attention_mask: added to the scores: the relative position bias of BEiT, `(1, h, T, T)`.

    Returns:
        Output `(B, T, h, d)` and the attention probabilities `(B, h, T, T)`.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.matmul(query * scaling, key.transpose(2, 3))
    if attention_mask is not None:
        scores = scores + attention_mask
    attention = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    attention = F.dropout(attention, dropout, module.training)
    return torch.matmul(attention, value).transpose(1, 2).contiguous(), attention


AttentionInterface.register(EXPLICIT_ATTENTION, attention_with_probabilities)


@contextmanager
def explicit_attention(model: nn.Module) -> Iterator[None]:
    """Context in which the model holds its attention probabilities; the implementation that it had is restored.

    Other implementations than this and eager never do: transformers then returns an empty tuple for
    `output_attentions=True`, without an error.

    Raises:
        ValueError: the model cannot switch its implementation.
    """
    pretrained = unwrap_pretrained(model)
    previous = pretrained.config._attn_implementation
    if previous in ("eager", EXPLICIT_ATTENTION):
        yield
        return
    pretrained.set_attn_implementation(EXPLICIT_ATTENTION)
    if pretrained.config._attn_implementation != EXPLICIT_ATTENTION:
        raise ValueError(
            f"`{type(pretrained).__name__}` cannot switch from `{previous}` to an attention that holds its "
            'probabilities. Load it with `from_pretrained(..., attn_implementation="eager")`.'
        )
    try:
        yield
    finally:
        pretrained.set_attn_implementation(previous)


@contextmanager
def record_attentions(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Context that fills a list with the attentions `(B, h, T, T)` of each layer during a forward pass.

    They are taken where they are computed. What `output_attentions=True` returns are the same tensors, but once
    Accelerate casts the outputs of autocast to fp32, or DDP passes them through its sink, the returned ones are copies
    outside the graph, and the gradient of the logits with respect to them does not exist.
    """
    attentions: list[torch.Tensor] = []

    def record(module, args, output):
        attentions.append(output[1])

    def require_grad(module, args, output):
        embeddings = output[0] if isinstance(output, tuple) else output
        if not embeddings.requires_grad:  # where every parameter is frozen the graph would begin nowhere
            embeddings.requires_grad_()

    with ExitStack() as hooks:
        for module in attention_modules(model):
            hooks.callback(module.register_forward_hook(record).remove)
        embeddings = unwrap_pretrained(model).get_input_embeddings()
        hooks.callback(embeddings.register_forward_hook(require_grad).remove)
        yield attentions


@contextmanager
def cls_token_alone(model: nn.Module) -> Iterator[None]:
    """Context in which the last layer computes its output projection and MLP for the CLS token alone, where the head
    reads no other token. Logits, attentions and all gradients stay the same, and a twelfth (at 12 layers) of most of the
    work in the forward and both backward passes is spared; the last hidden states of the patches mean nothing.
    """
    pretrained = unwrap_pretrained(model)
    # Activation checkpointing runs the layer again in `loss.backward()`, when the hooks are gone.
    if type(pretrained).__name__ not in CLS_HEADS or pretrained.is_activation_checkpointing:
        yield
        return

    def first_token(module, args):
        return (args[0][:, :1],)

    layer = list(pretrained.base_model.layers)[-1]
    with ExitStack() as hooks:
        # Each sum with the residual spreads the one token over all, which none but the CLS token is read from.
        for module in (layer.attention.o_proj, layer.layernorm_after):
            hooks.callback(module.register_forward_pre_hook(first_token).remove)
        yield
