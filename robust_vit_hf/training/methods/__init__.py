"""Finetuning methods by the value of `--method`. See `docs/methods.md` for adding one."""

from importlib import import_module
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .base import Method


# Where each class is: names are listed without the slow import of torch.
METHODS = {
    "cft": "relevance.ConceptGuidedFineTuning",
    "cutmix": "images.CutMix",
    "energy": "relevance.Energy",
    "finetune": "images.Finetune",
    "gradmask": "gradients.GradMask",
    "random_erasing": "images.RandomErasing",
    "robustvit": "relevance.RobustViT",
    "rrr": "gradients.RightForTheRightReasons",
    "swap": "images.Swap",
}


def method_names() -> list[str]:
    """Names of the methods, ascending."""
    return [*METHODS]


def load_method(name: str) -> type["Method"]:
    """Class of a method."""
    module, _, method = METHODS[name].partition(".")
    return getattr(import_module(f".{module}", __name__), method)
