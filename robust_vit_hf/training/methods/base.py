"""The common part of the methods: their options, and the loss of each image."""

from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from torch import nn

from ...relevance.architectures import VisionTransformer
from ...relevance.attention import EXPLICIT_ATTENTION, cls_token_alone, switched_attention
from ...relevance.relevance_map import RelevanceOutput, relevance_map
from ..config import RobustViTConfig
from ..losses import ConfidenceLoss


class Penalty(NamedTuple):
    """Penalty of each image of a batch.

    Args:
        loss: `(B,)`, weighted; or 0.
        components: `(B,)` by name, to be logged.
        logits: `(B, C)`, of the same forward pass.
    """

    loss: torch.Tensor | float
    components: dict[str, torch.Tensor]
    logits: torch.Tensor


class Method:
    """Loss of a finetuning: a penalty, which a subclass computes, and the confidence loss.

    Attributes:
        DEFAULTS: values of the options of the method unless they are given. The other options of
            [`~robust_vit_hf.training.arguments.METHOD_OPTIONS`] are refused with this method.
        second_derivative: whether a loss on the gradient of the pixels reaches the weights, see [`pixel_gradient`].

    Args:
        args: hyper-parameters, with the defaults of this method.
    """

    DEFAULTS: ClassVar[dict[str, float | str | bool]] = {"confidence_weight": 1.0, "confidence_target": "label"}
    second_derivative: ClassVar[bool] = False

    def __init__(self, args: RobustViTConfig):
        self.args = args
        self.confidence_loss = ConfidenceLoss(args.confidence_temperature)

    def penalty(
        self, model: nn.Module, pixel_values: torch.Tensor, mask: torch.Tensor, targets: dict[str, torch.Tensor | None]
    ) -> Penalty:
        """Penalty of each image, of one forward pass.

        Args:
            model: under DDP and autocast, if the training is. Gradients are disabled in evaluation.
            pixel_values: `(B, 3, H, W)`, normalised.
            mask: `(B, 1, H, W)` in [0, 1], 1 on the object.
            targets: by the names of `relevance_target` and `confidence_target`: labels `(B,)` if there are any, `None` for the
                prediction, and logits `(B, C)` of the original model if they are a target.
        """
        raise NotImplementedError

    def per_image(
        self, model: nn.Module, pixel_values: torch.Tensor, mask: torch.Tensor, targets: dict[str, torch.Tensor | None]
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Components `(B,)` of the loss by name, `loss` among them, and the logits `(B, C)`. Arguments as in [`penalty`]."""
        penalty = self.penalty(model, pixel_values, mask, targets)
        confidence = self.confidence_loss.per_image(penalty.logits, targets[self.args.confidence_target])
        loss = self.args.confidence_weight * confidence["confidence_loss"] + penalty.loss
        return penalty.components | confidence | {"loss": loss}, penalty.logits

    def explain(
        self, model: nn.Module, pixel_values: torch.Tensor, targets: dict[str, torch.Tensor | None], **options
    ) -> RelevanceOutput:
        """Relevance of the target, in the order and from the layer of `args`. `options` are those of [`relevance_map`]. The loss
        is checked, so the map is not."""
        return relevance_map(
            model,
            pixel_values,
            targets[self.args.relevance_target],
            create_graph=self.args.second_order,
            start_layer=self.args.start_layer,
            check_finite=False,
            **options,
        )


def pixel_gradient(
    model: nn.Module,
    pixel_values: torch.Tensor,
    score: Callable[[torch.Tensor], torch.Tensor],
    create_graph: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient `(B, 3, H, W)` with respect to the pixels, and the logits `(B, C)` of the same forward pass.

    Args:
        score: of the logits, summed over the images, which do not interact.
        create_graph: whether a loss on the gradient reaches the weights, through the second derivative. The attention is
            computed explicitly, since fused kernels have none. Never where gradients are disabled.
    """
    vit, wants_graph = VisionTransformer(model), torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        pixels = pixel_values.detach().clone().requires_grad_()
        with switched_attention(vit, EXPLICIT_ATTENTION), cls_token_alone(vit):
            logits = vit.logits(pixels)
        (gradient,) = torch.autograd.grad(
            score(logits).sum(), pixels, retain_graph=wants_graph, create_graph=create_graph and wants_graph
        )
    return gradient, logits if wants_graph else logits.detach()
