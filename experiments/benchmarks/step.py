"""Time and peak memory of one finetuning step: loss and gradients at 224 px, without the optimizer.

    python -m experiments step            # writes experiments/benchmarks/step.json
    python -m experiments step --models DeiT-S            # and leaves the rows of other models there

(a) each method of `RobustViTTrainer`, `robustvit` being ours.
(b) released: the cost structure of the released code, written plainly: one forward pass for the relevance map with one
    partial backward pass a layer and the full relevance matrix, a second forward pass for the logits, a forward pass of
    the original model for its accuracy, and the backward pass of both graphs.
(c) cross-entropy: a plain finetuning step with sdpa attention.

They run in turn within one process, so that what else the machine does hits all of them. Ratios are those within a
round; of seconds and ratios, the least, the median and the largest are written. Peak memory is that of two steps in a
fresh process, with the weights and without libraries. On a CPU, malloc returns there at once what is freed, so that
its fragments, 0.1 to 0.2 GiB otherwise, do not count.
"""

import copy
import json
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import (
    CLIPVisionConfig,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
)

from robust_vit_hf import (
    CLIPZeroShotForImageClassification,
    ConfidenceLoss,
    RelevanceLoss,
    RobustViTTrainer,
)
from robust_vit_hf.relevance.relevance_map import average_heads, min_max, upsample
from robust_vit_hf.training.methods import METHODS, load_method
from robust_vit_hf.utils.environment import environment
from robust_vit_hf.utils.files import write_atomically

from ..scripts import script_parser


OUTPUT = Path(__file__).with_suffix(".json")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
# Classes and configurations of the models, and images of a batch.
MODELS = {
    "DeiT-S": (
        ViTForImageClassification,
        ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536),
        8,
    ),
    "ViT-B": (ViTForImageClassification, ViTConfig(), 8),
    "ViT-L": (
        ViTForImageClassification,
        ViTConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096),
        4,
    ),
    "CLIP-B/16": (
        CLIPZeroShotForImageClassification,
        CLIPVisionConfig(**BASE, patch_size=16, image_size=224, projection_dim=512),
        8,
    ),
    "DINOv2-B/14 with registers": (
        Dinov2WithRegistersForImageClassification,
        Dinov2WithRegistersConfig(hidden_size=768, num_attention_heads=12, image_size=224),
        8,
    ),
}


