"""Folders of images: one per class, or a single one without classes."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..imagenet_classes import subset, wnids
from ..schema import Source


IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


@dataclass(frozen=True)
class ClassFolder:
    path: Path
    root: Path  # file names are relative to it
    label: int | list[int]  # 0–999, or a list of accepted labels


def class_folder_rows(shards: list[ClassFolder]) -> Iterator[dict]:
    """Rows of image folders, sorted by name. Other files, such as stray CSVs, are ignored."""
    for shard in shards:
        for path in image_files(shard.path):
            image, file_name = {"bytes": None, "path": str(path)}, path.relative_to(shard.root).as_posix()
            yield {"image": image, "label": shard.label, "file_name": file_name}


def image_files(folder: Path) -> list[Path]:
    """Image files of a folder, sorted by name, without hidden files of macOS (`._x.jpg`)."""
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )


def find_classes(root: Path, is_class: Callable[[str], bool]) -> list[Path]:
    """Class folders, sorted by name, in `root` or up to three levels below. If `is_class` accepts one folder's name,
    all its siblings are returned."""
    level, parents = [root], []
    for _ in range(4):
        inside = {folder: subfolders(folder) for folder in level}
        parents = [folder for folder, children in inside.items() if any(is_class(child.name) for child in children)]
        if parents:
            break
        level = [child for children in inside.values() for child in children]
    if len(parents) != 1:
        found = f"several, in {', '.join(f'`{parent}`' for parent in parents)}" if parents else "none"
        raise ValueError(
            f"Expected one place with folders named after classes of this set in `{root}`, but found {found}."
        )
    return inside[parents[0]]


def open_class_folders(root: Path, labels: Mapping[str, int | list[int]], place: Path | None = None) -> Source:
    """Source of folders in `place` named after classes, by the label 0–999 of each, or all that are accepted. Names of files
    are relative to `root`."""
    folders = find_classes(place or root, labels.__contains__)
    if alien := [folder for folder in folders if folder.name not in labels]:
        raise ValueError(f"`{alien[0]}` is named after no class of this set: remove the folder, or correct its name.")
    return Source(class_folder_rows, [ClassFolder(folder, root, labels[folder.name]) for folder in folders])


def places_below(root: Path, name: str) -> list[Path]:
    """Paths of a name in `root` or up to two levels below, the highest first: an archive is unpacked to a folder of its name, and
    often holds another. Hidden folders and `__MACOSX` are not searched, as in [`subfolders`]."""
    found = [path for above in ("", "*/", "*/*/") for path in sorted(root.glob(above + name))]
    return [path for path in found if not any(part.startswith((".", "__")) for part in path.relative_to(root).parts)]


def subfolders(folder: Path) -> list[Path]:
    """Subfolders, sorted by name, without hidden ones and `__MACOSX`."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))


def path_within(root: Path, metadata: str, base: str, value: object) -> str:
    """Name relative to the root of a file that metadata in the folder `base` names, and which must be within that folder."""
    name = os.path.normpath(str(value).replace("\\", "/"))
    if os.path.isabs(name) or name.split("/")[0] == "..":
        raise ValueError(f"`{root}`: `{metadata}` names `{value}`, which must be a relative path within its folder.")
    return f"{base}/{name}" if base else name


def open_wnids(root: Path, class_subset: str | None = None) -> Source:
    """Source of folders named by wnid: ImageNet-A, -R, -Sketch, or validation images sorted into folders.
    `class_subset` names the set's classes, see [`subset`]; all by default."""
    classes = range(len(wnids())) if class_subset is None else subset(class_subset)
    return open_class_folders(root, {wnids()[label]: label for label in classes})


def change_times(paths: Iterable[Path]) -> list[int]:
    """Times of the last changes of files, for [`Source`]."""
    return [path.stat().st_mtime_ns for path in paths]
