"""Third-party copies of sets on the Hub, with other columns and label numberings."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import datasets
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub import HfApi

from ...utils.cache import check_no_pattern
from ..imagenet_classes import class_names, label_of_wnid
from ..schema import Source
from .class_folders import is_wnid
from .imagenet import VALIDATION_NAME
from .webdataset import load_webdataset


IMAGE_COLUMNS = ("image", "webp", "jpg", "jpeg", "png")
LABEL_COLUMNS = ("wnid", "cls", "label")


def open_columns(
    source: str,
    config: str | None,
    split: str,
    features: datasets.Features,
    local_labels: Sequence[int | list[int]] | None,
    row_of: Callable[..., dict] | None = None,
    needed: Sequence[str] = (),
) -> Source:
    """A set on the Hub, as parquet or webdataset tars, with any columns. Rows are streamed.

    Args:
        source: Hub id or folder.
        features: columns of the result. A set that has all of them is used unchanged, unless its labels have another type and may have
            another numbering than ImageNet's.
        local_labels: labels 0–999 of the classes in the set's numbering; `None` if that is ImageNet's, empty if
            unknown. Integers without names in a set that has all columns are read as either numbering, whichever all of them fit.
        row_of: a row of the result, from a row of the set and its `name`; by default, columns are found by their names.
        needed: columns that the set must have otherwise, and labels must be those of `features` then; by default, other columns and
            numberings are known.

    Raises:
        PermissionError: the set is gated, and no token with access was found.
        FileNotFoundError: the set does not exist, or the Hub cannot be reached.
        ValueError: a tar is truncated; a column of images or of labels is missing; class names have another order than ImageNet's;
            integers fit both numberings, or none. While rows are read: a label is outside the numbering.
    """
    dataset, state = _load(source, config, split)
    columns = dataset.column_names
    is_complete, same_labels = set(features) <= set(columns), dataset.features.get("label") == features.get("label")
    required = tuple(name for name in ("image", "label") if name in features)
    if is_complete and (needed or same_labels or not _has_own_numbering(dataset.features["label"], local_labels)):
        row_of = None
        if needed and not same_labels:
            raise ValueError(
                f"`{source}` has labels of type {_short(dataset.features['label'])}, expected {_short(features['label'])}: give the "
                "official archive, or a folder of `robust-vit data prepare`."
            )
    elif missing := [name for name in needed if name not in columns]:
        raise ValueError(
            f"`{source}` has the columns {', '.join(columns)}, and no {', '.join(missing)}: no such table of this set is known. Give "
            "the official archive, or a folder of `robust-vit data prepare`."
        )
    elif row_of is None:
        image_column, label_column = (
            next((name for name in names if name in columns), None) for names in (IMAGE_COLUMNS, LABEL_COLUMNS)
        )
        if image_column is None or label_column is None:
            raise ValueError(
                f"`{source}` has the columns {', '.join(columns)}; expected images in one of {', '.join(IMAGE_COLUMNS)} "
                f"and classes in one of {', '.join(LABEL_COLUMNS)}."
            )
        if local_labels is not None and not local_labels:
            raise ValueError(
                f"`{source}` numbers the 113 classes of ObjectNet in the order of their folders: give the folder of "
                "ObjectNet's mapping files with `mappings`."
            )
        required = (image_column, label_column)
        numbering = _numbering_of(dataset, label_column, local_labels, is_complete, source)
        row_of = partial(
            _row_of, image_column=image_column, label_column=label_column, numbering=numbering, source=source
        )
    rows = partial(column_rows, dataset=dataset.decode(False), row_of=row_of, required=required, source=source)
    return Source(rows, list(range(dataset.num_shards)), state)


def _numbering_of(
    dataset: datasets.IterableDataset, label_column: str, local_labels: Sequence | None, is_complete: bool, source: str
) -> Sequence:
    """Labels 0–999, or wnids, of the numbers in a label column, see [`open_columns`]."""
    label = dataset.features[label_column]
    names = getattr(label, "names", None)
    if names and all(map(is_wnid, names)):
        return names
    if local_labels is None or len(names or ()) == 1000:
        if names and is_shuffled(names):
            raise ValueError(
                f"`{source}` has the names of ImageNet's classes in another order than ImageNet. Names are not unique (two "
                "classes are called crane): take a copy that has wnids, or the official archive."
            )
        return range(1000)
    is_integer = isinstance(label, datasets.Value) and "int" in label.dtype
    if not (is_complete and is_integer and isinstance(local_labels[0], int)):
        return local_labels
    # Copies of others have the set's numbers, and tables that somebody made of prepared ones have ImageNet's.
    batches = dataset.select_columns(label_column).iter(1000)
    found = {value for batch in batches for value in batch[label_column]} - {None}
    is_local, is_imagenets = found <= set(range(len(local_labels))), found <= set(local_labels)
    if is_local == is_imagenets:
        raise ValueError(
            f"`{source}` has labels without names, which fit {'both' if is_local else 'neither'}: ImageNet's numbers of the "
            f"{len(local_labels)} classes of this set, and 0–{len(local_labels) - 1}. Give their wnids in a column `wnid`, or "
            "take the official archive."
        )
    return local_labels if is_local else range(1000)


def _has_own_numbering(label: object, local_labels: Sequence | None) -> bool:
    """Whether a label column of another type than ImageNet's may have another numbering: by its names, or as integers without
    names in a set that has `local_labels`."""
    names = getattr(label, "names", None)
    if names is None:
        return local_labels is not None and isinstance(label, datasets.Value)
    in_order = list(map(label_of_wnid().get, names)) == list(range(1000))
    return len(names) != 1000 or is_shuffled(names) or (all(map(is_wnid, names)) and not in_order)


def _short(feature: object) -> str:
    """Type of a column, without all of many names."""
    text = str(feature)
    return text if len(text) <= 100 else f"{text[:100]}…"


def is_shuffled(names: list[str]) -> bool:
    """Whether names are ImageNet's class names in another order."""
    first = [name.split(",")[0].strip().lower() for name in names]
    expected = [name.lower() for name in class_names()]
    num_known = len(set(first) & set(expected))
    in_place = sum(name == other for name, other in zip(first, expected, strict=False))
    return num_known >= len(names) / 2 and in_place < 0.9 * num_known  # other names say nothing about the order


