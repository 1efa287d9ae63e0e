"""Images of ImageNet-1k: its validation images, with original or ReaL labels, and sets of masks for images of it: ImageNet-S919,
Hard ImageNet and ImageNet-Segmentation."""

import csv
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from ...utils.images import to_rgb
from ..classes import label_of_wnid, timm_list
from ..schema import Source, encode_image, with_mask
from .folders import file_row, image_files, open_class_folders, places_below, subfolders


VALIDATION_FOLDERS = ("val", "validation", "ILSVRC/Data/CLS-LOC/val", "Data/CLS-LOC/val", "ILSVRC2012_img_val", ".")
DEVKIT_FOLDERS = ("data", "ILSVRC2012_devkit_t12/data", "ILSVRC2012_devkit_t12/ILSVRC2012_devkit_t12/data")
VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})")


def open_validation(root: Path, labels: Literal["original", "real"] = "original") -> Source:
    """ImageNet-1k validation: `val/<wnid>/` folders, or the archive's flat folder with Kaggle's `LOC_val_solution.csv`
    or the devkit beside it. `labels` is `"real"` for lists of ReaL labels, without images whose list is empty."""
    folder = next(root / name for name in VALIDATION_FOLDERS if (root / name).is_dir())
    files = image_files(folder)
    if any(re.fullmatch(r"n\d{8}", child.name) for child in subfolders(folder)) or not files:
        parts = {"validation images": (), "training images": ("train",)}
        source = open_class_folders(folder, label_of_wnid(), "validation images", parts)
    else:
        label_of, problem = _flat_labels(root), "the ground truth has no such image."
        unknown = [path for path in files if path.stem not in label_of]
        rows = [file_row(path, path.name, label=label_of[path.stem]) for path in files if path.stem in label_of]
        source = Source(iter, rows + [{"file_name": path.name, "problem": f"`{path}`: {problem}"} for path in unknown])
    return source.changed(with_real_labels) if labels == "real" else source


def _flat_labels(root: Path) -> dict[str, int]:
    """Labels of validation images by the stem of their file name."""
    for solution in (folder / "LOC_val_solution.csv" for folder in (root, *root.parents[:3])):
        if solution.is_file():
            rows = csv.DictReader(solution.read_text().splitlines())
            return {row["ImageId"]: label_of_wnid()[row["PredictionString"].split()[0]] for row in rows}
    devkit = next((root / name for name in DEVKIT_FOLDERS if (root / name / "meta.mat").is_file()), None)
    if devkit is None:
        raise ValueError(
            f"`{root}` has neither folders of wnids nor labels: put `LOC_val_solution.csv` or `ILSVRC2012_devkit_t12` beside the images."
        )
    from scipy.io import loadmat

    # Classes are numbered by ILSVRC2012_ID, not in the order of sorted wnids.
    synsets = loadmat(devkit / "meta.mat", squeeze_me=True)["synsets"]
    wnid_of_id = {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets}
    truth = (devkit / "ILSVRC2012_validation_ground_truth.txt").read_text().split()
    labels = enumerate((label_of_wnid()[wnid_of_id[int(identifier)]] for identifier in truth), start=1)
    return {f"ILSVRC2012_val_{number:08d}": label for number, label in labels}


def with_real_labels(row: dict) -> dict | None:
    """Row of a validation image with the list of its ReaL labels. An image without any is left out, as in ReaL."""
    name = row["file_name"]
    number = VALIDATION_NAME.search(name)
    if number is None or not 1 <= int(number[1]) <= len(real_labels()):
        problem = f"`{name}`: ReaL labels go by names such as ILSVRC2012_val_00000001.JPEG, as in the archive."
        return {"file_name": name, "problem": problem}
    labels = real_labels()[int(number[1]) - 1]
    return row | {"label": [*labels]} if labels else None


