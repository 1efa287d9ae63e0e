"""Finetuning methods by the value of `--method`. `docs/contribute.md` shows how to add one."""

from importlib import import_module
from typing import Any


# Module and class of each method, so that listing the names does not import torch.
METHODS = {
    "cft": "relevance.ConceptGuidedFineTuning",
    "cutmix": "augmentations.CutMix",
    "energy": "relevance.Energy",
    "finetune": "augmentations.Finetune",
    "gradmask": "relevance.GradMask",
    "random_erasing": "augmentations.RandomErasing",
    "robustvit": "relevance.RobustViT",
    "rrr": "relevance.RightForTheRightReasons",
    "swap": "augmentations.Swap",
}


def load_method(name: str) -> type[Any]:
    """Class of a method, a [`~robust_vit_hf.training.methods.base.Method`]."""
    module, _, method = METHODS[name].partition(".")
    return getattr(import_module(f".{module}", __name__), method)
