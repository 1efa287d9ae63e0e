"""Cache folders keyed by files."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import datasets


def check_no_pattern(path: Path) -> None:
    """Refuse an existing path that `datasets` would read as a glob pattern."""
    if path.exists() and (found := sorted(set("*?[") & set(str(path.resolve())))):
        raise ValueError(
            f"`{path.resolve()}` has {' and '.join(f'`{character}`' for character in found)} in its name, which `datasets` reads "
            "as a pattern: rename the file or folder."
        )


def cache_of(files: Iterable[Path]) -> Path:
    """Folder within `HF_DATASETS_CACHE` for results computed from files, keyed by their paths, sizes and times."""
    stamps = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    digest = hashlib.sha256(repr(stamps).encode()).hexdigest()
    return Path(datasets.config.HF_DATASETS_CACHE, "robust_vit_hf", digest)
