"""Images to diagnose a model on: a balanced choice of them, with masks that exist or are made."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from accelerate import PartialState

from ..class_names.label_mapping import align_labels
from ..data.masked_dataset import check_columns, check_rows, load_masked_dataset
from ..masks.options import GroundedOptions, TokenCutOptions
from ..masks.preparation import write_masks
from ..utils.files import atomic_file


MASK_METHODS = {"tokencut": TokenCutOptions, "grounded": GroundedOptions}


@dataclass(frozen=True)
class MaskedImages:
    """Images with masks.

    Args:
        dataset: rows with `image`, `mask` and `label`, an index of the model's classes.
        masks: where the masks come from.
        rejected: number of images left out because their mask was rejected, empty or full.
    """

    dataset: datasets.Dataset
    masks: str
    rejected: int


def masked_images(
    dataset: datasets.Dataset, name: str, model: str, class_names: Sequence[str], method: str | None, folder: Path
) -> MaskedImages:
    """Labelled images with masks: those that they have, or new ones, which are kept in `folder` with contact sheets.
    Called again, finished masks are read. Launched processes share the work.

    Args:
        dataset: rows with `image`, `label` and maybe `mask`.
        name: name of the images in errors.
        model: name of the model, whose own features are taken for TokenCut.
        class_names: names of the model's classes.
        method: name in `MASK_METHODS` to make masks; by default TokenCut where there are none.
        folder: folder of the masks to make.

    Raises:
        ValueError: no mask is usable, or the model lacks a class of the images.
    """
    needed = len(dataset)
    if method is not None or "mask" not in dataset.column_names:
        method = method or "tokencut"
        dataset = _make_masks(dataset, method, model, folder)
    check_columns(dataset, name, needs_labels=True)
    dataset = align_labels(dataset, class_names, name)
    dataset = check_rows(dataset, name, len(class_names))
    return MaskedImages(dataset, f"made by {method}" if method else "those of the images", needed - len(dataset))


def choose_images(dataset: datasets.Dataset, count: int, seed: int = 0) -> datasets.Dataset:
    """At most `count` labelled images, as many of each class as possible, drawn by the seed, in their order."""
    members: dict[int, list[int]] = {}
    for index, label in enumerate(dataset.with_format(None)["label"]):
        if label not in (None, -1):
            members.setdefault(label, []).append(index)
    turns: list[tuple[int, int, int]] = []
    for label, indices in sorted(members.items()):
        drawn = np.random.default_rng([seed, label]).permutation(indices).tolist()
        turns += [(turn, label, index) for turn, index in enumerate(drawn)]
    return dataset.select(sorted(index for *_, index in sorted(turns)[:count]))


def _make_masks(dataset: datasets.Dataset, method: str, model: str, folder: Path) -> datasets.Dataset:
    path = folder.with_name(f".{folder.name}-images.parquet")
    with PartialState().main_process_first():
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            images = dataset.remove_columns([*{*dataset.column_names} - {"image", "label", "file_name"}])
            with atomic_file(path) as partial:
                images.to_parquet(partial)
    options: dict[str, Any] = {"images": str(path), "output_dir": folder, "skip_bad": True, "rows_per_shard": 100}
    if method == "tokencut":
        options["model"] = model
    write_masks(MASK_METHODS[method](**options))
    return load_masked_dataset(str(folder), "train")