@cache
def real_labels() -> tuple[tuple[int, ...], ...]:
    """ReaL labels (https://huggingface.co/papers/2006.07159) of the 50,000 validation images, from
    `ILSVRC2012_val_00000001` on. 3,163 are empty."""
    return tuple(map(tuple, json.loads(timm_list("imagenet_real_labels.json"))))


# Pairs of ImageNet-1k classes merged in ImageNet-S (folder and mask id) under the second wnid.
MERGED = {
    "n04356056": "n04355933",
    "n04493381": "n02808440",
    "n03642806": "n03832673",
    "n04008634": "n03773504",
    "n03887697": "n15075141",
}


def open_imagenet_s(root: Path, imagenet: str | None = None) -> Source:
    """All annotated training images in a folder with `train-semi-segmentation`, at most two levels down. `imagenet` is your
    ImageNet-1k, with `train/<wnid>` or `<wnid>`, for images that are not in `train-semi`."""
    return _imagenet_s_source(subfolders(_imagenet_s_folder(root)), imagenet)


def open_paper_split(
    root: Path,
    imagenet: str | None = None,
    split: Literal["train", "validation"] = "train",
    class_seed: int | None = None,
    num_classes: int = 500,
    samples_per_class: int = 3,
) -> Source:
    """The paper's split of ImageNet-S919, section 4: classes in sorted order without those of the five merged pairs;
    the first 500 give three training images each (Figures 7b and 7a change these numbers), and the last 414 one
    validation image each. `class_seed` shuffles the classes first, for Tables 8 and 9. The released split is not
    reproducible, since it depends on the file system's order of folders."""
    merged = {*MERGED, *MERGED.values()}
    folders = [folder for folder in subfolders(_imagenet_s_folder(root)) if folder.name not in merged]
    if class_seed is not None:
        random.Random(class_seed).shuffle(folders)
    chosen, count = folders[:num_classes], samples_per_class
    if split == "validation":
        chosen, count = folders[max(num_classes, len(folders) - 414) :], 1
    fewest = min((len(image_files(folder)) for folder in chosen), default=0)
    if num_classes >= len(folders) or fewest < count:
        raise ValueError(
            f"`{root}` has {len(folders)} classes beside the merged ones, of at least {fewest} masks each: too few for {num_classes} "
            f"classes for training, some more for validation, and {count} masks of each."
        )
    return _imagenet_s_source(chosen, imagenet, count)


def _imagenet_s_folder(root: Path) -> Path:
    name = "train-semi-segmentation"
    folders = [folder for folder in places_below(root, name) if folder.is_dir()]
    # The official script writes ImageNetS50 and ImageNetS300 beside it.
    largest = [folder for folder in folders if "S919" in folder.parent.name]
    return _only(largest if len(folders) > 1 and largest else folders, root, f"`{name}` of ImageNetS919.zip")


def _only(folders: list[Path], root: Path, expected: str) -> Path:
    if len(folders) != 1:
        places = ", ".join(f"`{folder}`" for folder in folders) or "none"
        raise ValueError(f"Expected one folder of masks in `{root}`, {expected}, but found {places}.")
    return folders[0]


def _imagenet_s_source(folders: list[Path], imagenet: str | None, count: int | None = None) -> Source:
    """The first masks of each folder, sorted by name, with their images."""
    masks = [mask for folder in folders for mask in image_files(folder)[:count]]
    # Merged folders hold images of two classes.
    names = {mask: [f"{name}/{mask.stem}.JPEG" for name in (mask.parent.name, _wnid_of(mask))] for mask in masks}
    places = [folder.parents[1] / "train-semi" for folder in folders[:1]]
    places += [Path(imagenet) / name for name in ("train", "ILSVRC/Data/CLS-LOC/train", ".") if imagenet]
    return _with_images(names, places, _read_imagenet_s)


