"""Class names in parquet files of a folder or a Hub id, which may number their classes split by split."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import datasets
import fsspec
import pyarrow as pa
from pyarrow import parquet

from ..label_mapping import class_names_of


def class_names_of_files(files: Sequence[str], declared: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Class names in the files of a split, paths or URLs, or those that its card declares. Files that number their classes
    differently are refused: `datasets` would give all of them the names of the first."""
    with ThreadPoolExecutor() as pool:
        names = [known or declared for known in pool.map(class_names_of_file, files)]
    if others := [file for file, known in zip(files, names, strict=True) if known != names[0]]:
        raise ValueError(
            f"`{files[0]}` and `{others[0]}` are of one split, and number their classes differently: write both with the same "
            'names, `dataset.cast_column("label", datasets.ClassLabel(names=…))`.'
        )
    return names[0]


def class_names_of_file(file: str) -> tuple[str, ...] | None:
    """Class names in a parquet file, of which only the end is read."""
    try:
        with fsspec.open(file) as opened:
            return class_names_of(datasets.Features.from_arrow_schema(parquet.read_schema(opened)))
    except pa.ArrowInvalid as error:
        raise ValueError(f"`{file}` cannot be read: {error}") from error
