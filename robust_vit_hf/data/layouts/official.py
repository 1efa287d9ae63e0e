"""The known sets in their official layouts."""

import csv
import json
import random
import re
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from PIL import Image, ImageOps
from transformers.utils import logging

from ...utils.images import encode_image, to_rgb
from ..classes import label_of_wnid, timm_list, wnids
from ..known_sets import COUNTERANIMAL_PARTS, IMAGENET_9_VARIATIONS, IMAGENET_D_FACTORS, KNOWN_SETS, V2_VARIANTS
from ..schema import decode
from .folders import class_folders, file_row, find_classes, image_files, open_class_folders, places_below, subfolders
from .source import Source, UnusableRow, with_mask


logger = logging.get_logger(__name__)

VALIDATION_FOLDERS = ("val", "validation", "ILSVRC/Data/CLS-LOC/val", "Data/CLS-LOC/val", "ILSVRC2012_img_val", ".")
DEVKIT_FOLDERS = ("data", "ILSVRC2012_devkit_t12/data", "ILSVRC2012_devkit_t12/ILSVRC2012_devkit_t12/data")
VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})")


def open_validation(root: Path, labels: Literal["original", "real"] = "original") -> Source:
    """ImageNet-1k validation: `val/<wnid>/`, or a flat folder with labels next to it."""
    folder = next(root / name for name in VALIDATION_FOLDERS if (root / name).is_dir())
    files = image_files(folder)
    if any(re.fullmatch(r"n\d{8}", child.name) for child in subfolders(folder)) or not files:
        parts = {"validation images": (), "training images": ("train",)}
        source = open_class_folders(folder, label_of_wnid(), "validation images", parts)
    else:
        label_of = _flat_labels(root)
        source = Source(
            [file_row(path, path.name, label=label_of.get(path.stem)) for path in files], dict
        )  # rows may lack a label
    return source.then(with_real_labels) if labels == "real" else source


def _flat_labels(root: Path) -> dict[str, int]:
    for solution in (folder / "LOC_val_solution.csv" for folder in (root, *root.parents[:3])):
        if solution.is_file():
            rows = csv.DictReader(solution.read_text().splitlines())
            return {row["ImageId"]: label_of_wnid()[row["PredictionString"].split()[0]] for row in rows}
    devkit = next((root / name for name in DEVKIT_FOLDERS if (root / name / "meta.mat").is_file()), None)
    if devkit is None:
        raise ValueError(
            f"`{root}` has neither folders of wnids nor labels: put `LOC_val_solution.csv` or `ILSVRC2012_devkit_t12` next to the images."
        )
    from scipy.io import loadmat

    # Classes are numbered by ILSVRC2012_ID, not in the order of sorted wnids.
    synsets = loadmat(devkit / "meta.mat", squeeze_me=True)["synsets"]
    wnid_of_id = {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets}
    truth = (devkit / "ILSVRC2012_validation_ground_truth.txt").read_text().split()
    labels = enumerate((label_of_wnid()[wnid_of_id[int(identifier)]] for identifier in truth), start=1)
    return {f"ILSVRC2012_val_{number:08d}": label for number, label in labels}


def with_real_labels(row: dict) -> dict | None:
    name = row["file_name"]
    number = VALIDATION_NAME.search(name)
    if number is None or not 1 <= int(number[1]) <= len(real_labels()):
        raise UnusableRow(
            f"`{name}`: ReaL labels need the file names of the archive, such as ILSVRC2012_val_00000001.JPEG."
        )
    labels = real_labels()[int(number[1]) - 1]
    return row | {"label": [*labels]} if labels else None


@cache
def real_labels() -> tuple[tuple[int, ...], ...]:
    """ReaL labels of the validation images in order (https://huggingface.co/papers/2006.07159)."""
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
    """All annotated training images; `imagenet` has the images that are not in `train-semi`."""
    return _imagenet_s_source(subfolders(_imagenet_s_folder(root)), imagenet)


def open_paper_split(
    root: Path,
    imagenet: str | None = None,
    split: Literal["train", "validation"] = "train",
    class_seed: int | None = None,
    num_classes: int = 500,
    samples_per_class: int = 3,
) -> Source:
    """The paper's split of ImageNet-S919, section 4: of the sorted classes without the merged pairs, the first 500 give three training
    images each, and the last 414 give one validation image each. `class_seed` shuffles the classes first (Tables 8 and 9). In the
    released code, the split depends on the order in which the file system lists folders."""
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
            f"`{root}` has {len(folders)} classes without the merged ones, with {fewest} masks or more: too few for {num_classes} of {count}."
        )
    return _imagenet_s_source(chosen, imagenet, count)


