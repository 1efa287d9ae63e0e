"""Finetuning images of emoji-shift with masks by TokenCut, as a dataset for each seed of a grid.

    python -m experiments emoji_tokencut runs/emoji-tokencut 0 1 2 3 4

Writes a dataset for each seed. Only the images to train on get the masks of TokenCut, made with the features of the
pretrained DINOv2-S/14; the validation images keep theirs, so that all methods are chosen on the same images. Masks
that `robust-vit masks` would reject are kept: 5 of 288 (seeds 2 to 4) are smaller than its limit.
"""

from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from robust_vit_hf.data.emoji_shift import load_finetuning_splits
from robust_vit_hf.masks.tokencut import TokenCut
from robust_vit_hf.models.emoji_shift_model import load_backbone

from ..scripts import script_parser


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("folder", type=Path, help="of the datasets, each under its seed")
    parser.add_argument("seeds", type=int, nargs="+", metavar="SEED")
    make_datasets(**vars(parser.parse_args()))


def make_datasets(folder: Path, seeds: list[int]) -> None:
    cut = TokenCut(load_backbone().eval())
    for seed in seeds:
        splits = load_finetuning_splits(seed=seed, class_seed=seed)
        train = splits["train"]
        found = cut(list(train["image"]), list(train.remove_columns(["image", "mask"])))
        empty = Image.new("L", train[0]["image"].size)  # the training leaves such images out
        masks = [result.mask or empty for result in found]
        train = train.map(lambda row, index, masks=masks: {"mask": masks[index]}, with_indices=True)
        overlaps = [_iou(row["mask"], mask) for row, mask in zip(splits["train"], masks, strict=True)]
        print(f"seed {seed}: mean IoU with the exact masks {100 * np.mean(overlaps):.1f} %")
        datasets.DatasetDict({"train": train, "validation": splits["validation"]}).save_to_disk(folder / str(seed))


def _iou(one: Image.Image, other: Image.Image) -> float:
    one, other = (np.asarray(mask) > 127 for mask in (one, other))
    return (one & other).sum() / (one | other).sum()
