"""Runs of `improve` and `sweep` with faults at random moments, which must end bit-identical to runs without faults.

    python -m experiments soak [--faults 60]  # as root on Linux, since a disk is made that can be full

Each command is started over and over in one folder, and SIGTERM, SIGKILL or a full disk ends it at a random moment.
When it gets to its end, weights, predictions and verdict are compared with those of an unbroken run, and the next
begins in an empty folder.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from tqdm import tqdm
from transformers import ViTConfig, ViTForImageClassification

from robust_vit_hf import make_image_processor
from robust_vit_hf.improvement.verdict import VERDICT_FILE
from robust_vit_hf.utils.environment import environment
from robust_vit_hf.utils.files import read_json, write_json

from ..scripts import script_parser


RESULTS = Path(__file__).with_suffix(".json")
CLASSES, SIDE = ("bar", "circle", "cross", "dot"), 32
COMPARED = (
    "*.safetensors",
    "*.parquet",
    "point.json",
    "verdict.json",
    "candidates.md",
    "interpolation.json",
    "*config.json",
)
FAULTS = ("SIGTERM", "SIGKILL", "full disk")
ROOM, MARGIN = 2**31, 2**18  # bytes of the disk, and of what is left when it becomes full


def write_inputs(folder: Path) -> None:
    """Class folders of pictures with masks next to them, a model, and a grid."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("validation", 6)):
        for label, name in enumerate(CLASSES):
            place = folder / "images" / split / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 50, (48, 48, 3)) + 60 * (np.arange(3) == label)
                top, left = 6 + 18 * (label // 2), 6 + 18 * (label % 2)
                pixels[top : top + 16, left : left + 16] = 230
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{number}.png")
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=48, image_size=SIDE, patch_size=8,
        initializer_range=0.3, id2label=dict(enumerate(CLASSES)),
        label2id={name: label for label, name in enumerate(CLASSES)},
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder / "model")
    make_image_processor("paper", SIDE).save_pretrained(folder / "model")
    options = {"model": str(folder / "model"), "dataset": str(folder / "masked"), "num_train_epochs": 3}
    options |= {"report_to": "none", "use_cpu": True, "save_strategy": "epoch", "load_best_model_at_end": False}
    grid = {
        "options": options,
        "variants": {"mse": {}, "bce": {"relevance_distance": "bce"}},
        "seeds": {0: {"seed": 0}},
    }
    (folder / "grid.yaml").write_text(yaml.safe_dump(grid))


def start(arguments: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(arguments: list[str]) -> float:
    """Seconds of an unbroken run."""
    started, process = time.perf_counter(), start(arguments)
    _, log = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{log[-3000:]}")
    return time.perf_counter() - started


def contents(folder: Path) -> dict[str, bytes]:
    """Files that must be equal, without the seconds that a training took."""
    files = [path for pattern in COMPARED for path in folder.rglob(pattern)]
    seconds = re.compile(rb'"seconds": [0-9.]+')
    return {str(path.relative_to(folder)): seconds.sub(b"", path.read_bytes()) for path in files}


def resize(disk: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


def strike(fault: str, process: subprocess.Popen, disk: Path) -> str | None:
    """Let a fault end a process. Returns what was wrong with the end, if anything."""
    if fault == "full disk":
        resize(disk, shutil.disk_usage(disk).used + MARGIN)
        _, log = process.communicate()
        resize(disk, ROOM)
        ended = process.returncode in (0, 1) and "Traceback" not in log
        return None if ended else f"{process.returncode}: {log[-2000:]}"
    (process.send_signal if fault == "SIGTERM" else process.kill)(*[signal.SIGTERM] * (fault == "SIGTERM"))
    _, log = process.communicate()
    os.system(f"pkill -KILL -s {process.pid}")  # jobs that it had started
    ended = fault == "SIGKILL" or process.returncode in (
        0,
        130,
        143,
        -signal.SIGTERM,
    )  # 143 in a training, 130 elsewhere
    return None if ended else f"{process.returncode}: {log[-2000:]}"


def soak(arguments: list[str], disk: Path, faults: int, rng: random.Random) -> dict:
    """Faults of a command, and whether it ended as an unbroken run each time."""
    whole, broken = disk / "whole", disk / "broken"
    seconds = run([*arguments, "--output_dir", str(whole)])
    expected, struck, wrong, ends, equal = contents(whole), Counter(), [], 0, 0
    verdict = read_json(whole / VERDICT_FILE)
    with tqdm(total=faults, desc=arguments[1], unit="fault") as progress:
        while sum(struck.values()) < faults or broken.exists():
            process = start([*arguments, "--output_dir", str(broken)])
            time.sleep(rng.uniform(0, seconds) if sum(struck.values()) < faults else 0)
            if process.poll() is None and sum(struck.values()) < faults:
                fault = FAULTS[sum(struck.values()) % len(FAULTS)]
                struck[fault] += 1
                progress.update()
                if problem := strike(fault, process, disk):
                    wrong.append(f"{fault}: {problem}")
                continue
            _, log = process.communicate()
            if process.returncode:
                wrong.append(f"did not go on, {process.returncode}: {log[-2000:]}")
            ends += 1
            equal += contents(broken) == expected
            shutil.rmtree(broken)
    shutil.rmtree(whole)
    return {
        "unbroken run, seconds": round(seconds, 1),
        **({"its outcome": verdict["outcome"]} if verdict else {}),
        "faults": dict(struck),
        "ends": ends,
        "equal to the unbroken run": equal,
        "ends of another kind": wrong,
    }


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--faults", type=int, default=60, help="faults of each command, of the three kinds in turn")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        inputs, disk = Path(folder) / "inputs", Path(folder) / "disk"
        os.environ["HF_DATASETS_CACHE"] = str(Path(folder) / "cache")
        disk.mkdir()
        write_inputs(inputs)
        masks = "masks tokencut --split train validation --model emoji-shift --images".split()
        run(["robust_vit_hf.cli", *masks, str(inputs / "images"), "--output_dir", str(inputs / "masked")])
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(disk)], check=True)
        try:
            options = "--effort full --max_steps 30 --learning_rate 3e-3 --train_batch_size 4".split()
            data = ["--model", str(inputs / "model"), "--dataset", str(inputs / "images")]
            improve = ["robust_vit_hf.cli", "improve", *data, *options]
            sweep = ["experiments", "sweep", str(inputs / "grid.yaml"), "--cluster", "debug"]
            results = {
                name: soak(command, disk, arguments.faults, rng)
                for name, command in (("improve", improve), ("sweep", sweep))
            }
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    results |= environment()
    write_json(RESULTS, results)
    print(json.dumps(results, indent=2))
