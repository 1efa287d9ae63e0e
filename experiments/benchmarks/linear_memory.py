"""Time and memory of a step over image sizes: relevance with held attentions, in linear memory, and plain finetuning
with sdpa.

    python -m experiments linear_memory  # writes linear_memory.json next to it, and docs/linear_memory.png

DeiT-S, fp32, loss and gradients without the optimizer, measured as in `step.py`.
"""

import copy
import json
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from robust_vit_hf import ConfidenceLoss, RelevanceLoss, relevance_map
from robust_vit_hf.relevance import linear_memory
from robust_vit_hf.utils.environment import environment
from robust_vit_hf.utils.files import write_json

from ..scripts import script_parser
from ..sweeps.gain_and_price import COLOURS
from .step import DEVICE, MODELS, measure, peak_memory_elsewhere, spread


RESULTS = Path(__file__).with_suffix(".json")
PLOT = Path(__file__).parents[2] / "docs" / "linear_memory.png"
SIZES = {224: 8, 336: 4, 448: 4, 672: 2}  # images of a batch
TAKEN_FROM = linear_memory.MIN_TOKENS
MIN_TOKENS = {"held": 10**9, "linear": 0}  # at which each path is taken


def relevance_step(model, images, masks, labels, relevance_loss, confidence_loss, min_tokens: int) -> None:
    linear_memory.MIN_TOKENS = min_tokens
    output = relevance_map(model, images, labels)
    loss = 0.8 * relevance_loss(output.relevance, masks)["relevance_loss"]
    (loss + 0.2 * confidence_loss(output.logits)["confidence_loss"]).backward()


def make_steps(size: int) -> dict[str, tuple]:
    """Model and step by name."""
    torch.manual_seed(0)
    model_class, config, _ = MODELS["DeiT-S"]
    config = copy.deepcopy(config)
    config.num_labels, config.image_size = 1000, size
    model = model_class(config).to(DEVICE).train()
    images = torch.randn(SIZES[size], 3, size, size, device=DEVICE)
    masks = torch.randint(0, 2, (len(images), 1, size, size), device=DEVICE).float()
    labels = torch.randint(0, 1000, (len(images),), device=DEVICE)
    step = partial(relevance_step, model, images, masks, labels, RelevanceLoss(), ConfidenceLoss())
    steps = {name: (model, partial(step, number)) for name, number in MIN_TOKENS.items()}
    return steps | {"plain": (model, lambda: F.cross_entropy(model(images).logits, labels).backward())}


def make_step(size: int, name: str) -> tuple:
    return make_steps(size)[name]


def plot(rows: list[dict]) -> None:
    """Time and memory as multiples of plain finetuning, over tokens, with what the package aims at."""
    tokens = [row["tokens"] for row in rows]
    figure, (times, memory) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for name, label, colour in (("held", "attentions held", COLOURS[0]), ("linear", "linear memory", COLOURS[1])):
        low, median, high = zip(*(row[f"{name} / plain"] for row in rows), strict=True)
        times.plot(tokens, median, marker="o", label=label, color=colour)
        times.fill_between(tokens, low, high, alpha=0.2, color=colour)
        ratios = [row["GiB"][name] / row["GiB"]["plain"] for row in rows]
        memory.plot(tokens, ratios, marker="o", label=label, color=colour)
    times.axhline(4 / 3, color="grey", linestyle=":", label="one more backward pass to the activations")
    times.set_ylabel("time, as a ratio to a plain step")
    memory.axhline(1.1, color="grey", linestyle=":", label="aim")
    memory.set_ylabel("peak memory, as a ratio to a plain step")
    for axis in (times, memory):
        axis.axvline(TAKEN_FROM, color="grey", linewidth=0.5)
        axis.set_xlabel("tokens")
        axis.set_xticks(tokens)
        axis.set_ylim(bottom=0)
        axis.legend()
    figure.savefig(PLOT, dpi=150)


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--plot", action="store_true", help="draw the figure again from the results that there are")
    arguments = parser.parse_args()
    if not arguments.plot:
        rows = []
        for size in SIZES:
            times = measure(make_steps(size), arguments.rounds)
            row = {"pixels": size, "tokens": (size // 16) ** 2 + 1, "batch": SIZES[size]}
            row |= {f"{name} / plain": spread(times[name], times["plain"]) for name in MIN_TOKENS}
            row["seconds"] = {name: spread(values) for name, values in times.items()}
            row["GiB"] = {name: peak_memory_elsewhere(make_step, size, name) for name in times}
            rows.append(row)
            print(row, flush=True)
        write_json(
            RESULTS,
            {
                "command": f"python -m experiments linear_memory --rounds {arguments.rounds}",
                "rows": rows,
                **environment(),
            },
        )
    plot(json.loads(RESULTS.read_text())["rows"])