def _imagenet_s_folder(root: Path) -> Path:
    name = "train-semi-segmentation"
    folders = [folder for folder in places_below(root, name) if folder.is_dir()]
    # The official script also writes ImageNetS50 and ImageNetS300.
    largest = [folder for folder in folders if "S919" in folder.parent.name]
    return _only(largest if len(folders) > 1 and largest else folders, root, f"`{name}` of ImageNetS919.zip")


def _only(folders: list[Path], root: Path, expected: str) -> Path:
    if len(folders) != 1:
        places = ", ".join(f"`{folder}`" for folder in folders) or "none"
        raise ValueError(f"Expected one folder of masks in `{root}`, {expected}, but found {places}.")
    return folders[0]


def _imagenet_s_source(folders: list[Path], imagenet: str | None, count: int | None = None) -> Source:
    masks = [mask for folder in folders for mask in image_files(folder)[:count]]
    # Merged folders hold images of two classes.
    names = {mask: [f"{name}/{mask.stem}.JPEG" for name in (mask.parent.name, _wnid_of(mask))] for mask in masks}
    places = [folder.parents[1] / "train-semi" for folder in folders[:1]]
    places += [Path(imagenet) / name for name in ("train", "ILSVRC/Data/CLS-LOC/train", ".") if imagenet]
    return _with_images(names, places, _read_imagenet_s)


def _read_imagenet_s(mask: Path) -> Image.Image:
    red, green, _ = to_rgb(Image.open(mask)).split()
    ids = np.asarray(red) + 256 * np.asarray(green, dtype=np.uint16)  # the documented code of a class
    foreground = (ids != 0) & (ids != 1000)  # 1000: neither object nor background
    present = np.unique(ids[foreground]).tolist()
    if len(present) != 1:
        raise ValueError(f"it has the classes {present}, expected one class: draw the mask again, or leave it out")
    return Image.fromarray(255 * foreground.astype(np.uint8))


def open_hard_imagenet(
    root: Path, imagenet: str | None = None, split: Literal["train", "validation"] = "validation"
) -> Source:
    """The masks `<split>/<wnid>_<file>`, with their images from a folder of ImageNet-1k."""
    splits = ("train",) if split == "train" else ("val", "validation")
    folders = [path for name in splits for path in places_below(root, name) if path.is_dir() and image_files(path)]
    names = {}
    for mask in image_files(_only(folders[:1], root, f"`{splits[0]}` of hardImageNet.zip")):
        wnid, stem = _wnid_of(mask), mask.stem.partition("_")[2]
        names[mask] = [f"{wnid}/{stem}.JPEG", f"{wnid}/{wnid}_{stem}.JPEG", f"{stem}.JPEG"]
    places = (*splits, *(f"ILSVRC/Data/CLS-LOC/{name}" for name in splits), ".")
    above = partial(_read_above, level=0)  # any value above 0 is the object
    return _with_images(names, [Path(imagenet) / place for place in places if imagenet], above)


def _read_above(mask: Path, level: int) -> Image.Image:
    return Image.open(mask).convert("L").point(lambda value: 255 * (value > level))


def _with_images(names: Mapping[Path, list[str]], places: list[Path], read: Callable[[Path], Image.Image]) -> Source:
    """Source of mask files with their images: the first of `names` that exists in one of `places`, which come first."""
    rows = []
    for mask, files in names.items():
        images = [place / file for place in places for file in files] or [Path(files[0])]
        image, label = next(filter(Path.is_file, images), images[0]), label_of_wnid().get(_wnid_of(mask))
        rows.append(file_row(image, files[0], mask=str(mask), label=label))
    return Source(rows, partial(with_mask, read=read))


def _wnid_of(mask: Path) -> str:
    return mask.stem.partition("_")[0]


def open_segmentation(path: Path) -> Source:
    import h5py

    path = path / "gtsegs_ijcv.mat" if path.is_dir() else path
    try:
        with h5py.File(path) as file:
            count = len(file["/value/img"])
    except OSError as error:
        raise ValueError(f"`{path}` is not in MATLAB's format 7.3: {error}. Download it again.") from error
    rows = [file_row(path, f"{path.name}/{index}", mask=str(path)) for index in range(count)]
    return Source(rows, _segmentation_row)


