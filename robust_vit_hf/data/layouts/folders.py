"""Class folders of the known sets."""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from types import MappingProxyType

from ..classes import subset, wnids
from .source import Source


Label = int | list[int]  # 0–999, or a list of all accepted labels
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}  # of the images of known sets


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
    """Find the class folders, sorted by name, in `root` or up to three levels below it: the siblings of a folder whose name
    `is_class` accepts. Of several places, the one within a folder whose name matches one of `names` is taken."""
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


def class_folders(root: Path, labels: Mapping[Path, Label]) -> Source:
    files = [(path, label) for folder, label in labels.items() for path in image_files(folder)]
    return Source([file_row(path, path.relative_to(root).as_posix(), label=label) for path, label in files])


def file_row(path: Path, name: str, **columns) -> dict:
    return {"image": str(path), **columns, "file_name": name}


def image_files(folder: Path) -> list[Path]:
    files = sorted(folder.iterdir())
    return [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")]


def subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))


def places_below(root: Path, name: str) -> list[Path]:
    """Paths of a name in `root` or up to two levels below it, the highest first, since archives are often unpacked to
    nested folders."""
    paths = [path for above in ("", "*/", "*/*/") for path in sorted(root.glob(above + name))]
    return [path for path in paths if not any(part.startswith((".", "__")) for part in path.relative_to(root).parts)]
