"""Overlays of relevance maps on images."""

import torch
from PIL import Image
from transformers import BaseImageProcessor

from ..data.geometry import has_plain_geometry, measured_place, pixel_levels


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


def place_in_image(relevance: torch.Tensor, size: tuple[int, int], processor: BaseImageProcessor) -> Image.Image:
    """Map `(H, W)` in [0, 1] of a model's input, as greyscale picture over the whole image, of this width and height: 0 outside
    the processor's crop."""
    picture = Image.fromarray((255 * relevance.clamp(0, 1)).round().byte().cpu().numpy())
    if not has_plain_geometry(processor):
        (across, left), (down, top) = measured_place(processor, size)
        coordinates = (across, 0, left, 0, down, top)
        return picture.transform(size, Image.Transform.AFFINE, coordinates, Image.Resampling.BILINEAR)
    resized = picture.size
    if processor.do_center_crop:
        edge = processor.size.get("shortest_edge")
        resized = (processor.size.get("width"), processor.size.get("height"))
        if not processor.do_resize:
            resized = size
        elif edge is not None:
            resized = tuple(edge * side / min(size) for side in size)
    scale = [length / side for length, side in zip(resized, size, strict=True)]
    # Negative if the crop is larger than the resized image, and pads it.
    left, top = ((length - side) / 2 for length, side in zip(resized, picture.size, strict=True))
    coordinates = (scale[0], 0, -left, 0, scale[1], -top)  # from image to map pixels
    return picture.transform(size, Image.Transform.AFFINE, coordinates, Image.Resampling.BILINEAR)