def _segmentation_row(row: dict) -> dict:
    import h5py

    with h5py.File(row["image"]["path"]) as file:  # opened for each row, since HDF5 handles do not survive a fork
        index = int(row["file_name"].rpartition("/")[2])
        # MATLAB is column-major, so axes are reversed: (3, W, H). A mask is a cell inside a cell.
        image = file[file["/value/img"][index, 0]][()].transpose(2, 1, 0)
        mask = file[file[file["/value/gt"][index, 0]][0, 0]][()].transpose(1, 0)
    pixels = {"image": image.astype(np.uint8), "mask": 255 * mask.astype(np.uint8)}
    name = f"{row['file_name']}.bmp"
    return row | {column: encode_image(Image.fromarray(pixels[column]), name) for column in pixels}


def open_v2(root: Path, variant: str = "matched-frequency") -> Source:
    """One of the `V2_VARIANTS` (the paper uses the first): folders "0" to "999", named after labels."""
    parts = {name: (f"imagenetv2-{name}*",) for name in V2_VARIANTS}
    place = next((path for path in subfolders(root) if path.match(*parts[variant])), root)
    source = open_class_folders(place, {str(label): label for label in range(len(wnids()))}, variant, parts)
    return Source(sorted(source.rows, key=lambda row: row["label"]))


def open_imagenet_d(root: Path, factor: str) -> Source:
    """The images of one factor in `<factor>/<name>`, next to `imgnet_d2imgnet_id.txt`."""
    file = "imgnet_d2imgnet_id.txt"  # JSON: the accepted labels, as numbers or text, by the name of the folder
    path = next(iter(places_below(root, file)), root.parent / file)
    accepted = json.loads(path.read_text(encoding="utf-8"))
    labels = {name: [int(i) for i in (ids if isinstance(ids, list) else [ids])] for name, ids in accepted.items()}
    return open_class_folders(path.parent, labels, factor, {name: (name,) for name in IMAGENET_D_FACTORS})


def open_objectnet(root: Path, mappings: str | None = None, cropped: bool = False) -> Source:
    """Folders of images with ObjectNet's mapping files, by default in or next to them. `cropped` cuts off the red border of 2 pixels,
    as the protocol `native` does."""
    places = [*root.parent.glob("mappings"), *places_below(root, "mappings"), root / "mappings"]
    labels = read_mappings(Path(mappings or places[0]))
    folders = find_classes(root, labels.__contains__)
    source = class_folders(root, {folder: labels[folder.name] for folder in folders if folder.name in labels})
    return source.then(without_border) if cropped else source


def read_mappings(folder: Path) -> dict[str, list[int]]:
    """Accepted labels 0–999 of each ObjectNet folder that shows ImageNet classes."""
    tables = ("folder_to_objectnet_label", "objectnet_to_imagenet_1k", "pytorch_to_imagenet_2012_id")
    folder_names, accepted_names, line_of_label = (
        json.loads((folder / f"{table}.json").read_text()) for table in tables
    )
    lines = [line.strip() for line in (folder / "imagenet_to_label_2012_v2").read_text().splitlines()]
    label_of_name = {lines[int(line)]: int(label) for label, line in line_of_label.items()}
    accepted = {
        directory: accepted_names[object_name].split("; ")
        for directory, object_name in folder_names.items()
        if object_name in accepted_names
    }
    if wrong := [name for names in accepted.values() for name in names if lines.count(name) != 1]:
        raise ValueError(f"`{folder}` is not of objectnet-1.0: `{wrong[0]}` names {lines.count(wrong[0])} classes.")
    return {directory: [label_of_name[name] for name in names] for directory, names in accepted.items()}


def without_border(row: dict) -> dict:
    row, image, _ = decode(row)
    if image is None:
        raise UnusableRow(row["problem"])
    cropped = ImageOps.crop(image, KNOWN_SETS["objectnet"].border)
    return row | {"image": encode_image(to_rgb(cropped), Path(row["file_name"]).with_suffix(".bmp").name)}


# label_str_to_imagenet_classes.py of google-research/si-score at 94cf862 (Apache-2.0): folders have English names
# chosen by the authors, not ImageNet's. The sets have 61 of them.
LABELS: dict[str, int] = json.loads(Path(__file__).with_name("si_score_classes.json").read_text("utf-8"))
SI_SCORE_FOLDERS = {
    "size": ("area", "object_size"),
    "rotation": ("rotation", "object_rotation"),
    "location": ("location20_area02_min0pc", "object_location"),
}
METADATA_COLUMNS = {"x": "x_coord", "y": "y_coord", "area": "area", "angle": "rotation"}


