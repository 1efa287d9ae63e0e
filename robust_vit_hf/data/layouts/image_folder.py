"""Your own images as files: `<split>/<class>/<image>`, `<class>/<image>`, or files that a metadata file names.

The split is the folder below the root, and nothing else; a root without such folders is all `train`.
"""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import datasets
import pyarrow as pa
import yaml
from huggingface_hub import metadata_load
from pyarrow import csv, parquet

from ...utils.images import readable_suffixes
from .class_folders import path_within


# Names of a folder below the root, in lower case.
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
TABLES = {".parquet", ".arrow"}
HEIF = {".heic", ".heif", ".hif"}
# Images, whether Pillow reads them here or not.
PICTURES = {".avif", ".avifs", ".jxl", ".svg", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2"} | HEIF
NUM_NAMES = 3  # of files left out, shown for each reason


@dataclass(frozen=True)
class FolderRows:
    """Rows of a split.

    Args:
        columns: values by column; images are paths. `file_name` is relative to the folder of the split.
        features: `image`, `label` where it is known, `file_name`, and the other columns of the metadata.
        left_out: what is left out, and why; `None` if nothing is.
    """

    columns: dict[str, list]
    features: datasets.Features
    left_out: str | None

    def table(self) -> datasets.Dataset:
        """Rows in memory, which read an image when they are asked for it."""
        return datasets.Dataset.from_dict(self.columns, self.features)

    def stream(self) -> datasets.IterableDataset:
        """The same rows as a stream, with each file as a shard."""
        rows = [dict(zip(self.columns, values, strict=True)) for values in zip(*self.columns.values(), strict=True)]
        return datasets.IterableDataset.from_generator(_each, self.features, gen_kwargs={"rows": rows})


@dataclass(frozen=True)
class ImageFolder:
    """Images and metadata files below a folder.

    Args:
        root: the folder.
        files: names of images and metadata files, relative to the root.
        folders: folder of each split, relative to the root: `train/`; empty for the root.
    """

    root: Path
    files: list[str]
    folders: dict[str, str]

    @classmethod
    def find(cls, root: Path) -> "ImageFolder | None":
        """List a folder of images; `None` if it has none, holds tables, or has a card that gives its files.

        Raises:
            ValueError: two folders are the same split, such as `val` and `valid`, the name of an image is not UTF-8, or the header of
                the card is not valid.
        """
        card, files, suffixes = root / "README.md", [], readable_suffixes() | PICTURES
        try:
            header = (metadata_load(card) or {}) if card.is_file() else {}
        except (yaml.YAMLError, ValueError) as error:
            raise ValueError(
                f"The header of `{card}` is not a mapping in YAML: correct or remove it. {error}"
            ) from error
        if not root.is_dir() or header.get("configs"):
            return None
        for name in _files_below(root):
            path = PurePosixPath(name)
            if path.name in METADATA or path.suffix.lower() in suffixes:
                if not _is_text(name):
                    raise ValueError(f"`{root}` has a file whose name is not UTF-8, {os.fsencode(name)!r}: rename it.")
                files.append(name)
            elif path.suffix.lower() in TABLES:
                return None
        if not any(_is_image(name) for name in files):
            return None
        folders: dict[str, str] = {}
        below = dict.fromkeys(name.partition("/")[0] for name in files if "/" in name)
        if all(name.count("/") == 1 and _is_image(name) for name in files) and not all(map(_split_of, below)):
            below = {}  # class folders, of which one has the name of a split, such as `train`
        for folder in below:
            split = _split_of(folder)
            if split in folders:
                raise ValueError(
                    f"`{root}` has the folders `{folders[split][:-1]}` and `{folder}`, which both are the split `{split}`: "
                    "put their images into one of them."
                )
            if split is not None:
                folders[split] = f"{folder}/"
        return cls(root, files, {split: folders[split] for split in SPLITS if split in folders} or {"train": ""})

    def read(self, split: str) -> FolderRows:
        """Rows of a split: those that metadata names in order, or else the images of class folders.

        Classes are those of the split, sorted by name. Images without class folders have no `label`.

        Raises:
            ValueError: no image can be used, or metadata is not valid or names files outside its folder.
        """
        folder = self.folders[split]
        inside = [name for name in self.files if name.startswith(folder)]
        metadata = [name for name in inside if PurePosixPath(name).name in METADATA]
        if not metadata and (at_root := [name for name in METADATA if name in self.files]):
            metadata = at_root
        left_out: dict[str, list[str]] = {}
        if metadata:
            columns, features, named = self._named_by(metadata, folder, left_out)
            unnamed = [name for name in inside if _is_image(name) and name not in named]
            left_out[f"without a line in {PurePosixPath(metadata[0]).name}"] = [
                name.removeprefix(folder) for name in unnamed
            ]
        else:
            named = set()
            columns, features = self._of_classes([*filter(_is_image, inside)], folder, left_out)
        if split == next(iter(self.folders)):  # once for all splits
            beside = [
                name for name in self.files if _is_image(name) and not name.startswith((*self.folders.values(),))
            ]
            left_out["outside the folders of splits"] = [name for name in beside if name not in named]
        told = _told(left_out)
        if not columns["image"]:
            where = f"`{(self.root / folder).as_posix()}`"
            what = "no line of metadata for its images" if metadata else "no image in a class folder that can be read"
            shape = f"{folder}<class>/<image>"
            raise ValueError(
                f"{where} has {what}. Left out are {told or 'none'}. Expected `{shape}`, such as `{folder}cat/0.jpg`."
            )
        return FolderRows(columns, features, told)

    def _of_classes(self, images: list[str], folder: str, left_out: dict) -> tuple[dict, datasets.Features]:
        """Columns of the images of class folders, or of a folder without any. Adds what is left out, by reason."""
        parts = {name: name.removeprefix(folder).split("/") for name in images}
        classes = sorted({place[0] for place in parts.values() if len(place) == 2})
        depth = 2 if classes or not any(len(place) == 1 for place in parts.values()) else 1
        chosen, readable = [], readable_suffixes()
        for name in images:
            if len(parts[name]) != depth:
                reason = "in no class folder" if len(parts[name]) < depth else "deeper than class folders"
            else:
                reason = _why_unreadable(name, readable)
            if reason is None:
                chosen.append(name)
            else:
                left_out.setdefault(reason, []).append("/".join(parts[name]))
        columns: dict[str, list] = {"image": [str(self.root / name) for name in chosen]}
        features = {"image": datasets.Image()}
        if classes:
            number = {name: label for label, name in enumerate(classes)}
            columns["label"] = [number[parts[name][0]] for name in chosen]
            features["label"] = datasets.ClassLabel(names=classes)
        columns["file_name"] = ["/".join(parts[name]) for name in chosen]
        return columns, datasets.Features(features | {"file_name": datasets.Value("string")})

    def _named_by(self, metadata: list[str], folder: str, left_out: dict) -> tuple[dict, datasets.Features, set[str]]:
        """Columns of the rows of metadata files that are in the folder of a split, and all files that they name. Adds
        what is left out, by reason."""
        rows, named, readable = [], set(), readable_suffixes()
        lines = [(place, line, given) for place in metadata for line, given in _lines(self.root, place)]
        pictures = {"image", *filter(None, (_picture_of(key) for _, _, given in lines for key in given))}
        for place, line, given in lines:
            base, row = place.rpartition("/")[0], {}
            for key, value in given.items():
                column = _picture_of(key)
                if key in pictures:
                    or_else = " or `file_name`" if key == "image" else ""
                    raise ValueError(
                        f"`{self.root / place}` has `{key}` in line {line}, which is the column of the images "
                        f"themselves: give the names of their files as `{key}_file_name`{or_else}, and rename the "
                        f"column `{key}` if it holds anything else."
                    )
                if column is None:
                    row[key] = None if key == "label" and value == "" else value  # CSV has no other word for none
                else:
                    row[column] = None if value in ("", None) else path_within(self.root, place, base, value)
            if row.get("image") is None:
                raise ValueError(
                    f"`{self.root / place}` names no image in line {line}: expected its `file_name` or "
                    "`image_file_name`."
                )
            named |= {row[column] for column in pictures if row.get(column)}
            if not row["image"].startswith(folder):
                continue
            file_name = row["image"].removeprefix(folder)
            if reason := _why_unreadable(file_name, readable):
                left_out.setdefault(reason, []).append(file_name)
            else:
                rows.append(row | {"file_name": file_name})
        columns = {
            name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)
        }
        features = {}
        for name, values in columns.items():
            if name in pictures:
                columns[name] = [value and str(self.root / value) for value in values]
                features[name] = datasets.Image()
                continue
            try:
                kind = pa.array(values).type
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise ValueError(
                    f"The metadata of `{self.root}` has values of several types in `{name}`, expected one type: {error}."
                ) from error
            features |= datasets.Features.from_arrow_schema(pa.schema({name: kind}))
            if name == "label" and pa.types.is_string(kind):
                features[name] = datasets.ClassLabel(names=sorted({*values} - {None}))
                columns[name] = [value if value is None else features[name].str2int(value) for value in values]
        return columns or {"image": []}, datasets.Features(features), named


