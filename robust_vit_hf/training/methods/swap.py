"""Background swap alone: the original's output on images with other backgrounds, for any image classifier."""

from typing import ClassVar

from .finetune import Finetune


class Swap(Finetune):
    """Kullback–Leibler divergence from the output before finetuning, on images of which three in four have the background of another.
    No map is computed."""

    DEFAULTS: ClassVar = Finetune.DEFAULTS | {"confidence_target": "original"}
    background_swap: ClassVar = 0.75
