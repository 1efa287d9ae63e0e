"""Time of TokenCut's masks, batched against one image at a time, and how well they cover the true foreground.

    python -m experiments tokencut            # writes experiments/benchmarks/tokencut.json and docs/tokencut.png

Speed: from the features of 64 images of emoji-shift (keys of the bundled DINOv2-S/14) to their masks on the patch grid.
196 patches are those of an image of 224 px at patch 16, as in DINO; here, of 196 px at patch 14. 256 are those of 224 px
at patch 14.

(a) ours: affinity, eigenvector, split and component of all images at once.
(b) one at a time: as the released code does it, `scipy.linalg.eigh` for two generalised eigenvectors an image. Written
    plainly.

Both run in turn within one process, so that what else the machine does hits both of them; the ratios are medians over
the rounds. SciPy's BLAS takes all cores by default, and on so small matrices is faster with one: a second process has
`OPENBLAS_NUM_THREADS=1`. With refinement, both take the same bilateral solver.

Quality: mean IoU with the true foreground over 200 images of emoji-shift `val`, enlarged from 112 to 224 px.
"""

import json
import os
import platform
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage
from transformers import ViTImageProcessor

from robust_vit_hf.data.emoji_shift import load_split
from robust_vit_hf.masks.tokencut import TokenCut, coarse_masks, cut_eigenvectors, patch_features, refine_mask
from robust_vit_hf.models.emoji_shift_model import load_backbone, load_biased_model
from robust_vit_hf.relevance.architectures import ImageModel
from robust_vit_hf.utils.files import write_atomically
from robust_vit_hf.utils.images import save_picture_grid

from ..scripts import script_parser


OUTPUT = Path(__file__).with_suffix(".json")
FIGURE = Path(__file__).parents[2] / "docs" / "tokencut.png"
SIDES = {"196 patches": 196, "256 patches": 224}
NUM_TIMED = 64


def enlarge(rows, side: int) -> tuple[list[Image.Image], list[np.ndarray]]:
    """Images and true foregrounds."""
    images = [row["image"].resize((side, side), Image.Resampling.BICUBIC) for row in rows]
    truths = [np.asarray(row["mask"].resize((side, side), Image.Resampling.NEAREST)) == 255 for row in rows]
    return images, truths


def features_of(images: list[Image.Image]) -> torch.Tensor:
    model = load_backbone().eval()
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    batches = ((pixels - mean) / std).split(16)
    return torch.cat([patch_features(ImageModel(model), batch, key_bias=False).keys for batch in batches])


def one_mask(keys: torch.Tensor, grid: tuple[int, int]) -> np.ndarray:
    keys = F.normalize(keys, dim=-1)
    weights = np.where((keys @ keys.T).numpy() > 0.2, 1.0, 1e-5)
    degrees = np.diag(weights.sum(axis=1))
    vector = scipy.linalg.eigh(degrees - weights, degrees, subset_by_index=[1, 2])[1][:, 0]
    foreground, seed = vector > vector.mean(), np.abs(vector).argmax()
    if not foreground[seed]:
        foreground = ~foreground
    components, _ = ndimage.label(foreground.reshape(grid))
    return components == components.flat[seed]


def refine_all(images: list[Image.Image], masks) -> None:
    for image, mask in zip(images, masks, strict=True):
        refine_mask(image, np.asarray(Image.fromarray(mask).resize(image.size, Image.Resampling.NEAREST)))


def speed(side: int, rounds: int) -> dict:
    images, _ = enlarge(load_split("val", NUM_TIMED), side)
    features, grid = features_of(images), (side // 14, side // 14)

    def batched():
        return coarse_masks(cut_eigenvectors(features)[0], grid)

    def one_at_a_time():
        return np.stack([one_mask(keys, grid) for keys in features])

    functions = {
        "batched": batched,
        "one at a time": one_at_a_time,
        "batched, refined": lambda: refine_all(images, batched()),
        "one at a time, refined": lambda: refine_all(images, one_at_a_time()),
    }
    same = int((batched() == one_at_a_time()).all(axis=(1, 2)).sum())
    times = {name: [] for name in functions}
    for _ in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    times = {name: values[1:] for name, values in times.items()}  # the first round warms up

    def ratio(numerator: str, denominator: str) -> float:
        pairs = zip(times[numerator], times[denominator], strict=True)
        return round(statistics.median(a / b for a, b in pairs), 2)

    return {
        "images": NUM_TIMED,
        "images_with_the_same_mask": same,
        "one at a time / batched": ratio("one at a time", "batched"),
        "the same with refinement": ratio("one at a time, refined", "batched, refined"),
        "median_milliseconds_an_image": {
            name: round(1000 * statistics.median(values) / NUM_TIMED, 2) for name, values in times.items()
        },
    }


def speeds(rounds: int) -> dict:
    results = {}
    for kind, settings in {"threads by default": {}, "one thread for SciPy": {"OPENBLAS_NUM_THREADS": "1"}}.items():
        os.environ |= settings  # BLAS reads it when it is loaded: in the fresh process
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh_process:
            for name, side in SIDES.items():
                results.setdefault(name, {})[kind] = fresh_process.submit(speed, side, rounds).result()
    return results


def quality(num_images: int) -> dict:
    images, truths = enlarge(load_split("val", num_images), 224)
    half = ViTImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3)  # as the biased model was trained
    makers = {
        "DINOv2-S/14": (load_backbone().eval(), None, {}),
        "DINOv2-S/14, bias of the keys kept": (load_backbone().eval(), None, {"key_bias": True}),
        "the biased model of emoji-shift": (load_biased_model(), half, {}),
    }
    results = {}
    for name, (model, processor, settings) in makers.items():
        for kind in ("coarse", "refined"):
            make = TokenCut(model, processor, refine=kind == "refined", **settings)
            made = make(images, [{}] * num_images)
            overlaps = []
            for result, truth in zip(made, truths, strict=True):
                mask = np.zeros_like(truth) if result.mask is None else np.asarray(result.mask) == 255
                overlaps.append((mask & truth).sum() / (mask | truth).sum())
            results.setdefault(name, {})[kind] = {
                "mean_iou": round(float(np.mean(overlaps)), 3),
                "median_iou": round(float(np.median(overlaps)), 3),
                "fell_back_to_coarse": sum(result.note is not None for result in made),
                "rejected": sum(result.rejected is not None for result in made),
            }
    return results


def figure() -> None:
    """Masks of the first training images with openly licensed artwork, as `robust-vit masks` makes them."""
    rows = [row for row in load_split("train", 100) if row["openly_licensed"]][:12]
    images = [row["image"].convert("RGB") for row in rows]
    results = TokenCut(load_backbone().eval(), min_side=224)(images, rows)
    pictures = []
    for image, result in zip(images, results, strict=True):
        mask = Image.new("L", image.size) if result.mask is None else result.mask.convert("L")
        pictures += [(result.rejected or result.note or "", np.asarray(image)), ("", np.asarray(mask.convert("RGB")))]
    save_picture_grid([pictures[first : first + 6] for first in range(0, len(pictures), 6)], FIGURE)


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=int, default=200)
    arguments = parser.parse_args()
    results = {
        "device": f"{os.cpu_count()} CPU cores",
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "numpy", "scipy")},
        },
        "rounds": arguments.rounds,
        "speed": speeds(arguments.rounds),
        "quality": {"images": arguments.images} | quality(arguments.images),
    }
    text = json.dumps(results, indent=2)
    print(text)
    write_atomically(OUTPUT, text + "\n")
    figure()
