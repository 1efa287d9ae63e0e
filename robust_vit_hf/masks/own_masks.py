"""Masks for labelled images of your own: those that they have, or new ones, by the model itself or by class names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import datasets
import xxhash
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import nn
from transformers import BaseImageProcessor
from transformers.utils import logging

from ..data.dataset_digest import dataset_identity, paths_of
from ..data.find_images import Images, load_masked_dataset
from ..data.label_mapping import align_labels, classes_of_model
from ..data.parquet_writer import read_settings
from ..data.row_checks import check_columns, check_rows
from ..models.model_names import MODELS
from ..relevance.architectures import unwrap_pretrained
from ..utils.files import atomic_file, read_json, write_json
from .make_masks import Masker, make_masker, write_masks
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
        made, method = _make_masks(images.rows, method or "tokencut", model, processor, model_name, folder, name)
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
    dataset: datasets.Dataset,
    method: str,
    model: nn.Module,
    processor: BaseImageProcessor,
    model_name: str,
    folder: Path,
    name: str,
) -> tuple[datasets.Dataset, str]:
    """Make masks in a folder, which belongs to these images from then on. Returns them, and the method that was taken.

    Raises:
        ValueError: the folder holds masks of other images, or the model has no features for TokenCut.
    """
    path, state = folder.with_name(f".{folder.name}-images") / f"{name}.parquet", PartialState()
    record, places = path.with_name("identity.json"), _places(dataset)
    identity = {"images": dataset_identity(dataset), "places": xxhash.xxh3_128_hexdigest(repr(places).encode())}
    with state.main_process_first():
        known = read_json(record)
        if known not in (None, identity):
            moved = known["images"] == identity["images"]
            others = (
                "these images in another place"
                if moved
                else "other images, as of another --dataset, split or number of images"
            )
            raise ValueError(
                f"`{folder}` holds masks of {others}: choose another --output_dir, or delete `{folder}` and `{record.parent}`."
            )
        if known is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            images = dataset.remove_columns(
                [*{*dataset.column_names} - {"image", "label", "file_name", "group", "openly_licensed"}]
            )
            with atomic_file(path) as partial:
                (_at_places(images, places) if any(places) else images).to_parquet(partial)
            write_json(record, identity)
    writer: dict[str, Any] = {"images": str(path), "output_dir": folder, "skip_bad": True, "rows_per_shard": 100}
    names = tuple(getattr(dataset.features["label"], "names", None) or ())
    if method == "auto":
        chosen: list[str | None] = [None]
        if state.is_main_process:  # which tells the others
            # Masks of the other parts of `improve` are beside these.
            beside = sorted(place for place in folder.parent.iterdir() if place.is_dir())
            known_methods = [read_settings(place).get("train", {}).get("method") for place in beside]
            chosen = [next(filter(None, known_methods), None) or _available(names)]
        (method,) = broadcast_object_list(chosen)
    if method in BY_NAMES:
        write_masks(BY_NAMES[method](**writer), lambda *_: _masker_by_names(method, names))
    else:
        options = TokenCutOptions(**writer, model=model_name)
        settings = {name: getattr(options, name) for name in ("batch_size", "min_pixels", "min_side")}
        try:
            cut = own_tokencut(model, processor, model_name, **settings)
        except ValueError as error:
            raise ValueError(
                f"TokenCut cannot take the features of this model: {error} Make masks by the names of the classes, `--masks "
                "grounded`, or with another model, `robust-vit masks tokencut --model facebook/dinov2-small …`, and give their "
                "folder to --masks."
            ) from error
        write_masks(options, lambda *_: cut)
    state.wait_for_everyone()  # the first process has written the last rows
    return load_masked_dataset(str(folder), "train"), method


def _places(dataset: datasets.Dataset) -> list[str | None]:
    """Absolute paths of images that are files, which may have been moved since, or are named from elsewhere."""
    places: list[str | None] = []
    for table in dataset.select_columns("image").with_format("arrow").iter(1000):
        for path in paths_of(table["image"].combine_chunks()):
            places.append(str(Path(path).absolute()) if path is not None and Path(path).is_file() else None)
    return places


def _at_places(images: datasets.Dataset, places: Sequence[str | None]) -> datasets.Dataset:
    """Images whose files are named by absolute paths."""

    def move(row: dict, index: int) -> dict:
        return {"image": row["image"] if places[index] is None else {"bytes": None, "path": places[index]}}

    undecoded = images.cast_column("image", datasets.Image(decode=False))
    moved = undecoded.map(move, with_indices=True, features=undecoded.features, load_from_cache_file=False)
    return moved.cast_column("image", datasets.Image())


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
