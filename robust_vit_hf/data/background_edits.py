"""Edits of images for training and diagnosis: other backgrounds for objects, and attributes of other images."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional


# Conditions of an image, and what each shows. The names are those of https://huggingface.co/papers/2006.09994.
CONDITIONS = {
    "original": "the image",
    "mixed_same": "the object on the background of another image of its class",
    "mixed_rand": "the object on the background of an image of another class",
    "only_fg": "the object on black",
    "no_fg": "the background, with the object painted black",
    "only_bg": "the background, with the object filled from its surroundings",
    "blurred": "the object on its own background, blurred",
}
BLUR = 1 / 14  # standard deviation of the blur, as a fraction of the image's shorter side
RING, CORNER = 1 / 12, 1 / 4  # width of the border and side of a corner, as fractions of the image's sides
REBLUR = 1.0  # pixels, standard deviation of the blur by which sharpness is measured
LARGEST_GAIN = 4.0  # of contrasts and frequencies, so that weak noise is not amplified to a pattern
Pair = Sequence[torch.Tensor]


def draw_donors(
    classes: Sequence[int], seed: int = 0, gives: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw two donors for each image, of its own class and of another class. Returns two arrays `(N,)` of image numbers, -1 where
    there is no such image. A draw depends on the seed, the number of the image, and the classes. `gives`, `(N,)` bool, are the images
    that may be drawn; by default, all."""
    members: dict[int, list[int]] = {}
    gives = np.ones(len(classes), dtype=bool) if gives is None else gives
    place_within = []  # number of possible donors before each image in its class
    for index, label in enumerate(classes):
        place_within.append(len(members.get(label, [])))
        if gives[index]:
            members.setdefault(label, []).append(index)
    if len({*classes}) < 2:
        raise ValueError("All images are of one class: give images of two classes or more.")
    names, places = sorted(members), {label: place for place, label in enumerate(sorted(members))}
    same, other = (np.full(len(classes), -1, dtype=np.int64) for _ in range(2))
    for index, label in enumerate(classes):
        first, second, third = np.random.default_rng([seed, index]).random(3)
        siblings = members.get(label, [])
        is_member = bool(gives[index])
        if len(siblings) > is_member:
            # Counted from the image's own place, so that all other images of the class are equally likely.
            step = is_member + int(first * (len(siblings) - is_member))
            same[index] = siblings[(place_within[index] + step) % len(siblings)]
        is_named = label in places
        if len(names) > is_named:
            step = places.get(label, 0) + is_named + int(second * (len(names) - is_named))
            chosen = members[names[step % len(names)]]
            other[index] = chosen[int(third * len(chosen))]
    return same, other


def compose(
    pixel_values: torch.Tensor,
    mask: torch.Tensor,
    same: tuple[torch.Tensor, torch.Tensor] | None,
    other: tuple[torch.Tensor, torch.Tensor] | None,
    black: torch.Tensor,
    conditions: Collection[str] = tuple(CONDITIONS),
) -> dict[str, torch.Tensor]:
    """Return images `(B, 3, H, W)` by condition, from normalised pixel values, masks `(B, 1, H, W)` in [0, 1], the pixel values
    `(3,)` of black, and pixel values and masks of the donors of the same class and of another class, which some conditions need."""
    black = black.view(1, 3, 1, 1).expand_as(pixel_values)
    makers = {
        "original": lambda: pixel_values,
        "mixed_same": lambda: paste(pixel_values, mask, background(*same)),
        "mixed_rand": lambda: paste(pixel_values, mask, background(*other)),
        "only_fg": lambda: paste(pixel_values, mask, black),
        "no_fg": lambda: paste(black, mask, pixel_values),
        "only_bg": lambda: background(pixel_values, mask),
        "blurred": lambda: paste(pixel_values, mask, _blur(background(pixel_values, mask))),
    }
    return {name: make() for name, make in makers.items() if name in conditions}


def _blur(pixel_values: torch.Tensor) -> torch.Tensor:
    side = min(pixel_values.shape[-2:])
    radius = min(round(3 * BLUR * side), side - 1)  # the blur reflects at the edges
    size, sigma = 2 * radius + 1, [BLUR * side] * 2
    # One axis after the other: a two-dimensional kernel takes longer than a forward pass.
    with torch.autocast(pixel_values.device.type, enabled=False):
        return functional.gaussian_blur(functional.gaussian_blur(pixel_values, [size, 1], sigma), [1, size], sigma)


