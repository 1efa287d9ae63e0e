"""Methods that change the images: plain finetuning, background swap, CutMix and random erasing."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.transforms import v2
from tqdm.auto import tqdm

from ...data.background_edits import background, is_background, paste
from ...data.transforms import Transform
from ...relevance.architectures import unwrap_pretrained
from ...relevance.relevance_map import at_least_float32, forward_logits
from ...utils.files import files_below, is_hidden
from ...utils.images import readable_suffixes, upright_image
from .base import Method, Penalty


class Finetune(Method):
    """Cross-entropy with the label. `background_swap` can be added as augmentation."""

    def penalty(self, model, pixel_values, mask, targets):
        return Penalty(0.0, {}, forward_logits(model, pixel_values))


class Swap(Finetune):
    """Kullback–Leibler divergence from the output of the original model. Three of four images get another background."""

    DEFAULTS: ClassVar = Finetune.DEFAULTS | {"confidence_target": "original"}
    background_swap: ClassVar = 0.75


class CutMix(Finetune):
    """A rectangle of each image comes from another image of the batch. The loss is the cross-entropy with the labels of
    both images, weighted by their shares of the pixels.

    Source: https://huggingface.co/papers/1905.04899
    """

    mixes_images = True

    @classmethod
    def conflicts(cls, args):
        message = "`cutmix` mixes the labels of two images, so it needs the `confidence_target` `label`."
        return super().conflicts(args) | {message: args.confidence_target != "label"}

    def per_image(self, model, pixel_values, mask, targets):
        if not model.training:
            return super().per_image(model, pixel_values, mask, targets)
        mix = v2.CutMix(num_classes=unwrap_pretrained(model).config.num_labels)
        mixed, labels = mix(pixel_values, targets["label"])
        logits = forward_logits(model, mixed)
        loss = F.cross_entropy(at_least_float32(logits) / self.args.confidence_temperature, labels, reduction="none")
        return {"confidence_loss": loss, "loss": self.args.confidence_weight * loss}, logits


class RandomErasing(Finetune):
    """Cross-entropy with the label. In half of the images, a random rectangle of 2 to 33 % of the area becomes 0, the mean
    (torchvision's defaults).

    Source: https://huggingface.co/papers/1708.04896
    """

    def penalty(self, model, pixel_values, mask, targets):
        if model.training:
            erase = v2.RandomErasing(p=0.5)
            pixel_values = torch.stack([erase(image) for image in pixel_values])
        return super().penalty(model, pixel_values, mask, targets)


class BackgroundPool:
    """Pictures without objects of the classes, in a folder and its subfolders."""

    def __init__(self, folder: str, transform: Transform):
        self.folder, suffixes = Path(folder), readable_suffixes()
        names = (name for name in files_below(self.folder) if not is_hidden(name))
        self.paths = sorted(self.folder / name for name in names if Path(name).suffix.lower() in suffixes)
        if not self.paths:
            raise ValueError(f"`backgrounds` is `{folder}`: expected a folder with pictures.")
        self._transform = transform
        for path in tqdm(self.paths, desc="backgrounds", unit="image", leave=False):
            upright_image(path)  # fail now rather than hours into training

    def draw(self, wanted: np.ndarray, rng: np.random.Generator) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the index of each image that `wanted` `(B,)` marks, and a random picture `(3, H, W)`, whatever others get."""
        pictures, flips = rng.integers(len(self.paths), size=len(wanted)), rng.random(len(wanted)) < 0.5
        for index in np.flatnonzero(wanted).tolist():
            (pixel_values,) = self._transform({"image": [upright_image(self.paths[pictures[index]])]})["pixel_values"]
            yield index, pixel_values.flip(-1) if flips[index] else pixel_values

    def identity(self) -> list[tuple[str, int, int]]:
        """Name, size in bytes and time of change in ns of each picture."""
        stats = ((path.relative_to(self.folder).as_posix(), path.stat()) for path in self.paths)
        return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def swap_backgrounds(
    pixel_values: torch.Tensor,
    mask: torch.Tensor,
    probability: float,
    seed: tuple[int, ...],
    pool: BackgroundPool | None = None,
) -> torch.Tensor:
    """Give each image `(B, 3, H, W)`, with this probability, the background of another image of the batch (see
    [`background`]), or a picture of the pool. Masks `(B, 1, H, W)` are in [0, 1]; images with an empty or full mask keep
    their background. Random choices depend only on the seed.

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
    picks = rng.random(len(mask))  # drawn for every image, so that one mask does not affect the draws for other images
    for index in np.flatnonzero(drawn).tolist():
        if others := [other for other in givers if other != index]:
            donors[index] = others[int(picks[index] * len(others))]
    swapped = paste(pixel_values, mask, background(pixel_values, mask)[donors])
    changed = torch.tensor([donor != index for index, donor in enumerate(donors)], device=mask.device)
    return torch.where(changed[:, None, None, None], swapped, pixel_values)
