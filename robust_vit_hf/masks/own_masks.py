"""Masks for labelled images of your own: those that they have, or new ones, by the model itself or by class names."""

from __future__ import annotations

from collections.abc import Iterator
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
from ..data.label_mapping import align_labels, class_names_of, classes_of_model
from ..data.row_checks import check_rows
from ..data.schema import undecoded_rows
from ..relevance.architectures import unwrap_pretrained
from ..utils.stage import Stage
from .make_masks import Masker, make_masker, write_split
from .options import GroundedOptions, Sam3Options, TokenCutOptions
from .tokencut import TokenCut, backbone_of


logger = logging.get_logger(__name__)

BY_NAMES = {"sam3": Sam3Options, "grounded": GroundedOptions}  # in the order in which `auto` tries them


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
    model: nn.Module,
    processor: BaseImageProcessor,
    model_name: str,
    method: str | None,
    folder: Path,
) -> MaskedImages:
    """Labelled images with masks: those that they have, or new ones, which are kept in `folder` with contact sheets.
    Called again, finished masks are read. Launched processes share the work. New ones are made by `method` of
    `MASK_METHODS`; by default by TokenCut with the model's own features, where there are none."""
    classes, origin = classes_of_model(unwrap_pretrained(model).config), images.masks
    aligned = align_labels(images.rows, classes, name)  # refuses other classes before masks, which take long, are made
    needed = aligned.with_format(None)["label"][:]
    if method is not None or "mask" not in images.rows.column_names:
        state, method, masker = PartialState(), method or "tokencut", None
        for first in (True, False):  # the main process resolves `auto`, for which others may fail to load what it has
            if method != "tokencut" and state.is_main_process is first:
                method, masker = _by_names(method, class_names_of(images.rows.features) or ())
            (method,) = broadcast_object_list([method])
        given: dict[str, Any] = {"images": images.source, "output_dir": folder}
        given |= {"skip_bad": True, "rows_per_shard": 100}
        options = BY_NAMES[method](**given) if masker else TokenCutOptions(**given, model=model_name)
        if masker is None:
            settings = {setting: getattr(options, setting) for setting in ("batch_size", "min_pixels", "min_side")}
            masker = own_tokencut(model, processor, model_name, **settings)
        with Stage(folder, {}).lock() if state.is_main_process else nullcontext():
            title, rows = f"{name}, masks by {method}", undecoded_rows(images.rows)
            write_split(options, "train", rows, images.rows.features, masker, title)
        state.wait_for_everyone()  # the first process has written the last rows
        aligned = align_labels(find_images(str(folder), "train").rows, classes, name)
        origin = f"made by {method}"
    rows = check_rows(aligned, name, len(classes))
    lost = tuple(classes[label] for label in sorted({*needed} - {*rows.with_format(None)["label"]}))
    return MaskedImages(rows, origin, len(needed) - len(rows), lost)


def own_tokencut(model: nn.Module, processor: BaseImageProcessor, model_name: str, **settings) -> TokenCut:
    """TokenCut with the features of a model; for a bundled model, by its name, those of its self-supervised base."""
    if (backbone := backbone_of(model_name)) is not None:
        return TokenCut(backbone.to(next(model.parameters()).device), **settings)
    return TokenCut(model.eval(), processor, **settings)


@contextmanager
def one_mask_maker() -> Iterator[None]:
    """Context in which all masks are made by one mask maker, which is freed at its end: its models are large."""
    try:
        yield
    finally:
        _by_names.cache_clear()


@lru_cache(maxsize=1)
def _by_names(method: str, class_names: tuple[str, ...]) -> tuple[str, Masker | None]:
    """A method of [`BY_NAMES`] and its mask maker; of `auto` the first whose models can be loaded, or else TokenCut. Logs why."""
    label = datasets.ClassLabel(names=list(class_names)) if class_names else datasets.Value("int64")
    for name in BY_NAMES if method == "auto" else [method]:
        try:
            masker = make_masker(BY_NAMES[name](images="none", output_dir=Path()), datasets.Features({"label": label}))
        except (ImportError, OSError, ValueError) as error:
            if method != "auto":
                raise
            logger.warning(f"No masks by `{name}`: {error}")
        else:
            logger.warning(f"Masks are made by `{name}`.")
            return name, masker
    logger.warning("Masks are made by `tokencut`.")
    return "tokencut", None
