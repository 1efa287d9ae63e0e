"""Images to diagnose a model on: a balanced choice of them, with masks that exist or are made."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
import numpy as np
import xxhash
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import nn
from transformers.utils import logging

from ..data.dataset_digest import dataset_identity, paths_of
from ..data.label_mapping import align_labels
from ..data.layouts.hub_tables import has_parquet
from ..data.masked_dataset import check_columns, check_rows, load_masked_dataset, mask_origin
from ..data.parquet_writer import read_settings
from ..evaluation.session import Side
from ..masks.make_masks import Masker, make_masker, write_masks
from ..masks.options import GroundedOptions, Sam3Options, TokenCutOptions
from ..masks.tokencut import TokenCut
from ..models.model_names import MODELS
from ..utils.files import atomic_file, read_json, write_json
from ..utils.images import readable_suffixes
from .options import MASK_METHODS


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


def load_labelled(source: str, split: str, masks: str | None) -> datasets.Dataset:
    """Labelled images of a split, with the masks of a folder if there is one.

    Args:
        source: as for [`load_masked_dataset`].
        masks: folder: either the output of `robust-vit masks`, whose images are taken then, or pictures of masks with the
            names of the images, with another suffix maybe, in `<split>/` or directly.

    Raises:
        UnknownSplit: the split does not exist.
        FileNotFoundError: images or folder do not exist.
        ValueError: there are no labels, or one is below -1; or the folder has a mask for none of the images, or one for two.
    """
    folder = None if masks is None else Path(masks)
    if folder is not None and not folder.is_dir():
        raise FileNotFoundError(
            f"There is no folder of masks `{folder}`, and no method of that name: expected {', '.join(MASK_METHODS)}, or a folder."
        )
    if folder is not None and has_parquet(folder):
        source, folder = masks, None
    dataset = load_masked_dataset(source, split)
    check_columns(dataset, split, needs_labels=True, needs_masks=False)
    labels = dataset.with_format(None)["label"][:]
    if wrong := [row for row, label in enumerate(labels) if label is not None and label < -1]:
        raise ValueError(
            f"`{split}`: row {wrong[0]} has the label {labels[wrong[0]]}, expected a class, or -1 for none."
        )
    labelled = [index for index, label in enumerate(labels) if label not in (None, -1)]
    if len(labelled) < len(dataset):
        logger.warning(
            f"{len(dataset) - len(labelled)} of {len(dataset)} images of `{split}` have no label, and are left out."
        )
        dataset = dataset.select(labelled)
    return dataset if folder is None else _with_mask_files(dataset, folder, split.partition("[")[0])


def _with_mask_files(dataset: datasets.Dataset, folder: Path, split: str) -> datasets.Dataset:
    """Add masks from pictures named as the images. Images without one are left out with a warning."""
    if "file_name" not in dataset.column_names:
        raise ValueError(
            f"The masks of `{folder}` are found by the names of the images, which have none: give the output of `robust-vit "
            "masks`, or images with a column `file_name`."
        )
    place, found, suffixes = folder / split if (folder / split).is_dir() else folder, {}, readable_suffixes()
    for path in sorted(place.rglob("*")):
        if path.suffix.lower() in suffixes:
            name = _stem(path.relative_to(place).as_posix())
            if name in found:
                raise ValueError(f"`{found[name]}` and `{path}` are masks of one image: leave one of them.")
            found[name] = path
    files = dataset.with_format(None)["file_name"]
    names = [name and _stem(name) for name in files]
    kept = [index for index, name in enumerate(names) if name in found]
    taken: dict[str, str] = {}
    for index in kept:
        if taken.get(names[index]) == files[index]:
            raise ValueError(f"The images have `{files[index]}` twice, which has one mask: leave one of them.")
        if names[index] in taken:
            raise ValueError(
                f"`{found[names[index]]}` is the mask of `{taken[names[index]]}` and of `{files[index]}`, which differ in their suffix "
                "alone: rename one of them."
            )
        taken[names[index]] = files[index]
    if not kept:
        raise ValueError(
            f"`{folder}` has a mask for none of {len(names)} images: expected `{names[0]}.png` there or in `{split}/`, and so on."
        )
    if len(kept) < len(names):
        logger.warning(
            f"{len(names) - len(kept)} of {len(names)} images have no mask in `{folder}`, and are left out."
        )
    rows = dataset.select(kept)
    rows = rows.remove_columns("mask") if "mask" in rows.column_names else rows
    return rows.add_column("mask", [str(found[names[index]]) for index in kept]).cast_column("mask", datasets.Image())


def _stem(name: str) -> str:
    """Name of a file without its suffix. macOS writes accents as letters of their own."""
    return unicodedata.normalize("NFC", PurePosixPath(name).with_suffix("").as_posix())


def masked_images(
    dataset: datasets.Dataset,
    name: str,
    side: Side,
    class_names: Sequence[str],
    masks: str | None,
    folder: Path,
) -> MaskedImages:
    """Labelled images with masks: those that they have, or new ones, which are kept in `folder` with contact sheets.
    Called again, finished masks are read. Launched processes share the work.

    Args:
        dataset: rows with `image`, `label` and maybe `mask`.
        name: name of the images in errors.
        side: the model, whose own features are taken for TokenCut.
        class_names: names of the model's classes.
        masks: name in `MASK_METHODS` to make masks, by default TokenCut where there are none; or the folder that the images
            have theirs from.
        folder: folder of the masks to make.

    Raises:
        ValueError: no mask is usable, or the model lacks a class of the images.
    """
    aligned = align_labels(dataset, class_names, name)  # refuses other classes before masks, which take long, are made
    needed = aligned.with_format(None)["label"][:]
    method = masks if masks in MASK_METHODS else None
    origin = "those of the images" if masks is None else mask_origin(masks)
    if method is not None or "mask" not in dataset.column_names:
        made, method = _make_masks(dataset, method or "tokencut", side, folder, name)
        aligned = align_labels(made, class_names, name)
    check_columns(aligned, name, needs_labels=True)
    rows = check_rows(aligned, name, len(class_names))
    lost = tuple(class_names[label] for label in sorted({*needed} - {*rows.with_format(None)["label"]}))
    return MaskedImages(rows, f"made by {method}" if method else origin, len(needed) - len(rows), lost)


def choose_images(dataset: datasets.Dataset, count: int, seed: int = 0) -> datasets.Dataset:
    """At most `count` labelled images, as many of each class as possible, drawn by the seed, in their order. If `count`
    is less than two of each class, as many classes are drawn as may have two, so that they can give each other their
    backgrounds."""
    labels = np.array([-1 if label is None else label for label in dataset.with_format(None)["label"]])
    classes = np.unique(labels[labels >= 0])
    if count < 2 * len(classes):
        classes = np.random.default_rng(seed).permutation(classes)[: max(2, count // 2)]
    usable = np.flatnonzero(np.isin(labels, classes))
    order = np.lexsort((labels[usable], turns_within_classes(labels[usable], seed)))
    return dataset.select(np.sort(usable[order][:count]))


def turns_within_classes(labels: np.ndarray, seed: int) -> np.ndarray:
    """Place `(N,)` of each image in a random order of its class, from 0. Orders depend on the seed and the class.

    Args:
        labels: class of each image, `(N,)`, from 0.
    """
    turn = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        turn[np.random.default_rng([seed, int(label)]).permutation(members)] = np.arange(len(members))
    return turn


def own_tokencut(side: Side, **settings) -> TokenCut:
    """TokenCut with the features of a model; for a bundled model, those of its self-supervised base.

    Args:
        settings: arguments of [`~robust_vit_hf.masks.tokencut.TokenCut`].

    Raises:
        ValueError: the architecture has no patch grid.
    """
    registered = MODELS.get(side.source)
    if registered is not None and registered.load_backbone is not None:
        return TokenCut(_backbone(side.source).to(next(side.model.parameters()).device), **settings)
    return TokenCut(side.model.eval(), side.processor, **settings)


@cache
def _backbone(name: str) -> nn.Module:
    return MODELS[name].load_backbone().eval()


def _make_masks(
    dataset: datasets.Dataset, method: str, side: Side, folder: Path, name: str
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
        options = TokenCutOptions(**writer, model=side.source)
        settings = {name: getattr(options, name) for name in ("batch_size", "min_pixels", "min_side")}
        try:
            cut = own_tokencut(side, **settings)
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
