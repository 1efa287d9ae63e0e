"""Time and memory of `evaluate`, `diagnose`, `masks tokencut` and `improve` over many images, and two processes
against one.

    python -m experiments scale                              # writes experiments/benchmarks/scale.json
    python -m experiments scale --commands improve           # one of them, and keeps what is there of the others

Images are generated: 224 px JPEG with a mask, 100 classes. The model is a random ViT of two layers, so that everything
but the model weighs more than with any other. The peak of the memory (without mapped files) is that of a tenth of the
images and of all of them, and of each tenth of the time. That of 50,000 images goes on as from the fifth tenth to the
last one; that of `improve`, which keeps features of all its training images and then fits layers to them, as from a
tenth of the images to all. `improve` has 400 validation images, and works in one process.
"""

import io
import json
import os
import resource
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
from robust_vit_hf.utils.files import read_json, write_json

from ..scripts import script_parser


RESULTS = Path(__file__).with_suffix(".json")
CLASSES, SIDE, ROWS_PER_FILE, VALIDATION = 100, 224, 500, 400
COMMANDS = ("evaluate", "diagnose", "masks tokencut", "improve")


def write_inputs(folder: Path, count: int) -> None:
    """Parquet folders of all images and of a tenth, the same ones to train on, and a model."""
    for name, images in (("tenth", count // 10), ("all", count)):
        write_split(folder / name, "validation", range(images))
        write_split(folder / f"trained {name}", "train", range(images))
        write_split(folder / f"trained {name}", "validation", range(count, count + VALIDATION))
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


def write_split(folder: Path, split: str, numbers: range) -> None:
    features = datasets.Features(
        {"image": datasets.Image(), "mask": datasets.Image(), "label": datasets.ClassLabel(num_classes=CLASSES)}
    )
    folder.mkdir(exist_ok=True)
    for first in range(0, len(numbers), ROWS_PER_FILE):
        rows = [generated(index) for index in numbers[first : first + ROWS_PER_FILE]]
        datasets.Dataset.from_list(rows, features=features).to_parquet(folder / f"{split}-{first:06}.parquet")


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


def run(*arguments, processes: int = 1) -> tuple[float, float, list[float]]:
    """Seconds of a command, those of a CPU, and its peak of memory in each tenth of them, in GiB; of the launcher, if
    there are several processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"] if processes == 2 else []
    command = [sys.executable, *launcher, "-m", "robust_vit_hf.cli", *map(str, arguments)]
    started, used, sampled = time.perf_counter(), cpu_seconds(), []
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        while process.poll() is None:
            sampled.append(anonymous_memory(process))
            time.sleep(0.05)
        if process.returncode:
            log.seek(0)
            raise RuntimeError(log.read()[-3000:])
    tenths = np.array_split(np.array(sampled), 10)
    seconds = time.perf_counter() - started
    return seconds, cpu_seconds() - used, [round(tenth.max() / 2**30, 3) for tenth in tenths]


def cpu_seconds() -> float:
    """Of all processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def columns_of(folder: Path) -> dict[str, dict]:
    """Columns of all results in a folder."""
    return {
        str(path.relative_to(folder)): pq.read_table(path).to_pydict() for path in sorted(folder.rglob("*.parquet"))
    }


def in_one_process(name: str, command: list, folder: Path, count: int) -> dict:
    """Time and memory of a command, whose dataset comes last."""
    measured: dict = {}
    for part in ("tenth", "all"):
        images = folder / (f"trained {part}" if name == "improve" else part)
        seconds, of_cpu, tenths = run(*command, images, "--output_dir", folder / f"{name} {part}")
        measured |= {f"{part}, seconds": round(seconds, 1), f"{part}, CPU seconds": round(of_cpu, 1)}
        measured[f"{part}, GiB"] = max(tenths)
    measured["all, GiB by tenths"] = tenths
    more = count - count // 10
    growth = max(0.0, tenths[-1] - tenths[4]) / (count / 2)
    if name == "improve":
        growth = (measured["all, GiB"] - measured["tenth, GiB"]) / more
    each, of_cpu = ((measured[f"all, {of}"] - measured[f"tenth, {of}"]) / more for of in ("seconds", "CPU seconds"))
    return measured | {
        "50,000 images, GiB": round(max(tenths) + growth * (50_000 - count), 2),
        "milliseconds an image": round(1000 * each, 1),
        "CPU milliseconds an image": round(1000 * of_cpu, 1),
        "50,000 images, minutes": round(each * 50_000 / 60, 1),
    }


def in_two_processes(name: str, command: list, folder: Path) -> dict:
    output = folder / f"{name} in two"
    seconds, _, _ = run(*command, folder / "all", "--output_dir", output, processes=2)
    same = columns_of(output) == columns_of(folder / f"{name} all")
    return {"two processes, seconds": round(seconds, 1), "two processes equal one": same}


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=COMMANDS)
    parser.add_argument("--one_process", action="store_true", help="leave out what two processes take")
    arguments = parser.parse_args()
    count, results = arguments.images, read_json(RESULTS) or {}
    if results.get("images") != count:
        results = {"images": count, "decoding an image and its mask, milliseconds": decoding()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
        write_inputs(folder, count)
        model = ["--model", folder / "model"]
        commands = {
            "evaluate": ["evaluate", *model, "--dataset"],
            "diagnose": ["diagnose", *model, "--num_images", count, "--dataset"],
            "masks tokencut": ["masks", "tokencut", "--coarse", *model, "--split", "validation", "--images"],
            "improve": ["improve", *model, "--max_steps", count, "--dataset"],  # sees 8 images a step at most
        }
        for command in arguments.commands:
            measured = in_one_process(command, commands[command], folder, count)
            if command != "improve" and not arguments.one_process:
                measured |= in_two_processes(command, commands[command], folder)
            results[command] = measured | environment()
            print(command, json.dumps(results[command], indent=2), flush=True)
            write_json(RESULTS, results)
