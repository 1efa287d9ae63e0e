"""Folders of your own images, `<split>/<class>/<image>` or with metadata, which the `imagefolder` of `datasets` reads."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import datasets
from datasets.data_files import SPLIT_KEYWORDS
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

from ...utils.files import check_no_pattern, files_below, is_hidden
from ...utils.images import is_picture, readable_suffixes
from ..classes import nfc
from ..schema import LeftOut, check_columns, first_few, load_rows, undecoded


SPLITS = {str(split): names for split, names in SPLIT_KEYWORDS.items()}  # names of folders, in lower case, by split
TABLES = ImageFolder.METADATA_FILENAMES
# Suffixes of photographs that Pillow may not be able to read.
PICTURES = {".avif", ".jxl", ".svg", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".heic", ".heif", ".hif"}


@dataclass(frozen=True)
class OwnFolder:
    """A folder of images: the names, relative to `root`, of the pictures and of the metadata files below it."""

    root: Path
    pictures: list[str]
    tables: list[str]

    @classmethod
    def find(cls, root: Path) -> "OwnFolder | None":
        """List the files of a folder; `None` if it has no pictures, or has parquet files of them."""
        suffixes, pictures, tables = readable_suffixes() | PICTURES, [], []
        for path in map(PurePosixPath, files_below(root)):
            if path.name in TABLES:
                tables.append(str(path))
            elif path.suffix.lower() in (".parquet", ".arrow") and not is_hidden(str(path)):
                return None
            elif path.suffix.lower() in suffixes or is_picture(root / path):
                if not path.name.startswith("._"):  # resource forks of macOS
                    pictures.append(str(path))
        return cls(root.absolute(), pictures, tables) if pictures else None

    @cached_property
    def folders(self) -> dict[str, tuple[str, ...]]:
        """Folders of each split, such as `train/`; if there are none, the root is the split `train`."""
        seen = [name for name in (*self.pictures, *self.tables) if not is_hidden(name)]
        below = dict.fromkeys(name.partition("/")[0] for name in seen if "/" in name)
        split_of = {name: split for split, names in SPLITS.items() for name in below if name.lower() in names}
        are_classes = not self.tables and all(name.count("/") == 1 for name in seen)
        if not split_of or (are_classes and len(split_of) < len(below)):  # a class may be called `train`
            return {"train": ("",)}
        found = [split for split in SPLITS if split in split_of.values()]
        return {split: tuple(f"{name}/" for name in below if split_of.get(name) == split) for split in found}

    def read(self, split: str) -> tuple[datasets.Dataset, list[str]]:
        """Return the rows of a split, with labels by the metadata or by class folders and `file_name`, relative to the folder
        of the split; and sentences on the images that are left out."""
        folders = self.folders[split]
        tables = [name for name in self.tables if name.startswith(folders)]
        tables = tables or [name for name in self.tables if "/" not in name]
        if tables:
            check_no_pattern(self.root)
            files = [str(self.root / name) for name in tables]
            rows = load_rows("imagefolder", self.root, data_files=files, split="train")
            check_columns(rows, split, ())
        else:
            visible = [name for name in self.pictures if not is_hidden(name) and _is_readable(name)]
            files = {"image": [str(self.root / name) for name in visible if name.startswith(folders)]}
            rows = datasets.Dataset.from_dict(files, datasets.Features({"image": datasets.Image()}))
        paths = [Path(image["path"]).relative_to(self.root).as_posix() for image in undecoded(rows)["image"]]
        names = [path.removeprefix(next(filter(path.startswith, folders), "")) for path in paths]
        kept = [index for index, path in enumerate(paths) if path.startswith(folders)]
        classes = [name.partition("/")[0] if name.count("/") == 1 else None for name in names]
        has_classes = "label" not in rows.column_names and len({classes[index] for index in kept} - {None}) > bool(
            tables
        )
        if not tables:
            depth = 1 if has_classes else 0
            kept = [index for index in kept if names[index].count("/") == depth]
            kept.sort(key=lambda index: names[index].split("/"))
        notes = self._left_out(split, rows.select(kept), bool(tables))
        if not kept:
            raise ValueError(
                f"`{self.root}` has no image of `{split}` in `<class>/<image>`, nor a line of metadata. {first_few(notes)}"
            )
        rows = rows.select(kept).add_column("file_name", [names[index] for index in kept])
        if has_classes:
            # Class folders without images count, since a model may number its classes by them.
            inside = {path.name for folder in folders for path in (self.root / folder).iterdir() if path.is_dir()}
            known = sorted({nfc(name) for name in inside if not name.startswith((".", "__"))})
            numbers = [known.index(nfc(classes[index])) if classes[index] else None for index in kept]
            rows = rows.add_column("label", numbers, feature=datasets.ClassLabel(names=known))
        elif "string" in str(getattr(rows.features.get("label"), "dtype", "")):
            rows = rows.class_encode_column("label")
        return rows, notes

    def _left_out(self, split: str, rows: datasets.Dataset, has_table: bool) -> list[str]:
        pictures = [name for name, feature in rows.features.items() if isinstance(feature, datasets.Image)]
        used = {image["path"] for name in pictures for image in undecoded(rows)[name] if image}
        reasons = {}
        for name in self.pictures:
            is_outside = not name.startswith(tuple(folder for of in self.folders.values() for folder in of))
            first = split == next(iter(self.folders))  # tells, for all splits, what is outside of them
            if str(self.root / name) in used or not (first if is_outside else name.startswith(self.folders[split])):
                continue
            if is_hidden(name):
                reasons[name] = "hidden, since a name begins with `.` or `__`"
            elif not _is_readable(name):
                reasons[name] = "in a format to convert to PNG (for HEIC, `pip install pillow-heif`)"
            elif is_outside:
                reasons[name] = "outside the folders of splits"
            elif has_table:
                reasons[name] = "without a line of metadata"
            else:
                is_deep = name.count("/") > 1 + (self.folders[split] != ("",))
                reasons[name] = "deeper than class folders" if is_deep else "in no class folder"
        if not reasons:
            return []
        told = f"`{split}`: left out {len(reasons):,} image{'s' if len(reasons) > 1 else ''}: "
        told += ", ".join(f"{count:,} {reason}" for reason, count in Counter(reasons.values()).items())
        named = f"{told} ({first_few([*reasons])})."
        return [LeftOut(f"{told}.", [(split, name, reason) for name, reason in reasons.items()], named)]


def _is_readable(name: str) -> bool:
    suffix = PurePosixPath(name).suffix.lower()
    return suffix not in PICTURES or suffix in readable_suffixes()
