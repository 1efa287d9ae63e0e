"""Columns and rows of images: those of the known sets, their decoding, and the checks before training."""

import io
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
from datasets.exceptions import DatasetGenerationError
from PIL import Image, ImageOps
from tqdm.auto import tqdm
from transformers.utils import logging

from ..utils.images import encode_image, to_rgb
from .mask_checks import extent_without_edges, mask_problem


logger = logging.get_logger(__name__)

NUM_SHOWN = 10  # largest number of problems or class names in a message


class LeftOut(str):
    """A sentence on images that were left out, with split, name and reason of each. Reports may be published, so it has no
    names; `named`, for the terminal, has the first few."""

    files: Sequence[tuple[str, str, str]]
    named: str

    def __new__(cls, text: str, files: Sequence[tuple[str, str, str]] = (), named: str = "") -> "LeftOut":
        note = super().__new__(cls, text)
        note.files, note.named = files, named or text
        return note


def first_few(names: Sequence[str]) -> str:
    return ", ".join([f"`{name}`" for name in names[:3]] + ["…"] * (len(names) > 3))


def decode(row: dict, shorter_side: int | None = None) -> tuple[dict, Image.Image | None, Image.Image | None]:
    """Return the row with encoded image and mask, or with `problem`; and the upright image and mask, or `None`. An image whose shorter
    side is longer than `shorter_side` pixels is reduced to it, also in the row."""
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
            picture: Image.Image = Image.open(io.BytesIO(content))
            side = shorter_side if column == "image" and shorter_side and min(picture.size) > shorter_side else None
            if side is not None:
                picture.draft(None, (side, side))  # a JPEG decodes to fewer pixels in less time
            if column == "image":
                to_rgb(picture)  # rejects modes that transforms cannot handle, and too many pixels before decoding
            picture.load()
            encoded = {"bytes": content, "path": path and Path(path).name}
            if picture.format == "BMP":
                encoded = encode_image(picture, path and Path(path).with_suffix(".png").name, "PNG")
            ImageOps.exif_transpose(picture, in_place=True)  # as `datasets.Image` does
            if side is not None:
                scale = side / min(picture.size)
                size = [round(scale * length) for length in picture.size]
                picture = to_rgb(picture).resize(size, Image.Resampling.LANCZOS)
                name = Path(row["file_name"]).with_suffix(".jpg").name
                encoded = encode_image(picture, name, "JPEG", quality=95, subsampling=0)
            images[column] = picture
        except Exception as error:  # codecs raise any type
            return {"file_name": row["file_name"], "problem": f"`{where}` cannot be decoded: {error}"}, None, None
        row = row | {column: encoded}
    return row, images["image"], images["mask"]


def decode_pictures(row: dict, features: datasets.Features) -> tuple[dict[str, Image.Image], str | None]:
    """Decode `image` and, if there is one, `mask` of a row. Returns them and their problem, or `None`."""
    pictures = {}
    for column in [name for name in ("image", "mask") if name in row]:
        if row[column] is None:
            return pictures, f"{column} is missing"
        try:
            pictures[column] = features[column].decode_example(row[column])
            if column == "image":
                to_rgb(pictures[column])  # rejects what transforms cannot handle
        except Exception as error:  # codecs raise any type
            return pictures, f"{column} cannot be decoded: {error}"
    return pictures, mask_problem(pictures["image"], pictures["mask"]) if "mask" in pictures else None


def load_rows(name: str, source: object, **options) -> Any:
    """Rows by `datasets.load_dataset`, whose errors do not name the source."""
    try:
        return datasets.load_dataset(name, **options)
    except (DatasetGenerationError, ValueError) as error:
        raise ValueError(f"`{source}` cannot be read: {error.__cause__ or error}") from error


def undecoded(dataset: datasets.Dataset) -> datasets.Dataset:
    for column, feature in dataset.features.items():
        if isinstance(feature, datasets.Image):
            dataset = dataset.cast_column(column, datasets.Image(decode=False))
    return dataset


def undecoded_rows(dataset: datasets.Dataset) -> Iterator[dict]:
    if "problem" in dataset.column_names:
        raise ValueError("The column `problem` says here why a row cannot be used: rename that of your images.")
    for index, row in enumerate(undecoded(dataset)):
        path = (row.get("image") or {}).get("path")
        yield {"file_name": Path(path).name if path else f"row {index}"} | row


def check_masks(rows: dict[str, list]) -> None:
    """Raise a `ValueError` for the first mask of a batch that has a problem, see [`mask_problem`]."""
    for image, mask in zip(rows["image"], rows["mask"], strict=True):
        if problem := mask_problem(image, mask):
            raise ValueError(problem)


def check_columns(dataset: Any, name: str, needs: Collection[str] = ("label", "mask")) -> None:
    """Check that a dataset has `image` and the columns of `needs`, and their types."""
    if dataset.features is None:
        raise ValueError(f"The {name} dataset is a stream without `features`: give them with `dataset.cast`.")
    if missing := [column for column in ("image", *needs) if column not in dataset.column_names]:
        raise ValueError(
            f"The {name} dataset has no column `{missing[0]}`; it has {', '.join(dataset.column_names)}: rename one (`dataset.rename_column`), or see `metadata.jsonl` in docs/data.md."
        )
    for column in dict.fromkeys(("image", *needs, *({"mask"} & {*dataset.column_names}))):
        feature, is_label = dataset.features[column], column == "label"
        is_int = "int" in str(getattr(feature, "dtype", ""))
        if not (is_int if is_label else isinstance(feature, datasets.Image)):
            expected = "integers (`dataset.class_encode_column`)" if is_label else "datasets.Image()"
            raise ValueError(f"Column `{column}` of the {name} dataset is {feature}: cast it to {expected}.")


