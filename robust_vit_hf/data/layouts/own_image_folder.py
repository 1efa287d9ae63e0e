"""Your own images as files: `<split>/<class>/<image>`, `<class>/<image>`, or files that a metadata file names.

The split is the folder below the root; a root without such folders is all `train`. The image folder of `datasets` would
look for splits in all parts of a path, take the innermost folder for the class, number the classes of all splits
together, and leave out images in silence.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import datasets
import pyarrow as pa
from datasets.data_files import SPLIT_KEYWORDS
from pyarrow import csv, json, parquet

from ...utils.images import is_picture, readable_suffixes
from ..label_mapping import nfc
from .folders_of_sets import path_within


SPLITS = {str(split): names for split, names in SPLIT_KEYWORDS.items()}  # names of folders, in lower case
METADATA = {"metadata.jsonl": json.read_json, "metadata.csv": csv.read_csv, "metadata.parquet": parquet.read_table}
# Suffixes of images that Pillow may not read here.
PICTURES = {".avif", ".avifs", ".jxl", ".svg", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2"}
PICTURES |= {".heic", ".heif", ".hif"}
UNREADABLE = "that need to be converted to PNG or, if they are HEIC, `pip install pillow-heif`"
NUM_NAMES = 3  # of files left out, shown for each reason


@dataclass(frozen=True)
class ImageFolder:
    """Images and metadata files below a folder, by names relative to it."""

    root: Path
    images: list[str]
    metadata: list[str]

    @classmethod
    def find(cls, root: Path) -> "ImageFolder | None":
        """List a folder of images; `None` if it has none, or holds tables."""
        suffixes, images, metadata = readable_suffixes() | PICTURES, [], []
        for name in _files_below(root):
            path = PurePosixPath(name)
            if path.name in METADATA:
                metadata.append(name)
            elif path.suffix.lower() in suffixes or (not path.suffix and is_picture(root / name)):
                images.append(name)
            elif path.suffix.lower() in (".parquet", ".arrow"):
                return None
        return cls(root, images, metadata) if images else None

    @cached_property
    def folders(self) -> dict[str, str]:
        """Folder of each split, such as `train/`, or empty for the root."""
        below = dict.fromkeys(name.partition("/")[0] for name in [*self.images, *self.metadata] if "/" in name)
        are_classes = not self.metadata and all(name.count("/") == 1 for name in self.images)
        if are_classes and not all(map(_split_of, below)):
            return {"train": ""}  # of the class folders, one has the name of a split, such as `train`
        folders: dict[str, str] = {}
        for folder in below:
            split = _split_of(folder)
            if split in folders:
                raise ValueError(
                    f"`{self.root}` has two folders of the split `{split}`, `{folders[split][:-1]}` and `{folder}`: make them one."
                )
            if split is not None:
                folders[split] = f"{folder}/"
        return {split: folders[split] for split in SPLITS if split in folders} or {"train": ""}

    def read(self, split: str) -> tuple[datasets.Dataset, str | None]:
        """Rows of a split, and what is left out, in words: the rows that metadata names in order, or else the images of class
        folders. They have `image`, `label` where it is known, `file_name`, relative to the folder of the split, and the other
        columns of the metadata. Classes are those of the split, sorted by name."""
        folder, left_out = self.folders[split], defaultdict(list)
        images = [name for name in self.images if name.startswith(folder)]
        metadata = [name for name in self.metadata if name.startswith(folder)]
        metadata = metadata or [name for name in self.metadata if "/" not in name]
        rows = self._named_by(metadata) if metadata else self._of_classes(images, folder, left_out)
        kept, unreadable = [], PICTURES - readable_suffixes()
        for files, values in rows:
            if files["image"].startswith(folder):
                file_name = files["image"].removeprefix(folder)
                if PurePosixPath(file_name).suffix.lower() in unreadable:
                    left_out[UNREADABLE].append(file_name)
                else:
                    kept.append((files, values | {"file_name": file_name}))
        named = {name for files, _ in rows for name in files.values()}
        if metadata:
            unnamed = [name.removeprefix(folder) for name in images if name not in named]
            left_out["without a line of metadata"] = unnamed
        if split == next(iter(self.folders)):  # once for all splits
            beside = [name for name in self.images if not name.startswith((*self.folders.values(),))]
            left_out["outside the folders of splits"] = [name for name in beside if name not in named]
        told = _told(left_out)
        if not kept:
            raise ValueError(
                f"`{self.root / folder}` has no image that can be used. Left out are {told or 'none'}. Expected "
                f"`{folder}<class>/<image>`, such as `{folder}cat/0.jpg`, or a line of metadata for each."
            )
        return self._table(kept), told

    def _of_classes(self, images: list[str], folder: str, left_out: dict[str, list[str]]) -> list[tuple[dict, dict]]:
        """Files and values of the images of class folders, or of a folder without any. Adds what is left out, by reason."""
        parts = {name: name.removeprefix(folder).split("/") for name in images}
        depths, rows = {*map(len, parts.values())}, []
        depth = 1 if 1 in depths and 2 not in depths else 2
        for name, place in parts.items():
            if len(place) == depth:
                rows.append(({"image": name}, {"label": place[0]} if depth == 2 else {}))
            else:
                reason = "in no class folder" if len(place) < depth else "deeper than class folders"
                left_out[reason].append("/".join(place))
        return rows

    def _named_by(self, metadata: list[str]) -> list[tuple[dict, dict]]:
        """Files and other values of the lines of metadata files."""
        rows = []
        for place in metadata:
            try:
                lines = METADATA[PurePosixPath(place).name](self.root / place).to_pylist()
            except pa.ArrowInvalid as error:
                raise ValueError(f"`{self.root / place}` is not valid: {error}") from error
            base = place.rpartition("/")[0]
            for line in lines:
                named = {column: line[key] for key in line if (column := _picture_of(key))}
                values = {key: value for key, value in line.items() if not _picture_of(key)}
                if not named.get("image"):
                    raise ValueError(f"`{self.root / place}` has a line without `file_name` or `image_file_name`.")
                files = {
                    key: path_within(self.root, place, base, name) if name else None for key, name in named.items()
                }
                rows.append((files, values))
        return rows

    def _table(self, rows: list[tuple[dict, dict]]) -> datasets.Dataset:
        """Rows in memory, which read an image when they are asked for it."""
        pictures, others = ({name: None for row in rows for name in row[part]} for part in (0, 1))
        columns = {name: [values.get(name) for _, values in rows] for name in others}
        types: dict = dict.fromkeys(pictures, datasets.Image())
        if any(isinstance(label, str) for label in columns.get("label", [])):
            columns["label"] = [label and nfc(label) for label in columns["label"]]
            names = sorted({*columns["label"]} - {None, ""})  # CSV has no other word for none
            columns["label"] = [names.index(label) if label else None for label in columns["label"]]
            types["label"] = datasets.ClassLabel(names=names)
        features = datasets.Features.from_arrow_schema(pa.table(columns).schema) | types
        files = {name: [named.get(name) and str(self.root / named[name]) for named, _ in rows] for name in pictures}
        values = columns | files  # a column of the name of pictures gives way to them
        return datasets.Dataset.from_dict(values, datasets.Features({name: features[name] for name in values}))


def _split_of(folder: str) -> str | None:
    return next((split for split, names in SPLITS.items() if folder.lower() in names), None)


def _picture_of(key: str) -> str | None:
    """Column of the pictures that a key of metadata names; `None` if it names none."""
    return "image" if key == "file_name" else key.removesuffix("_file_name") if key.endswith("_file_name") else None


def _files_below(root: Path) -> Iterator[str]:
    """Names of files, relative to the root, folder by folder in order, without hidden ones and `__MACOSX`."""
    for place, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        base = Path(place).relative_to(root)
        yield from ((base / name).as_posix() for name in sorted(files) if not name.startswith("."))


def _told(left_out: dict[str, list[str]]) -> str | None:
    """Number, reasons and first names of images that are left out."""
    count, parts = sum(map(len, left_out.values())), []
    for reason, names in left_out.items():
        if names:
            shown = ", ".join(f"`{name}`" for name in names[:NUM_NAMES])
            parts.append(f"{len(names):,} {reason} ({shown}{', …' if len(names) > NUM_NAMES else ''})")
    return f"{count:,} image{'s' if count > 1 else ''}: {', '.join(parts)}" if count else None
