"""Schema of the sets, undecoded rows, and their decoding."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
from PIL import Image, ImageOps

from ..utils.images import to_rgb
from .imagenet_classes import wnids


def make_features(
    factors: Mapping[str, str | Sequence[str]] | None = None,
    *,
    label: bool = True,
    several_labels: bool = False,
    mask: bool = False,
    class_names: Sequence[str] | None = None,
) -> datasets.Features:
    """Columns of a set: `image`, `mask` (one channel, 0 or 255), `label`, `file_name` and the set's own factors.

    Args:
        factors: further columns, with their types, or the names of their classes.
        label: whether the set has classes. Labels are 0–999; the `ClassLabel` names are wnids.
        several_labels: whether `label` is the list of all accepted ids.
        mask: whether the set has foreground masks.
        class_names: names of the classes; by default the wnids of ImageNet-1k.
    """
    columns = {"image": datasets.Image()}
    if mask:
        columns["mask"] = datasets.Image()
    if label:
        class_label = datasets.ClassLabel(names=list(class_names or wnids()))
        columns["label"] = datasets.List(class_label) if several_labels else class_label
    columns["file_name"] = datasets.Value("string")
    for name, kind in (factors or {}).items():
        columns[name] = datasets.Value(kind) if isinstance(kind, str) else datasets.ClassLabel(names=list(kind))
    return datasets.Features(columns)


@dataclass(frozen=True)
class Source:
    """Rows of a set on disk.

    Args:
        rows: generator function of the rows of shards. Images are undecoded: dicts with `bytes` or `path`. Unusable
            rows have only `file_name` and `problem` (what is wrong and what to do).
        shards: small picklable parts of the set in a fixed order, to be shared by workers.
        state: changes with the rows, in addition to the modification time of the `path` of each shard.
        features: columns of the rows, which [`open_source`] adds.
    """

    rows: Callable[[list], Iterator[dict]]
    shards: list
    state: object = None
    features: datasets.Features | None = None


def encode_image(image: Image.Image, name: str | None = None, file_format: str = "BMP") -> dict:
    """Encode an image for a row. Loaders use BMP, which is 30 times as fast as PNG."""
    encoded = io.BytesIO()
    image.save(encoded, file_format)
    return {"bytes": encoded.getvalue(), "path": name}


def decode(row: dict) -> tuple[dict, Image.Image | None, Image.Image | None]:
    """Read and decode a row once.

    Returns:
        The row, with image and mask as bytes (unchanged, except that BMP becomes PNG), or with `problem` if one of
        them cannot be decoded; image and mask, upright according to EXIF, `None` if missing or if there is a
        `problem`.
    """
    images: dict[str, Image.Image | None] = {"image": None, "mask": None}
    if "problem" in row:
        return row, None, None
    for column in images:
        if row.get(column) is None:
            continue
        content, path = row[column]["bytes"], row[column]["path"]
        where = path if content is None else row["file_name"]
        try:
            content = Path(path).read_bytes() if content is None else content
            images[column] = Image.open(io.BytesIO(content))
            if column == "image":
                to_rgb(images[column])  # refuses what transforms cannot handle; too many pixels before decoding
            images[column].load()
            encoded = {"bytes": content, "path": path and Path(path).name}
            if images[column].format == "BMP":
                encoded = encode_image(images[column], path and Path(path).with_suffix(".png").name, "PNG")
            ImageOps.exif_transpose(images[column], in_place=True)  # as `datasets.Image` does
        except Exception as error:  # codecs raise any type
            return {"file_name": row["file_name"], "problem": f"`{where}` cannot be decoded: {error}"}, None, None
        row = row | {column: encoded}
    return row, images["image"], images["mask"]


def undecoded(dataset: datasets.Dataset) -> datasets.Dataset:
    """The dataset with images as dicts with `bytes` and `path`."""
    for column, feature in dataset.features.items():
        if isinstance(feature, datasets.Image):
            dataset = dataset.cast_column(column, datasets.Image(decode=False))
    return dataset


def undecoded_rows(dataset: datasets.Dataset) -> Iterator[dict]:
    """Rows with undecoded images and `file_name`: from the row or its image, or else the row's number."""
    for index, row in enumerate(undecoded(dataset)):
        path = (row.get("image") or {}).get("path")
        yield {"file_name": Path(path).name if path else f"row {index}"} | row
