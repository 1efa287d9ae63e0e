"""Folders of images: one per class, or a single one without classes."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from PIL import ExifTags, Image, ImageOps

from ..imagenet_classes import label_of_wnid, subset
from ..schema import Source


IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


@dataclass(frozen=True)
class ClassFolder:
    """A folder of images of one class."""

    path: Path
    root: Path  # file names are relative to it
    label: int | list[int] | None  # 0–999, or a list of accepted labels
    problem: str | None = None  # why the images cannot be used


def class_folder_rows(shards: list[ClassFolder]) -> Iterator[dict]:
    """Rows of image folders, sorted by name. Other files, such as stray CSVs, are ignored."""
    for shard in shards:
        if shard.problem is not None:
            yield {"file_name": shard.path.relative_to(shard.root).as_posix(), "problem": shard.problem}
            continue
        for path in image_files(shard.path):
            yield {
                "image": {"bytes": None, "path": str(path)},
                "label": shard.label,
                "file_name": path.relative_to(shard.root).as_posix(),
            }


def image_files(folder: Path) -> list[Path]:
    """Image files of a folder, sorted by name, without hidden files of macOS (`._x.jpg`)."""
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )


def find_classes(root: Path, is_class: Callable[[str], bool]) -> list[Path]:
    """Class folders, sorted by name, in `root` or up to three levels below. If `is_class` accepts one folder's name,
    all its siblings are returned.

    Raises:
        ValueError: there are none, or they are in several places.
    """
    level = [root]
    for _ in range(4):
        inside = {folder: subfolders(folder) for folder in level}
        parents = [folder for folder, children in inside.items() if any(is_class(child.name) for child in children)]
        if len(parents) > 1:
            raise ValueError(
                f"`{root}` holds several folders of classes: {', '.join(f'`{parent}`' for parent in parents)}. Give one."
            )
        if parents:
            return inside[parents[0]]
        level = [child for children in inside.values() for child in children]
    raise ValueError(f"`{root}` holds no folders that are named after classes of this set.")


def places_below(root: Path, name: str) -> list[Path]:
    """Paths of a name in `root` or up to two levels below, the highest first: an archive is unpacked to a folder of its name, and
    often holds another. Hidden folders and `__MACOSX` are not searched, as in [`subfolders`]."""
    found = [path for above in ("", "*/", "*/*/") for path in sorted(root.glob(above + name))]
    return [path for path in found if not any(part.startswith((".", "__")) for part in path.relative_to(root).parts)]


def subfolders(folder: Path) -> list[Path]:
    """Subfolders, sorted by name, without hidden ones and `__MACOSX`."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))


def path_within(root: Path, metadata: str, base: str, value: object) -> str:
    """Name relative to the root of a file that metadata in the folder `base` names.

    Raises:
        ValueError: it is not within that folder.
    """
    name = os.path.normpath(value.replace("\\", "/")) if isinstance(value, str) else ".."
    absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or re.match(r"\w+://", str(value))
    if absolute or name.split("/")[0] == "..":
        raise ValueError(
            f"`{root}` cannot be read: `{metadata}` names `{value}`, which must be a relative path within the folder of the "
            "metadata."
        )
    return f"{base}/{name}" if base else name


def is_wnid(name: str) -> bool:
    return re.fullmatch(r"n\d{8}", name) is not None


def open_wnids(root: Path, class_subset: str | None = None) -> Source:
    """Source of folders named by wnid: ImageNet-A, -R, -Sketch, or validation images sorted into folders.
    `class_subset` names the set's classes, see [`subset`]; all by default.

    Raises:
        ValueError: no folder is named after a wnid.
    """
    shards, classes = [], None if class_subset is None else subset(class_subset)
    for folder in find_classes(root, is_wnid):
        label, problem = label_of_wnid().get(folder.name), None
        if label is None:
            problem = (
                f"`{folder}`: `{folder.name}` is not a wnid of ImageNet-1k. Remove the folder, or correct its name."
            )
        elif classes is not None and label not in classes:
            problem = f"`{folder}`: class {folder.name} does not belong to this set: is it another one?"
        shards.append(ClassFolder(folder, root, label, problem=problem))
    return Source(class_folder_rows, shards)


@dataclass(frozen=True)
class FlatFiles:
    """Images of a folder without classes."""

    path: Path
    files: list[tuple[str, int | None]]  # names and labels; `None` without ground truth


def flat_rows(shards: list[FlatFiles]) -> Iterator[dict]:
    """Rows of images with labels from another file."""
    for shard in shards:
        for name, label in shard.files:
            if label is None:
                yield {"file_name": name, "problem": f"`{shard.path / name}`: the ground truth has no such image."}
            else:
                yield {"image": {"bytes": None, "path": str(shard.path / name)}, "label": label, "file_name": name}


def upright_mask(mask: Image.Image, image: Path) -> Image.Image:
    """A mask of the stored pixels of an image file, turned as decoding turns the image according to EXIF.

    Raises:
        ValueError: their sizes differ.
    """
    with Image.open(image) as opened:
        if opened.size != mask.size:
            raise ValueError(
                f"the mask is {mask.width}×{mask.height}, but `{image}` is {opened.width}×{opened.height}"
            )
        mask.getexif()[ExifTags.Base.Orientation] = opened.getexif().get(ExifTags.Base.Orientation, 1)
    return ImageOps.exif_transpose(mask)
