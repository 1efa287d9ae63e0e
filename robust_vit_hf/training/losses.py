"""Finetuning losses: move relevance from the background to the foreground, and keep the confidence of predictions."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from ..relevance.relevance_map import at_least_float32


# Every map has a pixel of exactly 1 after min–max scaling. There, the gradient of the cross-entropy with 0 is infinite.
BCE_EPSILON = 1e-6


def background_of(mask: torch.Tensor, edges: Literal["fractional", "complement"]) -> torch.Tensor:
    """Background of a mask of any shape with values in [0, 1]. `edges` is the `mask_edges` of [`RelevanceLoss`]."""
    return torch.where((mask == 0) | (mask == 1), 1 - mask, mask) if edges == "fractional" else 1 - mask


class RelevanceLoss(nn.Module):
    """Keeps the relevance map off the background and spreads it over the foreground, Eq. 1–3.

    Args:
        background_weight: λ_bg of Eq. 3.
        foreground_weight: λ_fg of Eq. 3. It is small, since this loss favours equal relevance on the whole object.
        distance: `"mse"` as in the paper, or `"bce"`, binary cross-entropy as in Concept-Guided Fine-Tuning.
        mask_edges: background at a mask value v between 0 and 1: v with `"fractional"`, as in the released code, or 1 − v
            with `"complement"`.
        mean_over: pixels over which a loss is averaged: all (`"image"`), or the background or foreground (`"region"`).

    Inputs: `relevance` and `mask`, both `(B, 1, H, W)` in [0, 1]; the mask is 1 on the foreground.

    Example:
        >>> relevance = torch.tensor([[[[1.0, 0.5], [0.0, 0.5]]]])
        >>> mask = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])
        >>> {name: round(value.item(), 5) for name, value in RelevanceLoss()(relevance, mask).items()}
        {'background_loss': 0.0625, 'foreground_loss': 0.0625, 'relevance_loss': 0.14375}

    Source: section 3 of https://huggingface.co/papers/2206.01161. Eq. 2 compares R ⊙ S with 1; the released code and
    this class compare it with S, so that the background does not contribute to the foreground loss.
    """

    def __init__(
        self,
        background_weight: float = 2.0,
        foreground_weight: float = 0.3,
        distance: Literal["mse", "bce"] = "mse",
        mask_edges: Literal["fractional", "complement"] = "fractional",
        mean_over: Literal["image", "region"] = "image",
    ):
        super().__init__()
        choices = {distance: ("mse", "bce"), mask_edges: ("fractional", "complement"), mean_over: ("image", "region")}
        for value, known in choices.items():
            if value not in known:
                raise ValueError(f"Expected one of {', '.join(known)}, but got `{value}`.")
        self.background_weight = background_weight
        self.foreground_weight = foreground_weight
        self.distance = distance
        self.mask_edges = mask_edges
        self.mean_over = mean_over

    def per_image(self, relevance: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Components `(B,)`, and `relevance_loss`, their weighted sum."""
        if relevance.shape != mask.shape:
            raise ValueError(
                f"Expected `relevance` and `mask` of one shape (B, 1, H, W), but got {(*relevance.shape,)} and {(*mask.shape,)}."
            )
        mask = mask.to(relevance.dtype)
        background = background_of(mask, self.mask_edges)
        background_loss = self._distance(relevance * background, torch.zeros_like(mask), background)
        foreground_loss = self._distance(relevance * mask, mask, mask)
        return {
            "background_loss": background_loss,
            "foreground_loss": foreground_loss,
            "relevance_loss": self.background_weight * background_loss + self.foreground_weight * foreground_loss,
        }

    def forward(self, relevance: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: values.mean() for name, values in self.per_image(relevance, mask).items()}

    def _distance(self, prediction: torch.Tensor, target: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
        if self.distance == "mse":
            values = F.mse_loss(prediction, target, reduction="none")
        else:
            prediction = prediction.clamp(BCE_EPSILON, 1 - BCE_EPSILON)
            # The kernel rejects NaN, on CUDA by ending the process. NaN is kept here, and the training reports it.
            values = F.binary_cross_entropy(prediction.nan_to_num(0.5), target, reduction="none")
            values = torch.where(prediction.isnan(), prediction, values)
        if self.mean_over == "image":
            return values.mean(dim=(1, 2, 3))
        # Outside the region, prediction and target are 0, and so is their distance. Regions may be empty.
        return values.sum(dim=(1, 2, 3)) / region.sum(dim=(1, 2, 3)).clamp(min=1)


class ConfidenceLoss(nn.Module):
    """Preserves predictions: cross-entropy with the predicted class (Eq. 4) or with given classes, or
    Kullback–Leibler divergence from the output of another model.

    Args:
        temperature: divisor of the logits. The released code uses 0.65 for DeiT-B, 0.55 for DeiT-S, and 1 for others.

    Inputs: `logits` `(B, C)`, and `target`: classes `(B,)`, logits of another model `(B, C)`, which are divided by the
    temperature too, or `None` for the argmax of `logits`.

    Source: section 3 of https://huggingface.co/papers/2206.01161
    """

    def __init__(self, temperature: float = 1.0):
        super().__init__()
        self.temperature = temperature

    def per_image(self, logits: torch.Tensor, target: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        target = logits.argmax(dim=1) if target is None else target
        logits = at_least_float32(logits) / self.temperature
        if target.dim() == 1:
            return {"confidence_loss": F.cross_entropy(logits, target, reduction="none")}
        expected = F.log_softmax(at_least_float32(target) / self.temperature, dim=1)
        divergence = F.kl_div(F.log_softmax(logits, dim=1), expected, reduction="none", log_target=True)
        return {"confidence_loss": divergence.sum(dim=1)}

    def forward(self, logits: torch.Tensor, target: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        return {name: values.mean() for name, values in self.per_image(logits, target).items()}
