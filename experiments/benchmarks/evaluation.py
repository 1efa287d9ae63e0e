"""Throughput of the evaluation against a bare loop of the same model over the same batches, with the data in memory.

    python -m experiments evaluation      # writes experiments/benchmarks/evaluation.json

The bare loop calls the model (or `relevance_map`) and keeps nothing. The evaluation gathers, ranks the classes and feeds the
metrics. Both run in turn, so that what else the machine does hits both; the ratios are medians over the rounds.
"""

import json
import os
import statistics
import time
from pathlib import Path

import datasets
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset
from tqdm.auto import tqdm
from transformers import ViTConfig, ViTForImageClassification

from robust_vit_hf import make_image_processor, relevance_map
from robust_vit_hf.evaluation.accuracy import Accuracy
from robust_vit_hf.evaluation.session import Session, Side
from robust_vit_hf.evaluation.sets import EvaluationSet
from robust_vit_hf.utils.files import write_atomically

from ..scripts import script_parser


OUTPUT = Path(__file__).with_suffix(".json")
# DeiT-S: the smaller the model, the more the rest of the loop weighs.
SIZES = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
BATCH_SIZE = 32


def collate(rows: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    pixel_values, masks = zip(*rows, strict=True)
    return {"pixel_values": torch.stack(pixel_values), "mask": torch.stack(masks)}


def measure(relevance: bool, num_batches: int, num_rounds: int) -> dict[str, float]:
    """Images a second of both, and the ratio."""
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    model = ViTForImageClassification(ViTConfig(**SIZES, num_labels=1000)).to(accelerator.device).eval()
    count = BATCH_SIZE * num_batches
    pixel_values = torch.randn(count, 3, 224, 224)
    masks = torch.nn.functional.interpolate((torch.rand(count, 1, 7, 7) > 0.6).float(), 224)
    files = datasets.Dataset.from_dict({"image": [None] * count, "mask": [None] * count})  # which are not read
    rows = EvaluationSet(files, [[index % 1000] for index in range(count)])
    side = Side.of(model, make_image_processor("paper"))
    session = Session({"before": side}, {"memory": rows}, accelerator)

    class InMemory(Accuracy):
        def loader(self, images: object) -> DataLoader:
            return DataLoader(TensorDataset(pixel_values, masks), BATCH_SIZE, collate_fn=collate)

    evaluation = InMemory(relevance=relevance)

    def bare() -> None:
        for batch in pixel_values.split(BATCH_SIZE):
            with torch.no_grad():
                output = (
                    relevance_map(model, batch.to(accelerator.device))
                    if relevance
                    else model(batch.to(accelerator.device))
                )
        output.logits.sum().item()  # what is queued on a GPU is done

    def ours() -> None:
        evaluation.measure(side, rows, session, "evaluation", None)

    seconds = {"bare": [], "evaluation": []}
    for timed in range(-1, num_rounds):
        for name, function in (("bare", bare), ("evaluation", ours)):
            started = time.perf_counter()
            function()
            if timed >= 0:
                seconds[name].append(time.perf_counter() - started)
    ratios = [bare / ours for bare, ours in zip(seconds["bare"], seconds["evaluation"], strict=True)]
    return {
        "bare, images/s": round(count / statistics.median(seconds["bare"]), 1),
        "evaluation, images/s": round(count / statistics.median(seconds["evaluation"]), 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--batches", type=int, default=4, help=f"batches of {BATCH_SIZE} images of a pass")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    results = {
        "command": "python -m experiments evaluation",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores",
        "versions": {"torch": torch.__version__},
        "model": "DeiT-S, 224 px",
        "images": arguments.batches * BATCH_SIZE,
        "batch size": BATCH_SIZE,
        "cases": {},
    }
    for relevance in tqdm((False, True), desc="cases"):
        case = "predictions and relevance" if relevance else "predictions"
        results["cases"][case] = measure(relevance, arguments.batches, arguments.rounds)
        tqdm.write(f"{case}: {results['cases'][case]}")
        write_atomically(OUTPUT, json.dumps(results, indent=2) + "\n")
