"""Webdatasets: numbered tars of `<key>.webp` and `<key>.cls`."""

import re
from pathlib import Path

import datasets

from ..archives import check_tar_end


def has_numbered_tars(folder: Path) -> bool:
    """Whether a folder holds webdataset shards. Tars of official archives are not numbered."""
    places = (folder, *(folder / name for name in ("train", "validation", "val", "test")))
    return any(re.fullmatch(r"(.*[-_])?\d+\.tar", path.name) for place in places for path in place.glob("*.tar"))


def load_webdataset(folder: Path, split: str) -> tuple[datasets.IterableDataset, object]:
    """Streamed rows of the tars in a folder, and a state that changes with them.

    Raises:
        ValueError: there are only tars of training images, or a tar is truncated.
    """
    tars = [path for path in sorted(folder.rglob("*.tar")) if "train" not in path.relative_to(folder).as_posix()]
    if not tars:
        raise ValueError(f"`{folder}` holds only tars of training images, expected those of an evaluation set.")
    for tar in tars:
        check_tar_end(tar)
    data_files = {split: [str(path) for path in tars]}
    state = [(str(path), path.stat().st_mtime_ns) for path in tars]
    return datasets.load_dataset("webdataset", data_files=data_files, split=split, streaming=True), state