def has_parquet(folder: Path) -> bool:
    """Whether a folder holds parquet shards, directly or in `data`."""
    return any(True for place in (folder, folder / "data") for _ in place.glob("*.parquet"))


def column_rows(
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


def _load(source: str, config: str | None, split: str) -> tuple[datasets.IterableDataset, object]:
    """The streamed set, and a state that changes when it does."""
    folder = Path(source)
    check_no_pattern(folder)
    if folder.is_dir() and not has_parquet(folder):
        return load_webdataset(folder, split)
    if folder.is_dir():
        splits = datasets.get_dataset_split_names(source)
        if split not in splits and len(splits) > 1:
            raise ValueError(f"`{source}` has the splits {', '.join(splits)}, expected `{split}`.")
        dataset = datasets.load_dataset(source, split=split if split in splits else splits[0], streaming=True)
        return dataset, [(str(path), path.stat().st_mtime_ns) for path in sorted(folder.rglob("*.parquet"))]
    try:
        return datasets.load_dataset(source, config, split=split, streaming=True), HfApi().dataset_info(source).sha
    except (DatasetNotFoundError, ConnectionError) as error:
        unreachable = isinstance(error, ConnectionError)
        if not unreachable and "gated" in str(error):
            raise PermissionError(
                f"`{source}` is gated: accept its terms on {datasets.config.HF_ENDPOINT}/datasets/{source}, then log in "
                f"with `hf auth login` or set HF_TOKEN. ({error})"
            ) from error
        reason = "the Hub could not be reached" if unreachable else "no such set on the Hub"
        raise FileNotFoundError(f"There is no file or folder `{source}`, and {reason}: {error}") from error


def _row_of(row: dict, name: str, image_column: str, label_column: str, numbering: Sequence, source: str) -> dict:
    """A row in the schema. `numbering` maps the set's numbers to labels or wnids."""
    value = row[label_column]
    if not isinstance(value, str):
        if not 0 <= value < len(numbering):
            # An error, not a bad row: with another numbering, every label would be wrong.
            raise ValueError(
                f"`{source}`, `{name}`: label {value} is outside the numbering of this set, 0–{len(numbering) - 1}."
            )
        value = numbering[value]
    if isinstance(value, str):
        if value not in label_of_wnid():
            return {"file_name": name, "problem": f"`{source}`, `{name}`: `{value}` is not a wnid of ImageNet-1k."}
        value = label_of_wnid()[value]
    return {"image": row[image_column], "label": value, "file_name": name}


def _file_name(row: dict, image_column: str) -> str | None:
    """Name of the image in the original archive, if available."""
    path = PurePosixPath((row[image_column] or {}).get("path") or "").name
    original = VALIDATION_NAME.search(" ".join([path, str(row.get("json", "")), row.get("__key__", "")]))
    if original:
        return f"{original[0]}.JPEG"
    return f"{row['__key__']}.{image_column}" if "__key__" in row else path or None