def paste(pixel_values: torch.Tensor, mask: torch.Tensor, background: torch.Tensor) -> torch.Tensor:
    """Objects of images `(B, 3, H, W)` on other backgrounds: with mask value v, v · image + (1 − v) · background."""
    weight = mask.to(pixel_values.dtype)
    return weight * pixel_values + (1 - weight) * background


def background(pixel_values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Images `(B, 3, H, W)` whose object, and one pixel around it, is filled from its surroundings."""
    return fill(pixel_values, is_background(mask).to(pixel_values.dtype))


def moved(pixel_values: torch.Tensor, mask: torch.Tensor, donor: Pair, draws: torch.Tensor) -> torch.Tensor:
    """Paste the objects of images `(B, 3, H, W)`, smaller and elsewhere, on the mirrored backgrounds of donors, whose own objects are
    covered by another part of the background. Unlike [`paste`] on [`background`], a model cannot learn to tell such composites by the
    place and size of the object or by a smooth filling. Masks are `(B, 1, H, W)` in [0, 1]; `donor` has images and masks. `draws`,
    `(B, 3)` in [0, 1], are the size, from 70 to 100 %, and the horizontal and vertical place."""
    centre, side = _box(mask)
    scale = (0.7 + 0.3 * draws[:, 0]).to(side)
    free = (1 - scale * side / 2).clamp_min(0)[:, None]
    place = (2 * draws[:, 1:].to(centre) - 1) * free
    turn = torch.eye(2, device=mask.device) / scale[:, None, None]
    grid = F.affine_grid(torch.cat([turn, (centre - place / scale[:, None])[..., None]], 2), pixel_values.shape, False)
    obj, weight = (F.grid_sample(of, grid.to(of.dtype), align_corners=False) for of in (pixel_values, mask))
    shift, known = donor[0].shape[-1] // 2, is_background(donor[1])
    rolled = torch.where(known.roll(shift, 3), donor[0].roll(shift, 3), background(*donor))
    return paste(obj, weight, torch.where(known, donor[0], rolled).flip(3))


def is_background(mask: torch.Tensor) -> torch.Tensor:
    """Which pixels, bool, are more than one pixel away from the object of a mask `(B, 1, H, W)`."""
    return F.max_pool2d(mask, 3, stride=1, padding=1) == 0


def fill(pixel_values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Fill the unknown pixels of images `(B, 3, H, W)` from the pixels where `known`, `(B, 1, H, W)`, is 1: images are halved until
    all 2×2 blocks are known, and enlarged again ("pull–push"). Images without known pixels become 0."""
    height, width = known.shape[-2:]
    if known.all() or height == width == 1:
        return pixel_values * known
    weight = F.avg_pool2d(known, 2, ceil_mode=True)
    mean = F.avg_pool2d(pixel_values * known, 2, ceil_mode=True) / weight.clamp_min(1e-6)
    coarse = fill(mean, (weight > 0).to(known.dtype))
    enlarged = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    return torch.where(known > 0, pixel_values, enlarged)


@dataclass(frozen=True)
class Attribute:
    text: str  # completes the sentence "Decides by …" about a model that uses the attribute
    # Takes images, masks, donors and their masks, `(B, 3 or 1, H, W)` in [0, 1]; returns the images with the donors' attribute.
    edit: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    # Attributes whose edits also change this one, as another background has other colours. If both shift the logits, the attribute
    # with the wider edit is reported only if its shift is significantly larger, and otherwise this one.
    carries: tuple[str, ...] = ()


def change_region(
    image: torch.Tensor, mask: torch.Tensor, donor: torch.Tensor, donor_mask: torch.Tensor, region: str
) -> torch.Tensor:
    """Images with the donor's background in a region: `inside` the border (https://huggingface.co/papers/2006.09994), on the
    `border` (https://huggingface.co/papers/1812.04599), or in the `corners` (https://huggingface.co/papers/2212.04825)."""
    return paste(image, torch.where(_region(region, image), mask, 1.0), background(donor, donor_mask))


def colours(image: torch.Tensor, mask: torch.Tensor, donor: torch.Tensor, donor_mask: torch.Tensor) -> torch.Tensor:
    """Images with mean and standard deviation of each channel as in the donor's background (https://doi.org/10.1109/38.946629)."""
    own, given = _statistics(image, mask), _statistics(donor, donor_mask)
    gain = (given[1] / own[1].clamp_min(1e-3)).clamp(1 / LARGEST_GAIN, LARGEST_GAIN)
    return (given[0] + (image - own[0]) * gain).clamp(0, 1)


def sharpness(image: torch.Tensor, mask: torch.Tensor, donor: torch.Tensor, donor_mask: torch.Tensor) -> torch.Tensor:
    """Images blurred or sharpened by the difference between the donor's and their own variance of the blur, see [`_blur_of`]."""
    margin = min(image.shape[-2:]) // 8  # since the Fourier transform joins opposite edges
    padded = F.pad(image.float(), 4 * [margin], "reflect")
    height, width = padded.shape[-2:]
    rows, columns = torch.fft.fftfreq(height, device=image.device), torch.fft.rfftfreq(width, device=image.device)
    squared = (2 * torch.pi) ** 2 * (rows[:, None] ** 2 + columns**2)
    variance = (_blur_of(donor) - _blur_of(image)).view(-1, 1, 1, 1)
    gain = torch.exp(-variance * squared / 2).clamp_max(LARGEST_GAIN)
    changed = torch.fft.irfft2(torch.fft.rfft2(padded) * gain, s=(height, width))
    return changed[..., margin : height - margin, margin : width - margin].clamp(0, 1)


def place(image: torch.Tensor, mask: torch.Tensor, donor: torch.Tensor, donor_mask: torch.Tensor) -> torch.Tensor:
    """Images whose object has the place and scale of the donor's object (https://huggingface.co/papers/2007.08558)."""
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
    """Images with an attribute of their donors, from normalised images `(B, 3, H, W)` and masks `(B, 1, H, W)` of both, and the pixel
    values `(3,)` of black and white."""
    black, contrast = levels[0].view(3, 1, 1), (levels[1] - levels[0]).view(3, 1, 1)
    image, given = ((normalised - black) / contrast for normalised, _ in (own, donor))
    return black + contrast * ATTRIBUTES[name].edit(image, own[1], given, donor[1])


def can_give(edit: str, mask: torch.Tensor) -> torch.Tensor:
    """Which donors, `(B,)` bool, have what an edit takes from them, by their masks `(B, 1, H, W)`: a background, and for attributes an object."""
    has_background = is_background(mask).flatten(1).any(dim=1)
    return has_background & (mask > 0.5).flatten(1).any(dim=1) if edit in ATTRIBUTES else has_background


def chosen_attributes(names: Sequence[str]) -> tuple[str, ...]:
    """Names of attributes without repetitions; of all attributes if `all` is among them."""
    if unknown := {*names} - {*ATTRIBUTES, "all"}:
        raise ValueError(f"unknown attributes {', '.join(sorted(unknown))}: expected {', '.join(ATTRIBUTES)} or `all`")
    return tuple(ATTRIBUTES) if "all" in names else tuple(dict.fromkeys(names))


def _region(name: str, like: torch.Tensor) -> torch.Tensor:
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
    """Mean and standard deviation `(B, 3, 1, 1)` of the background within the border; of the whole image if there is none."""
    weight = (is_background(mask) & _region("inside", mask)).to(mask.dtype) + 1e-6
    weight = weight / weight.sum(dim=(2, 3), keepdim=True)
    mean = (weight * image).sum(dim=(2, 3), keepdim=True)
    return mean, (weight * (image - mean) ** 2).sum(dim=(2, 3), keepdim=True).sqrt()


def _blur_of(image: torch.Tensor) -> torch.Tensor:
    """Variance `(B,)` of the blur in squared pixels, estimated by how much another blur flattens the steepest edges
    (https://doi.org/10.1016/j.patcog.2011.03.009)."""
    grey = image.float().mean(dim=1, keepdim=True)
    radius = round(3 * REBLUR)
    own, blurred = map(_steepness, (grey, functional.gaussian_blur(grey, [2 * radius + 1] * 2, [REBLUR] * 2)))
    weight = own**2 + 1e-12
    ratio = (weight * own).sum(dim=(1, 2, 3)) / ((weight * blurred).sum(dim=(1, 2, 3)) + 1e-12)
    return REBLUR**2 / (ratio - 1).clamp_min(0.05)


def _steepness(grey: torch.Tensor) -> torch.Tensor:
    down, right = grey[..., 1:, :-1] - grey[..., :-1, :-1], grey[..., :-1, 1:] - grey[..., :-1, :-1]
    return down**2 + right**2


def _box(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres `(B, 2)` and longer sides `(B,)` of the boxes around objects, in coordinates from -1 to 1."""
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
