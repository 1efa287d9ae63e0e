"""Right for the Right Reasons: penalty on the input gradient of all classes on the background."""

from typing import ClassVar

import torch

from ...utils.precision import at_least_float32
from ..losses import background_of
from .base import Method, Penalty, pixel_gradient


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
