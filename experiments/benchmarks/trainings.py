"""Whether more steps or larger batches pay in `improve --effort full`. Here, the training begins with the original
model.

    python -m experiments trainings --root runs/trainings    # start it again to resume it

A DINOv2-S and an EfficientNet-Lite0 that classify drawings by the background are improved with 640 training images.
What counts is the expected top-1 on the 192 validation images at a quarter of other backgrounds, the criterion of
`improve`.

Writes trainings.json next to this script: for each model, its worth, and for each training the worth by interpolation
weight.
"""

from pathlib import Path
from unittest.mock import patch

from robust_vit_hf.utils.environment import environment
from robust_vit_hf.utils.files import read_json, write_json

from ..scripts import script_parser
from .improve import cnn, emoji_photographs, vit
from .rates import trained_worths


RESULTS = Path(__file__).with_suffix(".json")
SEED = 45  # of no model or image of another benchmark
START = "robust_vit_hf.improvement.improve.START"  # name and weight of the layer that the training begins with
TRAININGS = {
    "240 steps of 8 images": {},
    "120 steps of 8 images": {"max_steps": 120},
    "480 steps of 8 images": {"max_steps": 480},
    "240 steps of 16 images": {"train_batch_size": 16},
}


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--root", type=Path, required=True)
    root = parser.parse_args().root
    photographs = root / "photographs"
    if not photographs.is_dir():
        emoji_photographs(root / "making", SEED, habitual_alone=False)
        (root / "making").rename(photographs)
    for name, make in {"DINOv2-S": vit, "EfficientNet-Lite0": cnn}.items():
        model = root / name
        if not (model / "config.json").is_file():
            make(model, SEED, photographs)
        for training, options in TRAININGS.items():
            results = read_json(RESULTS) or {"models": {}}
            found = results["models"].setdefault(name, {"trained": {}})
            if training in found["trained"]:
                continue
            folder = root / f"{name}, {training}"
            with patch(START, None):
                before, trained = trained_worths(model, photographs, folder, bf16=True, **options)
            found.setdefault("before", before)
            found["trained"][training] = trained
            write_json(RESULTS, results | environment())
            print(name, training, before, trained, flush=True)
