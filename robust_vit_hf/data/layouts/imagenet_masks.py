"""Sets of ImageNet images with masks: ImageNet-S919, Hard ImageNet and ImageNet-Segmentation."""

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, ImageOps

from ...utils.images import to_rgb
from ..imagenet_classes import label_of_wnid
from ..schema import Source, encode_image
from .folders import change_times, image_files, places_below, subfolders


def mask_rows(
    shards: list[Path],
    image_folders: Sequence[Path],
    names_of: Callable[[Path], tuple[str, list[str]]],
    read: Callable[[Path], Image.Image],
) -> Iterator[dict]:
    """Rows of mask files, which `read` reads, with one channel, 0 or 255. `names_of` gives the wnid of a file, and names of
    its image below the roots of images, both in order of preference; the first is the row's name."""
    for path in shards:
        wnid, names = names_of(path)
        image = next(filter(Path.is_file, (folder / name for folder in image_folders for name in names)), None)
        row: dict = {"file_name": names[0]}
        try:
            if image is None:
                folders = ", ".join(f"`{folder}`" for folder in image_folders)
                raise ValueError(f"its image {names[0]} is not in {folders}: give your ImageNet-1k with --imagenet")
            mask = read(path)  # of the stored pixels, which is turned as decoding turns the image
            with Image.open(image) as opened:
                mask.getexif()[ExifTags.Base.Orientation] = opened.getexif().get(ExifTags.Base.Orientation, 1)
            encoded = encode_image(ImageOps.exif_transpose(mask), f"{path.stem}.bmp")
            row |= {"image": {"bytes": None, "path": str(image)}, "mask": encoded, "label": label_of_wnid()[wnid]}
        except (LookupError, OSError, ValueError) as error:
            row |= {"problem": f"`{path}`: {error}"}
        yield row


MASK_FOLDER, IMAGE_FOLDER = "train-semi-segmentation", "train-semi"
IGNORE = 1000
# Pairs of ImageNet-1k classes merged in ImageNet-S (folder and mask id) under the second wnid.
MERGED = {
    "n04356056": "n04355933",
    "n04493381": "n02808440",
    "n03642806": "n03832673",
    "n04008634": "n03773504",
    "n03887697": "n15075141",
}
PAPER_VALIDATION_CLASSES = 414


def open_imagenet_s(root: Path, imagenet: str | None = None) -> Source:
    """All annotated training images in a folder with `train-semi-segmentation`, at most two levels down. `imagenet` is your
    ImageNet-1k, with `train/<wnid>` or `<wnid>`, for images that are not in `train-semi`."""
    masks = _find_masks(root)
    return _source_of(subfolders(masks), masks, imagenet)


def _find_masks(root: Path) -> Path:
    found = [path for path in places_below(root, MASK_FOLDER) if path.is_dir()]
    if len(found) > 1:  # the official script writes ImageNetS50 and ImageNetS300 beside it
        found = [path for path in found if "S919" in path.parent.name] or found
    if len(found) != 1:
        raise ValueError(
            f"Expected one folder `{MASK_FOLDER}`, from ImageNetS919.zip, the annotations of ImageNet-S, in `{root}`, but found "
            f"{', '.join(f'`{path}`' for path in found) or 'none'}."
        )
    return found[0]


def _source_of(folders: list[Path], masks: Path, imagenet: str | None, first: int | None = None) -> Source:
    """The first masks of each folder, sorted by name, with their images."""
    image_folders = [masks.parent / IMAGE_FOLDER]
    if imagenet is not None:
        image_folders += [Path(imagenet) / name for name in ("train", "ILSVRC/Data/CLS-LOC/train", ".")]
    paths = [path for folder in folders for path in image_files(folder)[:first]]
    rows = partial(mask_rows, image_folders=image_folders, names_of=_names, read=_read)
    return Source(rows, paths, change_times(paths))


