"""Time and memory of `evaluate`, `diagnose` and `masks tokencut` over many images, and two processes against one.

python benchmarks/scale.py     # writes benchmarks/scale.json

Images are generated: 224 px JPEG with a mask, 100 classes. The model is a random ViT of two layers, so that everything but the model weighs more than
with any other. The peak of the memory (without mapped files) is that of a tenth of the images and of all of them, and of each tenth
of the time. That of 50,000 images goes on as from the fifth tenth to the last one.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image
from pyarrow import parquet as pq
from transformers import ViTConfig, ViTForImageClassification

from robust_vit_hf import make_image_processor
from robust_vit_hf.utils.environment import environment
from robust_vit_hf.utils.files import write_json


RESULTS = Path(__file__).with_suffix(".json")
CLASSES, SIDE, ROWS_PER_FILE = 100, 224, 500


def write_inputs(folder: Path, count: int) -> None:
    """A parquet folder of all images, one of a tenth, and a model."""
    features = datasets.Features(
        {"image": datasets.Image(), "mask": datasets.Image(), "label": datasets.ClassLabel(num_classes=CLASSES)}
    )
    for name, images in (("tenth", count // 10), ("all", count)):
        (folder / name).mkdir()
        for first in range(0, images, ROWS_PER_FILE):
            rows = [generated(index) for index in range(first, min(first + ROWS_PER_FILE, images))]
            table = datasets.Dataset.from_list(rows, features=features)
            table.to_parquet(folder / name / f"validation-{first:06}.parquet")
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=192,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=768,
        image_size=SIDE,
        num_labels=CLASSES,
    )
    ViTForImageClassification(config).save_pretrained(folder / "model")
    make_image_processor("paper", SIDE).save_pretrained(folder / "model")


def generated(index: int) -> dict:
    """A bright rectangle on smooth noise, which is compressed like a photograph."""
    rng = np.random.default_rng(index)
    noise = Image.fromarray(rng.integers(0, 160, (14, 14, 3), dtype=np.uint8)).resize(
        (SIDE, SIDE), Image.Resampling.BICUBIC
    )
    pixels, mask = np.array(noise), np.zeros((SIDE, SIDE), dtype=np.uint8)
    (top, left), (height, width) = rng.integers(10, 90, 2), rng.integers(60, 110, 2)
    pixels[top : top + height, left : left + width] = rng.integers(160, 256, 3)
    mask[top : top + height, left : left + width] = 255
    columns: dict = {"label": index % CLASSES}
    for name, image, kind in (("image", Image.fromarray(pixels), "JPEG"), ("mask", Image.fromarray(mask), "PNG")):
        buffer = io.BytesIO()
        image.save(buffer, kind, quality=90)
        columns[name] = {"bytes": buffer.getvalue(), "path": None}
    return columns


def decoding() -> float:
    """Milliseconds to decode an image and its mask."""
    rows = [generated(index) for index in range(500)]
    started = time.perf_counter()
    for row in rows:
        for name in ("image", "mask"):
            Image.open(io.BytesIO(row[name]["bytes"])).load()
    return round(1000 * (time.perf_counter() - started) / len(rows), 2)


def anonymous_memory(process: subprocess.Popen) -> int:
    """Bytes that a process has allocated, without mapped files."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except FileNotFoundError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))


def run(*arguments, processes: int = 1) -> tuple[float, list[float]]:
    """Seconds of a command, and its peak of memory in each tenth of them, in GiB; of the launcher, if there are several processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"] if processes == 2 else []
    command = [sys.executable, *launcher, "-m", "robust_vit_hf.cli", *map(str, arguments)]
    started, sampled = time.perf_counter(), []
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        while process.poll() is None:
            sampled.append(anonymous_memory(process))
            time.sleep(0.05)
        if process.returncode:
            log.seek(0)
            raise RuntimeError(log.read()[-3000:])
    tenths = np.array_split(np.array(sampled), 10)
    return time.perf_counter() - started, [round(tenth.max() / 2**30, 3) for tenth in tenths]


def columns_of(folder: Path) -> dict[str, dict]:
    """Columns of all results in a folder."""
    return {
        str(path.relative_to(folder)): pq.read_table(path).to_pydict() for path in sorted(folder.rglob("*.parquet"))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=5000)
    count = parser.parse_args().images
    results: dict = {"images": count, "decoding an image and its mask, milliseconds": decoding()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
        write_inputs(folder, count)
        model = ["--model", folder / "model"]
        commands = {
            "evaluate": ["evaluate", *model, "--dataset"],
            "diagnose": ["diagnose", *model, "--num_images", count, "--dataset"],
            "masks tokencut": ["masks", "tokencut", "--coarse", *model, "--split", "validation", "--images"],
        }
        for command, arguments in commands.items():
            measured = {}
            for part in ("tenth", "all"):
                output = folder / f"{command} {part}"
                seconds, tenths = run(*arguments, folder / part, "--output_dir", output)
                measured |= {f"{part}, seconds": round(seconds, 1), f"{part}, GiB": max(tenths)}
            measured["all, GiB by tenths"] = tenths
            growth = max(0.0, tenths[-1] - tenths[4]) / (count / 2)
            measured["50,000 images, GiB"] = round(max(tenths) + growth * (50_000 - count), 2)
            each = (measured["all, seconds"] - measured["tenth, seconds"]) / (count - count // 10)
            measured |= {
                "milliseconds an image": round(1000 * each, 1),
                "50,000 images, minutes": round(each * 50_000 / 60, 1),
            }
            output = folder / f"{command} in two"
            measured["two processes, seconds"] = round(
                run(*arguments, folder / "all", "--output_dir", output, processes=2)[0], 1
            )
            measured["two processes equal one"] = columns_of(output) == columns_of(folder / f"{command} all")
            results[command] = measured
            print(command, json.dumps(measured, indent=2), flush=True)
    write_json(RESULTS, results | environment())


if __name__ == "__main__":
    main()
