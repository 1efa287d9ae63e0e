"""Attention functions for `output_attentions=True`, and the switch to them.

`explicit` returns probabilities, and `linear_memory` a [`RecordedAttention`], both as parts of the graph of the logits."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from .architectures import ImageModel
from .hooks import hooks_of_this_thread


EXPLICIT_ATTENTION, LINEAR_MEMORY_ATTENTION = "explicit", "linear_memory"  # names in the registry of transformers
# Models whose head reads only the CLS token of the last layer.
CLS_HEADS = ("ViTForImageClassification", "ViTMSNForImageClassification", "DeiTForImageClassification")
switching = threading.RLock()  # held while the implementation of any model is switched


@dataclass
class RecordedAttention:
    """Inputs and output of the attention of a layer, and the factor `scaling` of its scores."""

    query: torch.Tensor  # (B, h, T, d), or (B, h, 1, d) in `cls_token_alone`
    key: torch.Tensor  # (B, h, T, d)
    value: torch.Tensor
    output: torch.Tensor  # (B, T, h, d), or (B, 1, h, d)
    scaling: float


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
    """Eager attention `(B, T, h, d)`, and its probabilities `(B, h, T, T)`. It scales the queries, not the scores, which
    saves a pass over all pairs of tokens. `attention_mask` is the relative position bias of BEiT, `(1, h, T, T)`."""
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.matmul(query * scaling, key.transpose(2, 3))
    if attention_mask is not None:
        scores = scores + attention_mask
    attention = F.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(query.dtype)
    attention = F.dropout(attention, dropout, module.training)
    return torch.matmul(attention, value).transpose(1, 2).contiguous(), attention


def attention_with_record(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *arguments, **settings
) -> tuple[torch.Tensor, RecordedAttention]:
    """Attention `(B, T, h, d)` by `sdpa`, which never holds `(B, h, T, T)`, and a record of it."""
    settings.pop("output_attentions", None)  # sdpa would say that it returns none
    output, _ = sdpa_attention_forward(module, query, key, value, *arguments, **settings)
    scaling = settings.get("scaling")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return output, RecordedAttention(query, key, value, output, scaling)


def _attention(function: Callable, module, query, *arguments, cls_alone: bool = False, **kwargs) -> tuple:
    if not cls_alone:
        return function(module, query, *arguments, **kwargs)
    output, attention = function(module, query[:, :, :1], *arguments, **kwargs)
    return output.expand(-1, query.shape[2], -1, -1), attention  # transformers expects an output for each token


_FUNCTIONS = {EXPLICIT_ATTENTION: attention_with_probabilities, LINEAR_MEMORY_ATTENTION: attention_with_record}
for _name, _function in _FUNCTIONS.items():
    AttentionInterface.register(_name, partial(_attention, _function))
    # Images need no mask, but a pass that another thread began before the switch may look one up by the new name.
    AttentionMaskInterface.register(_name, sdpa_mask)


@contextmanager
def switched_attention(model: ImageModel, implementation: str) -> Iterator[None]:
    """Context manager that switches a model to an attention implementation, unless it has one that returns probabilities. Only
    one thread at a time is in it; plain forward passes of other threads get the same outputs from any implementation.

    Raises:
        ValueError: transformers cannot switch this model.
    """
    with switching:
        own = model.attention
        returns_attentions = "eager", EXPLICIT_ATTENTION, implementation
        try:
            if own not in returns_attentions:
                model.attention = implementation
            if model.attention not in returns_attentions:
                raise ValueError(
                    f"`{type(model.pretrained).__name__}` cannot switch from `{own}` to an attention that returns its "
                    'probabilities. Load it with `from_pretrained(..., attn_implementation="eager")`.'
                )
            yield
        finally:
            if model.attention != own:
                model.attention = own


@contextmanager
def cls_token_alone(vit: ImageModel) -> Iterator[None]:
    """Context manager: compute the last layer only for the CLS token, if the head reads no other. Logits and gradients stay
    the same, but the last hidden states of the patches are meaningless, and the last attention has one row, unless it is eager."""
    # Activation checkpointing would compute the layer again in `loss.backward()`, without the hooks.
    if vit.name not in CLS_HEADS or vit.is_checkpointing:
        yield
        return

    layer = list(vit.pretrained.base_model.layers)[-1]
    # Residual sums broadcast this token over all tokens, of which only the CLS token is read.
    modules = (layer.attention.o_proj, layer.layernorm_after)
    hooks = [(module.register_forward_pre_hook, lambda module, args: (args[0][:, :1],)) for module in modules]
    register = partial(layer.attention.register_forward_pre_hook, with_kwargs=True)
    with hooks_of_this_thread(*hooks, (register, lambda module, args, kwargs: (args, kwargs | {"cls_alone": True}))):
        yield
