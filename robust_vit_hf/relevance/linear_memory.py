"""Relevance without attention matrices: the first-order maps of [`propagate_relevance`] in memory that is linear in tokens.

The gradient of a score s in the attention A of a layer is (∂s/∂O) Vᵀ, with O = A V the output of the attention per head. So the
model keeps a fused attention, which holds no A; queries, keys, values and outputs are recorded; and rows of A and of its gradient
are computed in chunks, in the forward pass and again in the backward pass.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from ..utils.precision import at_least_float32
from .architectures import architecture, unwrap_pretrained
from .attention import EXPLICIT_ATTENTION, RecordedAttention


# Elements of an attention at once. On two cores a quarter of it takes 7 % longer, and twice of it as long; elsewhere more, since
# each operation costs a launch.
CPU_CHUNK, OTHER_CHUNK = 2**21, 2**25
MIN_TOKENS = 600  # from which the time is about the same, at a third of the memory: benchmarks/linear_memory.py
# Models that add a bias to the scores of their attention, whose gradient is not computed here.
POSITION_BIASES = ("BeitForImageClassification", "Data2VecVisionForImageClassification")


def has_linear_memory(model: nn.Module, num_tokens: int, create_graph: bool) -> bool:
    """Whether the map of a model is computed in linear memory. Otherwise, attentions are held: for second order, for attention
    dropout, position biases and the eager implementation, which need them, and for few tokens, where that is faster. Activation
    checkpointing always takes linear memory where it can.
    """
    pretrained = unwrap_pretrained(model)
    config = pretrained.config
    dropout = getattr(config, "attention_probs_dropout_prob", 0.0) or getattr(config, "attention_dropout", 0.0)
    checkpointing = pretrained.is_activation_checkpointing and pretrained.training
    return not (
        create_graph
        or architecture(model) in POSITION_BIASES
        or config._attn_implementation in ("eager", EXPLICIT_ATTENTION)
        or (dropout and pretrained.training)
        or (num_tokens < MIN_TOKENS and not checkpointing)
    )


def propagate_recorded(
    attentions: Sequence[RecordedAttention], output_gradients: Sequence[torch.Tensor], row: torch.Tensor
) -> torch.Tensor:
    """Rows of the relevance matrix, as [`propagate_relevance`] gives them.

    Args:
        attentions: of each layer, from the first to the last.
        output_gradients: gradients `(B, T, h, d)` of the explained logit in the outputs, which are constants.
        row: `(T,)`, weights of the tokens that the head reads, the same for all images.

    Returns:
        `(B, T)`, at least fp32: relevance of every token.
    """
    # Rows of weight 0 add nothing: of the last layer, a head at the CLS token needs one row.
    rows = row.nonzero().flatten()
    weights = row.to(torch.promote_types(output_gradients[0].dtype, torch.float32)).expand(
        len(output_gradients[0]), -1
    )
    for attention, gradient in zip(reversed(attentions), reversed(output_gradients), strict=True):
        query = attention.query[:, :, rows] if len(rows) < len(row) else attention.query
        gradient = gradient.transpose(1, 2)
        gradient = gradient[:, :, rows] if len(rows) < len(row) else gradient
        chosen = weights[:, rows] if len(rows) < len(row) else weights
        weights = weights + RowProduct.apply(
            chosen, query, attention.key, attention.value.detach(), gradient.detach(), attention.scaling
        )
        rows = torch.arange(len(row))
    return weights


class RowProduct(torch.autograd.Function):
    """`row · mean over heads of (relu(G Vᵀ) ⊙ softmax(s Q Kᵀ))`, with gradients for `row`, Q and K alone.

    Inputs: `row` `(B, n)`, at least fp32; Q and G `(B, h, n, d)`, of n of the T rows; K and V `(B, h, T, d)`; s. Output: `(B, T)`, in the
    dtype of `row`.
    """

    @staticmethod
    def forward(ctx, row, query, key, value, gradient, scaling):
        ctx.save_for_backward(row, query, key, value, gradient)
        ctx.scaling = scaling
        product = row.new_zeros(key.shape[0], key.shape[2])
        for image, chunk, attention, contribution in chunks(row, query, key):
            fill_rows(
                attention,
                contribution,
                query[image, :, chunk],
                key[image],
                value[image],
                gradient[image, :, chunk],
                scaling,
            )
            product[image] += row[image, chunk].repeat(query.shape[1]) @ contribution.flatten(0, 1)
        return product / query.shape[1]

    @staticmethod
    def backward(ctx, product_gradient):
        row, query, key, value, gradient = ctx.saved_tensors
        row_gradient, query_gradient = torch.empty_like(row), torch.empty_like(query)
        key_gradient = torch.zeros_like(at_least_float32(key))
        upstream = product_gradient / query.shape[1]  # (B, T)
        for image, chunk, attention, contribution in chunks(row, query, key):
            part, own_key = query[image, :, chunk], key[image]
            fill_rows(attention, contribution, part, own_key, value[image], gradient[image, :, chunk], ctx.scaling)
            total = (contribution.flatten(0, 1) @ upstream[image]).view(*part.shape[:2], 1)
            row_gradient[image, chunk] = total.sum(dim=(0, 2))
            # Gradient of the scores, by that of the softmax: A ⊙ (∂A − Σ A ∂A), without the weights of its rows.
            scores = contribution.mul_(upstream[image]).addcmul_(attention, total, value=-1).to(key.dtype)
            weights = (row[image, chunk, None] * ctx.scaling).to(key.dtype)
            query_gradient[image, :, chunk] = torch.matmul(scores, own_key) * weights
            key_gradient[image] += torch.matmul(scores.transpose(1, 2), part * weights)
        return row_gradient, query_gradient, key_gradient.to(key.dtype), None, None, None


def chunks(row, query, key) -> Iterator[tuple[int, slice, torch.Tensor, torch.Tensor]]:
    """Each image, some of its n rows, and room for two `(h, rows, T)` in the dtype of `row`, which the next chunk takes again."""
    num_heads, num_rows, num_tokens = *query.shape[1:3], key.shape[2]
    elements = CPU_CHUNK if query.device.type == "cpu" else OTHER_CHUNK
    size = min(max(elements // (num_heads * num_tokens), 1), num_rows)
    room = row.new_empty(2, num_heads * size * num_tokens)
    for image in range(query.shape[0]):
        for first in range(0, num_rows, size):
            chunk = slice(first, min(first + size, num_rows))
            shape = num_heads, chunk.stop - chunk.start, num_tokens
            attention, contribution = (part[: math.prod(shape)].view(shape) for part in room)
            yield image, chunk, attention, contribution


def fill_rows(attention, contribution, query, key, value, gradient, scaling) -> None:
    """Write rows of the attention of an image, and of its product with the positive part of its gradient."""
    multiply(query * scaling, key, attention)
    torch.softmax(attention, dim=-1, out=attention)
    multiply(gradient, value, contribution)
    contribution.clamp_(min=0).mul_(attention)


def multiply(left: torch.Tensor, right: torch.Tensor, product: torch.Tensor) -> None:
    """`left @ rightᵀ`, in the dtype of both, into `product`."""
    right = right.transpose(1, 2)
    if left.dtype == product.dtype:
        torch.bmm(left, right, out=product)
    else:
        product.copy_(torch.bmm(left, right))