def make_inputs(name: str) -> tuple[PreTrainedModel, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    model_class, config, batch_size = MODELS[name]
    config.num_labels = 1000
    model = model_class(config).to(DEVICE).train()
    inputs = {
        "pixel_values": torch.randn(batch_size, 3, 224, 224, device=DEVICE),
        "mask": torch.randint(0, 2, (batch_size, 1, 224, 224), device=DEVICE).float(),
        "labels": torch.randint(0, 1000, (batch_size,), device=DEVICE),
    }
    return model, inputs


def make_method(method, model, inputs):
    config = load_method(method).config(
        "runs/step-benchmark",
        report_to="none",
        save_strategy="no",
        eval_strategy="no",
        load_best_model_at_end=False,
    )
    trainer = RobustViTTrainer(model, config)
    return lambda: trainer.compute_loss(model, inputs).backward()


def make_released(model, inputs):
    model.set_attn_implementation("eager")
    original = copy.deepcopy(model).eval()
    relevance_loss, confidence_loss = RelevanceLoss(), ConfidenceLoss()
    pixel_values, labels = inputs["pixel_values"], inputs["labels"]

    def step():
        output = model(pixel_values, output_attentions=True)
        score = output.logits.gather(1, labels.unsqueeze(1)).sum()
        num_tokens = output.attentions[0].shape[-1]
        relevance = torch.eye(num_tokens, device=DEVICE).expand(len(labels), -1, -1)
        for attention in output.attentions:
            (gradient,) = torch.autograd.grad(score, attention, retain_graph=True)
            relevance = relevance + average_heads(attention, gradient) @ relevance
        side = int(num_tokens**0.5)  # of the patch grid; prefix tokens come first
        maps = min_max(upsample(relevance[:, 0, -side * side :].reshape(-1, 1, side, side), (224, 224)))
        loss = 0.8 * relevance_loss(maps, inputs["mask"])["relevance_loss"]
        loss = loss + 0.2 * confidence_loss(model(pixel_values).logits)["confidence_loss"]
        with torch.no_grad():
            original(pixel_values)
        loss.backward()

    return step


def make_cross_entropy(model, inputs):
    return lambda: F.cross_entropy(model(inputs["pixel_values"]).logits, inputs["labels"]).backward()


STEPS = {method: partial(make_method, method) for method in METHODS}
STEPS |= {"released": make_released, "cross-entropy": make_cross_entropy}


def synchronize() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def resident(field: str) -> float:
    """GiB of this process: `VmRSS` now, or `VmHWM` at most since the last reset."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 2**20


def peak_memory(make_step, *arguments) -> float:
    """Peak memory in GiB of two steps in this fresh process, the weights included and the libraries left out."""
    if DEVICE == "cpu":
        libraries = resident("VmRSS")
    model, step = make_step(*arguments)
    if DEVICE == "cpu":
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak, which initialising the weights may have set
    for _ in range(2):
        model.zero_grad()
        step()
    return torch.cuda.max_memory_allocated() / 2**30 if DEVICE == "cuda" else resident("VmHWM") - libraries


def peak_memory_elsewhere(make_step, *arguments, threshold: int | None = 65536) -> float:
    """[`peak_memory`] of a fresh process, with the size in bytes from which malloc returns at once what is freed;
    `None` for malloc's own."""
    os.environ.pop("MALLOC_MMAP_THRESHOLD_", None)
    if threshold is not None:
        os.environ["MALLOC_MMAP_THRESHOLD_"] = str(threshold)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh_process:
        return round(fresh_process.submit(peak_memory, make_step, *arguments).result(), 2)


def make_step(name: str, kind: str):
    model, inputs = make_inputs(name)
    return model, STEPS[kind](model, inputs)


def measure(steps: dict, rounds: int) -> dict[str, list[float]]:
    """Seconds of each of `{name: (model, step)}` in each round, after one round of warming up."""
    times = {name: [] for name in steps}
    for _ in range(rounds + 1):
        for name, (model, step) in steps.items():
            synchronize()
            start = time.perf_counter()
            step()
            synchronize()
            times[name].append(time.perf_counter() - start)
            model.zero_grad()
    return {name: values[1:] for name, values in times.items()}


def spread(values: list[float], divisors: list[float] | None = None) -> list[float]:
    """Least, median and largest value, or quotient within a round."""
    values = values if divisors is None else [one / other for one, other in zip(values, divisors, strict=True)]
    return [round(value, 3) for value in (min(values), statistics.median(values), max(values))]


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    results = json.loads(OUTPUT.read_text()) if OUTPUT.is_file() else {}
    for name in arguments.models:
        memory = {kind: peak_memory_elsewhere(make_step, name, kind) for kind in STEPS}
        shared = make_inputs(name)
        steps = {}
        for kind, make in STEPS.items():
            model, inputs = make_inputs(name) if kind == "released" else shared  # which has another attention
            steps[kind] = model, make(model, inputs)
        times = measure(steps, arguments.rounds)
        row = {
            "command": f"python -m experiments step --models {name} --rounds {arguments.rounds}",
            **environment(),
            "batch_size": MODELS[name][2],
            "released / ours": spread(times["released"], times["robustvit"]),
            "method / plain": {method: spread(times[method], times["cross-entropy"]) for method in METHODS},
            "seconds": {kind: spread(values) for kind, values in times.items()},
            "peak_memory_gib": memory,
        }
        results[name] = row
        print(f"{name}: {json.dumps(row, indent=2)}", flush=True)
        write_atomically(OUTPUT, json.dumps(results, indent=2) + "\n")
