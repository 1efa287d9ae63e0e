"""Record the attentions of a model as parts of its graph: the probabilities, or only inputs and outputs.

Threads may share a model. Hooks and records act only in the thread that made them, and the attention implementation is
restored when the last thread leaves."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from .architectures import ImageModel, VisionTransformer


EXPLICIT_ATTENTION, RECORDED_ATTENTION = "explicit", "recorded"  # names in the registry of transformers
# Models whose head reads only the CLS token of the last layer.
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
    """Eager attention `(B, T, h, d)`, and its probabilities `(B, h, T, T)`. It scales the queries, not the scores, which
    saves a pass over all pairs of tokens. `attention_mask` is the relative position bias of BEiT, `(1, h, T, T)`."""
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.matmul(query * scaling, key.transpose(2, 3))
    if attention_mask is not None:
        scores = scores + attention_mask
    attention = F.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(query.dtype)
    attention = F.dropout(attention, dropout, module.training)
    return torch.matmul(attention, value).transpose(1, 2).contiguous(), attention


@dataclass
class RecordedAttention:
    """Inputs and output of the attention of a layer, and the factor `scaling` of its scores."""

    query: torch.Tensor  # (B, h, T, d), or (B, h, 1, d) in `cls_token_alone`
    key: torch.Tensor  # (B, h, T, d)
    value: torch.Tensor
    output: torch.Tensor  # (B, T, h, d), or (B, 1, h, d)
    scaling: float


class _Wanted(threading.local):
    """Of this thread: the attention function, and the attention module of which only the CLS token is computed."""

    function: Callable | None = None
    cls_alone: nn.Module | None = None


_wanted = _Wanted()


def _attention(own, module, query, *arguments, **settings) -> tuple[torch.Tensor, torch.Tensor | None]:
    function = _wanted.function or own
    if module is not _wanted.cls_alone:
        return function(module, query, *arguments, **settings)
    output, attention = function(module, query[:, :, :1], *arguments, **settings)
    return output.expand(-1, query.shape[2], -1, -1), attention  # transformers expects an output for each token


for _name, _own in ((EXPLICIT_ATTENTION, attention_with_probabilities), (RECORDED_ATTENTION, sdpa_attention_forward)):
    AttentionInterface.register(_name, partial(_attention, _own))
    # Images need no mask, but a pass that another thread began before the switch may look one up by the new name.
    AttentionMaskInterface.register(_name, sdpa_mask)

# By switched model: number of open contexts, and the original implementation.
_switched: WeakKeyDictionary[nn.Module, tuple[int, str]] = WeakKeyDictionary()
_switching = threading.Lock()


@contextmanager
def switched_attention(model: ImageModel, implementation: str) -> Iterator[None]:
    """Context manager that switches the attention implementation of a model, unless it is eager, to `EXPLICIT_ATTENTION`,
    which computes probabilities, or `RECORDED_ATTENTION`, which uses `sdpa`. Each thread may use a different one."""
    pretrained = model.pretrained
    with _switching:
        count, own = _switched.get(pretrained, (0, model.attention))
        if own not in ("eager", implementation) and not count:
            model.attention = implementation
            if model.attention not in ("eager", implementation):
                raise ValueError(
                    f"`{type(pretrained).__name__}` cannot switch from `{own}` to an attention that returns its "
                    'probabilities. Load it with `from_pretrained(..., attn_implementation="eager")`.'
                )
        _switched[pretrained] = count + 1, own
    try:
        yield
    finally:
        with _switching:
            count, own = _switched.pop(pretrained)
            if count > 1:
                _switched[pretrained] = count - 1, own
            elif model.attention != own:
                model.attention = own


@contextmanager
def record_attentions(vit: VisionTransformer) -> Iterator[list[torch.Tensor]]:
    """Context manager that fills a list with the attention of each layer, `(B, h, T, T)`, or `(B, h, 1, T)` in [`cls_token_alone`]."""
    attentions: list[torch.Tensor] = []

    def record(module, args, output):
        attentions.append(output if isinstance(output, torch.Tensor) else output[1])

    # `output_attentions=True` would return copies outside the graph in autocast or under DDP.
    modules = vit.attentions if vit.timm_model is None else [attention.attn_drop for attention in vit.attentions]
    hooks = [(module.register_forward_hook, record) for module in modules]
    with (
        hooks_of_this_thread(*hooks, _graph_from_the_embeddings(vit)),
        _wants("function", attention_with_probabilities),
    ):
        yield attentions


@contextmanager
def record_outputs(vit: VisionTransformer) -> Iterator[list[RecordedAttention]]:
    """Context manager that fills a list with the inputs and outputs of the attentions, computed by `sdpa` without `(B, h, T, T)`."""
    attentions: list[RecordedAttention] = []

    def record(module, query, key, value, attention_mask=None, scaling=None, **settings):
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **settings)
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        attentions.append(RecordedAttention(query, key, value, output, scaling))
        return output, None

    with hooks_of_this_thread(_graph_from_the_embeddings(vit)), _wants("function", record):
        yield attentions


@contextmanager
def _wants(setting: str, value: object) -> Iterator[None]:
    setattr(_wanted, setting, value)
    try:
        yield
    finally:
        setattr(_wanted, setting, None)


def _graph_from_the_embeddings(vit: VisionTransformer) -> tuple[Callable, Callable]:
    """Hook that starts the graph at the embeddings of the patches, if all parameters are frozen."""

    def require_grad(module, args, output):
        embeddings = output[0] if isinstance(output, tuple) else output
        if not embeddings.requires_grad:
            embeddings.requires_grad_()

    patches = vit.encoder.get_input_embeddings() if vit.timm_model is None else vit.timm_model.patch_embed
    return patches.register_forward_hook, require_grad


@contextmanager
def hooks_of_this_thread(*hooks: tuple[Callable, Callable]) -> Iterator[None]:
    """Context manager with hooks that act only in this thread: pairs of `module.register_forward_hook` or the like, and the hook."""
    thread = threading.get_ident()

    def of_this_thread(hook: Callable) -> Callable:
        return lambda *arguments: hook(*arguments) if threading.get_ident() == thread else None

    with ExitStack() as handles:
        with _switching:  # torch numbers hooks without a lock: two could get the same number, and one would be lost
            for register, hook in hooks:
                handles.callback(register(of_this_thread(hook)).remove)
        yield


@contextmanager
def cls_token_alone(vit: ImageModel) -> Iterator[None]:
    """Context manager: compute the last layer only for the CLS token, if the head reads no other. Logits and gradients stay
    the same, but the last hidden states of the patches are meaningless."""
    # Activation checkpointing would compute the layer again in `loss.backward()`, without the hooks.
    if vit.name not in CLS_HEADS or vit.is_checkpointing:
        yield
        return

    layer = list(vit.pretrained.base_model.layers)[-1]
    # Residual sums broadcast this token over all tokens, of which only the CLS token is read.
    modules = (layer.attention.o_proj, layer.layernorm_after)
    hooks = ((module.register_forward_pre_hook, lambda module, args: (args[0][:, :1],)) for module in modules)
    with hooks_of_this_thread(*hooks), _wants("cls_alone", layer.attention):
        yield
