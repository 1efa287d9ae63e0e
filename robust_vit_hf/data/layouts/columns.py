"""Sets as others have published them on the Hub, in columns and label numberings of their own."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import datasets
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub import HfApi

from ..imagenet_classes import class_names, label_of_wnid
from ..schema import Source
from .folders import is_wnid
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
) -> Source:
    """A set in columns of its own: on the Hub, in parquet or in webdataset tars. Rows are streamed.

    Args:
        source: Hub id, or folder.
        features: columns of the result. A set that has them all is taken as it is.
        local_labels: labels 0–999 of the classes in the set's own numbering, where that is not ImageNet's; empty
            where it is not known.

    Raises:
        PermissionError: the set is gated, and no token that has access was found.
        FileNotFoundError: there is no such set, or the Hub cannot be reached.
        ValueError: a tar is truncated, or there is no column of images or labels, or names of classes in another order;
            while rows are read: a label outside the numbering.
    """
    dataset, state = _load(source, config, split)
    columns = dataset.column_names
    if set(features) <= set(columns):
        image_columns = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
        row_of = None
    else:
        image_columns = [name for name in IMAGE_COLUMNS if name in columns][:1]
        label_column = next((name for name in LABEL_COLUMNS if name in columns), None)
        if not image_columns or label_column is None:
            raise ValueError(
                f"`{source}` has the columns {', '.join(columns)}; expected images in one of {', '.join(IMAGE_COLUMNS)} "
                f"and classes in one of {', '.join(LABEL_COLUMNS)}."
            )
        if local_labels is not None and not local_labels:
            raise ValueError(
                f"`{source}` numbers the 113 classes of ObjectNet in the order of their folders: give the folder of "
                "ObjectNet's mapping files with `mappings`."
            )
        names = getattr(dataset.features[label_column], "names", None)
        if names and all(map(is_wnid, names)):
            numbering = names
        elif names and local_labels is None and is_shuffled(names):
            raise ValueError(
                f"`{source}` has the names of ImageNet's classes in another order than ImageNet. Names are no key (two "
                "classes are called crane): take a copy that has wnids, or the official archive."
            )
        else:
            numbering = range(1000) if local_labels is None else local_labels
        row_of = partial(
            _row_of, image_column=image_columns[0], label_column=label_column, numbering=numbering, source=source
        )
    for column in image_columns:
        dataset = dataset.cast_column(column, datasets.Image(decode=False))
    return Source(partial(column_rows, dataset=dataset, row_of=row_of), list(range(dataset.num_shards)), state)


def is_shuffled(names: list[str]) -> bool:
    """Whether names are those of ImageNet's classes, but not at their positions."""
    first = [name.split(",")[0].strip().lower() for name in names]
    expected = [name.lower() for name in class_names()]
    if len(set(first) & set(expected)) < len(names) / 2:
        return False  # names of another kind, which say nothing
    return sum(name == other for name, other in zip(first, expected, strict=False)) < 0.9 * len(
        set(first) & set(expected)
    )


def has_parquet(folder: Path) -> bool:
    """Whether a folder holds parquet shards, at once or in `data`."""
    return any(True for place in (folder, folder / "data") for _ in place.glob("*.parquet"))


def column_rows(shards: list[int], dataset: datasets.IterableDataset, row_of) -> Iterator[dict]:
    """Rows of some shards of a streamed set, images not decoded, in the schema."""
    for shard in shards:
        # By batches of one, since plain iteration in a worker of a `DataLoader` would share the shard out once more.
        for index, batch in enumerate(dataset.shard(dataset.num_shards, shard).iter(1)):
            row = {column: values[0] for column, values in batch.items()}
            yield row if row_of is None else row_of(row, name=f"{shard}-{index}")


def _load(source: str, config: str | None, split: str) -> tuple[datasets.IterableDataset, object]:
    """The streamed set, and what tells whether it has changed."""
    folder = Path(source)
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
    except DatasetNotFoundError as error:
        if "gated" in str(error):
            raise PermissionError(
                f"`{source}` is gated: accept its terms on {datasets.config.HF_ENDPOINT}/datasets/{source}, then log in "
                f"with `hf auth login` or set HF_TOKEN. ({error})"
            ) from error
        raise FileNotFoundError(
            f"There is no file or folder `{source}`, and no such set on the Hub: {error}"
        ) from error
    except ConnectionError as error:
        raise FileNotFoundError(
            f"There is no file or folder `{source}`, and the Hub could not be reached: {error}"
        ) from error


def _row_of(row: dict, name: str, image_column: str, label_column: str, numbering: Sequence, source: str) -> dict:
    """A row in the schema. `numbering` gives the label, or the wnid, of each of the set's own numbers."""
    file_name = _file_name(row, image_column) or name
    value = row[label_column]
    if not isinstance(value, str):
        if not 0 <= value < len(numbering):
            # No single bad row, but another numbering than was thought: all labels would be wrong.
            raise ValueError(
                f"`{source}`, `{file_name}`: label {value} is outside the numbering of this set, 0–{len(numbering) - 1}."
            )
        value = numbering[value]
    if isinstance(value, str):
        if value not in label_of_wnid():
            problem = f"`{value}` is no wnid of ImageNet-1k"
            return {"file_name": file_name, "problem": f"`{source}`, `{file_name}`: {problem}."}
        value = label_of_wnid()[value]
    return {"image": row[image_column], "label": value, "file_name": file_name}


def _file_name(row: dict, image_column: str) -> str | None:
    """The name that the original archive gave the image, as far as the set still has it."""
    path = PurePosixPath(row[image_column].get("path") or "").name
    original = VALIDATION_NAME.search(" ".join([path, str(row.get("json", "")), row.get("__key__", "")]))
    if original:
        return f"{original[0]}.JPEG"
    return f"{row['__key__']}.{image_column}" if "__key__" in row else path or None
