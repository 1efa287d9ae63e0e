"""Folders of images: your own, `<split>/<class>/<image>`, and the class folders of the known sets."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path, PurePosixPath
from types import MappingProxyType

import datasets
import pyarrow as pa
from datasets.data_files import SPLIT_KEYWORDS
from pyarrow import csv, json, parquet

from ...utils.files import files_below, is_hidden
from ...utils.images import is_picture, readable_suffixes
from ..classes import nfc, subset, wnids
from ..schema import Source


Label = int | list[int]  # 0–999, or a list of all accepted labels
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}  # of the images of known sets
SPLITS = {str(split): names for split, names in SPLIT_KEYWORDS.items()}  # names of folders, in lower case, by split
METADATA = {"metadata.jsonl": json.read_json, "metadata.csv": csv.read_csv, "metadata.parquet": parquet.read_table}
ENCODED = "Expected text in UTF-8, and commas between the columns of CSV."
# Suffixes of images that Pillow may not be able to read.
PICTURES = {".avif", ".avifs", ".jxl", ".svg", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2"}
PICTURES |= {".heic", ".heif", ".hif"}
UNREADABLE = "in a format to convert to PNG (for HEIC, `pip install pillow-heif`)"
NUM_NAMES = 3  # names shown of a list of files


class LeftOut(str):
    """A sentence on files that were left out, with split, name and reason of each. It has no names, since results may be published; `named` has
    the first few, for the terminal."""

    files: Sequence[tuple[str, str, str]]
    named: str

    def __new__(cls, text: str, files: Sequence[tuple[str, str, str]] = (), named: str = "") -> "LeftOut":
        note = super().__new__(cls, text)
        note.files, note.named = files, named or text
        return note


@dataclass(frozen=True)
class ImageFolder:
    """Names, relative to a folder, of the images, metadata files and hidden images below it. Hidden images are left out."""

    root: Path
    images: list[str]
    metadata: list[str]
    hidden: list[str]

    @classmethod
    def find(cls, root: Path) -> "ImageFolder | None":
        """List the files of a folder; `None` if it has no images, or has tables."""
        suffixes, images, metadata, hidden = readable_suffixes() | PICTURES, [], [], []
        for name in files_below(root):
            if "\\udc" in ascii(name):  # which no table can hold
                raise ValueError(f"The name {name!a} in `{root}` is not in UTF-8: rename the file or folder.")
            path = PurePosixPath(name)
            if is_hidden(name):
                if path.suffix.lower() in suffixes and is_picture(root / name):
                    hidden.append(name)
            elif path.name in METADATA:
                metadata.append(name)
            elif path.suffix.lower() in (".parquet", ".arrow"):
                return None
            elif path.suffix.lower() in suffixes or is_picture(root / name):
                images.append(name)
        return cls(root, images, metadata, hidden) if images else None

    @cached_property
    def folders(self) -> dict[str, str]:
        """Folder of each split, such as `train/`, or empty for the root."""
        below = dict.fromkeys(name.partition("/")[0] for name in [*self.images, *self.metadata] if "/" in name)
        are_classes = not self.metadata and all(name.count("/") == 1 for name in self.images)
        if are_classes and not all(map(_split_of, below)):
            return {"train": ""}  # a class folder may have the name of a split, such as `train`
        folders: dict[str, str] = {}
        for folder in below:
            split = _split_of(folder)
            if split in folders:
                both = f"`{folders[split][:-1]}` and `{folder}`"
                raise ValueError(f"`{self.root}` has two folders of the split `{split}`, {both}: merge them.")
            if split is not None:
                folders[split] = f"{folder}/"
        return {split: folders[split] for split in SPLITS if split in folders} or {"train": ""}

    def read(self, split: str) -> tuple[datasets.Dataset, list[str]]:
        """Return the rows of a split, by metadata or class folders, and sentences on what is left out, and on metadata that contradict class
        folders. `file_name` is relative to the folder of the split. Classes are those of the split, sorted by name."""
        folder, left_out = self.folders[split], defaultdict(list)
        images = [name for name in self.images if name.startswith(folder)]
        metadata = [name for name in self.metadata if name.startswith(folder)]
        metadata = metadata or [name for name in self.metadata if "/" not in name]
        rows = (
            self._rows_of_metadata(metadata, left_out) if metadata else self._rows_of_classes(images, folder, left_out)
        )
        kept, unreadable = [], PICTURES - readable_suffixes()
        if metadata and not any("label" in values for _, values in rows):
            labels = {files["image"]: of for files, of in self._rows_of_classes(images, folder, defaultdict(list))}
            if len({of.get("label") for of in labels.values()}) > 1:
                rows = [(files, labels.get(files["image"], {}) | values) for files, values in rows]
        for files, values in rows:
            if files["image"].startswith(folder):
                file_name = files["image"].removeprefix(folder)
                if PurePosixPath(file_name).suffix.lower() in unreadable:
                    left_out[UNREADABLE].append(file_name)
                else:
                    kept.append((files, values | {"file_name": file_name}))
        listed = {name for files, _ in rows for name in files.values()}
        if metadata:
            left_out["without a line of metadata"] = [
                name.removeprefix(folder) for name in images if name not in listed
            ]
        left_out["hidden, since a name begins with `.` or `__`"] = [
            name.removeprefix(folder) for name in self.hidden if name.startswith(folder)
        ]
        if split == next(iter(self.folders)):  # once for all splits
            beside = [name for name in self.images if not name.startswith((*self.folders.values(),))]
            left_out["outside the folders of splits"] = [name for name in beside if name not in listed]
        summary, named = (_summary(left_out, with_names) for with_names in (False, True))
        if not kept:
            expected = f"`{folder}<class>/<image>`, or a line of metadata for each"
            raise ValueError(
                f"`{self.root / folder}` has no image that can be used; left out: {named or 'none'}. Expected {expected}."
            )
        classes = [] if metadata else [path.name for path in subfolders(self.root / folder)]
        files = [(split, name, reason) for reason, names in left_out.items() for name in names]
        told = f"`{split}`: left out "
        notes: list[str] = [LeftOut(f"{told}{summary}.", files, f"{told}{named}.")] if summary else []
        if metadata and (others := _in_other_folders(kept)):
            told = f"`{split}`: the metadata gives {len(others)} of {len(kept)} images another class than the folder"
            named = f"{told} ({first_few(others)}). The metadata counts."
            notes.append(LeftOut(f"{told}. The metadata counts.", [], named))
        return self._table(kept, classes), notes

    def _rows_of_classes(
        self, images: list[str], folder: str, left_out: dict[str, list[str]]
    ) -> list[tuple[dict, dict]]:
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

    def _rows_of_metadata(self, metadata: list[str], left_out: dict[str, list[str]]) -> list[tuple[dict, dict]]:
        rows, label_of = [], {}
        known = {nfc(name): name for name in self.images}  # macOS and tables write accents in two ways
        for table in metadata:
            base = table.rpartition("/")[0]
            try:
                read = METADATA[PurePosixPath(table).name](self.root / table)
                names = [name.strip() for name in read.column_names]
                read = read.rename_columns(names)
                if any(map(pa.types.is_binary, read.schema.types)):
                    raise ValueError("its text is not UTF-8")
                if len({*names}) < len(names):
                    raise ValueError("two columns have one name")
            except ValueError as error:
                raise ValueError(f"`{self.root / table}` is not valid: {error}. {ENCODED}") from error
            for line in read.to_pylist():
                given = {column: line[key] for key in line if (column := _picture_of(key))}
                values = {key: value for key, value in line.items() if not _picture_of(key)}
                if not given.get("image"):
                    raise ValueError(f"`{self.root / table}` has a line without an (`image_`)`file_name`. {ENCODED}")
                files: dict[str, str | None] = dict.fromkeys(given)
                for column, name in given.items():
                    if name:
                        path = path_within(self.root, table, base, name)
                        files[column] = known.get(nfc(path), path)
                label, pictures = values.get("label"), tuple(files.values())
                if pictures not in label_of:
                    rows.append((files, values))
                elif label_of[pictures] == label:
                    left_out["listed again in the metadata"].append(files["image"])
                else:
                    both = f"as `{label_of[pictures]}` and as `{label}`"
                    raise ValueError(
                        f"`{self.root / table}` lists `{given['image']}` {both}: remove one of the lines."
                    )
                label_of[pictures] = label
        return rows

    def _table(self, rows: list[tuple[dict, dict]], classes: list[str]) -> datasets.Dataset:
        """Table of the rows. `classes` may have no images; they get numbers like the others."""
        pictures, others = ({name: None for row in rows for name in row[part]} for part in (0, 1))
        columns = {name: [values.get(name) for _, values in rows] for name in others}
        types: dict = dict.fromkeys(pictures, datasets.Image())
        if any(isinstance(label, str) for label in columns.get("label", [])):
            columns["label"] = [label and nfc(label) for label in columns["label"]]
            names = sorted({*columns["label"], *map(nfc, classes)} - {None, ""})  # missing values of CSV are ""
            columns["label"] = [names.index(label) if label else None for label in columns["label"]]
            types["label"] = datasets.ClassLabel(names=names)
        features = datasets.Features.from_arrow_schema(pa.table(columns).schema) | types
        # Pictures replace a metadata column of the same name.
        for name in pictures:
            columns[name] = [files.get(name) and str(self.root / files[name]) for files, _ in rows]
        return datasets.Dataset.from_dict(columns, datasets.Features({name: features[name] for name in columns}))


def _in_other_folders(rows: list[tuple[dict, dict]]) -> list[str]:
    """Images whose folder has the name of another class than their metadata give."""
    labels, others = {str(values.get("label")) for _, values in rows}, []
    for files, values in rows:
        parent = PurePosixPath(files["image"]).parent.name
        if parent != str(values.get("label")) and parent in labels:
            others.append(files["image"])
    return others


def _split_of(folder: str) -> str | None:
    return next((split for split, names in SPLITS.items() if folder.lower() in names), None)


def _picture_of(key: str) -> str | None:
    return "image" if key == "file_name" else key.removesuffix("_file_name") if key.endswith("_file_name") else None


def _summary(left_out: dict[str, list[str]], named: bool) -> str | None:
    count = sum(map(len, left_out.values()))
    parts = [
        f"{len(names):,} {reason}" + (f" ({first_few(names)})" if named else "")
        for reason, names in left_out.items()
        if names
    ]
    return f"{count:,} image{'s' if count > 1 else ''}: {', '.join(parts)}" if count else None


def first_few(names: Sequence[str]) -> str:
    return ", ".join([f"`{name}`" for name in names[:NUM_NAMES]] + ["…"] * (len(names) > NUM_NAMES))


def open_wnids(root: Path, class_subset: str | None = None) -> Source:
    """Folders named after wnids, of ImageNet-1k or of a `class_subset`, see [`subset`]."""
    classes = range(len(wnids())) if class_subset is None else subset(class_subset)
    return open_class_folders(root, {wnids()[label]: label for label in classes})


def open_class_folders(
    root: Path, labels: Mapping[str, Label], part: str = "", parts: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> Source:
    """Source of folders named after classes.

    Args:
        root: the parent of these folders, or a folder up to three levels above it. File names are relative to it.
        part: the part of the set to open, if it has several.
        parts: by part, patterns of the names of its folders; folders of other parts are rejected.
    """
    folders = find_classes(root, labels.__contains__, parts.get(part, ()))
    if others := [name for name in parts if name != part and _is_within(folders[0], parts[name])]:
        raise ValueError(f"`{folders[0].parent}` holds `{others[0]}` of this set, not `{part}`.")
    if alien := [folder for folder in folders if folder.name not in labels]:
        raise ValueError(f"`{alien[0]}` is not named after a class of this set: remove or rename the folder.")
    return class_folders(root, {folder: labels[folder.name] for folder in folders})


def find_classes(root: Path, is_class: Callable[[str], bool], names: Sequence[str] = ()) -> list[Path]:
    """Find the class folders, sorted by name, in `root` or up to three levels below it: the siblings of a folder whose name `is_class`
    accepts. Of several places, the one within a folder whose name matches one of `names` is taken."""
    level, parents = [root], []
    for _ in range(4):
        inside = {folder: subfolders(folder) for folder in level}
        parents = [folder for folder, children in inside.items() if any(is_class(child.name) for child in children)]
        if parents:
            break
        level = [child for children in inside.values() for child in children]
    parents = [parent for parent in parents if _is_within(inside[parent][0], names)] or parents
    if len(parents) != 1:
        places = f"several, in {', '.join(f'`{parent}`' for parent in parents)}" if parents else "none"
        raise ValueError(f"Expected one folder with the class folders of this set in `{root}`, but found {places}.")
    return inside[parents[0]]


def _is_within(folder: Path, names: Sequence[str]) -> bool:
    return any(fnmatch(above, name) for above in folder.absolute().parts[-3:-1] for name in names)


@dataclass(frozen=True)
class ClassFolder:
    path: Path
    root: Path  # file names are relative to it
    label: Label


def class_folders(root: Path, labels: Mapping[Path, Label]) -> Source:
    return Source(_class_folder_rows, [ClassFolder(folder, root, label) for folder, label in labels.items()])


def _class_folder_rows(shards: list[ClassFolder]) -> Iterator[dict]:
    for shard in shards:
        for path in image_files(shard.path):
            yield file_row(path, path.relative_to(shard.root).as_posix(), label=shard.label)


def file_row(path: Path, name: str, **columns) -> dict:
    return {"image": {"bytes": None, "path": str(path)}, **columns, "file_name": name}


def image_files(folder: Path) -> list[Path]:
    files = sorted(folder.iterdir())
    return [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")]


def subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))


def places_below(root: Path, name: str) -> list[Path]:
    """Paths of a name in `root` or up to two levels below it, the highest first, since archives are often unpacked to nested folders."""
    paths = [path for above in ("", "*/", "*/*/") for path in sorted(root.glob(above + name))]
    return [path for path in paths if not any(part.startswith((".", "__")) for part in path.relative_to(root).parts)]


def path_within(root: Path, metadata: str, base: str, value: object) -> str:
    """Return the name, relative to the root, of a file that metadata in the folder `base` names relative to that folder."""
    name = os.path.normpath(str(value).replace("\\", "/"))
    if os.path.isabs(name) or name.split("/")[0] == "..":
        raise ValueError(f"`{root}`: `{metadata}` names `{value}`, which must be a relative path within its folder.")
    return f"{base}/{name}" if base else name
