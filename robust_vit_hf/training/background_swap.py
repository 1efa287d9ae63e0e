"""Background swap: an augmentation that pastes the masked object of an image onto the background of another."""

import numpy as np
import torch
import torch.nn.functional as F


def swap_backgrounds(
    pixel_values: torch.Tensor, mask: torch.Tensor, probability: float, seed: tuple[int, ...]
) -> torch.Tensor:
    """Replace the background of each image, with a given probability, by that of another image of the batch.

    A pixel with mask value v becomes v · image + (1 − v) · background, so that object pixels are unchanged and the
    mask stays valid. The object in the background image is filled from surrounding pixels by [`fill`]. Images with an
    empty or full mask keep their background, as do images without another one in the batch that has a background.

    Args:
        pixel_values: `(B, 3, H, W)`.
        mask: `(B, 1, H, W)` in [0, 1]; 1 is the object.
        probability: probability for each image, in [0, 1].
        seed: integers, such as a seed and the step. The result does not depend on the global random state or the
            number of data loader workers.

    Returns:
        `(B, 3, H, W)`. `pixel_values` is not changed.

    Example:
        >>> import torch
        >>> from robust_vit_hf.training.background_swap import swap_backgrounds
        >>> images = torch.stack([torch.full((3, 4, 4), 1.0), torch.full((3, 4, 4), 2.0)])
        >>> mask = torch.zeros(2, 1, 4, 4)
        >>> mask[:, :, 0, 0] = 1
        >>> swap_backgrounds(images, mask, probability=1.0, seed=(0,))[0, 0]
        tensor([[1., 2., 2., 2.],
                [2., 2., 2., 2.],
                [2., 2., 2., 2.],
                [2., 2., 2., 2.]])

    Source: the composition of the *mixed-rand* images of https://huggingface.co/papers/2006.09994, used for training.
    """
    rng = np.random.default_rng(seed)
    # Also fill one pixel around the object, which often has some of its colour.
    known = (F.max_pool2d(mask, 3, stride=1, padding=1) == 0).to(pixel_values.dtype)
    gives_background = known.flatten(1).any(dim=1).tolist()
    has_both = ((mask.flatten(1).amax(dim=1) > 0) & (mask.flatten(1).amin(dim=1) < 1)).tolist()
    donors = list(range(len(mask)))
    for index, drawn in enumerate(rng.random(len(mask)) < probability):
        others = [other for other, gives in enumerate(gives_background) if gives and other != index]
        pick = rng.random()  # drawn for every image, so that masks do not affect the draws of later images
        if drawn and has_both[index] and others:
            donors[index] = others[int(pick * len(others))]
    filled = fill(pixel_values, known)[donors]
    weight = mask.to(pixel_values.dtype)
    swapped = weight * pixel_values + (1 - weight) * filled
    changed = torch.tensor([donor != index for index, donor in enumerate(donors)], device=mask.device)
    return torch.where(changed[:, None, None, None], swapped, pixel_values)


def fill(pixel_values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Fill the unknown pixels of images from the known ones around them.

    Images are halved by averaging the known pixels in 2×2 blocks until all blocks are known; unknown pixels then take
    the bilinearly upsampled values of the next smaller image ("pull–push"). The filling is smooth.

    Args:
        pixel_values: `(B, 3, H, W)`.
        known: `(B, 1, H, W)`, 1 for known pixels, otherwise 0. Images without known pixels are filled with zeros.

    Returns:
        `(B, 3, H, W)`, in which known pixels are those of `pixel_values`.
    """
    height, width = known.shape[-2:]
    if known.all() or height == width == 1:
        return pixel_values * known
    weight = F.avg_pool2d(known, 2, ceil_mode=True)
    mean = F.avg_pool2d(pixel_values * known, 2, ceil_mode=True) / weight.clamp_min(1e-6)
    coarse = fill(mean, (weight > 0).to(known.dtype))
    enlarged = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    return torch.where(known > 0, pixel_values, enlarged)
