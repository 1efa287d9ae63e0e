"""The paper's method: relevance off the background and on the object."""

from typing import ClassVar

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
