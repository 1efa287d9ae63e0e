"""Plain finetuning, and the background swap."""

from dataclasses import dataclass, fields
from typing import ClassVar, Literal

import datasets
import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather
from transformers import TrainingArguments

from ...data.background_edits import background, is_background, paste
from ...data.transforms import Transform
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
    confidence_target: Literal["label", "prediction", "original"] = option("original", "Target of the loss.")
    background_swap: float = option(0.75, "Probability that a training image gets another background.")


class Finetune(Method):
    """Cross-entropy with the label. `background_swap` can be added as augmentation."""

    config = FinetuneConfig

    def penalty(self, vit, pixel_values, mask, targets):
        return Penalty(0.0, {}, vit.logits(pixel_values))


class Swap(Finetune):
    """Kullback–Leibler divergence from the original output. Three of four images get another background."""

    config = SwapConfig


def load_backgrounds(folder: str, transform: Transform) -> datasets.Dataset:
    """Pictures without objects of the classes, in a folder and its subfolders, as `pixel_values` `(3, H, W)`."""
    arguments = {"data_dir": folder, "data_files": "**", "split": "train", "drop_labels": True, "drop_metadata": True}
    try:
        return datasets.load_dataset("imagefolder", **arguments).with_transform(transform)
    except ValueError:
        raise ValueError(f"`backgrounds` is `{folder}`: expected a folder with pictures.") from None


def swap_in_batch(
    pixel_values: torch.Tensor, mask: torch.Tensor, args: RobustViTConfig, pictures: datasets.Dataset | None
) -> torch.Tensor:
    """[`swap_backgrounds`] among the images of all processes, so that the result does not depend on their number."""
    if not args.background_swap:
        return pixel_values
    seed = torch.randint(2**31, (1,)).to(mask.device)  # from the state that a checkpoint restores
    images, masks, seeds = gather((pixel_values, mask, seed))
    state = PartialState()
    swapped = swap_backgrounds(images, masks, args.background_swap, (int(seeds[0]),), pictures)
    return swapped.tensor_split(state.num_processes)[state.process_index]


def swap_backgrounds(
    pixel_values: torch.Tensor,
    mask: torch.Tensor,
    probability: float,
    seed: tuple[int, ...],
    pictures: datasets.Dataset | None = None,
) -> torch.Tensor:
    """Give each image `(B, 3, H, W)`, with this probability, the background of another image of the batch (see
    [`background`]), or one of the pictures. Masks `(B, 1, H, W)` are in [0, 1]; images with an empty or full mask keep
    their background. Random choices depend only on the seed.

    Source: the composition of the *mixed-rand* images of https://huggingface.co/papers/2006.09994, used for training.
    """
    rng = np.random.default_rng(seed)
    has_both = ((mask.flatten(1).amax(dim=1) > 0) & (mask.flatten(1).amin(dim=1) < 1)).cpu().numpy()
    drawn = (rng.random(len(mask)) < probability) & has_both
    if pictures is not None:
        swapped, chosen = pixel_values.clone(), rng.integers(len(pictures), size=len(mask)).tolist()
        flips = rng.random(len(mask)) < 0.5
        for index in np.flatnonzero(drawn).tolist():
            (picture,) = pictures[[chosen[index]]]["pixel_values"]
            picture = (picture.flip(-1) if flips[index] else picture).to(pixel_values)
            swapped[index] = paste(pixel_values[index], mask[index], picture)
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
