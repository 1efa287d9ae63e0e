"""Variants of background swap from later work, on emoji-shift.

    python -m experiments stronger_swap runs/stronger-swap nearest jittered    # train some; in several processes, some each
    python -m experiments stronger_swap runs/stronger-swap                     # train what is missing of all, and compare

Each variant replaces the swap in the training of `background-swap` of the experiment, at two rates, over three seeds, in bfloat16. It
reads validation images alone. The biased models of the seeds are in `runs/emoji-bias-3`, `-4` and `-5`, see
experiments/findings.md. Delete the folder of a variant that was edited. Donors of another class are not a variant: of 95 possible
donors, one is of the same class. Shares of images left alone are in `experiments/results/search.parquet`. Sources: ForAug
(https://huggingface.co/papers/2503.09399) jitters place and size, and fills backgrounds by a network; AutoBackSwap (2606.32018) picks
backgrounds.
"""

import json
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torchvision.transforms.v2.functional import gaussian_blur

from robust_vit_hf.data.background_edits import background, is_background, paste

from ..scripts import script_parser
from ..sweeps.collect_runs import collect
from ..sweeps.intervals import Gains, mean_gain
from ..sweeps.options import SweepOptions
from ..sweeps.runs import Run
from ..sweeps.sweep import sweep


RESULTS = Path(__file__).with_suffix(".json")
AS_IT_IS = "as it is"
GRID = {
    "options": {
        "dataset": "emoji-shift", "protocol": "paper", "samples_per_class": 2, "num_train_epochs": 6, "per_device_train_batch_size": 8,
        "load_best_model_at_end": False, "benchmark_sets": False, "control": False, "eval_strategy": "no", "logging_strategy": "no",
        "save_strategy": "no", "report_to": "none", "use_cpu": True, "bf16": True,
    },
    "choose_by": "mixed_rand",
    "validation_bound": 0.02,
    "variants": {
        "background-swap": {
            "method": "finetune", "confidence_target": "original", "background_swap": 0.75, "learning_rate": [1e-6, 2.5e-6],
        }
    },
    "seeds": {
        str(seed): {"class_seed": seed, "seed": seed, "model": f"runs/emoji-bias-{seed + 1}"} for seed in (2, 3, 4)
    },
}  # fmt: skip


def swap(
    pixel_values: torch.Tensor,
    mask: torch.Tensor,
    probability: float,
    seed: tuple[int, ...],
    pool: None = None,
    *,
    pick: Callable[[torch.Tensor, int, list[int]], int] | None = None,
    fill: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = background,
    prepare: Callable[[torch.Tensor, torch.Tensor, np.random.Generator], tuple[torch.Tensor, torch.Tensor]]
    | None = None,
    give: Callable[[torch.Tensor, np.random.Generator], torch.Tensor] | None = None,
) -> torch.Tensor:
    """The swap within a batch, in parts.

    Args:
        pick: chooses the donor of an image among others by the backgrounds; by default at random.
        fill: gives the backgrounds.
        prepare: changes object and mask before they are pasted.
        give: changes the background that an image is given.
    """
    rng, own = np.random.default_rng(seed), np.random.default_rng((*seed, 1))  # all variants draw the same donors
    backgrounds = fill(pixel_values, mask)
    gives = is_background(mask).flatten(1).any(dim=1).tolist()
    swapped = pixel_values.clone()
    for index, drawn in enumerate(rng.random(len(mask)) < probability):
        others = [other for other in range(len(mask)) if gives[other] and other != index]
        place = rng.random()
        if not drawn or not others or not 0 < mask[index].mean() < 1:
            continue
        donor = others[int(place * len(others))] if pick is None else pick(backgrounds, index, others)
        given = backgrounds[[donor]] if give is None else give(backgrounds[[donor]], own)
        image, cut = pixel_values[[index]], mask[[index]]
        image, cut = (image, cut) if prepare is None else prepare(image, cut, own)
        swapped[index] = paste(image, cut, given)[0]
    return swapped


def nearest(backgrounds: torch.Tensor, index: int, others: list[int]) -> int:
    """The donor with the nearest background, by its 8×8 pixels."""
    small = F.adaptive_avg_pool2d(backgrounds, 8).flatten(1)
    return min(others, key=lambda other: float((small[other] - small[index]).norm()))


