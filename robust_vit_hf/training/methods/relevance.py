"""Methods with losses of relevance maps: RobustViT, CFT and energy."""

from typing import ClassVar

import torch

from ...relevance.relevance_map import forward_logits
from ..losses import RelevanceLoss
from .base import Method, Penalty


class RobustViT(Method):
    """Relevance and confidence loss, Eq. 5 of https://huggingface.co/papers/2206.01161, with the weights of its Table
    5."""

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
    """0.8 · (1.2 · background + 0.5 · foreground) + 0.2 · cross-entropy with the prediction, with binary cross-entropy
    as distance from the mask. Masks come from the dataset; for concept masks, see `robust-vit masks`.

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
