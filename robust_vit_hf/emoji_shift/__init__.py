"""emoji-shift: a small ImageNet with every distribution shift of the paper, made of images that come in pip packages.

`load_split` composes the images, `load_biased_model` gives the pretrained ViT with a background shortcut that
the default run of `trainer/train.py` mends.
"""

from .images import CLASS_NAMES, SHIFTED, SPLITS, load_evaluation_sets, load_finetuning_splits, load_split
from .model import load_backbone, load_biased_model


__all__ = [
    "CLASS_NAMES",
    "SHIFTED",
    "SPLITS",
    "load_backbone",
    "load_biased_model",
    "load_evaluation_sets",
    "load_finetuning_splits",
    "load_split",
]
