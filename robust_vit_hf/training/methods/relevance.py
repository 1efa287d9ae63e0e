"""Methods with a loss on relevance maps (CFT, energy) or on input gradients outside the object (GradMask, RRR)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from ...relevance.attention import EXPLICIT_ATTENTION, cls_token_alone, switched_attention
from ...relevance.relevance_map import at_least_float32, target_logits
from ..config import RobustViTConfig, option
from ..losses import Method, Penalty, RobustViT, background_of


OF_MAPS = ("foreground_weight", "relevance_distance", "mean_over")


@dataclass
class ConceptConfig(RobustViTConfig):
    """Arguments of [`ConceptGuidedFineTuning`], with the weights of the publication."""

    method: str = option("cft", "Concept-Guided Fine-Tuning.")
    background_weight: float = option(1.2, "Weight of the background loss.")
    foreground_weight: float = option(0.5, "Weight of the foreground loss.")
    relevance_distance: Literal["mse", "bce"] = option("bce", "Distance of relevance map and mask.")
    mask_edges: Literal["fractional", "complement"] = option("complement", "Background at a mask value v: 1 - v.")
    mean_over: Literal["image", "region"] = option("region", "Pixels over which losses of the map are averaged.")


class ConceptGuidedFineTuning(RobustViT):
    """0.8 · (1.2 · background + 0.5 · foreground) + 0.2 · cross-entropy with the prediction. The distance from the mask
    is binary cross-entropy. Masks come from the dataset; `robust-vit masks grounded` makes masks of concepts.

    Source: https://huggingface.co/papers/2603.08309
    """

    config = ConceptConfig


@dataclass
class EnergyConfig(RobustViTConfig):
    """Arguments of [`Energy`]."""

    method: str = option("energy", "Share of the relevance outside the mask.")
    confidence_target: Literal["label", "prediction", "original"] = option("label", "Target of the confidence loss.")
    unused: ClassVar[tuple[str, ...]] = (*OF_MAPS, "background_weight", "mask_edges")


class Energy(Method):
    """Share of the relevance outside the mask, before min–max scaling, and cross-entropy with the label. The loss of
    an image without relevance is 0.

    Source: energy loss of https://huggingface.co/papers/2303.11932 (ICCV 2023), which uses bounding boxes and other
    attributions. The weights of the losses are not published; they are those of `robustvit`.
    """

    config = EnergyConfig

    def penalty(self, vit, pixel_values, mask, targets):
        output = self.explain(vit, pixel_values, targets, normalize=False)
        total = output.relevance.sum(dim=(1, 2, 3))
        outside = (output.relevance * (1 - mask)).sum(dim=(1, 2, 3))
        # The gradient of `outside / total` is NaN if both are 0.
        energy_loss = outside / torch.where(total == 0, 1.0, total)
        return Penalty(self.args.relevance_weight * energy_loss, {"energy_loss": energy_loss}, output.logits)


@dataclass
class GradMaskConfig(RobustViTConfig):
    """Arguments of [`GradMask`], with the weights of Table 7."""

    method: str = option("gradmask", "Input gradient of the label's logit on the background.")
    relevance_weight: float = option(0.0, "No relevance loss.")
    background_weight: float = option(50.0, "Weight of the background loss (Eq. 8).")
    confidence_weight: float = option(3e-9, "Weight of the cross-entropy.")
    confidence_target: Literal["label", "prediction", "original"] = option("label", "Target of the confidence loss.")
    released_gradients: bool = option(False, "Background loss as in the released code: it trains nothing.")
    unused: ClassVar[tuple[str, ...]] = (*OF_MAPS, "relevance_weight", "second_order", "start_layer")


class GradMask(Method):
    """L2 norm, over the background, of the gradient of the label's logit with respect to the pixels, and cross-entropy
    with the label: Eq. 8 and 9 of https://huggingface.co/papers/2206.01161, after
    https://huggingface.co/papers/1904.07478, with the weights of Table 7.

    With `released_gradients`, the background loss is the one of the released code: the mean of squares, not the norm,
    of a gradient that is a constant, so that it does not train the weights.
    """

    config = GradMaskConfig
    second_derivative: ClassVar = True

    def score(self, logits: torch.Tensor, targets: dict[str, torch.Tensor | None]) -> torch.Tensor:
        """What is differentiated with respect to the pixels: its sum."""
        return target_logits(logits, targets[self.args.relevance_target])

    def background_loss(self, outside: torch.Tensor) -> torch.Tensor:
        """Loss `(B,)` of the gradient on the background `(B, 3, H, W)`."""
        if self.args.released_gradients:
            return outside.square().mean(dim=(1, 2, 3))
        return torch.linalg.vector_norm(outside, dim=(1, 2, 3))

    def penalty(self, vit, pixel_values, mask, targets):
        wants_graph, pixels = torch.is_grad_enabled(), pixel_values.detach().clone().requires_grad_()
        # Attention is explicit, since fused kernels have no second derivative.
        with torch.enable_grad(), switched_attention(vit, EXPLICIT_ATTENTION), cls_token_alone(vit):
            logits = vit.logits(pixels)
            score = self.score(logits, targets).sum()
        create_graph = wants_graph and not self.args.released_gradients
        (gradient,) = torch.autograd.grad(score, pixels, retain_graph=wants_graph, create_graph=create_graph)
        loss = self.background_loss(gradient * background_of(mask, self.args.mask_edges))
        logits = logits if wants_graph else logits.detach()
        return Penalty(self.args.background_weight * loss, {"background_loss": loss}, logits)


@dataclass
class RRRConfig(GradMaskConfig):
    """Arguments of [`RightForTheRightReasons`], with the weights of ViT-B, DeiT-S and DeiT-B in Table 6, which are
    small, since the sum is over 1,000 classes and 150,528 pixel values."""

    method: str = option("rrr", "Input gradient of all log-probabilities on the background.")
    background_weight: float = option(1e-10, "Weight of the background loss (Eq. 8).")
    confidence_weight: float = option(2e-6, "Weight of the cross-entropy.")
    unused: ClassVar[tuple[str, ...]] = (*GradMaskConfig.unused, "relevance_target")


class RightForTheRightReasons(GradMask):
    """Sum of squares, over the background, of the gradient of the summed log-probabilities of all classes with respect
    to the pixels, and cross-entropy with the label: Eq. 8 and 10 of https://huggingface.co/papers/2206.01161, after
    https://huggingface.co/papers/1703.03717.

    With `released_gradients`, as in the released code: log(p + 1e-11) as log-probabilities, the sum over the batch, not
    the mean, and a gradient that is a constant.
    """

    config = RRRConfig

    def score(self, logits, targets):
        logits = at_least_float32(logits)
        return (logits.softmax(dim=1) + 1e-11).log() if self.args.released_gradients else logits.log_softmax(dim=1)

    def background_loss(self, outside):
        return outside.square().sum(dim=(1, 2, 3)) * (len(outside) if self.args.released_gradients else 1)
