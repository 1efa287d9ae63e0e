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
from robust_vit_hf.app.explain_image import compare_maps
from robust_vit_hf.app.handlers import open_models
from robust_vit_hf.app.options import AppOptions
from robust_vit_hf.data.emoji_shift.artwork import background
from robust_vit_hf.data.emoji_shift.compose_images import compose
from robust_vit_hf.evaluation.session import Session, Side
from robust_vit_hf.utils.files import write_atomically


OUTPUT = Path(__file__).with_name("app.json")
ROUNDS = 5


def seconds(session: Session, image: Image.Image, mask: Image.Image | None = None) -> float:
    """Median over the rounds, after one that is not counted."""
    rounds = []
    for _ in range(ROUNDS + 1):
        started = time.process_time()
        compare_maps(session, image, None, "gae", mask)
        rounds.append(time.process_time() - started)
    return round(statistics.median(rounds[1:]), 2)


def main() -> None:
    row, photograph = compose("rotation", 0), background("chelsea")
    vit_b = ViTForImageClassification(ViTConfig(num_labels=1000)).eval().requires_grad_(False)
    bundled = open_models(AppOptions(model="emoji-shift", compare="emoji-shift", preset="paper"))
    sides = dict.fromkeys(("before", "after"), Side.of(vit_b, make_image_processor("paper", 224)))
    session = Session(sides, {}, bundled.accelerator)
    torch.set_num_threads(1)  # an accelerator takes all
    results = {
        "emoji-shift, with a mask": seconds(bundled, row["image"], row["mask"]),
        "ViT-B at 224 px": seconds(session, photograph),
        "ViT-B at 224 px, of a photograph of 12 megapixels": seconds(session, photograph.resize((4000, 3000))),
    }
    write_atomically(OUTPUT, json.dumps({"rounds": ROUNDS, "CPU seconds of an answer": results}, indent=2) + "\n")
    print(OUTPUT.read_text())


if __name__ == "__main__":
    main()