def open_si_score(root: Path, factor: str) -> Source:
    """One of the `SI_SCORE_FOLDERS`: class folders with English names, and `metadata.csv` next to them."""
    source = open_class_folders(root, LABELS, factor, SI_SCORE_FOLDERS)
    parent = Path(source.rows[0]["image"]).parents[1]
    tables = [path for path in (parent / "metadata.csv", parent.parent / "metadata.csv") if path.is_file()][:1]
    if not tables:
        missing = [*METADATA_COLUMNS]
        logger.warning(f"There is no metadata.csv next to the classes in `{parent}`, so {missing} are missing.")
    factors = {}
    for path in tables:
        table = pd.read_csv(path, index_col="image_id", dtype=dict.fromkeys(METADATA_COLUMNS.values(), float))
        names = {column: name for name, column in METADATA_COLUMNS.items()}
        factors = table[[*names]].rename(columns=names).rename(index=str).to_dict("index")
    unknown = dict.fromkeys(METADATA_COLUMNS)
    return Source([row | factors.get(Path(row["image"]).stem, unknown) for row in source.rows])


# The classes of ImageNet-1k in each of the nine: `in_to_in9.json` of the repository at 46d224b. The other 630 classes belong to none.
CLASSES: dict[str, list[int]] = json.loads(Path(__file__).with_name("imagenet_9_classes.json").read_text("utf-8"))


def open_imagenet_9(root: Path, variation: str) -> Source:
    """A variation in `bg_challenge/<variation>/val/<class>`; only `original` has masks."""
    source = open_class_folders(root, CLASSES, variation, {name: (name,) for name in IMAGENET_9_VARIATIONS})
    if variation != "original":
        return source
    places = [above / "fg_mask" / "val" for above in Path(source.rows[0]["image"]).parents[2:5]]
    masks = next(filter(Path.is_dir, (*places, *places_below(root, "fg_mask/val"))), places[0])
    images = [Path(row["image"]) for row in source.rows]
    files = [str(masks / image.parent.name / f"{image.stem}.npy") for image in images]
    rows = [row | {"mask": file} for row, file in zip(source.rows, files, strict=True)]
    return Source(rows, partial(with_mask, read=_read_array))


def _read_array(mask: Path) -> Image.Image:
    return Image.fromarray(255 * (np.squeeze(np.load(mask)) > 0).astype(np.uint8))


CLASS_FOLDER = re.compile(r"(\d{1,3})[ _]\S.*")  # `<class of ImageNet> <name>`


def open_counteranimal(root: Path, part: str) -> Source:
    """The folders of the part in `LAION-final/<class of ImageNet> <name>`."""
    (other,) = (name for name in COUNTERANIMAL_PARTS if name != part)
    labels = {}
    for folder in find_classes(root, lambda name: CLASS_FOLDER.fullmatch(name) is not None):
        named = CLASS_FOLDER.fullmatch(folder.name)
        # "common" is not a part of "counter", nor the reverse: a folder belongs to one part.
        chosen = [path for path in subfolders(folder) if part in path.name.lower() and other not in path.name.lower()]
        if not named or not chosen:
            raise ValueError(f"`{folder}` is not a class, like `9 ostrich`, with a folder named only after `{part}`.")
        labels |= dict.fromkeys(chosen, int(named[1]))
    return class_folders(root, labels)


def open_waterbirds(root: Path, split: str = "train", segmentations: str | None = None) -> Source:
    """A split by `metadata.csv`; `segmentations` is the folder of CUB-200-2011's masks."""
    path = next(iter(places_below(root, "metadata.csv")), root / "metadata.csv")
    reader = csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines())
    if not {"img_filename", "y", "split", "place"} <= {*(reader.fieldnames or ())}:
        raise ValueError(f"`{path}` has the columns {reader.fieldnames}: use the file that comes with the set.")
    number, rows = {"train": "0", "validation": "1", "test": "2"}[split], []
    for line in reader:
        if line["split"] == number:
            name, label = line["img_filename"], int(line["y"])
            rows.append(file_row(path.parent / name, name, label=label, group=2 * label + int(line["place"])))
    if segmentations is None:
        return Source(rows)
    rows = [row | {"mask": str((Path(segmentations) / row["file_name"]).with_suffix(".png"))} for row in rows]
    # Values are shares of annotators: the object is where half of them agree.
    return Source(rows, partial(with_mask, read=partial(_read_above, level=127)))


def row_of_hub(row: dict) -> dict:
    """Row of the copy of Waterbirds on the Hub, which has `label` (1: waterbird) and `place` (1: water)."""
    name, label, place = row["file_name"], row["label"], row["place"]
    if label not in (0, 1) or place not in (0, 1):
        raise UnusableRow(f"`{name}` has label {label} and place {place}, expected 0 or 1.")
    return {"image": row["image"], "label": label, "file_name": name, "group": 2 * label + place}
