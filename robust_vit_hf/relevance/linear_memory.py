"""First-order relevance maps, as [`propagate_relevance`] gives them, in memory linear in the number of tokens.

The model can use fused attention, since the gradient of a score s with respect to the attention A is (∂s/∂O) Vᵀ, where
O = A V. Rows of A and of its gradient are computed in chunks, in the forward pass and again in the backward pass.
"""

import math
from collections.abc import Iterator, Sequence

import torch

from .architectures import ImageModel
from .attention import EXPLICIT_ATTENTION, LINEAR_MEMORY_ATTENTION, RecordedAttention


# Attention elements per chunk: the fastest number on two cores. Other devices need more, since each launch takes time.
CPU_CHUNK, OTHER_CHUNK = 2**21, 2**25
MIN_TOKENS = 400  # with at least as many, it is faster: experiments/benchmarks/linear_memory.py
# Models that add a bias to the attention scores. Its gradient is not computed here.
POSITION_BIASES = ("BeitForImageClassification", "Data2VecVisionForImageClassification")


def attention_for(vit: ImageModel, num_tokens: int, create_graph: bool) -> str:
    """Attention implementation for a map: `linear_memory`, except where the probabilities are needed (second order, dropout,
    position biases, eager attention), or are faster (few tokens, but not with activation checkpointing in training).

    Activation checkpointing computes attention again in `loss.backward()`, so a training sets it for good: `vit.attention = …`.
    """
    config, training = vit.vision_config, vit.pretrained.training
    dropout = getattr(config, "attention_probs_dropout_prob", 0.0) or getattr(config, "attention_dropout", 0.0)
    explicit = (
        create_graph
        or vit.timm_model is not None
        or vit.name in POSITION_BIASES
        or vit.attention in ("eager", EXPLICIT_ATTENTION)
        or (dropout and training)
        or (num_tokens < MIN_TOKENS and not (vit.is_checkpointing and training))
    )
    return EXPLICIT_ATTENTION if explicit else LINEAR_MEMORY_ATTENTION


def propagate_recorded(
    attentions: Sequence[RecordedAttention], output_gradients: Sequence[torch.Tensor], row: torch.Tensor
) -> torch.Tensor:
    """Relevance `(B, T)` of every token, at least fp32, as in [`propagate_relevance`]. `row` `(T,)` has the weights with which
    the head reads the tokens. The gradients `(B, T, h, d)` of the explained logit with respect to the outputs are constants."""
    # Rows with weight 0 are skipped: a head on the CLS token needs only one row of the last layer.
    rows = row.nonzero().flatten()
    row = row.to(torch.promote_types(output_gradients[0].dtype, torch.float32))
    weights = row.expand(len(output_gradients[0]), -1)
    for attention, gradient in zip(reversed(attentions), reversed(output_gradients), strict=True):
        chosen, query, gradient = weights, attention.query, gradient.detach().transpose(1, 2)
        if len(rows) < len(row):
            chosen, query, gradient = chosen[:, rows], query[:, :, rows], gradient[:, :, rows]
        weights = weights + RowProduct.apply(
            chosen, query, attention.key, attention.value.detach(), gradient, attention.scaling
        )
        rows = torch.arange(len(row))
    return weights


class RowProduct(torch.autograd.Function):
    """`row · mean over heads of (relu(G Vᵀ) ⊙ softmax(s Q Kᵀ))`. Only `row`, Q and K get gradients.

    Inputs: `row` `(B, n)`, at least fp32; Q and G `(B, h, n, d)` for n of the T rows; K and V `(B, h, T, d)`; the scale s.
    Output: `(B, T)`, in the dtype of `row`.
    """

    @staticmethod
    def forward(ctx, row, query, key, value, gradient, scaling):
        ctx.save_for_backward(row, query, key, value, gradient)
        ctx.scaling = scaling
        product = row.new_zeros(key.shape[0], key.shape[2])
        for images, rows, attention, contribution in chunks(row, query, key):
            own_query, own_gradient = query[images, :, rows], gradient[images, :, rows]
            fill_rows(attention, contribution, own_query, key[images], value[images], own_gradient, scaling)
            product[images] += contribution.mul_(row[images, None, rows, None]).sum(dim=(1, 2))
        return product / query.shape[1]

    @staticmethod
    def backward(ctx, product_gradient):
        row, query, key, value, gradient = ctx.saved_tensors
        row_gradient, query_gradient = torch.empty_like(row), torch.empty_like(query)
        key_gradient = torch.zeros_like(key, dtype=torch.promote_types(key.dtype, torch.float32))
        upstream = product_gradient / query.shape[1]  # (B, T)
        for images, rows, attention, contribution in chunks(row, query, key):
            own_query, own_key = query[images, :, rows], key[images]
            fill_rows(
                attention, contribution, own_query, own_key, value[images], gradient[images, :, rows], ctx.scaling
            )
            total = contribution.mul_(upstream[images, None, None]).sum(dim=-1, keepdim=True)
            row_gradient[images, rows] = total.sum(dim=(1, 3))
            # Gradient with respect to the scores, through the softmax: A ⊙ (∂A − Σ A ∂A). The row weights follow below.
            scores = contribution.addcmul_(attention, total, value=-1).to(key.dtype)
            weights = (row[images, None, rows, None] * ctx.scaling).to(key.dtype)
            query_gradient[images, :, rows] = torch.matmul(scores, own_key) * weights
            key_gradient[images] += torch.matmul(scores.transpose(2, 3), own_query * weights)
        return row_gradient, query_gradient, key_gradient.to(key.dtype), None, None, None


def chunks(row, query, key) -> Iterator[tuple[slice, slice, torch.Tensor, torch.Tensor]]:
    """Yield chunks: slices of images and of rows (several images with all n rows, or one image with some of them), and two
    buffers `(B, h, n, T)` in the dtype of `row`. The next chunk overwrites the buffers."""
    num_images, num_heads, num_rows = query.shape[:3]
    num_tokens = key.shape[2]
    elements = CPU_CHUNK if query.device.type == "cpu" else OTHER_CHUNK
    rows_at_once = max(elements // (num_heads * num_tokens), 1)
    images_at_once = min(max(rows_at_once // num_rows, 1), num_images)
    rows_at_once = min(rows_at_once, num_rows)
    room = row.new_empty(2, images_at_once * num_heads * rows_at_once * num_tokens)
    for first_image in range(0, num_images, images_at_once):
        images = slice(first_image, min(first_image + images_at_once, num_images))
        for first_row in range(0, num_rows, rows_at_once):
            rows = slice(first_row, min(first_row + rows_at_once, num_rows))
            shape = images.stop - images.start, num_heads, rows.stop - rows.start, num_tokens
            attention, contribution = (part[: math.prod(shape)].view(shape) for part in room)
            yield images, rows, attention, contribution


def fill_rows(attention, contribution, query, key, value, gradient, scaling) -> None:
    """Write rows of the attention, and rows of the attention times the positive part of its gradient."""
    multiply(query * scaling, key, attention)
    torch.softmax(attention, dim=-1, out=attention)
    multiply(gradient, value, contribution)
    contribution.clamp_(min=0).mul_(attention)


def multiply(left: torch.Tensor, right: torch.Tensor, product: torch.Tensor) -> None:
    """Write `left @ rightᵀ` to `product`, computed in the dtype of `left` and `right`."""
    right = right.transpose(2, 3)
    if left.dtype == product.dtype:
        torch.matmul(left, right, out=product)
    else:
        product.copy_(torch.matmul(left, right))
