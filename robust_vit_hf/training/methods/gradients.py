"""Methods that penalise input gradients outside the object: GradMask and RRR."""

from typing import ClassVar

import torch

from ...relevance.relevance_map import target_logits
from ...utils.numerics import at_least_float32
from ..losses import background_of
from .base import Method, Penalty, pixel_gradient


class GradMask(Method):
    """L2 norm, over the background, of the gradient of the label's logit with respect to the pixels, and cross-entropy
    with the label: Eq. 8 and 9 of https://huggingface.co/papers/2206.01161, after
    https://huggingface.co/papers/1904.07478, with the weights of Table 7.

    With `released_gradients`, the background loss is as in the released code: mean of squares instead of the norm,
    with a constant gradient, so that it does not train the weights.
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

    With `released_gradients`, the background loss is as in the released code: log(p + 1e-11) as log-probabilities, sum
    instead of mean over the batch, and a constant gradient, so that it does not train the weights.
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
