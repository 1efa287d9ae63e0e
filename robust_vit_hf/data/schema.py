"""Schema of the sets, undecoded rows, and their decoding."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets
from PIL import Image, ImageOps

from ..utils.images import to_rgb
from .imagenet_classes import wnids
from .known_sets import KNOWN_SETS
from .mask_checks import mask_problem


def features_of(name: str, options: dict) -> datasets.Features:
    """Columns of a set with the given options: `image`, `mask` (one channel, 0 or 255), `label`, `file_name` and the set's own
    factors. Labels of ImageNet are 0–999, and the `ClassLabel` names wnids. Where an image has several, `label` is the list of
    all that are accepted."""
    known = KNOWN_SETS[name]
    columns = {"image": datasets.Image()}
    if known.masks or "segmentations" in options:
        columns["mask"] = datasets.Image()
    if known.labels != "none":
        label = datasets.ClassLabel(names=list(known.class_names or wnids()))
        several = known.labels == "several" or options.get("labels") == "real"
        columns["label"] = datasets.List(label) if several else label
    columns["file_name"] = datasets.Value("string")
    for factor, kind in known.factors.items():
        columns[factor] = datasets.Value(kind) if isinstance(kind, str) else datasets.ClassLabel(names=kind)
    return datasets.Features(columns)


@dataclass(frozen=True)
class Source:
    """Rows of a set on disk. Images are undecoded: dicts with `bytes` or `path`. Unusable rows have only `file_name` and
    `problem` (what is wrong and what to do)."""

    rows: Callable[[list], Iterator[dict]]  # generator function of the rows of shards
    shards: list  # small picklable parts of the set in a fixed order, to be shared by workers
    state: object = None  # changes with the rows, in addition to the modification time of the `path` of each shard
    features: datasets.Features | None = None  # columns of the rows, which [`open_source`] adds


def encode_image(image: Image.Image, name: str | None = None, file_format: str = "BMP", **settings) -> dict:
    """Encode an image for a row. Loaders use BMP, which is 30 times as fast as PNG."""
    encoded = io.BytesIO()
    image.save(encoded, file_format, **settings)
    return {"bytes": encoded.getvalue(), "path": name}


def decode(row: dict) -> tuple[dict, Image.Image | None, Image.Image | None]:
    """Read and decode a row once: the row, with image and mask as bytes (BMP becomes PNG), or with `problem` if one of them
    cannot be decoded; and image and mask, upright according to EXIF, `None` if missing or if there is a `problem`."""
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


def decode_pictures(row: dict, features: datasets.Features) -> tuple[dict[str, Image.Image], str | None]:
    """Decode `image` and `mask` of a row. Returns them and their problem, or `None`."""
    pictures = {}
    for column in ("image", "mask"):
        if row[column] is None:
            return pictures, f"{column} is missing"
        try:
            pictures[column] = features[column].decode_example(row[column])
            if column == "image":
                to_rgb(pictures[column])  # refuses what transforms cannot handle
        except Exception as error:  # codecs raise any type
            return pictures, f"{column} cannot be decoded: {error}"
    return pictures, mask_problem(pictures["image"], pictures["mask"])


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
