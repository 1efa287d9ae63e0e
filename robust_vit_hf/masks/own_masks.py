"""Masks for labelled images of your own: those that they have, or new ones, by the model itself or by class names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import datasets
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import nn
from transformers import BaseImageProcessor
from transformers.utils import logging

from ..data.find_images import Images, find_images
from ..data.label_mapping import align_labels, class_names_of, classes_of_model
from ..data.row_checks import check_columns, check_rows
from ..data.schema import undecoded_rows
from ..models.model_names import MODELS
from ..relevance.architectures import unwrap_pretrained
from ..utils.files import read_json
from ..utils.stage import STAGE_FILE, Stage
from .make_masks import Masker, make_masker, write_split
from .options import GroundedOptions, Sam3Options, TokenCutOptions
from .tokencut import TokenCut


logger = logging.get_logger(__name__)

BY_NAMES = {"sam3": Sam3Options, "grounded": GroundedOptions}  # in the order in which `auto` tries them


@dataclass(frozen=True)
class MaskedImages:
    """Images with masks.

    Args:
        dataset: rows with `image`, `mask` and `label`, an index of the model's classes.
        masks: where the masks come from.
        rejected: number of images left out: those that cannot be read, and those whose mask was rejected, empty or full.
        lost: names of classes of which nothing is left.
        group_weights: see [`~robust_vit_hf.evaluation.sets.EvaluationSet`].
    """

    dataset: datasets.Dataset
    masks: str
    rejected: int
    lost: tuple[str, ...] = ()
    group_weights: dict[str, float] | None = None

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
    model: nn.Module,
    processor: BaseImageProcessor,
    model_name: str,
    method: str | None,
    folder: Path,
) -> MaskedImages:
    """Labelled images with masks: those that they have, or new ones, which are kept in `folder` with contact sheets.
    Called again, finished masks are read. Launched processes share the work.

    Args:
        images: images with labels, and maybe masks.
        name: name of the images in errors.
        model, processor, model_name: the model, whose own features are taken for TokenCut, and the name it was loaded by.
        method: name in `MASK_METHODS` to make masks; by default TokenCut where there are none.
        folder: folder of the masks to make.

    Raises:
        ValueError: no mask is usable, or the model lacks a class of the images.
    """
    classes, origin = classes_of_model(unwrap_pretrained(model).config), images.masks
    aligned = align_labels(images.rows, classes, name)  # refuses other classes before masks, which take long, are made
    needed = aligned.with_format(None)["label"][:]
    if method is not None or "mask" not in images.rows.column_names:
        made, method = _make_masks(images, name, model, processor, model_name, method or "tokencut", folder)
        aligned, origin = align_labels(made, classes, name), f"made by {method}"
    check_columns(aligned, name)
    rows = check_rows(aligned, name, len(classes))
    lost = tuple(classes[label] for label in sorted({*needed} - {*rows.with_format(None)["label"]}))
    return MaskedImages(rows, origin, len(needed) - len(rows), lost)


def own_tokencut(model: nn.Module, processor: BaseImageProcessor, model_name: str, **settings) -> TokenCut:
    """TokenCut with the features of a model; for a bundled model, those of its self-supervised base.

    Args:
        model_name: the name that the model was loaded by.
        settings: arguments of [`~robust_vit_hf.masks.tokencut.TokenCut`].

    Raises:
        ValueError: the architecture has no patch grid.
    """
    registered = MODELS.get(model_name)
    if registered is not None and registered.load_backbone is not None:
        return TokenCut(_backbone(model_name).to(next(model.parameters()).device), **settings)
    return TokenCut(model.eval(), processor, **settings)


@cache
def _backbone(name: str) -> nn.Module:
    return MODELS[name].load_backbone().eval()


def _make_masks(
    images: Images,
    name: str,
    model: nn.Module,
    processor: BaseImageProcessor,
    model_name: str,
    method: str,
    folder: Path,
) -> tuple[datasets.Dataset, str]:
    """Make masks in a folder, which belongs to these images from then on. Returns them, and the method that was taken.

    Raises:
        ValueError: the folder holds masks of other images or settings, or the model has no features for TokenCut.
    """
    state, classes = PartialState(), class_names_of(images.rows.features) or ()
    given: dict[str, Any] = {"images": images.source, "output_dir": folder, "skip_bad": True, "rows_per_shard": 100}
    if method == "auto":
        (method,) = broadcast_object_list([_auto_method(folder, classes) if state.is_main_process else None])
    if method in BY_NAMES:
        options, masker = BY_NAMES[method](**given), _masker_by_names(method, classes)
    else:
        options = TokenCutOptions(**given, model=model_name)
        settings = {name: getattr(options, name) for name in ("batch_size", "min_pixels", "min_side")}
        try:
            masker = own_tokencut(model, processor, model_name, **settings)
        except ValueError as error:
            raise ValueError(
                f"TokenCut cannot take the features of this model: {error} Make masks by the names of the classes, `--masks "
                "grounded`, or with another model, `robust-vit masks tokencut --model facebook/dinov2-small …`, and give their "
                "folder to --masks."
            ) from error
    with Stage(folder, {}).lock() if state.is_main_process else nullcontext():
        write_split(
            options, "train", undecoded_rows(images.rows), images.rows.features, masker, f"{name}, masks by {method}"
        )
    state.wait_for_everyone()  # the first process has written the last rows
    return find_images(str(folder), "train").rows, method


def _auto_method(folder: Path, class_names: tuple[str, ...]) -> str:
    """The method of `auto`: that of masks that are there or beside them, of other parts of `improve`; or the first whose
    models are available."""
    beside = sorted(place for place in folder.parent.glob("*/") if (place / STAGE_FILE).is_file())
    known = [(read_json(place / STAGE_FILE) or {}).get("inputs", {}).get("method") for place in beside]
    return next(filter(None, known), None) or _available(class_names)


@contextmanager
def one_mask_maker() -> Iterator[None]:
    """Context in which all masks are made by one mask maker, which is freed at its end: its models are large."""
    try:
        yield
    finally:
        _masker_by_names.cache_clear()


@lru_cache(maxsize=1)
def _masker_by_names(method: str, class_names: tuple[str, ...]) -> Masker:
    """Mask maker of a method in [`BY_NAMES`]."""
    label = datasets.ClassLabel(names=list(class_names)) if class_names else datasets.Value("int64")
    return make_masker(BY_NAMES[method](images="none", output_dir=Path()), datasets.Features({"label": label}))


@cache
def _available(class_names: tuple[str, ...]) -> str:
    """The method of `auto`: the first by names whose models can be loaded or downloaded, or else TokenCut. Says which, and why not
    another. All parts of a command have the same."""
    for method in BY_NAMES:
        try:
            _masker_by_names(method, class_names)
        except (OSError, ValueError) as error:
            logger.warning(f"No masks by `{method}`: {error}")
        else:
            logger.warning(f"Masks are made by `{method}`.")
            return method
    logger.warning("Masks are made by `tokencut`.")
    return "tokencut"
