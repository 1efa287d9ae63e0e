"""The undecoded rows of a known set, from its official layout or a table."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from PIL import ExifTags, Image, ImageOps

from ...utils.files import json_digest
from ...utils.images import encode_image
from ..classes import wnids
from ..dataset_digest import dataset_identity
from ..known_sets import KNOWN_SETS
from ..schema import undecoded


class UnusableRow(ValueError):
    """A row cannot be used, unlike the others of its set."""


Change = Callable[[dict], dict | None]


def features_of(name: str, options: dict) -> datasets.Features:
    """Columns of a known set. If images have several labels, `label` is the list of all accepted ones."""
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
    """Rows of a set, with paths of files or with encoded images.

    Args:
        rows: rows of an official layout, as dicts until [`open_source`] makes a table of them, or the stream of a table.
        change: picklable function that makes a row of the set of one of these. It returns `None` for a row to leave out, and
            raises [`UnusableRow`].
        state: value that changes if a stream does, such as a commit.
        features: columns of the set.
    """

    rows: Any
    change: Change | None = None
    state: object = None
    features: datasets.Features | None = None

    def then(self, change: Change) -> "Source":
        return replace(self, change=change if self.change is None else partial(_both, first=self.change, then=change))

    def with_features(self, features: datasets.Features, of_rows: datasets.Features | None = None) -> "Source":
        """Source with the columns of the set. Those of a list of rows are the same, or given by `of_rows`."""
        is_list = isinstance(self.rows, list)
        rows = datasets.Dataset.from_list(self.rows, of_rows or features) if is_list else self.rows
        return replace(self, rows=rows, features=features)

    @property
    def identity(self) -> str:
        return dataset_identity(self.rows) if self.state is None else json_digest(self.state)

    @property
    def num_shards(self) -> int:
        is_table = isinstance(self.rows, datasets.Dataset)
        return min(max(len(self.rows), 1), 1024) if is_table else self.rows.num_shards

    def read(self, shards: list[int]) -> Iterator[dict]:
        """Undecoded rows of shards. Rows that cannot be used have only `file_name` and `problem`."""
        rows = undecoded(self.rows) if isinstance(self.rows, datasets.Dataset) else self.rows.decode(False)
        for shard in shards:
            # In batches of one, since plain iteration in a `DataLoader` worker would split the shard again.
            for index, batch in enumerate(rows.shard(self.num_shards, shard).iter(1)):
                row = {column: values[0] for column, values in batch.items()}
                path = (row.get("image") or {}).get("path")
                name = row.get("file_name") or (path and Path(path).name) or f"{shard}-{index}"
                try:
                    row = self.change(row | {"file_name": name}) if self.change else row
                    if row is not None:
                        lacking = [column for column in ("image", "label") if row.get(column, 0) is None]
                        if lacking:
                            raise UnusableRow(f"`{row['file_name']}` has no {' and no '.join(lacking)}")
                        yield row
                except UnusableRow as error:
                    yield {"file_name": name, "problem": str(error)}

    def __iter__(self) -> Iterator[dict]:
        return self.read([*range(self.num_shards)])


def _both(row: dict, first: Change, then: Change) -> dict | None:
    changed = first(row)
    return None if changed is None else then(changed)


def with_mask(row: dict, read: Callable[[Path], Image.Image]) -> dict:
    """Return the row with the mask that `read` gives for its file, rotated as decoding rotates the image."""
    path, image = Path(row["mask"]["path"]), Path(row["image"]["path"])
    if not image.is_file():
        raise UnusableRow(f"`{image}`, the image of `{path}`, is missing: give ImageNet-1k with --imagenet.")
    try:
        mask = read(path)
        with Image.open(image) as opened:
            mask.getexif()[ExifTags.Base.Orientation] = opened.getexif().get(ExifTags.Base.Orientation, 1)
    except (EOFError, OSError, TypeError, ValueError) as error:
        raise UnusableRow(f"`{path}` cannot be read as a mask: {error}") from error
    return row | {"mask": encode_image(ImageOps.exif_transpose(mask), f"{path.stem}.bmp")}