def check_rows(
    dataset: datasets.Dataset, name: str, num_labels: int, bad_masks: Literal["skip", "refuse"] = "skip"
) -> tuple[datasets.Dataset, list[tuple[str, str]]]:
    """Decode and check every row once, so that training does not fail on it hours later. Rows have `image`, `mask` and optionally
    `label`, which must be below `num_labels`. Those whose mask is empty or full raise an error (`refuse`), or are returned by name and reason."""
    kept, problems, uninformative, extents = [], [], [], {}
    rows = tqdm(undecoded(dataset.with_format(None)), desc=f"checking {name} rows", unit="row", leave=False)
    for index, row in enumerate(rows):
        pictures, problem = decode_pictures(row, dataset.features)
        problem = problem or label_problem(row.get("label", 0), num_labels)
        if problem is not None:
            problems.append(f"{name_of(row, index)}: {problem}")
        elif extent := extent_without_edges(pictures["mask"]):
            extents[index] = f"mask is {extent}"
            uninformative.append(f"{name_of(row, index)}: {extents[index]}")
        else:
            kept.append(index)
    count = len(dataset)
    if unusable := problems + (uninformative if bad_masks == "refuse" or not kept else []):
        raise ValueError(
            f"{len(unusable)} of {count} rows of the {name} dataset cannot be used:\n{_head(unusable)}.\n"
            "Repair or remove them (in Python, `dataset.select` leaves them out); `bad_masks='skip'` leaves out those whose masks are empty or full."
        )
    if not uninformative:
        return dataset, []
    told = f"Left out with an empty or full mask: {len(uninformative)} of {count} rows of the {name} dataset"
    logger.warning(f"{told}:\n{_head(uninformative)}")
    names = image_names(dataset)
    return dataset.select(kept), [(names[index], extent) for index, extent in extents.items()]


def image_names(rows: datasets.Dataset) -> list[str]:
    """Names of the images; for those without a name, the numbers of their rows."""
    names = rows.with_format(None)["file_name"][:] if "file_name" in rows.column_names else [None] * len(rows)
    return [name or f"row {number}" for number, name in enumerate(names)]


def name_of(row: dict, index: int) -> str:
    return f"row {index} ({(row['image'] or {}).get('path') or 'image in the table'})"


def label_problem(label: int | None, num_labels: int | None = None) -> str | None:
    """Return the problem of a label, or `None`. `num_labels` is `None` if unknown."""
    if label is None:
        return "label is missing"
    if isinstance(label, int) and (label < 0 or (num_labels is not None and label >= num_labels)):
        classes = f"the model's classes 0–{num_labels - 1}" if num_labels is not None else "all classes"
        return f"label {label} is outside {classes}"
    return None


def may_be_shown(dataset: datasets.Dataset) -> np.ndarray:
    """Which rows may be published, `(N,)` bool: in emoji-shift, those with openly licensed artwork."""
    if "openly_licensed" not in dataset.column_names:
        return np.ones(len(dataset), dtype=bool)
    return np.array(dataset.with_format(None)["openly_licensed"][:], dtype=bool)


def _head(lines: list[str]) -> str:
    shown = "\n".join(f"  {line}" for line in lines[:NUM_SHOWN])
    return shown + (f"\n  … and {len(lines) - NUM_SHOWN} more" if len(lines) > NUM_SHOWN else "")


@dataclass(frozen=True)
class Images:
    """Rows with `image` and, where known, `mask`, `label`, `group` and `file_name`, and where they come from.

    Args:
        source, split: see [`find_images`].
        masks: where the masks come from, if the source does not have them.
        rejected: number of images that were left out because they have no usable mask.
        notes: sentences on what was left out.
        predicted: whether the labels are predictions of a model, for want of others.
        group_weights: shares of the groups that a model was trained on; `None` if unknown.
    """

    rows: Any
    source: str
    split: str
    masks: str | None = None
    rejected: int = 0
    notes: tuple[str, ...] = ()
    predicted: bool = False
    group_weights: dict[str, float] | None = None

    @property
    def name(self) -> str:
        return self.split.partition("[")[0]

    @property
    def mask_files(self) -> set[str]:
        """Paths of masks that are files of their own."""
        if "mask" not in self.rows.column_names:
            return set()
        masks = self.rows.select_columns("mask").cast_column("mask", datasets.Image(decode=False))["mask"]
        return {mask["path"] for mask in masks if mask and mask["bytes"] is None}

    def select(self, indices: Collection[int]) -> "Images":
        return replace(self, rows=self.rows.select(indices))

    def labelled(self) -> "Images":
        check_columns(self.rows, self.split, ("label",))
        labels = self.rows.with_format(None)["label"][:]
        chosen = [index for index, label in enumerate(labels) if label is not None and label >= 0]
        if len(chosen) == len(labels):
            return self
        if not chosen:
            raise ValueError(f"None of the {len(labels)} images of `{self.split}` has a label.")
        names, left = image_names(self.rows), sorted({*range(len(labels))} - {*chosen})
        told = f"Left out without a label: {len(left)} of {len(labels)} images of `{self.split}`."
        note = LeftOut(told, [(self.split, names[index], "without a label") for index in left])
        return replace(self.select(chosen), notes=(*self.notes, note))
