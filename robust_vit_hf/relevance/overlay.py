"""Overlays of relevance maps on images."""

import torch
from transformers import BaseImageProcessor

from ..data.transforms import pixel_levels


def denormalize(pixel_values: torch.Tensor, processor: BaseImageProcessor) -> torch.Tensor:
    """Undo the processor's normalisation and rescaling of pixel values `(B, 3, H, W)`: colours in [0, 1]."""
    black, white = (level.view(3, 1, 1) for level in pixel_levels(processor))
    return ((pixel_values - black) / (white - black)).clamp(0, 1)


def overlay(images: torch.Tensor, relevance: torch.Tensor, colours: str = "inferno") -> torch.Tensor:
    """Overlay maps on greyscale versions of images.

    Args:
        images: `(B, 3, H, W)`, in [0, 1], on the CPU.
        relevance: `(B, 1, H, W)`, in [0, 1], on the CPU.
        colours: name of a colour map of Matplotlib.

    Returns:
        Pictures `(B, 3, H, W)`, in [0, 1].
    """
    from matplotlib import colormaps

    coloured = torch.from_numpy(colormaps[colours](relevance[:, 0].numpy())[..., :3]).permute(0, 3, 1, 2).float()
    return 0.35 * images.mean(dim=1, keepdim=True) + 0.65 * coloured


def overlay_change(images: torch.Tensor, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Overlay the difference of two maps as [`overlay`] does: red where relevance was gained, and blue where it was lost."""
    return overlay(images, (after - before + 1) / 2, "berlin")
