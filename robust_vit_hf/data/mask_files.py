"""Masks of images from a folder of pictures that have the names of the images."""

from collections import Counter
from pathlib import Path, PurePosixPath

import datasets
from transformers.utils import logging

from ..utils.images import readable_suffixes
from .label_mapping import nfc


logger = logging.get_logger(__name__)


def with_mask_files(dataset: datasets.Dataset, folder: Path, split: str) -> datasets.Dataset:
    """Add masks from pictures named as the `file_name` of images, with another suffix maybe, in a folder or its `<split>/`.
    Images without one are left out with a warning."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"There is no folder of masks `{folder}`: expected one, or tokencut, grounded, sam3 or auto to make them."
        )
    if "file_name" not in dataset.column_names:
        raise ValueError(f"The masks of `{folder}` are found by a column `file_name`, which the images do not have.")
    found = _pictures(folder / split if (folder / split).is_dir() else folder)
    names = [name and _stem(name) for name in dataset.with_format(None)["file_name"]]
    kept = [index for index, name in enumerate(names) if name in found]
    if not kept:
        raise ValueError(
            f"`{folder}` has a mask for none of {len(names)} images: expected `{names[0]}.png` there or in `{split}/`, and so on."
        )
    counts = Counter(names[index] for index in kept)
    twice, count = counts.most_common(1)[0]
    if count > 1:
        raise ValueError(f"`{found[twice]}` is the mask of {count} images: give each a name and a mask.")
    if left_out := len(names) - len(kept):
        logger.warning(f"{left_out} of {len(names)} images have no mask in `{folder}`, and are left out.")
    rows = dataset.select(kept)
    rows = rows.remove_columns("mask") if "mask" in rows.column_names else rows
    return rows.add_column("mask", [str(found[name]) for name in counts]).cast_column("mask", datasets.Image())


def _pictures(folder: Path) -> dict[str, Path]:
    """Pictures below a folder by their name without suffix."""
    found: dict[str, Path] = {}
    suffixes = readable_suffixes()
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes):
        known = found.setdefault(_stem(path.relative_to(folder).as_posix()), path)
        if known != path:
            raise ValueError(f"`{known}` and `{path}` are masks of one image: leave one of them.")
    return found


def _stem(name: str) -> str:
    return nfc(PurePosixPath(name).with_suffix("").as_posix())
