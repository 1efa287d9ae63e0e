"""The one schema of all sets, and what a loader hands over before images are decoded."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import datasets

from .imagenet_classes import wnids


IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def make_features(
    factors: dict | None = None, *, label: bool = True, several_labels: bool = False, mask: bool = False
) -> datasets.Features:
    """Columns of a set: `image`, `mask` (one channel, 0 or 255), `label`, `file_name` and the set's own factors.

    Args:
        factors: further columns and their types.
        label: whether the set has classes. A label is 0–999; the names of the `ClassLabel` are the wnids.
        several_labels: whether `label` is the list of all accepted ids.
        mask: whether the set has foreground masks.
    """
    columns = {"image": datasets.Image()}
    if mask:
        columns["mask"] = datasets.Image()
    if label:
        class_label = datasets.ClassLabel(names=list(wnids()))
        columns["label"] = datasets.List(class_label) if several_labels else class_label
    return datasets.Features(columns | {"file_name": datasets.Value("string")} | (factors or {}))


@dataclass(frozen=True)
class Source:
    """Rows of a set on disk.

    Args:
        rows: generator function of the rows of some shards. Images are not decoded: each is a dict with `bytes` or
            `path`. A row that cannot be used has `file_name` and `problem` (what is wrong and what to do) alone.
        shards: small picklable parts of the set in a fixed order, over which workers share the rows.
        state: what changes when the rows do, beside the times at which the `path` of each shard was changed.
    """

    rows: Callable[[list], Iterator[dict]]
    shards: list
    state: object = None


@dataclass(frozen=True)
class ClassFolder:
    """A folder of images of one class.

    Args:
        path: where the images are.
        root: file names are relative to this folder.
        label: label 0–999, or list of accepted ones.
        factors: values of the set's own columns, the same for all images.
        problem: why the images cannot be used.
    """

    path: Path
    root: Path
    label: int | list[int] | None
    factors: dict = field(default_factory=dict)
    problem: str | None = None


def class_folder_rows(shards: list[ClassFolder]) -> Iterator[dict]:
    """Rows of folders of images, sorted by name on every file system. Other files, such as stray CSVs, are passed by."""
    for shard in shards:
        if shard.problem is not None:
            yield {"file_name": shard.path.relative_to(shard.root).as_posix(), "problem": shard.problem}
            continue
        for path in image_files(shard.path):
            yield {
                "image": {"bytes": None, "path": str(path)},
                "label": shard.label,
                "file_name": path.relative_to(shard.root).as_posix(),
                **shard.factors,
            }


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder, sorted by name, without the hidden ones that macOS puts beside them (`._x.jpg`)."""
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )


def find_classes(root: Path, is_class: Callable[[str], bool]) -> list[Path]:
    """Folders of classes, sorted by name: those in `root`, or in the folder that an archive put around them.

    Args:
        is_class: whether a name can be that of a class. As soon as one can, its whole folder is taken.

    Raises:
        ValueError: there are none, or in several places.
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


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted by name, without hidden ones and the `__MACOSX` of archives."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))
