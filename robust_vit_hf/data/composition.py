"""Objects composed with other backgrounds, on batches of tensors: for training by background swap, and for diagnosis."""

from collections.abc import Collection, Sequence

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


def draw_donors(classes: Sequence[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw for each image, by its class, one of its class and one of another class, whose backgrounds it is given: two arrays
    `(N,)`, int64, of image numbers; -1 where there is no other image of the class. The other class is drawn first, all with
    the same probability. An image's draw depends on the seed, its number and the classes alone."""
    members: dict[int, list[int]] = {}
    place_within = []  # of each image among those of its class
    for index, label in enumerate(classes):
        siblings = members.setdefault(label, [])
        place_within.append(len(siblings))
        siblings.append(index)
    if len(members) < 2:
        raise ValueError(f"All {len(classes)} images are of one class: give images of two classes or more.")
    names, places = sorted(members), {label: place for place, label in enumerate(sorted(members))}
    same, other = (np.full(len(classes), -1, dtype=np.int64) for _ in range(2))
    for index, label in enumerate(classes):
        rng = np.random.default_rng([seed, index])
        first, second, third = rng.random(3)
        siblings = members[label]
        if len(siblings) > 1:
            # From the image's own place on, so that every other image of the class is as likely.
            step = 1 + int(first * (len(siblings) - 1))
            same[index] = siblings[(place_within[index] + step) % len(siblings)]
        chosen = members[names[(places[label] + 1 + int(second * (len(names) - 1))) % len(names)]]
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
    """Images `(B, 3, H, W)` in several conditions by name, in the order of [`CONDITIONS`], from normalised pixel values, masks
    `(B, 1, H, W)` in [0, 1], those of the donors, which only `mixed_same` and `mixed_rand` need, and `(3,)` pixel values of black."""
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
    # One axis after the other: a kernel of both takes longer than a forward pass.
    with torch.autocast(pixel_values.device.type, enabled=False):
        return functional.gaussian_blur(functional.gaussian_blur(pixel_values, [size, 1], sigma), [1, size], sigma)


def paste(pixel_values: torch.Tensor, mask: torch.Tensor, background: torch.Tensor) -> torch.Tensor:
    """The objects of images `(B, 3, H, W)` on other backgrounds, as in the *mixed* images of
    https://huggingface.co/papers/2006.09994: a pixel with mask value v, `(B, 1, H, W)` in [0, 1], becomes v · image +
    (1 − v) · background."""
    weight = mask.to(pixel_values.dtype)
    return weight * pixel_values + (1 - weight) * background


def background(pixel_values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Images `(B, 3, H, W)` whose object, by a mask `(B, 1, H, W)`, is filled from surrounding pixels, see [`fill`]. So
    is one pixel around it, which often has some of its colour."""
    return fill(pixel_values, is_background(mask).to(pixel_values.dtype))


def is_background(mask: torch.Tensor) -> torch.Tensor:
    """Pixels, bool, further than one pixel from the object of a mask `(B, 1, H, W)`."""
    return F.max_pool2d(mask, 3, stride=1, padding=1) == 0


def fill(pixel_values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Fill the unknown pixels of images `(B, 3, H, W)` from the known ones around them: `known`, `(B, 1, H, W)`, is 1
    there and 0 elsewhere. Images without known pixels are filled with zeros.

    Images are halved by averaging the known pixels in 2×2 blocks until all blocks are known; unknown pixels then take
    the bilinearly upsampled values of the next smaller image ("pull–push"). The filling is smooth.
    """
    height, width = known.shape[-2:]
    if known.all() or height == width == 1:
        return pixel_values * known
    weight = F.avg_pool2d(known, 2, ceil_mode=True)
    mean = F.avg_pool2d(pixel_values * known, 2, ceil_mode=True) / weight.clamp_min(1e-6)
    coarse = fill(mean, (weight > 0).to(known.dtype))
    enlarged = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    return torch.where(known > 0, pixel_values, enlarged)
