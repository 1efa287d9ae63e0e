"""Parquet files of a folder or a Hub id, whose classes may be numbered split by split."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import datasets
import fsspec
import pyarrow as pa
from datasets.packaged_modules.parquet.parquet import Parquet
from pyarrow import parquet

from ..label_mapping import class_names_of


@dataclass(frozen=True)
class ParquetFiles:
    """Parquet files of a folder or a Hub id: paths or URLs of each split, and the columns that the card declares, if it does."""

    splits: dict[str, list[str]]
    features: datasets.Features | None

    @classmethod
    def of(cls, builder: datasets.DatasetBuilder) -> "ParquetFiles | None":
        """Files that `datasets` finds; `None` if they are not parquet."""
        if not isinstance(builder, Parquet):
            return None
        return cls({str(name): [*files] for name, files in builder.config.data_files.items()}, builder.info.features)

    @cached_property
    def declared_names(self) -> tuple[str, ...] | None:
        """Class names that the card declares."""
        return class_names_of(self.features or {})

    @cached_property
    def names_of_all(self) -> tuple[str, ...] | None:
        """Class names that `datasets` gives to all files: those of the card, or of the first file."""
        return self.declared_names or _class_names(next(chain(*self.splits.values())))

    def names(self, split: str) -> tuple[str, ...] | None:
        """Class names of the files of a split. Files that number their classes differently are refused: `datasets` would give
        all of them the names of the first."""
        files = self.splits[split]
        with ThreadPoolExecutor() as pool:
            names = [known or self.declared_names for known in pool.map(_class_names, files)]
        if others := [file for file, known in zip(files, names, strict=True) if known != names[0]]:
            raise ValueError(
                f"`{files[0]}` and `{others[0]}` are of one split, and number their classes differently: write both with the same "
                'names, `dataset.cast_column("label", datasets.ClassLabel(names=…))`.'
            )
        return names[0]


def _class_names(file: str) -> tuple[str, ...] | None:
    """Class names in a parquet file, of which only the end is read."""
    try:
        with fsspec.open(file) as opened:
            return class_names_of(datasets.Features.from_arrow_schema(parquet.read_schema(opened)))
    except pa.ArrowInvalid as error:
        raise ValueError(f"`{file}` cannot be read: {error}") from error