def mean_filled(pixel_values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Backgrounds whose object has their mean colour, a poorer infill than pull–push."""
    known = is_background(mask).to(pixel_values.dtype)
    mean = (pixel_values * known).sum(dim=(2, 3), keepdim=True) / known.sum(dim=(2, 3), keepdim=True).clamp_min(1)
    return torch.where(known > 0, pixel_values, mean)


def jittered(image: torch.Tensor, mask: torch.Tensor, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Object moved by at most a fifth of the image, and scaled by 0.7 to 1.3."""
    scale, (x, y) = rng.uniform(0.7, 1.3), rng.uniform(-0.4, 0.4, 2)
    matrix = torch.tensor([[[1 / scale, 0, x], [0, 1 / scale, y]]], dtype=image.dtype)
    grid = F.affine_grid(matrix, list(image.shape), align_corners=False)
    moved = F.grid_sample(mask.to(image.dtype), grid, align_corners=False)
    return F.grid_sample(image, grid, padding_mode="border", align_corners=False), moved


def clouds(given: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Coloured noise of several sizes in place of a background: a picture that costs nothing."""
    layers = [
        F.interpolate(
            torch.from_numpy(rng.normal(0, size**-0.5, (1, 3, size, size))), given.shape[-2:], mode="bicubic"
        )
        for size in (2, 4, 8, 16, 32)
    ]
    return sum(layers, torch.zeros(())).clamp(-1, 1).to(given.dtype)


VARIANTS: dict[str, Callable[..., torch.Tensor]] = {
    AS_IT_IS: swap,
    "nearest": partial(swap, pick=nearest),
    "mean colour": partial(swap, fill=mean_filled),
    "jittered": partial(swap, prepare=jittered),
    "soft edges": partial(swap, prepare=lambda image, mask, _: (image, gaussian_blur(mask, [5, 5], [1.5, 1.5]))),
    "clouds": partial(swap, give=clouds),
}


def compared(runs: dict[str, list[Run]]) -> list[dict]:
    """Changes of each variant at each rate, and their differences from those of the swap as it is."""
    rows = []
    for name, rate in product(runs, GRID["variants"]["background-swap"]["learning_rate"]):
        of_rate = {
            of: {run.seed: run for run in runs[of] if run.interpolation_weight == 1 and run.learning_rate == rate}
            for of in (name, AS_IT_IS)
        }
        pairs = [(run, of_rate[AS_IT_IS][seed]) for seed, run in of_rate[name].items() if seed in of_rate[AS_IT_IS]]
        row = {"variant": name, "learning rate": rate}
        for condition in ("mixed_rand", "original"):
            gains = []
            for run, other in pairs:
                result, other_result = run.composed[condition], other.composed[condition]
                images = np.flatnonzero(result.usable & other_result.usable)
                values = result.correct("after").astype(int) - other_result.correct("after")
                gains.append(Gains(values[images], run.seed, images, result.images or run.seed))
            change = np.mean([run.composed[condition].gains().mean() for run, _ in pairs])
            row |= {
                condition: f"{100 * change:+.1f}",
                f"{condition}, to {AS_IT_IS}": str(mean_gain({condition: gains})),
            }
        rows.append(row)
        print(row)
    return rows


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=f"of {', '.join(VARIANTS)}; all by default")
    arguments = parser.parse_args()
    folders = {name: arguments.output_dir / name.replace(" ", "-") for name in VARIANTS}
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    grid = arguments.output_dir / "stronger-swap.yaml"
    grid.write_text(yaml.safe_dump(GRID, sort_keys=False))
    for name in arguments.variants or VARIANTS:
        with patch("robust_vit_hf.training.trainer.swap_backgrounds", VARIANTS[name]):
            print(name, sweep(SweepOptions(grid=grid, output_dir=folders[name], cluster="debug")), sep="\n")
    if not arguments.variants:
        rows = compared({name: collect([folder]).runs for name, folder in folders.items()})
        RESULTS.write_text(json.dumps(rows, indent=2) + "\n")
