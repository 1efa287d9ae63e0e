"""Background swap: an augmentation that pastes the masked object of an image onto the background of another."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from ..data.composition import background, is_background, paste
from ..data.transforms import Transform
from ..utils.images import readable_suffixes, upright_image


class BackgroundPool:
    """Pictures without objects of the classes, in a folder and its subfolders, whose whole area is given as a background."""

    def __init__(self, folder: str, transform: Transform):
        self.folder, suffixes = Path(folder), readable_suffixes()
        files = (path for path in self.folder.rglob("*") if path.suffix.lower() in suffixes)
        self.paths = sorted(path for path in files if not path.name.startswith("."))
        if not self.paths:
            raise ValueError(f"There is no folder `{folder}` with pictures, for `backgrounds`.")
        self._transform = transform
        for path in tqdm(self.paths, desc="backgrounds", unit="image", leave=False):
            upright_image(path)  # so that training does not fail on one hours later

    def draw(self, wanted: np.ndarray, rng: np.random.Generator) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the indices of the wanted places, each with a picture `(3, H, W)` drawn at random, half of them flipped. What
        is drawn for a place does not depend on whether others are wanted."""
        pictures, flips = rng.integers(len(self.paths), size=len(wanted)), rng.random(len(wanted)) < 0.5
        for index in np.flatnonzero(wanted).tolist():
            (pixel_values,) = self._transform({"image": [upright_image(self.paths[pictures[index]])]})["pixel_values"]
            yield index, pixel_values.flip(-1) if flips[index] else pixel_values

    def identity(self) -> list[tuple[str, int, int]]:
        """Names, sizes and modification times of the files, as of images to train on."""
        stamps = ((path, path.stat()) for path in self.paths)
        return [(path.relative_to(self.folder).as_posix(), one.st_size, one.st_mtime_ns) for path, one in stamps]


def swap_backgrounds(
    pixel_values: torch.Tensor,
    mask: torch.Tensor,
    probability: float,
    seed: tuple[int, ...],
    pool: BackgroundPool | None = None,
) -> torch.Tensor:
    """Replace the background of each image, with a probability, by that of another image of the batch, or by a picture of a pool.

    A pixel with mask value v becomes v · image + (1 − v) · background, so that object pixels are unchanged and the
    mask stays valid. The object in the background image is filled, see [`background`]. Images with an
    empty or full mask keep their background, as do images without another one in the batch that has a background. Images are
    `(B, 3, H, W)`, and masks `(B, 1, H, W)` in [0, 1]. The random choices depend on the seed alone, such as a seed and the step.

    Source: the composition of the *mixed-rand* images of https://huggingface.co/papers/2006.09994, used for training.
    """
    rng = np.random.default_rng(seed)
    has_both = ((mask.flatten(1).amax(dim=1) > 0) & (mask.flatten(1).amin(dim=1) < 1)).cpu().numpy()
    drawn = (rng.random(len(mask)) < probability) & has_both
    if pool is not None:
        swapped = pixel_values.clone()
        for index, picture in pool.draw(drawn, rng):
            swapped[index] = paste(pixel_values[index], mask[index], picture.to(pixel_values))
        return swapped
    givers = is_background(mask).flatten(1).any(dim=1).nonzero().flatten().tolist()
    donors = list(range(len(mask)))
    picks = rng.random(len(mask))  # for every image, so that masks do not affect draws of others
    for index in np.flatnonzero(drawn).tolist():
        if others := [other for other in givers if other != index]:
            donors[index] = others[int(picks[index] * len(others))]
    swapped = paste(pixel_values, mask, background(pixel_values, mask)[donors])
    changed = torch.tensor([donor != index for index, donor in enumerate(donors)], device=mask.device)
    return torch.where(changed[:, None, None, None], swapped, pixel_values)