def _names(mask: Path) -> tuple[str, list[str]]:
    """By its name, since merged folders hold images of two classes."""
    wnid = mask.stem.split("_")[0]
    return wnid, [f"{folder}/{mask.stem}.JPEG" for folder in (mask.parent.name, wnid)]


def _read(mask: Path) -> Image.Image:
    red, green, _ = to_rgb(Image.open(mask)).split()
    ids = np.asarray(red) + 256 * np.asarray(green, dtype=np.uint16)  # the documented code of a class
    foreground = (ids != 0) & (ids != IGNORE)
    present = np.unique(ids[foreground]).tolist()
    if len(present) != 1:
        raise ValueError(f"the mask has the classes {present}, expected one: draw it again, or leave it out")
    return Image.fromarray(255 * foreground.astype(np.uint8))


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
    masks = _find_masks(root)
    folders = [folder for folder in subfolders(masks) if folder.name not in {*MERGED, *MERGED.values()}]
    if class_seed is not None:
        random.Random(class_seed).shuffle(folders)
    chosen, first = folders[:num_classes], samples_per_class
    if split == "validation":
        chosen, first = folders[max(num_classes, len(folders) - PAPER_VALIDATION_CLASSES) :], 1
    fewest = min((len(image_files(folder)) for folder in chosen), default=0)
    if num_classes >= len(folders) or fewest < first:
        raise ValueError(
            f"`{root}` has {len(folders)} classes beside the merged ones, of at least {fewest} masks each: {num_classes} classes for "
            f"training, with some left for validation, and {first} masks of each are asked for."
        )
    return _source_of(chosen, masks, imagenet, first)


FOLDERS = {"train": ("train",), "validation": ("val", "validation")}


def open_hard_imagenet(root: Path, imagenet: str | None = None, split: str = "validation") -> Source:
    """The masks of a split (`train` or `validation`) with their images from your ImageNet-1k, in `train/<wnid>` and
    `val/<wnid>`. `root` holds `train/<wnid>_<file>` and `val/<wnid>_<file>`, at most two levels down."""
    names = FOLDERS[split]
    masks = [path for name in names for path in places_below(root, name) if path.is_dir() and image_files(path)]
    if imagenet is None or not masks:
        raise ValueError(
            f"Hard ImageNet is read from the unpacked hardImageNet.zip, whose `{names[0]}` holds masks `<wnid>_<file>`, and from your "
            f"ImageNet-1k, for the images: give both, the latter with --imagenet. Got `{root}` and `{imagenet}`."
        )
    places = [*names, *(f"ILSVRC/Data/CLS-LOC/{name}" for name in names), "."]
    image_folders = [Path(imagenet) / place for place in places]
    paths = image_files(masks[0])
    rows = partial(mask_rows, image_folders=image_folders, names_of=_hard_names, read=_read_hard)
    return Source(rows, paths, change_times(paths))


def _hard_names(mask: Path) -> tuple[str, list[str]]:
    wnid, _, stem = mask.stem.partition("_")
    return wnid, [f"{wnid}/{stem}.JPEG", f"{wnid}/{wnid}_{stem}.JPEG", f"{stem}.JPEG"]


def _read_hard(mask: Path) -> Image.Image:
    return Image.open(mask).convert("L").point(lambda value: 255 * (value > 0))  # any value above 0 is the object


FILE_NAME = "gtsegs_ijcv.mat"


def open_segmentation(path: Path) -> Source:
    """The set from its MATLAB file, or from a folder with it."""
    import h5py

    if path.is_dir():
        path = path / FILE_NAME
    try:
        with h5py.File(path) as file:
            count = len(file["/value/img"])
    except OSError as error:
        raise ValueError(f"`{path}` is not in MATLAB's format 7.3: {error}. Download it again.") from error
    parts = [range(first, min(first + 100, count)) for first in range(0, count, 100)]
    return Source(partial(mat_rows, path=path), parts, path.stat().st_mtime_ns)


def mat_rows(shards: list[range], path: Path) -> Iterator[dict]:
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
