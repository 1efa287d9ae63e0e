"""Seconds that the metrics take, for sets as large as ImageNet's validation and ImageNet-Segmentation.

    python benchmarks/metrics.py         # writes benchmarks/metrics.json

The clock runs in `update` and `compute` alone. Inputs are one batch that is made beforehand and shifted between the
calls, so that neither a model nor the generation of numbers counts. The figures are medians over the rounds.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from robust_vit_hf.results.metrics.calibration import Calibration
from robust_vit_hf.results.metrics.relevance_segmentation import RelevanceSegmentation
from robust_vit_hf.results.metrics.robust_accuracy import RobustAccuracy
from robust_vit_hf.utils.files import write_atomically


OUTPUT = Path(__file__).with_suffix(".json")
METRICS = {
    "robust_accuracy": RobustAccuracy,
    "calibration": Calibration,
    "relevance_segmentation": RelevanceSegmentation,
}
NUM_CLASSES = 1000
SUBSET = range(0, NUM_CLASSES, 5)

Batch = tuple[np.ndarray, np.ndarray]


def classification_batch(size: int) -> Batch:
    """Logits `(size, 1000)` float32, and labels within the subset."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(size, NUM_CLASSES)).astype(np.float32), rng.choice(SUBSET, size)


def segmentation_batch(size: int) -> Batch:
    """Maps of 14×14 patches and masks with edges like those of an object, `(size, 1, 224, 224)` float32."""
    generator = torch.Generator().manual_seed(0)
    maps, masks = (
        F.interpolate(torch.rand(size, 1, side, side, generator=generator), 224, mode="bilinear") for side in (14, 6)
    )
    return maps.numpy(), (masks > 0.5).float().numpy()


def shift_logits(logits: np.ndarray, labels: np.ndarray, step: int) -> Batch:
    return np.roll(logits, 7 * step, axis=1), np.roll(labels, step)


def shift_ids(logits: np.ndarray, labels: np.ndarray, step: int) -> Batch:
    logits, labels = shift_logits(logits, labels, step)
    return np.argsort(-logits, axis=1)[:, :5], labels


def shift_maps(maps: np.ndarray, masks: np.ndarray, step: int) -> Batch:
    return np.roll(maps, (3 * step, 5 * step), axis=(2, 3)), masks


def seconds(
    name: str, settings: dict, batch: Batch, shift: Callable[[np.ndarray, np.ndarray, int], Batch], count: int
) -> float:
    """Of adding `count` images in batches, and computing."""
    metric = METRICS[name](**settings)
    total, size = 0.0, len(batch[0])
    for step in range(-(-count // size)):
        predictions, references = (column[: count - step * size] for column in shift(*batch, step))
        start = time.perf_counter()
        metric.update(predictions, references)
        total += time.perf_counter() - start
    start = time.perf_counter()
    metric.compute()
    return total + time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=50_000, help="images of 1,000 logits each")
    parser.add_argument("--maps", type=int, default=4276, help="maps of 224×224 pixels")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    logits, maps = classification_batch(arguments.batch_size), segmentation_batch(arguments.batch_size)
    cases = {
        "robust_accuracy, logits": ("robust_accuracy", {}, logits, shift_logits, arguments.images),
        "robust_accuracy, logits of 200 classes": (
            "robust_accuracy",
            {"class_subset": SUBSET},
            logits,
            shift_logits,
            arguments.images,
        ),
        "robust_accuracy, top-5 ids": ("robust_accuracy", {}, logits, shift_ids, arguments.images),
        "calibration, logits": ("calibration", {}, logits, shift_logits, arguments.images),
        "relevance_segmentation": ("relevance_segmentation", {}, maps, shift_maps, arguments.maps),
    }
    times = {name: [] for name in cases}
    for _ in tqdm(range(arguments.rounds), desc="rounds"):
        for name, case in tqdm(cases.items(), desc="metrics", leave=False):
            times[name].append(seconds(*case))
    results = {
        "command": f"python benchmarks/metrics.py {' '.join(sys.argv[1:])}".strip(),
        "device": f"{os.cpu_count()} CPU cores",
        "load average before": round(load, 2),
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in ("numpy", "torch")},
        "images": arguments.images,
        "classes": NUM_CLASSES,
        "maps of 224×224": arguments.maps,
        "batch size": arguments.batch_size,
        "rounds": arguments.rounds,
        "seconds": {name: round(statistics.median(values), 2) for name, values in times.items()},
    }
    text = json.dumps(results, indent=2, ensure_ascii=False)
    print(text)
    write_atomically(OUTPUT, text + "\n")


if __name__ == "__main__":
    main()
