"""Cache folders keyed by the user's files."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import datasets


def cache_of(files: Iterable[Path]) -> Path:
    """Folder within `HF_DATASETS_CACHE` for results computed from some files; a moved or changed file gives another one."""
    stamps = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    digest = hashlib.sha256(repr(stamps).encode()).hexdigest()
    return Path(datasets.config.HF_DATASETS_CACHE, "robust_vit_hf", digest)
