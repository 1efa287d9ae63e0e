"""Base class of the methods: their options, and the loss of each image."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn

from ...relevance.architectures import NoRelevanceMap, why_no_map
from ...relevance.relevance_map import RelevanceOutput, relevance_map
from ..losses import ConfidenceLoss
from ..options import FinetuningArguments
from . import METHODS, load_method


class Penalty(NamedTuple):
    loss: torch.Tensor | float  # (B,), multiplied by its weight; or 0
    components: dict[str, torch.Tensor]  # (B,) by name, for logs
    logits: torch.Tensor  # (B, C), from the same forward pass


class Method(ABC):
    """Finetuning loss: the sum of a penalty, which a subclass computes, and the confidence loss."""

    # Options of the method, with their defaults. Others of [`~robust_vit_hf.training.options.METHOD_OPTIONS`] are rejected.
    DEFAULTS: ClassVar[dict[str, float | str | bool]] = {"confidence_weight": 1.0, "confidence_target": "label"}
    background_swap: ClassVar[float] = 0.0  # default of `--background_swap`, an option of all methods
    second_derivative: ClassVar[bool] = False  # whether the loss needs a derivative of a gradient
    mixes_images: ClassVar[bool] = False  # whether each batch of a process needs at least two images

    def __init__(self, args: FinetuningArguments):
        self.args = args
        self.confidence_loss = ConfidenceLoss(args.confidence_temperature)

    @classmethod
    def conflicts(cls, args: FinetuningArguments) -> dict[str, Any]:
        """Error messages for options with which it would train something else, and whether each applies."""
        learns_prediction = args.confidence_weight > 0 and args.confidence_target == "prediction"
        return {
            "`background_swap` with `confidence_target='prediction'` would teach the shortcut. Set `confidence_target` to `original` or `label`.": (
                args.background_swap > 0 and learns_prediction
            ),
            "`head_epochs` freezes the layers whose attention the relevance loss trains. Set one of `head_epochs` and `relevance_weight` to 0.": (
                args.head_epochs and args.relevance_weight
            ),
        }

    @abstractmethod
    def penalty(
        self, model: nn.Module, pixel_values: torch.Tensor, mask: torch.Tensor, targets: dict[str, torch.Tensor | None]
    ) -> Penalty:
        """Penalty of each image, computed in one forward pass.

        Args:
            model: wrapped as in training.
            pixel_values: `(B, 3, H, W)`, normalised.
            mask: `(B, 1, H, W)` in [0, 1], 1 on the object.
            targets: `label`: labels `(B,)`, or `None` without labels; `prediction`: `None`; `original`: logits `(B, C)` of the
                original model, if the loss uses them.
        """

    def per_image(
        self, model: nn.Module, pixel_values: torch.Tensor, mask: torch.Tensor, targets: dict[str, torch.Tensor | None]
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Components `(B,)` of the loss by name, including `loss`, and the logits `(B, C)`, see [`penalty`]."""
        penalty = self.penalty(model, pixel_values, mask, targets)
        confidence = self.confidence_loss.per_image(penalty.logits, targets[self.args.confidence_target])
        loss = self.args.confidence_weight * confidence["confidence_loss"] + penalty.loss
        return penalty.components | confidence | {"loss": loss}, penalty.logits

    def explain(
        self, model: nn.Module, pixel_values: torch.Tensor, targets: dict[str, torch.Tensor | None], **options
    ) -> RelevanceOutput:
        """Relevance of the target. NaN is not checked here, since the loss is checked."""
        return relevance_map(
            model,
            pixel_values,
            targets[self.args.relevance_target],
            create_graph=self.args.second_order,
            start_layer=self.args.start_layer,
            check_finite=False,
            **options,
        )


def check_has_map(model: nn.Module, method: str, relevance_weight: Any) -> None:
    """Reject a model without a relevance map if the method trains the map with a weight other than 0."""
    if relevance_weight and (why := why_no_map(model)):
        others = [name for name in METHODS if not load_method(name).DEFAULTS.get("relevance_weight")]
        raise NoRelevanceMap(f"{why} `{method}` trains that map. Methods for this model: {', '.join(others)}.")
