"""Cache folders keyed by the user's files."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import datasets


def cache_of(files: Iterable[Path]) -> Path:
    """Folder within `HF_DATASETS_CACHE` for what is computed from some files: another one once a file was moved or changed."""
    stamps = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return (
        Path(datasets.config.HF_DATASETS_CACHE) / "robust_vit_hf" / hashlib.sha256(repr(stamps).encode()).hexdigest()
    )
