"""What page faults cost a forward pass on a CPU, and what keeping freed memory saves (`utils/processes.py`).

    python -m experiments freed_memory     # writes experiments/benchmarks/freed_memory.json

Milliseconds of CPU time an image, of the process itself and of the system for it, medians over rounds in which both settings take turns.
"""

import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForImageClassification, Dinov2Config, TimmWrapperConfig

from robust_vit_hf.utils.environment import environment
from robust_vit_hf.utils.files import write_json
from robust_vit_hf.utils.processes import keep_freed_memory

from ..scripts import script_parser


RESULTS = Path(__file__).with_suffix(".json")
ROUNDS, IMAGES, SIZE = 5, 64, 224
CONFIGS: dict[str, Callable] = {
    "EfficientNet-Lite0": lambda: TimmWrapperConfig(architecture="tf_efficientnet_lite0"),
    "DINOv2-S": lambda: Dinov2Config(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, patch_size=14),
}


def measure(name: str, keeps: bool) -> None:
    """Print user and system time of a forward pass, in ms an image."""
    if keeps:
        keep_freed_memory()
    model = AutoModelForImageClassification.from_config(CONFIGS[name]()).eval()
    images, used = torch.randn(IMAGES, 3, SIZE, SIZE), []
    with torch.no_grad():
        for _ in range(3):  # the last is measured
            used.append(resource.getrusage(resource.RUSAGE_SELF))
            model(images)
    before, after = used[-1], resource.getrusage(resource.RUSAGE_SELF)
    seconds = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    print(json.dumps([1000 * of / IMAGES for of in seconds]))


def main() -> None:
    script_parser(__doc__).parse_args()
    found: dict[str, list[list[float]]] = {}
    for _ in range(ROUNDS):
        for name in CONFIGS:
            for keeps in (False, True):
                # This process keeps freed memory, as every command.
                call = [sys.executable, "-c", f"from {__name__} import measure; measure({name!r}, {keeps})"]
                output = subprocess.run(call, check=True, capture_output=True, text=True).stdout
                found.setdefault(f"{name}, {'kept' if keeps else 'returned'}", []).append(json.loads(output))
    results = {
        name: dict(zip(("user", "system"), map(statistics.median, zip(*rounds, strict=True)), strict=True))
        for name, rounds in found.items()
    }
    print(json.dumps(results, indent=1))
    write_json(RESULTS, {"milliseconds": results, "images": IMAGES, "pixels": SIZE, **environment()})
