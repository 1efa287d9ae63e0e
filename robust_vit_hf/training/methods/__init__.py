"""Finetuning methods by the value of `--method`. `docs/contribute.md` shows how to add one."""

from importlib import import_module
from typing import Any


# Module and class of each method, so that listing the names does not import torch.
METHODS = {
    "cft": "methods.relevance.ConceptGuidedFineTuning",
    "energy": "methods.relevance.Energy",
    "finetune": "methods.augmentations.Finetune",
    "gradmask": "methods.relevance.GradMask",
    "robustvit": "losses.RobustViT",
    "rrr": "methods.relevance.RightForTheRightReasons",
    "swap": "methods.augmentations.Swap",
}


def load_method(name: str) -> type[Any]:
    """Class of a method, a [`~robust_vit_hf.training.losses.Method`], whose `config` is the class of its arguments."""
    if name not in METHODS:
        raise ValueError(f"There is no method `{name}`: expected one of {', '.join(METHODS)}.")
    module, _, method = METHODS[name].rpartition(".")
    return getattr(import_module(f"robust_vit_hf.training.{module}"), method)
