"""CPU time of an answer of the page of `robust-vit app`, both models together, on one thread.

    python benchmarks/app.py         # writes benchmarks/app.json

Elapsed time is not measured: it is that of the other work on the machine as well. ViT-B has random weights.
"""

import json
import statistics
import time
from pathlib import Path

import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification

from robust_vit_hf import make_image_processor
from robust_vit_hf.app.explain import explain
from robust_vit_hf.app.pair import Pair, load_pair
from robust_vit_hf.emoji_shift.artwork import background
from robust_vit_hf.emoji_shift.images import compose
from robust_vit_hf.utils.files import write_atomically


OUTPUT = Path(__file__).with_name("app.json")
ROUNDS = 5


def seconds(pair: Pair, image: Image.Image, mask: Image.Image | None = None) -> float:
    """Median over the rounds, after one that is not counted."""
    rounds = []
    for _ in range(ROUNDS + 1):
        started = time.process_time()
        explain(pair, image, None, "gae", mask)
        rounds.append(time.process_time() - started)
    return round(statistics.median(rounds[1:]), 2)


def main() -> None:
    torch.set_num_threads(1)
    row, photograph = compose("rotation", 0), background("chelsea")
    vit_b = ViTForImageClassification(ViTConfig(num_labels=1000)).eval().requires_grad_(False)
    processor = make_image_processor("paper", 224)
    sides = ("before", "after")
    pair = Pair(dict.fromkeys(sides, vit_b), dict.fromkeys(sides, processor), list(map(str, range(1000))))
    bundled = load_pair("emoji-shift", "emoji-shift", "paper")
    results = {
        "emoji-shift, with a mask": seconds(bundled, row["image"], row["mask"]),
        "ViT-B at 224 px": seconds(pair, photograph),
        "ViT-B at 224 px, of a photograph of 12 megapixels": seconds(pair, photograph.resize((4000, 3000))),
    }
    write_atomically(OUTPUT, json.dumps({"rounds": ROUNDS, "CPU seconds of an answer": results}, indent=2) + "\n")
    print(OUTPUT.read_text())


if __name__ == "__main__":
    main()
