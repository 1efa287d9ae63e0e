"""Cost of the checks of docs/reliability.md: the identity of a large dataset, and finite losses and weights in a step.

python benchmarks/reliability.py     # writes benchmarks/reliability.json
"""

import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import torch
from transformers import ViTConfig, ViTForImageClassification

from robust_vit_hf import relevance_map
from robust_vit_hf.data.dataset_digest import dataset_identity
from robust_vit_hf.utils.environment import environment
from robust_vit_hf.utils.files import write_json
from robust_vit_hf.utils.finite import check_finite, non_finite_weights


RESULTS = Path(__file__).with_suffix(".json")
NUM_IMAGES, IMAGE_BYTES = 50_000, 110_000  # of ImageNet's validation images


def seconds(function, repeats: int = 5) -> float:
    """Median time of a call."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def identity(folder: Path) -> dict[str, float]:
    """Seconds for images in the table, read from disk, and for images that are files."""
    rng = np.random.default_rng(0)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    with datasets.arrow_writer.ArrowWriter(features=features, path=str(folder / "table.arrow")) as writer:
        for first in range(0, NUM_IMAGES, 1000):
            images = [{"bytes": rng.bytes(IMAGE_BYTES), "path": None} for _ in range(1000)]
            writer.write_table(
                pa.table({"image": images, "label": list(range(first, first + 1000))}, schema=features.arrow_schema)
            )
        writer.finalize()
    table = datasets.Dataset.from_file(str(folder / "table.arrow"))
    paths = [folder / f"{index}.jpg" for index in range(NUM_IMAGES)]
    for path in paths:
        path.write_bytes(b"x")
    files = datasets.Dataset.from_dict(
        {"image": list(map(str, paths)), "label": list(range(NUM_IMAGES))}, features=features
    )
    return {
        "images in the table": round(seconds(lambda: dataset_identity(table), 3), 2),
        "images that are files": round(seconds(lambda: dataset_identity(files), 3), 2),
    }


def finite() -> dict[str, float]:
    """Share of a DeiT-S step of 8 images in fp32 that is spent on checks, and the seconds that a save or load spends."""
    config = ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536, num_labels=1000)
    model, images = ViTForImageClassification(config), torch.randn(8, 3, 224, 224)

    def step():
        output = relevance_map(model, images)
        (output.relevance.mean() + output.logits.square().mean()).backward()

    loss = torch.randn(8, requires_grad=True)
    step_seconds = seconds(step)
    checks = seconds(lambda: check_finite("loss", loss), 200) + seconds(
        lambda: check_finite("pixel values", images), 50
    )
    return {
        "step, seconds": round(step_seconds, 3),
        "checks in a step, per cent": round(100 * checks / step_seconds, 3),
        "weights of ViT-S, seconds": round(seconds(lambda: non_finite_weights(model), 20), 4),
    }


if __name__ == "__main__":
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as folder:
        results = {
            "identity of 50,000 images, seconds": identity(Path(folder)),
            "finite values": finite(),
            **environment(),
        }
    write_json(RESULTS, results)
    print(json.dumps(results, indent=2))
