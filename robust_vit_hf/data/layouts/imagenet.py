"""ImageNet-1k validation, with original or ReaL labels."""

import csv
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Literal

from ..imagenet_classes import label_of_wnid, timm_list
from ..schema import Source
from .folders import change_times, image_files, open_wnids, subfolders


VALIDATION_FOLDERS = ("val", "validation", "ILSVRC/Data/CLS-LOC/val", "Data/CLS-LOC/val", "ILSVRC2012_img_val", ".")
DEVKIT_FOLDERS = ("data", "ILSVRC2012_devkit_t12/data", "ILSVRC2012_devkit_t12/ILSVRC2012_devkit_t12/data")
VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})")


def open_validation(root: Path, labels: Literal["original", "real"] = "original") -> Source:
    """ImageNet-1k validation: `val/<wnid>/` folders, or the archive's flat folder with Kaggle's `LOC_val_solution.csv`
    or the devkit beside it. `labels` is `"real"` for lists of ReaL labels, without images whose list is empty."""
    folder = next((root / name for name in VALIDATION_FOLDERS if (root / name).is_dir()), root)
    files = image_files(folder)
    if any(re.fullmatch(r"n\d{8}", child.name) for child in subfolders(folder)) or not files:
        source = open_wnids(folder)
        if source.shards[0].path.parent.name == "train":
            raise ValueError(
                f"`{root}` holds the training images of ImageNet, expected `val` or the validation archive."
            )
    else:
        truth = _flat_labels(root)
        source = Source(flat_rows, [(path, truth.get(path.stem)) for path in files], change_times([folder]))
    return {"original": source, "real": with_real_labels(source)}[labels]


def flat_rows(shards: list[tuple[Path, int | None]]) -> Iterator[dict]:
    for path, label in shards:
        if label is None:
            yield {"file_name": path.name, "problem": f"`{path}`: the ground truth has no such image."}
        else:
            yield {"image": {"bytes": None, "path": str(path)}, "label": label, "file_name": path.name}


def _flat_labels(root: Path) -> dict[str, int]:
    """Labels of validation images by the stem of their file name."""
    for solution in (folder / "LOC_val_solution.csv" for folder in (root, *root.parents[:3])):
        if solution.is_file():
            rows = csv.DictReader(solution.read_text().splitlines())
            return {row["ImageId"]: label_of_wnid()[row["PredictionString"].split()[0]] for row in rows}
    devkit = next((root / name for name in DEVKIT_FOLDERS if (root / name / "meta.mat").is_file()), None)
    if devkit is None:
        raise ValueError(
            f"The images in `{root}` are not sorted into folders of wnids, and nothing there gives their labels. Put "
            "`LOC_val_solution.csv` (Kaggle) or the unpacked `ILSVRC2012_devkit_t12` beside them, or sort them."
        )
    from scipy.io import loadmat

    # Classes are numbered by ILSVRC2012_ID, not in the order of sorted wnids.
    synsets = loadmat(devkit / "meta.mat", squeeze_me=True)["synsets"]
    wnid_of_id = {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets}
    truth = (devkit / "ILSVRC2012_validation_ground_truth.txt").read_text().split()
    labels = enumerate((label_of_wnid()[wnid_of_id[int(identifier)]] for identifier in truth), start=1)
    return {f"ILSVRC2012_val_{number:08d}": label for number, label in labels}


@cache
def real_labels() -> tuple[tuple[int, ...], ...]:
    """ReaL labels (https://huggingface.co/papers/2006.07159) of the 50,000 validation images, from
    `ILSVRC2012_val_00000001` on. 3,163 are empty."""
    return tuple(map(tuple, json.loads(timm_list("imagenet_real_labels.json"))))


def with_real_labels(source: Source) -> Source:
    """Replace the original labels of validation images by lists of ReaL labels."""
    return replace(source, rows=partial(real_rows, rows=source.rows))


def real_rows(shards: list, rows: Callable[[list], Iterator[dict]]) -> Iterator[dict]:
    """Rows with ReaL labels. Images without any are left out, as in ReaL."""
    for row in rows(shards):
        name = row["file_name"]
        number = VALIDATION_NAME.search(name)
        if "problem" in row:
            yield row
        elif number is None or not 1 <= int(number[1]) <= len(real_labels()):
            problem = f"`{name}`: ReaL labels go by names such as ILSVRC2012_val_00000001.JPEG, as in the archive."
            yield {"file_name": name, "problem": problem}
        elif labels := real_labels()[int(number[1]) - 1]:
            yield row | {"label": list(labels)}
