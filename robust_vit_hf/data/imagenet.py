"""ImageNet-1k validation, ImageNet-A, -R, -Sketch and -V2 from their official folders."""

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from .imagenet_classes import label_of_wnid, real_labels, wnids
from .schema import ClassFolder, Source, class_folder_rows, find_classes, image_files, subfolders


VALIDATION_FOLDERS = ("val", "validation", "ILSVRC/Data/CLS-LOC/val", "Data/CLS-LOC/val", "ILSVRC2012_img_val", ".")
DEVKIT_FOLDERS = ("data", "ILSVRC2012_devkit_t12/data", "ILSVRC2012_devkit_t12/ILSVRC2012_devkit_t12/data")
VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})")
V2_VARIANTS = ("matched-frequency", "threshold0.7", "top-images")


def is_wnid(name: str) -> bool:
    return re.fullmatch(r"n\d{8}", name) is not None


def wnid_source(root: Path, classes: tuple[int, ...] | None = None) -> Source:
    """Source of folders named by wnid: ImageNet-A, -R, -Sketch, or validation images sorted into folders.

    Args:
        classes: labels that the set has, all by default.

    Raises:
        ValueError: no folder is named by a wnid.
    """
    shards = []
    for folder in find_classes(root, is_wnid):
        label, problem = label_of_wnid().get(folder.name), None
        if label is None:
            problem = f"`{folder}`: `{folder.name}` is no wnid of ImageNet-1k. Remove the folder, or mend its name."
        elif classes is not None and label not in classes:
            problem = f"`{folder}`: class {folder.name} does not belong to this set: is it another one?"
        shards.append(ClassFolder(folder, root, label, problem=problem))
    return Source(class_folder_rows, shards)


def open_validation(root: Path, labels: Literal["original", "real"] = "original") -> Source:
    """ImageNet-1k validation: `val/<wnid>/` folders, or the flat folder of the archive beside Kaggle's
    `LOC_val_solution.csv` or the devkit.

    Args:
        labels: `"real"` for the lists of ReaL labels, without the images that have none.

    Raises:
        ValueError: there are no images, or nothing gives the labels of a flat folder.
    """
    folder = next(root / name for name in VALIDATION_FOLDERS if (root / name).is_dir())
    if any(is_wnid(child.name) for child in subfolders(folder)) or not image_files(folder):
        source = wnid_source(folder)
        if source.shards[0].path.parent.name == "train":
            raise ValueError(
                f"`{root}` holds the training images of ImageNet, expected `val` or the validation archive."
            )
    else:
        files = image_files(folder)
        truth = _flat_labels(root)
        shards = [
            FlatFiles(folder, [(path.name, truth.get(path.stem)) for path in files[first : first + 500]])
            for first in range(0, len(files), 500)
        ]
        source = Source(flat_rows, shards)
    if labels == "original":
        return source
    if labels != "real":
        raise ValueError(f"ImageNet has no labels `{labels}`; expected `original` or `real`.")
    return with_real_labels(source)


@dataclass(frozen=True)
class FlatFiles:
    """Some images of a folder without classes.

    Args:
        path: the folder.
        files: names and labels; `None` where the ground truth has no such image.
    """

    path: Path
    files: list[tuple[str, int | None]]


def flat_rows(shards: list[FlatFiles]) -> Iterator[dict]:
    """Rows of images whose labels come from elsewhere."""
    for shard in shards:
        for name, label in shard.files:
            if label is None:
                yield {"file_name": name, "problem": f"`{shard.path / name}`: the ground truth has no such image."}
            else:
                yield {"image": {"bytes": None, "path": str(shard.path / name)}, "label": label, "file_name": name}


def _flat_labels(root: Path) -> dict[str, int]:
    """Labels of validation images by file name without suffix."""
    for folder in (root, *root.parents[:3]):
        solution = folder / "LOC_val_solution.csv"
        if solution.is_file():
            try:
                with solution.open(newline="") as lines:
                    return {
                        row["ImageId"]: label_of_wnid()[row["PredictionString"].split()[0]]
                        for row in csv.DictReader(lines)
                    }
            except (KeyError, IndexError) as error:
                raise ValueError(
                    f"`{solution}` is not Kaggle's file: expected `ImageId` and a `PredictionString` that begins with a "
                    f"wnid of ImageNet-1k, and did not find {error}."
                ) from error
    devkit = next((root / name for name in DEVKIT_FOLDERS if (root / name / "meta.mat").is_file()), None)
    if devkit is None:
        raise ValueError(
            f"The images in `{root}` are not sorted into folders of wnids, and nothing there gives their labels. Put "
            "`LOC_val_solution.csv` (Kaggle) or the unpacked `ILSVRC2012_devkit_t12` beside them, or sort them."
        )
    from scipy.io import loadmat

    # The ground truth counts classes by ILSVRC2012_ID, which is another order than that of the sorted wnids.
    synsets = loadmat(devkit / "meta.mat", squeeze_me=True)["synsets"]
    wnid_of_id = {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets}
    truth = (devkit / "ILSVRC2012_validation_ground_truth.txt").read_text().split()
    return {
        f"ILSVRC2012_val_{number:08d}": label_of_wnid()[wnid_of_id[int(identifier)]]
        for number, identifier in enumerate(truth, start=1)
    }


def with_real_labels(source: Source) -> Source:
    """Validation images with their ReaL labels, lists, instead of the original ones."""
    return replace(source, rows=partial(real_rows, rows=source.rows))


def real_rows(shards: list, rows: Callable[[list], Iterator[dict]]) -> Iterator[dict]:
    """Rows with ReaL labels. Images without any are left out, as ReaL asks."""
    for row in rows(shards):
        if "problem" in row:
            yield row
            continue
        number = VALIDATION_NAME.search(row["file_name"])
        if number is None or not 1 <= int(number[1]) <= len(real_labels()):
            yield {
                "file_name": row["file_name"],
                "problem": f"`{row['file_name']}`: ReaL labels go by names such as ILSVRC2012_val_00000001.JPEG. Take the "
                "images from the official archive or from ILSVRC/imagenet-1k.",
            }
        elif labels := real_labels()[int(number[1]) - 1]:
            yield row | {"label": list(labels)}


def open_v2(root: Path, variant: str = "matched-frequency") -> Source:
    """ImageNet-V2: folders "0" to "999", which are labels, though their names sort as strings.

    Args:
        variant: one of `V2_VARIANTS`. The paper's is the first.

    Raises:
        ValueError: unknown variant, or the folder is that of another one.
    """
    if variant not in V2_VARIANTS:
        raise ValueError(f"ImageNet-V2 has no variant `{variant}`; expected one of {', '.join(V2_VARIANTS)}.")
    wanted = [path for path in subfolders(root) if path.name.startswith(f"imagenetv2-{variant}")]
    named = [path for path in subfolders(root) if path.name.startswith("imagenetv2-")]
    root = (wanted or named or [root])[0]
    folders = find_classes(root, str.isdecimal)
    if any(part.startswith("imagenetv2-") and f"-{variant}" not in part for part in folders[0].parts):
        raise ValueError(
            f"`{folders[0].parent}` is another variant of ImageNet-V2 than `{variant}`: name it with --variant."
        )
    shards = []
    for folder in folders:
        label = int(folder.name) if folder.name.isdecimal() and int(folder.name) < len(wnids()) else None
        problem = f"`{folder}`: the folders of ImageNet-V2 are named 0 to 999." if label is None else None
        shards.append(ClassFolder(folder, root, label, problem=problem))
    return Source(class_folder_rows, sorted(shards, key=lambda shard: -1 if shard.label is None else shard.label))
