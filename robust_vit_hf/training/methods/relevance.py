"""Methods with a loss on relevance maps (RobustViT, CFT, energy) or on input gradients outside the object (GradMask, RRR)."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import nn

from ...relevance.architectures import ImageModel
from ...relevance.attention import EXPLICIT_ATTENTION, cls_token_alone, switched_attention
from ...relevance.relevance_map import at_least_float32, forward_logits, target_logits
from ..losses import RelevanceLoss, background_of
from .base import Method, Penalty


class RobustViT(Method):
    """Eq. 5 of https://huggingface.co/papers/2206.01161, with the weights of its Table 5."""

    DEFAULTS: ClassVar = {
        "relevance_weight": 0.8,
        "confidence_weight": 0.2,
        "background_weight": 2.0,
        "foreground_weight": 0.3,
        "relevance_distance": "mse",
        "mask_edges": "fractional",
        "mean_over": "image",
        "relevance_target": "label",
        "confidence_target": "prediction",
        "second_order": False,
        "start_layer": 0,
    }

    def __init__(self, args):
        super().__init__(args)
        self.relevance_loss = RelevanceLoss(
            args.background_weight, args.foreground_weight, args.relevance_distance, args.mask_edges, args.mean_over
        )

    def penalty(self, model, pixel_values, mask, targets):
        if self.args.relevance_weight == 0:
            return Penalty(0.0, {}, forward_logits(model, pixel_values))
        output = self.explain(model, pixel_values, targets)
        values = self.relevance_loss.per_image(output.relevance, mask)
        return Penalty(self.args.relevance_weight * values["relevance_loss"], values, output.logits)


class ConceptGuidedFineTuning(RobustViT):
    """0.8 · (1.2 · background + 0.5 · foreground) + 0.2 · cross-entropy with the prediction. The distance from the mask is
    binary cross-entropy. Masks come from the dataset; `robust-vit masks grounded` makes masks of concepts.

    Source: https://huggingface.co/papers/2603.08309
    """

    DEFAULTS = RobustViT.DEFAULTS | {
        "background_weight": 1.2,
        "foreground_weight": 0.5,
        "relevance_distance": "bce",
        "mask_edges": "complement",
        "mean_over": "region",
    }


class Energy(Method):
    """Share of the relevance outside the mask, before min–max scaling, and cross-entropy with the label. The energy loss of
    an image without relevance is 0.

    Source: energy loss of https://huggingface.co/papers/2303.11932 (ICCV 2023), which uses bounding boxes and other
    attributions. The weights of the losses are not published; they are those of `robustvit`.
    """

    DEFAULTS: ClassVar = {
        "relevance_weight": 0.8,
        "confidence_weight": 0.2,
        "relevance_target": "label",
        "confidence_target": "label",
        "second_order": False,
        "start_layer": 0,
    }

    def penalty(self, model, pixel_values, mask, targets):
        output = self.explain(model, pixel_values, targets, normalize=False)
        total = output.relevance.sum(dim=(1, 2, 3))
        outside = (output.relevance * (1 - mask)).sum(dim=(1, 2, 3))
        # The gradient of `outside / total` is NaN if both are 0.
        energy_loss = outside / torch.where(total == 0, 1.0, total)
        return Penalty(self.args.relevance_weight * energy_loss, {"energy_loss": energy_loss}, output.logits)


class GradMask(Method):
    """L2 norm, over the background, of the gradient of the label's logit with respect to the pixels, and cross-entropy
    with the label: Eq. 8 and 9 of https://huggingface.co/papers/2206.01161, after
    https://huggingface.co/papers/1904.07478, with the weights of Table 7.

    With `released_gradients`, the background loss is that of the released code: the mean of squares instead of the norm,
    of a gradient that is a constant, so that it does not train the weights.
    """

    DEFAULTS: ClassVar = {
        "background_weight": 50.0,
        "confidence_weight": 3e-9,
        "mask_edges": "fractional",
        "relevance_target": "label",
        "confidence_target": "label",
        "released_gradients": False,
    }
    second_derivative: ClassVar = True

    def penalty(self, model, pixel_values, mask, targets):
        released, target = self.args.released_gradients, targets[self.args.relevance_target]
        gradient, logits = pixel_gradient(
            model, pixel_values, lambda logits: target_logits(logits, target), create_graph=not released
        )
        outside = gradient * background_of(mask, self.args.mask_edges)
        if released:
            background_loss = outside.square().mean(dim=(1, 2, 3))
        else:
            background_loss = torch.linalg.vector_norm(outside, dim=(1, 2, 3))
        return Penalty(self.args.background_weight * background_loss, {"background_loss": background_loss}, logits)


class RightForTheRightReasons(Method):
    """Sum of squares, over the background, of the gradient of the summed log-probabilities of all classes with respect
    to the pixels, and cross-entropy with the label: Eq. 8 and 10 of https://huggingface.co/papers/2206.01161, after
    https://huggingface.co/papers/1703.03717, with the weights of ViT-B, DeiT-S and DeiT-B in Table 6. They are small
    because the sum is over 1,000 classes and 150,528 pixel values.

    With `released_gradients`, the background loss is that of the released code: log(p + 1e-11) as log-probabilities, the
    sum instead of the mean over the batch, and a gradient that is a constant, so that it does not train the weights.
    """

    DEFAULTS: ClassVar = {
        "background_weight": 1e-10,
        "confidence_weight": 2e-6,
        "mask_edges": "fractional",
        "confidence_target": "label",
        "released_gradients": False,
    }
    second_derivative: ClassVar = True

    def penalty(self, model, pixel_values, mask, targets):
        released = self.args.released_gradients

        def log_probabilities(logits: torch.Tensor) -> torch.Tensor:
            logits = at_least_float32(logits)
            return (logits.softmax(dim=1) + 1e-11).log() if released else logits.log_softmax(dim=1)

        gradient, logits = pixel_gradient(model, pixel_values, log_probabilities, create_graph=not released)
        outside = gradient * background_of(mask, self.args.mask_edges)
        background_loss = outside.square().sum(dim=(1, 2, 3)) * (len(logits) if released else 1)
        return Penalty(self.args.background_weight * background_loss, {"background_loss": background_loss}, logits)


def pixel_gradient(
    model: nn.Module, pixel_values: torch.Tensor, score: Callable[[torch.Tensor], torch.Tensor], create_graph: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient `(B, 3, H, W)` of a score of the logits, and the logits `(B, C)`. With `create_graph`, the gradient is
    differentiable. Attention is explicit, since fused kernels have no second derivative."""
    vit, wants_graph = ImageModel(model), torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        pixels = pixel_values.detach().clone().requires_grad_()
        with switched_attention(vit, EXPLICIT_ATTENTION), cls_token_alone(vit):
            logits = vit.logits(pixels)
        (gradient,) = torch.autograd.grad(
            score(logits).sum(), pixels, retain_graph=wants_graph, create_graph=create_graph and wants_graph
        )
    return gradient, logits if wants_graph else logits.detach()