def _split_of(folder: str) -> str | None:
    return next((split for split, names in SPLITS.items() if folder.lower() in names), None)


def _picture_of(key: str) -> str | None:
    """Column of the pictures that a key of metadata names; `None` if it names none."""
    return "image" if key == "file_name" else key.removesuffix("_file_name") if key.endswith("_file_name") else None


def _each(rows: list[dict]) -> Iterator[dict]:
    yield from rows


def _files_below(root: Path) -> Iterator[str]:
    """Names of files, relative to the root, folder by folder in order, without hidden ones and `__MACOSX`."""
    for place, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        base = Path(place).relative_to(root)
        for name in sorted(files):
            if not name.startswith("."):
                yield (base / name).as_posix()


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes that are not UTF-8, as of archives made on other systems
        return False
    return True


def _is_image(name: str) -> bool:
    return PurePosixPath(name).name not in METADATA


def _why_unreadable(name: str, readable: set[str]) -> str | None:
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in readable or suffix not in PICTURES:
        return None
    if suffix in HEIF:
        return "that need `pip install pillow-heif`"
    return "that this Pillow does not read (convert them to PNG)"


def _told(left_out: dict[str, list[str]]) -> str | None:
    """Number, reasons and first names of images that are left out."""
    left_out = {reason: names for reason, names in left_out.items() if names}
    count = sum(map(len, left_out.values()))
    parts = []
    for reason, names in left_out.items():
        shown = ", ".join(f"`{name}`" for name in names[:NUM_NAMES])
        parts.append(f"{len(names):,} {reason} ({shown}{', …' if len(names) > NUM_NAMES else ''})")
    return f"{count:,} image{'s' if count > 1 else ''}: {', '.join(parts)}" if count else None


def _lines(root: Path, name: str) -> Iterable[tuple[int, dict]]:
    """Rows of a metadata file with the numbers of their lines."""
    path = root / name
    try:
        if path.suffix == ".csv":
            return enumerate(csv.read_csv(path).to_pylist(), 2)
        if path.suffix == ".parquet":
            return enumerate(parquet.read_table(path).to_pylist(), 1)
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # JSON may hold other line breaks
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise ValueError(f"A `{path.name}` of `{root}` is not valid: `{path}`: {error}.") from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line) if line.strip() else None
        except json.JSONDecodeError as error:
            row = error
        if row is not None and not isinstance(row, dict):
            raise ValueError(
                f"A `{path.name}` of `{root}` is not valid: `{name}`, line {number}: {row}. Expected a JSON object on each line."
            )
        rows += [] if row is None else [(number, row)]
    return rows
