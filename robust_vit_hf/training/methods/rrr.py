"""Right for the Right Reasons: no input gradient of any class on the background."""

from typing import ClassVar

import torch

from ...utils.precision import at_least_float32
from ..losses import background_of
from .base import Method, Penalty, pixel_gradient


class RightForTheRightReasons(Method):
    """Sum of squares, over the background, of the gradient of the summed log-probabilities of all classes with respect to the
    pixels, and cross-entropy with the label: Eq. 8 and 10 of https://huggingface.co/papers/2206.01161, after
    https://huggingface.co/papers/1703.03717, with the weights of ViT-B, DeiT-S and DeiT-B in Table 6. They are so small
    since the sum is over 1,000 classes and 150,528 values of the pixels.

    With `released_gradients`, the background loss is that of the released code: log(p + 1e-11) for the log-probabilities, the
    sum over the batch for its mean, and a gradient that is a constant, so that it does not change the weights.
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