def _read_imagenet_s(mask: Path) -> Image.Image:
    red, green, _ = to_rgb(Image.open(mask)).split()
    ids = np.asarray(red) + 256 * np.asarray(green, dtype=np.uint16)  # the documented code of a class
    foreground = (ids != 0) & (ids != 1000)  # of pixels that are neither object nor background
    present = np.unique(ids[foreground]).tolist()
    if len(present) != 1:
        raise ValueError(f"it has the classes {present}, expected one: draw it again, or leave it out")
    return Image.fromarray(255 * foreground.astype(np.uint8))


def open_hard_imagenet(
    root: Path, imagenet: str | None = None, split: Literal["train", "validation"] = "validation"
) -> Source:
    """The masks of a split with their images from your ImageNet-1k, in `train/<wnid>` and `val/<wnid>`. `root` holds
    `train/<wnid>_<file>` and `val/<wnid>_<file>`, at most two levels down."""
    splits = ("train",) if split == "train" else ("val", "validation")
    folders = [path for name in splits for path in places_below(root, name) if path.is_dir() and image_files(path)]
    names = {}
    for mask in image_files(_only(folders[:1], root, f"`{splits[0]}` of hardImageNet.zip")):
        wnid, stem = _wnid_of(mask), mask.stem.partition("_")[2]
        names[mask] = [f"{wnid}/{stem}.JPEG", f"{wnid}/{wnid}_{stem}.JPEG", f"{stem}.JPEG"]
    places = (*splits, *(f"ILSVRC/Data/CLS-LOC/{name}" for name in splits), ".")
    return _with_images(names, [Path(imagenet) / place for place in places if imagenet], _read_hard)


def _read_hard(mask: Path) -> Image.Image:
    return Image.open(mask).convert("L").point(lambda value: 255 * (value > 0))  # any value above 0 is the object


def _with_images(names: Mapping[Path, list[str]], places: list[Path], read: Callable[[Path], Image.Image]) -> Source:
    """Source of mask files, which `read` reads, with their images. `names` are those of the image of a mask, below `places`, both in
    order of preference; the first is the row's name."""
    rows = []
    for mask, files in names.items():
        image = next(filter(Path.is_file, (place / file for place in places for file in files)), None)
        label = label_of_wnid().get(_wnid_of(mask))
        if image is not None and label is not None:
            rows.append(file_row(image, files[0], mask=mask, label=label))
        else:
            searched = ", ".join(f"`{place}`" for place in places) or "any given folder"
            problem = f"`{mask}`: its image {files[0]} is not in {searched}: give your ImageNet-1k with --imagenet."
            rows.append({"file_name": files[0], "problem": problem})
    return Source(iter, rows).changed(partial(with_mask, read=read), [row["mask"] for row in rows if "mask" in row])


def _wnid_of(mask: Path) -> str:
    return mask.stem.partition("_")[0]


def open_segmentation(path: Path) -> Source:
    """ImageNet-Segmentation from its MATLAB file, or from a folder with it."""
    import h5py

    path = path / "gtsegs_ijcv.mat" if path.is_dir() else path
    with h5py.File(path) as file:
        count = len(file["/value/img"])
    parts = [range(first, min(first + 100, count)) for first in range(0, count, 100)]
    return Source(partial(_segmentation_rows, path=path), parts, path.stat().st_mtime_ns)


def _segmentation_rows(shards: list[range], path: Path) -> Iterator[dict]:
    """Rows with image and mask as BMP. Each worker opens the file itself, since HDF5 handles do not survive a fork."""
    import h5py

    for shard in shards:
        with h5py.File(path) as file:
            for index in shard:
                # MATLAB is column-major, so axes are reversed: (3, W, H). A mask is a cell inside a cell.
                image = file[file["/value/img"][index, 0]][()].transpose(2, 1, 0)
                mask = file[file[file["/value/gt"][index, 0]][0, 0]][()].transpose(1, 0)
                name = f"{path.name}/{index}"
                pixels = {"image": image.astype(np.uint8), "mask": 255 * mask.astype(np.uint8)}
                row = {column: encode_image(Image.fromarray(pixels[column]), f"{name}.bmp") for column in pixels}
                yield row | {"file_name": name}
