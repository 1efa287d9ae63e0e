"""Energy loss: the share of relevance outside the object."""

from typing import ClassVar

import torch

from .base import Method, Penalty


class Energy(Method):
    """One minus the share of positive attribution inside the mask, plus cross-entropy with the label.

    The attribution is this package's (non-negative) relevance map before min–max, which would shift mass. Images
    without relevance have loss 0.

    Source: energy loss of https://huggingface.co/papers/2303.11932 (ICCV 2023), which uses bounding boxes and other
    attributions. The weights are those of `robustvit`, not published ones.
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
        # Not `outside / total`, whose gradient is NaN if both are 0.
        energy_loss = outside / torch.where(total == 0, 1.0, total)
        return Penalty(self.args.relevance_weight * energy_loss, {"energy_loss": energy_loss}, output.logits)
