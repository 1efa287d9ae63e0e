"""Tables of images on the Hub or in folders: prepared sets, copies with other columns, webdataset tars, and class names of parquet files."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath

import datasets
import fsspec
import pyarrow as pa
from huggingface_hub import HfApi
from pyarrow import parquet

from ...utils.files import check_no_pattern
from ..archives import check_tar_end
from ..imagenet_classes import are_named_as_imagenet, label_of_wnid
from ..label_mapping import class_names_of
from ..schema import Source
from .imagenet import VALIDATION_NAME


def open_table(
    source: str,
    config: str | None,
    split: str,
    features: datasets.Features,
    numbering: Sequence[int | list[int]] | None = None,
    row_of: Callable[..., dict] | None = None,
    any_split: bool = True,
) -> Source:
    """A set on the Hub or in a folder of parquet files or tars. Rows are streamed.

    Args:
        source: Hub id, or folder.
        config: configuration of the Hub dataset.
        split: split of the table.
        features: columns of the result. A table that has all of them, with the same labels, is used unchanged.
        numbering: labels 0–999 of the numbers in the table, if they are known. Otherwise wnids or names tell its classes.
        row_of: a row of the result, from a row of the table and its `name`; by default, columns are found by their names.
        any_split: whether a folder with one split may call it otherwise.
    """
    dataset, state = _load(source, config, split, any_split)
    required = tuple(name for name in ("image", "label") if name in features)
    if features.keys() <= {*dataset.column_names} and dataset.features.get("label") == features.get("label"):
        row_of = None
    elif row_of is None:
        image_column, label_column, labels = _columns(dataset, features, numbering, source)
        required = (image_column, label_column)
        row_of = partial(_row_of, image_column=image_column, label_column=label_column, labels=labels, source=source)
    rows = partial(_rows, dataset=dataset.decode(False), row_of=row_of, required=required, source=source)
    return Source(rows, list(range(dataset.num_shards)), state)


def _load(source: str, config: str | None, split: str, any_split: bool) -> tuple[datasets.IterableDataset, object]:
    """The streamed table, and a state that changes when it does."""
    folder = Path(source)
    check_no_pattern(folder)
    if not folder.is_dir():
        return datasets.load_dataset(source, config, split=split, streaming=True), HfApi().dataset_info(source).sha
    if has_parquet(folder):
        files, splits = sorted(folder.rglob("*.parquet")), datasets.get_dataset_split_names(source)
        split = splits[0] if any_split and len(splits) == 1 else split
        rows = datasets.load_dataset(source, split=split, streaming=True)
    else:
        files = numbered_tars(folder)
        for tar in files:
            check_tar_end(tar)
        data_files = {split: [*map(str, files)]}
        rows = datasets.load_dataset("webdataset", data_files=data_files, split=split, streaming=True)
    return rows, [(path, path.stat().st_mtime_ns) for path in files]


def has_parquet(folder: Path) -> bool:
    """Whether a folder holds parquet shards, directly or in `data`."""
    return any(True for place in (folder, folder / "data") for _ in place.glob("*.parquet"))


def numbered_tars(folder: Path) -> list[Path]:
    """Webdataset shards of evaluation images in a folder. Tars of official archives are not numbered."""
    tars = [path for place in (".", "validation", "val", "test") for path in sorted((folder / place).glob("*.tar"))]
    return [path for path in tars if "train" not in path.name and re.fullmatch(r"(.*[-_])?\d+\.tar", path.name)]


def _columns(
    dataset: datasets.IterableDataset, features: datasets.Features, numbering: Sequence | None, source: str
) -> tuple[str, str, Mapping]:
    """Columns of images and labels, and labels 0–999 of the values in the latter."""
    image, label = (
        next((name for name in names if name in dataset.column_names), None)
        for names in (("image", "webp", "jpg", "jpeg", "png"), ("wnid", "cls", "label"))
    )
    names = getattr(dataset.features.get(label), "names", None) or ()
    if names and label_of_wnid().keys() >= {*names}:
        numbering = [label_of_wnid()[name] for name in names]
    elif numbering is None and are_named_as_imagenet(names):
        numbering = range(len(names))
    labels = label_of_wnid() if label == "wnid" else dict(enumerate(numbering or ()))
    # Nothing but an image and a class of ImageNet, or classes in a known numbering, can be told from such columns.
    several = isinstance(features.get("label"), datasets.List) and not isinstance(next(iter(labels.values()), 0), list)
    if image is None or not labels or several or features.keys() != {"image", "label", "file_name"}:
        raise ValueError(
            f"`{source}` has the columns {', '.join(dataset.column_names)}, from which the classes of this set cannot be told. Give "
            "a prepared folder or the official archive, the `mappings` of ObjectNet, or columns `image` and `wnid`."
        )
    return image, label, labels


def _rows(
    shards: list[int],
    dataset: datasets.IterableDataset,
    row_of: Callable[..., dict] | None,
    required: Sequence[str],
    source: str,
) -> Iterator[dict]:
    """Rows of shards of a streamed set, in the schema, with undecoded images. Rows that lack a value of `required`, the column of
    images first, are unusable."""
    for shard in shards:
        # In batches of one, since plain iteration in a `DataLoader` worker would split the shard again.
        for index, batch in enumerate(dataset.shard(dataset.num_shards, shard).iter(1)):
            row = {column: values[0] for column, values in batch.items()}
            name = row.get("file_name") or _file_name(row, required[0]) or f"{shard}-{index}"
            if missing := [column for column in required if row[column] is None]:
                problem = f"`{source}`, `{name}` has no {' and no '.join(missing)}: add what is missing, or leave the row out."
                yield {"file_name": name, "problem": problem}
            else:
                yield row if row_of is None else row_of(row, name=name)


def _row_of(row: dict, name: str, image_column: str, label_column: str, labels: Mapping, source: str) -> dict:
    value = row[label_column]
    if value not in labels:  # an error, not a bad row: with another numbering, every label would be wrong
        raise ValueError(
            f"`{source}`, `{name}`: label {value} is outside the numbering of this set, of {len(labels)} classes."
        )
    return {"image": row[image_column], "label": labels[value], "file_name": name}


def _file_name(row: dict, image_column: str) -> str | None:
    """Name of the image in the original archive, if available."""
    path = PurePosixPath((row[image_column] or {}).get("path") or "").name
    original = VALIDATION_NAME.search(" ".join([path, str(row.get("json", "")), row.get("__key__", "")]))
    if original:
        return f"{original[0]}.JPEG"
    return f"{row['__key__']}.{image_column}" if "__key__" in row else path or None


def class_names_of_files(files: Sequence[str], declared: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Class names in the files of a split, paths or URLs, or those that its card declares. Files that number their classes
    differently are refused: `datasets` would give all of them the names of the first."""
    with ThreadPoolExecutor() as pool:
        names = [known or declared for known in pool.map(class_names_of_file, files)]
    if others := [file for file, known in zip(files, names, strict=True) if known != names[0]]:
        raise ValueError(
            f"`{files[0]}` and `{others[0]}` are of one split, and number their classes differently: write both with one `ClassLabel`."
        )
    return names[0]


def class_names_of_file(file: str) -> tuple[str, ...] | None:
    """Class names in a parquet file, of which only the end is read."""
    try:
        with fsspec.open(file) as opened:
            return class_names_of(datasets.Features.from_arrow_schema(parquet.read_schema(opened)))
    except pa.ArrowInvalid as error:
        raise ValueError(f"`{file}` cannot be read: {error}") from error
