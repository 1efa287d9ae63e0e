"""Sufficient input subsets (SIS): pixels of an image that suffice for a confident prediction of a class.

Sources: https://huggingface.co/papers/1810.03805 (backward selection), https://huggingface.co/papers/2003.08907 (by
gradients), and appendix A of https://huggingface.co/papers/2206.01161.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm
from transformers.utils import ModelOutput

from robust_vit_hf.relevance.architectures import ImageModel
from robust_vit_hf.relevance.relevance_map import at_least_float32, check_finite, target_logits


@dataclass
class SufficientSubsets(ModelOutput):
    """Output of [`sufficient_input_subsets`], for B pairs of image and class, masked in S steps."""

    # `(B, 1, H, W)` bool: pixels of the subset; empty if none is found, or if the fully masked image already suffices.
    subset: torch.Tensor | None = None
    found: torch.Tensor | None = None  # `(B,)` bool: whether there is a subset
    # `(B,)`, at least fp32, in [0, 1]: probability of the class for the subset, or the highest in any step if none is
    # found.
    confidence: torch.Tensor | None = None
    step: torch.Tensor | None = None  # `(B, 1, H, W)` int64 from 1 to S, in which a pixel is masked
    margins: torch.Tensor | None = None  # `(B, S + 1)`, at least fp32, see [`margin`], after 0 to S steps: all pixels


def sufficient_input_subsets(
    model: nn.Module,
    pixel_values: torch.Tensor,
    target: torch.Tensor | int,
    *,
    threshold: float = 0.9,
    pixels_per_step: int = 100,
) -> SufficientSubsets:
    """Find sufficient input subsets by batched gradient backward selection.

    Each step masks the visible pixels that are expected to lower the score least: those with the highest ∂s/∂m at the
    input x · (1 − m), with m = 1 at masked pixels. The score s is the margin of the class, which is monotonic in its
    probability and has a usable gradient near probabilities 0 and 1. The subset consists of the pixels visible after
    the last step at which the probability reaches the threshold; earlier steps may be below it.

    A step is one forward and one backward pass without gradients of the weights; a last forward pass scores the fully
    masked image. The model is left unchanged.

    Args:
        model: any image classification model of transformers, in evaluation mode.
        pixel_values: `(B, 3, H, W)`, normalised as the model expects. Masked pixels are 0, the mean colour.
        target: class of each image, `(B,)` integers, or one for all images.
        threshold: probability that the subset must reach, in (0, 1).
        pixels_per_step: pixels masked per image and step. 100 at 224×224 pixels give 502 steps.

    Raises:
        ValueError: the model is in training mode; the target is not a class; or gradients are NaN or infinite.

    Example:
        >>> import torch
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> from experiments.paper.sufficient_subsets import sufficient_input_subsets
        >>> sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        >>> model = ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, **sizes)).eval()
        >>> output = sufficient_input_subsets(model, torch.rand(4, 3, 32, 32), target=1, threshold=0.4)
        >>> tuple(output.subset.shape), tuple(output.margins.shape)
        ((4, 1, 32, 32), (4, 12))
    """
    classifier = ImageModel(model)
    if model.training:
        raise ValueError("The model is in training mode: call `model.eval()` first.")

    def score(masked: torch.Tensor) -> torch.Tensor:
        # Inference tensors cannot be saved for backward.
        return margin(classifier.logits(masked), target.clone() if isinstance(target, torch.Tensor) else target)

    step, margins = backward_selection(score, pixel_values, pixels_per_step)
    confidences = margins.sigmoid()
    last = last_sufficient_step(confidences, threshold)
    found = last >= 0
    confidence = torch.where(found, confidences.gather(1, last.clamp(min=0)[:, None])[:, 0], confidences.amax(dim=1))
    subset = (step > last.view(-1, 1, 1, 1)) & found.view(-1, 1, 1, 1)
    return SufficientSubsets(subset=subset, found=found, confidence=confidence, step=step, margins=margins)


def margin(logits: torch.Tensor, target: torch.Tensor | int) -> torch.Tensor:
    """Margin `(B,)` of a class, at least fp32: its logit minus the logsumexp of the others. Its sigmoid is the
    probability of the class."""
    logits = at_least_float32(logits)
    chosen = target_logits(logits, target)[:, 0]
    target = torch.as_tensor(target, device=logits.device).long().expand(len(logits))
    others = logits.masked_fill(F.one_hot(target, logits.shape[1]).bool(), -math.inf)
    return chosen - others.logsumexp(dim=1)


def backward_selection(
    score: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor, pixels_per_step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Set the pixels of inputs `(B, C, H, W)` that matter least to a score `(B,)` to 0, step by step, until all are
    masked; ties in pixel order. Returns the step, from 1, in which each is masked, `(B, 1, H, W)` int64, and scores
    `(B, S + 1)` after 0 to S."""
    batch_size, _, height, width = inputs.shape
    num_pixels = height * width
    scores = []
    with torch.inference_mode(False), torch.enable_grad():
        inputs = inputs.detach().clone()  # may be inference tensors, as above
        step = torch.zeros(batch_size, num_pixels, dtype=torch.long, device=inputs.device)
        numbers = range(1, math.ceil(num_pixels / pixels_per_step) + 1)
        for number in tqdm(numbers, desc="masking pixels", unit="step", leave=False):
            visible = (step == 0).view(batch_size, 1, height, width).to(inputs.dtype).requires_grad_()
            values = score(inputs * visible)
            (gradient,) = torch.autograd.grad(values.sum(), visible)  # −∂s/∂m
            check_finite("gradient", gradient)
            scores.append(values.detach())
            remaining = num_pixels - (number - 1) * pixels_per_step
            order = gradient.flatten(1).masked_fill(step > 0, math.inf).sort(stable=True).indices
            step.scatter_(1, order[:, : min(pixels_per_step, remaining)], number)
    with torch.no_grad():
        scores.append(score(torch.zeros_like(inputs)))
    return step.view(batch_size, 1, height, width), torch.stack(scores, dim=1)


def last_sufficient_step(scores: torch.Tensor, threshold: float) -> torch.Tensor:
    """Index `(B,)` of the last step whose score reaches a threshold, or -1, from scores `(B, S + 1)` after 0 to S
    steps."""
    numbers = torch.arange(scores.shape[1], device=scores.device)
    return torch.where(scores >= threshold, numbers, -1).amax(dim=1)
