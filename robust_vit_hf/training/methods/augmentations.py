"""Plain finetuning, and the background swap."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather
from tqdm.auto import tqdm
from transformers import TrainingArguments

from ...data.background_edits import background, is_background, paste
from ...data.transforms import Transform
from ...utils.files import files_below, is_hidden
from ...utils.images import readable_suffixes, upright_image
from ..config import RobustViTConfig, option
from ..losses import Method, Penalty


@dataclass
class FinetuneConfig(RobustViTConfig):
    """Arguments of [`Finetune`]."""

    method: str = option("finetune", "Cross-entropy with the label.")
    relevance_weight: float = option(0.0, "No relevance loss.")
    confidence_weight: float = option(1.0, "Weight of the cross-entropy.")
    confidence_target: Literal["label", "prediction", "original"] = option("label", "Target of the confidence loss.")
    unused: ClassVar[tuple[str, ...]] = (
        *("relevance_weight", "background_weight", "foreground_weight", "relevance_distance", "mask_edges"),
        *("mean_over", "relevance_target", "second_order", "start_layer"),
    )


def control_of(args: RobustViTConfig) -> FinetuneConfig:
    """Arguments of the control: as many steps of cross-entropy with the label, of which nothing is saved."""
    names = [own.name for own in fields(TrainingArguments) if own.init]
    shared = {name: getattr(args, name) for name in (*names, "lr_decay_rate", "lr_decay_every", "bad_masks")}
    quiet = {"do_eval": False, "eval_strategy": "no", "save_strategy": "no", "report_to": "none", "push_to_hub": False}
    return FinetuneConfig(**shared | quiet | {"enable_jit_checkpoint": False})


@dataclass
class SwapConfig(FinetuneConfig):
    """Arguments of [`Swap`]."""

    method: str = option("swap", "Background swap, and the output before finetuning as the target.")
    confidence_target: Literal["label", "prediction", "original"] = option(
        "original", "Target of the confidence loss."
    )
    background_swap: float = option(0.75, "Probability that a training image gets another background.")


class Finetune(Method):
    """Cross-entropy with the label. `background_swap` can be added as augmentation."""

    config = FinetuneConfig

    def penalty(self, vit, pixel_values, mask, targets):
        return Penalty(0.0, {}, vit.logits(pixel_values))


class Swap(Finetune):
    """Kullback–Leibler divergence from the output of the original model. Three of four images get another background."""

    config = SwapConfig


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


def swap_in_batch(
    pixel_values: torch.Tensor, mask: torch.Tensor, args: RobustViTConfig, pool: BackgroundPool | None
) -> torch.Tensor:
    """[`swap_backgrounds`] among the images of all processes, so that the result does not depend on their number."""
    if not args.background_swap:
        return pixel_values
    seed = torch.randint(2**31, (1,)).to(mask.device)  # from the state that a checkpoint restores
    images, masks, seeds = gather((pixel_values, mask, seed))
    state = PartialState()
    swapped = swap_backgrounds(images, masks, args.background_swap, (int(seeds[0]),), pool)
    return swapped.tensor_split(state.num_processes)[state.process_index]


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
