"""Parquet files whose classes are numbered file by file or split by split: labels are mapped by name."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pyarrow as pa
from datasets.packaged_modules.parquet.parquet import Parquet
from pyarrow import parquet
from transformers.utils import logging

from ...utils.cache import check_no_pattern
from ..label_mapping import class_names_of


logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class ParquetFiles:
    """Parquet files of a folder or a Hub id.

    Args:
        splits: paths or URLs of the files of each split.
        features: columns that the card declares; `None` if it does not.
    """

    splits: dict[str, list[str]]
    features: datasets.Features | None

    @classmethod
    def find(cls, source: str, cache: Path | None) -> "ParquetFiles | None":
        """Files of a folder or a Hub id, as `datasets` finds them; `None` if they are not parquet."""
        builder = datasets.load_dataset_builder(source, cache_dir=cache)
        if not isinstance(builder, Parquet):
            return None
        return cls(
            {str(name): list(files) for name, files in builder.config.data_files.items()}, builder.info.features
        )

    def groups(self, split: str) -> list[tuple[tuple[str, ...] | None, list[str]]]:
        """Successive files of a split that have the same class names, with these names; `None` without names.

        Raises:
            ValueError: a file cannot be read, or some files name the classes of their labels and others do not.
        """
        files = self.splits[split]
        with ThreadPoolExecutor() as pool:
            features = list(pool.map(_features_of, files))
        declared = class_names_of(self.features or {})
        names = [class_names_of(columns) or declared for columns in features]
        named = [file for file, known in zip(files, names, strict=True) if known is not None]
        bare = [file for file, known in zip(files, names, strict=True) if known is None]
        if named and bare:
            raise ValueError(
                f"`{bare[0]}` has labels without names, and `{named[0]}` names them, so that they cannot be compared: write all files "
                'with names, `dataset.cast_column("label", datasets.ClassLabel(names=…))`.'
            )
        grouped = groupby(zip(names, files, strict=True), key=lambda pair: pair[0])
        return [(known, [file for _, file in pairs]) for known, pairs in grouped]

    def names_of_all(self) -> tuple[str, ...] | None:
        """Class names that `datasets` gives to all files: those of the card, or of the first file."""
        return class_names_of(self.features or _features_of(next(chain(*self.splits.values()))))

    def features_with(self, names: tuple[str, ...] | None) -> datasets.Features | None:
        """The declared columns, if any, with other class names."""
        if self.features is None or names is None:
            return self.features
        return datasets.Features(self.features | {"label": _renamed(self.features["label"], names)})


def join(parts: Sequence[Any], source: str) -> Any:
    """Concatenate datasets, or streams, with labels mapped by name to the classes of the first, and to further ones
    behind them.

    Raises:
        ValueError: some have names of classes, and others do not.
    """
    names = [class_names_of(part.features or {}) for part in parts]
    if len({*names}) == 1:
        return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(list(parts))
    if None in names:
        raise ValueError(
            f"Some splits of `{source}` name the classes of their labels, and others do not, so that they cannot be joined: "
            'name them all, `dataset.cast_column("label", datasets.ClassLabel(names=…))`.'
        )
    known = tuple(dict.fromkeys(chain(*names)))
    logger.warning(
        f"A part of `{source}` numbers its classes in another order than the first: its labels are mapped by name."
    )
    return datasets.concatenate_datasets([_renumbered(part, known) for part in parts])


def _features_of(file: str) -> datasets.Features:
    """Columns of a parquet file, of which only the end is read."""
    if "://" not in file:
        check_no_pattern(Path(file))
    try:
        with fsspec.open(file) as opened:
            return datasets.Features.from_arrow_schema(parquet.read_schema(opened))
    except pa.ArrowInvalid as error:
        raise ValueError(f"`{file}` cannot be read: {error}") from error


def _renamed(label: Any, names: tuple[str, ...]) -> Any:
    """Type of a label, or of a list of labels, with other class names."""
    classes = datasets.ClassLabel(names=list(names))
    return datasets.List(classes) if hasattr(label, "feature") else classes


def _renumbered(part: Any, names: tuple[str, ...]) -> Any:
    """A dataset or stream whose labels are numbers of other names."""
    old, features = class_names_of(part.features), datasets.Features(part.features)
    features["label"] = _renamed(features["label"], names)
    numbers = {label: names.index(name) for label, name in enumerate(old)}
    if isinstance(part, datasets.IterableDataset):
        # Types given to `map` would leave images undecoded, and decoded ones would be encoded again.
        return part.decode(False).map(partial(_renumber, numbers=numbers)).cast(features)
    labels = [_mapped(label, numbers) for label in part.with_format(None)["label"]]
    part = part.remove_columns("label").add_column("label", labels, feature=features["label"])
    return part.select_columns(list(features))


def _renumber(row: dict, numbers: dict[int, int]) -> dict:
    return {"label": _mapped(row["label"], numbers)}


def _mapped(label: Any, numbers: dict[int, int]) -> Any:
    if isinstance(label, list):
        return [numbers.get(one, one) for one in label]
    return numbers.get(label, label)  # `None` and -1 are no classes
