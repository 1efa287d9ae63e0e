"""Choice of the mask maker for images of your own: what `auto` tries, and whose features TokenCut takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import datasets
from accelerate import PartialState
from torch import nn
from transformers import BaseImageProcessor
from transformers.utils import logging

from ..models.emoji_shift_model import INSTALL_BACKBONE
from ..models.model_names import BUNDLED_MODEL, MODELS
from .make_masks import Masker, make_masker
from .options import GroundedOptions, Sam3Options, TokenCutOptions
from .tokencut import TokenCut


logger = logging.get_logger(__name__)

BY_NAMES = {"sam3": Sam3Options, "grounded": GroundedOptions}  # in the order in which `auto` tries them
# Names of DINOv2-S for TokenCut, in the order in which they are tried, and what they are: no network before the Hub.
DINOV2_SMALL = {
    BUNDLED_MODEL: "DINOv2-S, the bundled backbone",
    MODELS[BUNDLED_MODEL].base_model: f"`{MODELS[BUNDLED_MODEL].base_model}`",
}
OF_THE_CLASSIFIER = "the classifier"  # recorded in place of a name


@dataclass(frozen=True)
class MaskSettings:
    method: str | None = None  # of `MASK_METHODS`; by default, TokenCut for images without masks
    # ViT whose features TokenCut cuts; by default, the first of [`DINOV2_SMALL`] that can be had, or else the classifier.
    mask_model: str | None = None
    model: nn.Module | None = None  # the classifier, which is not needed with `mask_model`, and its processor
    processor: BaseImageProcessor | None = None
    bf16: bool = False  # whether the features are computed with autocast to bfloat16

    def tokencut(self) -> tuple[str, TokenCut]:
        """TokenCut, and the `mask_model` that it took. Logs which, if none was named."""
        settings: dict[str, Any] = {"min_side": TokenCutOptions.min_side, "bf16": self.bf16}
        if self.mask_model not in (None, OF_THE_CLASSIFIER):
            return self.mask_model, TokenCut.from_pretrained(self.mask_model, PartialState().device, **settings)
        for name, described in DINOV2_SMALL.items() if self.mask_model is None else ():
            with suppress(ImportError, OSError):
                cut = TokenCut.from_pretrained(name, PartialState().device, **settings)
                logger.warning(f"TokenCut makes masks with the features of {described}.")
                return name, cut
        no_dinov2 = f"DINOv2-S is not installed ({INSTALL_BACKBONE}) and cannot be loaded from the Hub"
        try:
            cut = TokenCut(self.model.eval(), self.processor, **settings)
        except ValueError as error:
            raise ValueError(
                f"TokenCut needs the features of a plain ViT, which this classifier is not, and {no_dinov2}: name another ViT with "
                "--mask_model, or give a folder of --masks."
            ) from error
        if self.mask_model is None:
            logger.warning(f"TokenCut makes masks with the features of the classifier itself: {no_dinov2}.")
        return OF_THE_CLASSIFIER, cut


@contextmanager
def one_mask_maker() -> Iterator[None]:
    """Context in which all masks are made by one mask maker, which is freed at its end: its models are large."""
    try:
        yield
    finally:
        choose_mask_maker.cache_clear()


@lru_cache(maxsize=1)
def choose_mask_maker(settings: MaskSettings, class_names: tuple[str, ...]) -> tuple[str, str | None, Masker]:
    """The method, mask model and mask maker of settings; of `auto` the first of [`BY_NAMES`] whose models can be loaded, or else
    TokenCut. Logs why."""
    label = datasets.ClassLabel(names=[*class_names]) if class_names else datasets.Value("int64")
    for name in {"auto": BY_NAMES, "tokencut": ()}.get(settings.method, [settings.method]):
        try:
            masker = make_masker(BY_NAMES[name](images="none", output_dir=Path()), datasets.Features({"label": label}))
        except (ImportError, OSError, ValueError) as error:
            if settings.method != "auto":
                raise
            logger.warning(f"No masks by `{name}`: {error}")
        else:
            logger.warning(f"Masks are made by `{name}`.")
            return name, settings.mask_model, masker
    if settings.method == "auto":
        logger.warning("Masks are made by `tokencut`.")
    return "tokencut", *settings.tokencut()
