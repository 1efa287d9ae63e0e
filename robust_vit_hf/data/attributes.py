"""Attributes of images beside their object, such as a frame or a colour cast, and how an image is given those of another."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional

from .composition import background, is_background, paste


RING, CORNER = 1 / 12, 1 / 4  # width of the border and side of a corner, as fractions of the image's sides
REBLUR = 1.0  # pixels, standard deviation of the blur by which sharpness is measured
LARGEST_GAIN = 4.0  # of contrasts and frequencies, so that little noise is not blown up
Pair = Sequence[torch.Tensor]


@dataclass(frozen=True)
class Attribute:
    text: str  # what a model decides by that uses it, after "Decides by"
    # From images, masks, donors and their masks, `(B, 3 or 1, H, W)` in [0, 1], to the images with the donors' attribute.
    edit: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    # Attributes whose edits change this one too, as that of the background changes its colours: it explains their shift, unless
    # theirs is clearly larger, and explains its own.
    carries: tuple[str, ...] = ()


def change_region(
    image: torch.Tensor, mask: torch.Tensor, donor: torch.Tensor, donor_mask: torch.Tensor, region: str
) -> torch.Tensor:
    """Images whose background is the donor's in a region: `inside`, what it shows within the border
    (https://huggingface.co/papers/2006.09994); `border`, the outer ring: scan borders, padding, and frames, which can decide alone
    (https://huggingface.co/papers/1812.04599); or `corners`, where stamps and watermarks sit (https://huggingface.co/papers/2212.04825)."""
    return paste(image, torch.where(_region(region, image), mask, 1.0), background(donor, donor_mask))


def colours(image: torch.Tensor, mask: torch.Tensor, donor: torch.Tensor, donor_mask: torch.Tensor) -> torch.Tensor:
    """Colour cast, brightness and contrast: mean and standard deviation of each channel in the background
    (https://doi.org/10.1109/38.946629), changed in the whole image."""
    own, given = _statistics(image, mask), _statistics(donor, donor_mask)
    gain = (given[1] / own[1].clamp_min(1e-3)).clamp(1 / LARGEST_GAIN, LARGEST_GAIN)
    return (given[0] + (image - own[0]) * gain).clamp(0, 1)


def sharpness(image: torch.Tensor, mask: torch.Tensor, donor: torch.Tensor, donor_mask: torch.Tensor) -> torch.Tensor:
    """Sharpness: the image is blurred, or sharpened, by the difference of the two variances of the blur, see [`_blur_of`]."""
    margin = min(image.shape[-2:]) // 8  # where the transform joins opposite edges
    padded = F.pad(image.float(), 4 * [margin], "reflect")
    height, width = padded.shape[-2:]
    rows, columns = torch.fft.fftfreq(height, device=image.device), torch.fft.rfftfreq(width, device=image.device)
    squared = (2 * torch.pi) ** 2 * (rows[:, None] ** 2 + columns**2)
    variance = (_blur_of(donor) - _blur_of(image)).view(-1, 1, 1, 1)
    gain = torch.exp(-variance * squared / 2).clamp_max(LARGEST_GAIN)
    changed = torch.fft.irfft2(torch.fft.rfft2(padded) * gain, s=(height, width))
    return changed[..., margin : height - margin, margin : width - margin].clamp(0, 1)


def place(image: torch.Tensor, mask: torch.Tensor, donor: torch.Tensor, donor_mask: torch.Tensor) -> torch.Tensor:
    """Place and scale of the object, which change predictions (https://huggingface.co/papers/2007.08558): those of the box around the
    donor's object."""
    (own, own_side), (given, given_side) = _box(mask), _box(donor_mask)
    factor = own_side / given_side
    turn = torch.eye(2, device=image.device) * factor[:, None, None]
    grid = F.affine_grid(torch.cat([turn, (own - factor[:, None] * given)[..., None]], dim=2), image.shape, False)
    moved = [F.grid_sample(one, grid.to(one.dtype), align_corners=False) for one in (image, mask)]
    return paste(*moved, background(image, mask))


ATTRIBUTES = {
    "background": Attribute("what the background shows", partial(change_region, region="inside")),
    "border": Attribute("the border or frame", partial(change_region, region="border"), ("background", "corners")),
    "corners": Attribute("marks in the corners", partial(change_region, region="corners"), ("background",)),
    "colours": Attribute("the colour cast, brightness or contrast", colours, ("background", "border", "corners")),
    "sharpness": Attribute("the sharpness", sharpness, ("background", "border", "corners")),
    "place": Attribute("the place or size of the object", place, ("background",)),
}


def edited(name: str, own: Pair, donor: Pair, levels: Pair) -> torch.Tensor:
    """Images with an attribute of their donors, from images `(B, 3, H, W)`, normalised as the model expects, and masks `(B, 1, H, W)`
    of both, by the pixel values `(3,)` of black and white."""
    black, contrast = levels[0].view(3, 1, 1), (levels[1] - levels[0]).view(3, 1, 1)
    image, given = ((normalised - black) / contrast for normalised, _ in (own, donor))
    return black + contrast * ATTRIBUTES[name].edit(image, own[1], given, donor[1])


def has_both(mask: torch.Tensor) -> torch.Tensor:
    """Whether images `(B,)` of masks `(B, 1, H, W)` have an object and a background, so that they can give attributes."""
    return (mask > 0.5).flatten(1).any(dim=1) & is_background(mask).flatten(1).any(dim=1)


def chosen_attributes(names: Sequence[str]) -> tuple[str, ...]:
    """Names of attributes, all for `all`."""
    if unknown := {*names} - {*ATTRIBUTES, "all"}:
        raise ValueError(f"no attributes {', '.join(sorted(unknown))}: expected {', '.join(ATTRIBUTES)}, or `all`")
    return tuple(ATTRIBUTES) if "all" in names else tuple(dict.fromkeys(names))


def _region(name: str, like: torch.Tensor) -> torch.Tensor:
    """One of the regions of [`change_region`], bool `(H, W)`."""
    near = []
    for side in like.shape[-2:]:
        place = (torch.arange(side, device=like.device) + 0.5) / side
        near.append(torch.minimum(place, 1 - place))
    rows, columns = near[0][:, None], near[1][None]
    if name == "corners":
        return (rows < CORNER) & (columns < CORNER)
    is_border = torch.minimum(rows, columns) < RING
    return is_border if name == "border" else ~is_border


def _statistics(image: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each channel, `(B, 3, 1, 1)`, in the background within the border; of images without one, in all."""
    weight = (is_background(mask) & _region("inside", mask)).to(mask.dtype) + 1e-6
    weight = weight / weight.sum(dim=(2, 3), keepdim=True)
    mean = (weight * image).sum(dim=(2, 3), keepdim=True)
    return mean, (weight * (image - mean) ** 2).sum(dim=(2, 3), keepdim=True).sqrt()


def _blur_of(image: torch.Tensor) -> torch.Tensor:
    """Variance `(B,)` of the blur of images, in squared pixels, from how much one more blur takes off the steepest edges, which does
    not depend on what they show (https://doi.org/10.1016/j.patcog.2011.03.009)."""
    grey = image.float().mean(dim=1, keepdim=True)
    radius = round(3 * REBLUR)
    own, blurred = map(_steepness, (grey, functional.gaussian_blur(grey, [2 * radius + 1] * 2, [REBLUR] * 2)))
    weight = own**2 + 1e-12
    ratio = (weight * own).sum(dim=(1, 2, 3)) / ((weight * blurred).sum(dim=(1, 2, 3)) + 1e-12)
    return REBLUR**2 / (ratio - 1).clamp_min(0.05)


def _steepness(grey: torch.Tensor) -> torch.Tensor:
    """Squared gradients `(B, 1, H − 1, W − 1)` of images `(B, 1, H, W)`."""
    down, right = grey[..., 1:, :-1] - grey[..., :-1, :-1], grey[..., :-1, 1:] - grey[..., :-1, :-1]
    return down**2 + right**2


def _box(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres `(B, 2)`, x and y, and longer sides `(B,)` of the boxes around objects, from -1 to 1; those of the image without
    object."""
    centres, sides = [], []
    for axis, side in ((2, mask.shape[3]), (3, mask.shape[2])):
        inside = (mask > 0.5).any(dim=axis)[:, 0]
        edges = torch.linspace(-1, 1, side + 1, device=mask.device)
        low = torch.where(inside, edges[:-1], 1.0).amin(dim=1)
        high = torch.where(inside, edges[1:], -1.0).amax(dim=1)
        low, high = torch.minimum(low, high), torch.maximum(low, high)
        centres.append((low + high) / 2)
        sides.append(high - low)
    return torch.stack(centres, dim=1), torch.stack(sides).amax(dim=0)
