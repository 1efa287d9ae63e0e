"""Webdatasets: numbered tars of `<key>.webp` and `<key>.cls`."""

import re
from pathlib import Path

import datasets

from ..archives import check_tar_end


def has_numbered_tars(folder: Path) -> bool:
    """Whether a folder holds webdataset shards. Tars of official archives are not numbered."""
    return any(re.fullmatch(r"(.*[-_])?\d+\.tar", path.name) for path in _tars(folder))


def _tars(folder: Path) -> list[Path]:
    """Tars of evaluation images."""
    tars = [path for place in (".", "validation", "val", "test") for path in sorted((folder / place).glob("*.tar"))]
    return [path for path in tars if "train" not in path.name]


def load_webdataset(folder: Path, split: str) -> tuple[datasets.IterableDataset, object]:
    """Streamed rows of the tars in a folder, and a state that changes with them.

    Raises:
        ValueError: a tar is truncated.
    """
    tars = _tars(folder)
    for tar in tars:
        check_tar_end(tar)
    data_files = {split: [str(path) for path in tars]}
    state = [(str(path), path.stat().st_mtime_ns) for path in tars]
    return datasets.load_dataset("webdataset", data_files=data_files, split=split, streaming=True), state
