"""Foreground masks by DINOv2-S: a linear layer on its patch features, confirmed by TokenCut on the same forward pass."""

from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load

from .tokencut import MaskResult, PatchFeatures, TokenCut


LAYER_FILE = "foreground_layer.safetensors"
SHARPNESS, STEPS = 20.0, 2  # of averaging scores over similar patches: factor of the cosine, and repetitions
AGREEMENT = 0.5  # smallest IoU of the masks of layer and cut for which a mask counts as confirmed


class ForegroundLayer(NamedTuple):
    """A linear layer from a patch's last hidden state in DINOv2-S to a score, positive on the object."""

    weight: torch.Tensor  # `(384,)` fp32
    bias: torch.Tensor  # `()` fp32

    def scores(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return scores `(B, N)` of hidden states `(B, N, 384)`, averaged twice over similar patches of the image: the weights are the
        softmax of 20 × cosine."""
        directions = F.normalize(hidden, dim=-1)
        weights = torch.softmax(SHARPNESS * directions @ directions.mT, dim=-1)
        scores = hidden @ self.weight.to(hidden.device) + self.bias.to(hidden.device)
        for _ in range(STEPS):
            scores = (weights @ scores.unsqueeze(-1)).squeeze(-1)
        return scores


@cache
def bundled_layer() -> ForegroundLayer:
    """The layer that `python -m experiments train_foreground_layer` trained on photographs without masks."""
    return ForegroundLayer(**load((files(__package__) / LAYER_FILE).read_bytes()))


@dataclass(eq=False)
class ConfirmedMasks(TokenCut):
    """Masks by the bundled [`ForegroundLayer`] from the features of a DINOv2-S. A mask is in doubt if its IoU with the cut of the same
    features is below [`AGREEMENT`], or the cut is not unique. Another model than a DINOv2-S raises a `ValueError`."""

    max_side: int = 336  # on ECSSD, the masks are as good as with 448 pixels, in half the time

    def __post_init__(self):
        super().__post_init__()
        config = self.vit.pretrained.config
        if config.model_type != "dinov2" or config.hidden_size != len(bundled_layer().weight):
            raise ValueError(f"`{self.vit.name}` is not a DINOv2-S: give one, or make masks by `tokencut`.")

    def proposed(
        self, features: PatchFeatures, cuts: np.ndarray, unique: list[bool], sizes: list[tuple[int, int]]
    ) -> list[MaskResult]:
        results, of_patches = [], bundled_layer().scores(features.hidden).unflatten(1, cuts.shape[1:]).cpu().numpy()
        for scores, cut, is_unique, size in zip(of_patches, cuts, unique, sizes, strict=True):
            mask = Image.fromarray(scores).resize(size, Image.Resampling.BILINEAR)
            overlap = (cut & (scores > 0)).sum() / max(1, (cut | (scores > 0)).sum())
            doubt = None
            if not is_unique or overlap < AGREEMENT:
                doubt = f"TokenCut finds another object: its mask has an IoU of {overlap:.2f} with this one"
            results.append(replace(MaskResult.of(np.asarray(mask) > 0), doubt=doubt))
        return results
