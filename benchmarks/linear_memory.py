"""Time and memory of a step over image sizes: relevance with held attentions, in linear memory, and plain finetuning with sdpa.

    python benchmarks/linear_memory.py     # writes benchmarks/linear_memory.json

DeiT-S, fp32, loss and gradients without the optimizer. The three run in turn within one process, so that what else the machine
does hits all of them; ratios are medians over the rounds. Peak memory is that of a fresh process that takes two steps, above
weights and libraries. malloc returns what is freed at once there, so that its fragments, of which it holds 0.1 to 0.2 GiB
otherwise, do not count.
"""

import argparse
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import ViTConfig, ViTForImageClassification

from robust_vit_hf import ConfidenceLoss, RelevanceLoss, relevance_map
from robust_vit_hf.relevance import linear_memory
from robust_vit_hf.utils.environment import environment
from robust_vit_hf.utils.files import write_json
from robust_vit_hf.utils.processes import use_all_cores


RESULTS = Path(__file__).with_suffix(".json")
SIZES = {224: 8, 336: 4, 448: 4, 672: 2}  # images of a batch
MIN_TOKENS = {"held": 10**9, "linear": 0}  # at which each path is taken


def make_steps(size: int, batch_size: int) -> dict:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=384, num_attention_heads=6, intermediate_size=1536, num_labels=1000, image_size=size
    )
    model = ViTForImageClassification(config).train()
    images = torch.randn(batch_size, 3, size, size)
    masks = torch.randint(0, 2, (batch_size, 1, size, size)).float()
    labels = torch.randint(0, 1000, (batch_size,))
    relevance_loss, confidence_loss = RelevanceLoss(), ConfidenceLoss()

    def relevance_step(min_tokens: int) -> None:
        linear_memory.MIN_TOKENS = min_tokens
        output = relevance_map(model, images, labels)
        loss = 0.8 * relevance_loss(output.relevance, masks)["relevance_loss"]
        (loss + 0.2 * confidence_loss(output.logits)["confidence_loss"]).backward()

    steps = {name: lambda min_tokens=number: relevance_step(min_tokens) for name, number in MIN_TOKENS.items()}
    steps["plain"] = lambda: F.cross_entropy(model(images).logits, labels).backward()
    return {name: lambda step=step: (model.zero_grad(), step()) for name, step in steps.items()}


def peak_memory(size: int, batch_size: int, name: str) -> float:
    """GiB above what the process holds before its first step."""
    use_all_cores()
    step = make_steps(size, batch_size)[name]
    held = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    for _ in range(2):
        step()
    return _resident("VmHWM") - held


def _resident(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", choices=SIZES, default=list(SIZES))
    arguments = parser.parse_args()
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # bytes; read by the processes that measure memory
    use_all_cores()
    rows = []
    for size in arguments.sizes:
        steps, times = make_steps(size, SIZES[size]), {}
        for number in range(arguments.rounds + 1):  # the first warms up
            for name, step in steps.items():
                started = time.perf_counter()
                step()
                if number:
                    times.setdefault(name, []).append(time.perf_counter() - started)
        row = {"pixels": size, "tokens": (size // 16) ** 2 + 1, "batch": SIZES[size]}
        row |= {f"{name}, seconds": round(statistics.median(values), 3) for name, values in times.items()}
        for name in MIN_TOKENS:
            ratios = [one / plain for one, plain in zip(times[name], times["plain"], strict=True)]
            row[f"{name} / plain"] = [
                round(value, 2) for value in (min(ratios), statistics.median(ratios), max(ratios))
            ]
        with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
            for name in steps:
                row[f"{name}, GiB"] = round(pool.submit(peak_memory, size, SIZES[size], name).result(), 2)
        rows.append(row)
        print(row, flush=True)
    write_json(RESULTS, {"rows": rows, "chunk": linear_memory.CPU_CHUNK, **environment()})


if __name__ == "__main__":
    main()
