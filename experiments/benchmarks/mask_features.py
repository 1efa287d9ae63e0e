"""Whose features give TokenCut better masks, the classifier's own or those of a DINOv2-S, and what cheaper features cost.

    python -m experiments mask_features --output_dir runs/mask-features        # writes experiments/benchmarks/mask_features.json

Three sets of 112-px images with known foregrounds: `val` of emoji-shift, the photographs of `export_photographs.py`
(JPEGs of `train`), and the validation images of `digits.py` (digits on textures). The classifiers are the
bundled biased model, the folder that `export_photographs.py` writes, and the model that `digits.py` finetunes. All three
are finetuned DINOv2-S: what a supervised ViT's features give is not measured.

Quality: IoU with the true foreground, 0 where the mask is rejected, as `diagnose` makes masks. `given` has the mean over
the masks that are not rejected. Differences to the first row are paired, with 95 % bootstrap intervals over images.

Cost: seconds of CPU time on one thread, of the features alone and in all, the least of the rounds, in which the settings
take turns. `min_pixels` falls with the area of the enlarged image.
"""

import io
import os
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from scipy import stats
from torch import nn
from transformers import AutoModelForImageClassification

from robust_vit_hf import make_image_processor
from robust_vit_hf.data.emoji_shift import load_split
from robust_vit_hf.masks import tokencut
from robust_vit_hf.masks.tokencut import TokenCut
from robust_vit_hf.models.emoji_shift_model import load_backbone, load_biased_model
from robust_vit_hf.utils.environment import environment
from robust_vit_hf.utils.files import write_json

from ..scripts import script_parser
from .digits import SIZE, digits_model, draw, write_split


OUTPUT = Path(__file__).with_suffix(".json")
AS_THEY_ARE = {"min_side": 224, "bf16": False, "batch_size": 16}
SETTINGS = {
    "224 px, fp32, batches of 16": {},
    "batches of 1": {"batch_size": 1},
    "batches of 64": {"batch_size": 64},
    "bf16": {"bf16": True},
    "196 px": {"min_side": 196},
    "168 px": {"min_side": 168},
    "140 px": {"min_side": 140},
    "112 px": {"min_side": 112},
    "196 px, bf16": {"min_side": 196, "bf16": True},
    "168 px, bf16": {"min_side": 168, "bf16": True},
}
Examples = list[tuple[Image.Image, np.ndarray]]  # images and their true foregrounds `(H, W)`, bool


def as_jpeg(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95)
    return Image.open(file).convert("RGB")


def of_emoji_shift(split: str, count: int) -> Iterator[tuple[Image.Image, np.ndarray]]:
    for row in load_split(split, count):
        yield row["image"].convert("RGB"), np.asarray(row["mask"]) == 255


def sets(count: int) -> dict[str, Examples]:
    digits = draw(range(500, 500 + count), "habitual", 1)
    return {
        "emoji-shift": list(of_emoji_shift("val", count)),
        "photographs": [(as_jpeg(image), truth) for image, truth in of_emoji_shift("train", count)],
        "digits": [(as_jpeg(image), cover > 0.5) for _, image, cover in digits],
    }


def classifiers(folder: Path) -> dict[str, nn.Module]:
    """The classifier of each set; a folder that is there is not written again."""
    photographs, digits = folder / "photographs-model", folder / "digits-model"
    if not (photographs / "config.json").is_file():
        load_biased_model().save_pretrained(photographs)
    if not (digits / "config.json").is_file():
        write_split(folder / "digits" / "train", range(500), "habitual", 0)
        digits_model(folder / "digits", digits, bf16=True)  # as for docs/diagnose.md
    load = AutoModelForImageClassification.from_pretrained
    return {"emoji-shift": load_biased_model(), "photographs": load(photographs), "digits": load(digits)}


def make_masks(cut: TokenCut, examples: Examples) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """IoU of each image, 0 where the mask is rejected; whether it is given; and CPU seconds an image."""
    spent, keys = [], tokencut.patch_features

    def timed(*arguments) -> torch.Tensor:
        started = time.process_time()
        found = keys(*arguments)
        spent.append(time.process_time() - started)
        return found

    started = time.process_time()
    with patch.object(tokencut, "patch_features", timed):
        results = cut([image for image, _ in examples], [{}] * len(examples))
    seconds = {"features": sum(spent), "all": time.process_time() - started}
    overlaps = np.zeros(len(examples))
    for index, (result, (_, truth)) in enumerate(zip(results, examples, strict=True)):
        if result.rejected is None:
            mask = np.asarray(result.mask) == 255
            overlaps[index] = (mask & truth).sum() / (mask | truth).sum()
    given = np.array([result.rejected is None for result in results])
    return overlaps, given, {name: total / len(examples) for name, total in seconds.items()}


def difference(values: np.ndarray) -> list[float]:
    """Mean and 95 % interval."""
    found = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=2000, rng=0).confidence_interval
    return [round(float(value), 3) for value in (values.mean(), found.low, found.high)]


def table(measured: dict[str, tuple[np.ndarray, np.ndarray, dict[str, float]]]) -> dict[str, dict]:
    """Rows of mean IoU, with the difference to the first one, and seconds."""
    first, rows = next(iter(measured.values()))[0], {}
    for name, (overlaps, given, seconds) in measured.items():
        rows[name] = {
            "iou": round(float(overlaps.mean()), 3),
            "median_iou": round(float(np.median(overlaps)), 3),
            "given": round(float(overlaps[given].mean()), 3),
            "rejected": int((~given).sum()),
            "difference": difference(overlaps - first),
            "seconds": {part: round(value, 4) for part, value in seconds.items()},
        }
    return rows


def settings_of(changed: dict) -> dict:
    settings = AS_THEY_ARE | changed
    return settings | {"min_pixels": round(520 * (settings["min_side"] / 224) ** 2)}


def cost(examples: Examples, backbone: nn.Module, rounds: int) -> dict[str, dict]:
    measured = {}
    for _ in range(rounds):
        for name, changed in SETTINGS.items():
            overlaps, given, seconds = make_masks(TokenCut(backbone, **settings_of(changed)), examples)
            known = measured.get(name, (overlaps, given, seconds))[2]
            measured[name] = overlaps, given, {part: min(seconds[part], known[part]) for part in seconds}
    return table(measured)


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--output_dir", type=Path, required=True, help="for the classifiers of the sets")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    own, backbone = classifiers(arguments.output_dir), load_backbone().eval()
    half, gains = make_image_processor("paper", SIZE), []
    found = {"images": arguments.images, "rounds": arguments.rounds, "whose": {}, "cost": {}}
    for name, examples in sets(arguments.images).items():
        makers = {
            "the classifier's own": TokenCut(own[name].eval(), half, **settings_of({})),
            "DINOv2-S": TokenCut(backbone, **settings_of({})),
        }
        measured = {whose: make_masks(cut, examples) for whose, cut in makers.items()}
        found["whose"][name] = table(measured)
        own_overlaps, dinov2 = (overlaps for overlaps, *_ in measured.values())
        gains.append(dinov2 - own_overlaps)
        print(name, found["whose"][name], flush=True)
    found["difference_over_all_sets"] = difference(np.concatenate(gains))
    for name, examples in sets(arguments.images).items():
        found["cost"][name] = cost(examples, backbone, arguments.rounds)
        print(name, *found["cost"][name].items(), sep="\n", flush=True)
    write_json(OUTPUT, found | environment() | {"cores": os.cpu_count()})
