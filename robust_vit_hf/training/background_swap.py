"""Background swap: an augmentation that pastes the masked object of an image onto the background of another."""

import numpy as np
import torch

from ..data.composition import background, is_background, paste


def swap_backgrounds(
    pixel_values: torch.Tensor, mask: torch.Tensor, probability: float, seed: tuple[int, ...]
) -> torch.Tensor:
    """Replace the background of each image, with a given probability, by that of another image of the batch.

    A pixel with mask value v becomes v · image + (1 − v) · background, so that object pixels are unchanged and the
    mask stays valid. The object in the background image is filled, see [`background`]. Images with an
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
    gives_background = is_background(mask).flatten(1).any(dim=1).tolist()
    has_both = ((mask.flatten(1).amax(dim=1) > 0) & (mask.flatten(1).amin(dim=1) < 1)).tolist()
    donors = list(range(len(mask)))
    for index, drawn in enumerate(rng.random(len(mask)) < probability):
        others = [other for other, gives in enumerate(gives_background) if gives and other != index]
        pick = rng.random()  # drawn for every image, so that masks do not affect the draws of later images
        if drawn and has_both[index] and others:
            donors[index] = others[int(pick * len(others))]
    swapped = paste(pixel_values, mask, background(pixel_values, mask)[donors])
    changed = torch.tensor([donor != index for index, donor in enumerate(donors)], device=mask.device)
    return torch.where(changed[:, None, None, None], swapped, pixel_values)
