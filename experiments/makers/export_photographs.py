"""Write emoji-shift as a user's own folders: photographs by class, without masks, and a model of transformers.

    python -m experiments export_photographs runs/own
    python -m experiments export_photographs runs/own-1 --seed 1  # other images

`photographs/train` and `photographs/validation` have the usual backgrounds, `elsewhere/validation` photographs that
nothing was trained on, for a test that `robust-vit diagnose` and `improve` do not see. `model` is the bundled model as
`save_pretrained` writes it.
"""

from pathlib import Path

import datasets

from robust_vit_hf import make_image_processor
from robust_vit_hf.data.emoji_shift import IMAGE_SIZE, load_split
from robust_vit_hf.models.emoji_shift_model import load_biased_model

from ..scripts import script_parser


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    export_photographs(**vars(parser.parse_args()))


def export_photographs(folder: Path, seed: int) -> None:
    for place, split, images in (
        ("photographs/train", "train", 300),
        ("photographs/validation", "val", 300),
        ("elsewhere/validation", "background_new", 500),
    ):
        write_folders(load_split(split, images, seed), folder / place)
    load_biased_model().save_pretrained(folder / "model")
    make_image_processor("paper", IMAGE_SIZE).save_pretrained(folder / "model")


def write_folders(rows: datasets.Dataset, folder: Path) -> None:
    """Write images as `<class>/<number>.jpg`."""
    names = rows.features["label"].names
    for number, row in enumerate(rows):
        path = folder / names[row["label"]] / f"{number:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        row["image"].convert("RGB").save(path, quality=95)
