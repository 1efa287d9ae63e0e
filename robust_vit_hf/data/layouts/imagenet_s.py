"""ImageNet-S919: 10 annotated training images of each of 919 classes, and the paper's split of them.

Source: https://huggingface.co/papers/2106.03149, https://github.com/LUSSeg/ImageNet-S
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from ...utils.images import to_rgb
from ..imagenet_classes import label_of_wnid
from ..schema import Source, encode_image
from .class_folders import image_files, places_below, subfolders, upright_mask


MASK_FOLDER, IMAGE_FOLDER = "train-semi-segmentation", "train-semi"
CATEGORIES = "ImageNetS_categories_im919.txt"
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


@dataclass(frozen=True)
class MaskFolder:
    """Folder of the masks of one class."""

    path: Path
    image_folders: list[Path]  # roots of folders of images by wnid, in order of preference
    mask_id: int | None  # value of the class in the masks, if known
    first: int | None = None  # number of images to take, sorted by name; all by default


def open_imagenet_s(root: Path, imagenet: str | None = None) -> Source:
    """All annotated training images in a folder with `train-semi-segmentation`, at most two levels down.

    Args:
        imagenet: your ImageNet-1k, with `train/<wnid>` or `<wnid>`, for images that are not in `train-semi`.

    Raises:
        FileNotFoundError: there is no folder of masks.
        ValueError: there are several, and not exactly one is from ImageNet-S919.
    """
    found = [path for path in places_below(root, MASK_FOLDER) if path.is_dir()]
    if len(found) > 1:  # the official script writes ImageNetS50 and ImageNetS300 beside it
        found = [path for path in found if "S919" in path.parent.name] or found
    if not found:
        raise FileNotFoundError(
            f"`{root}` has no folder `{MASK_FOLDER}`: unpack ImageNetS919.zip, the annotations of ImageNet-S, there."
        )
    if len(found) > 1:
        raise ValueError(f"`{root}` holds several sets: {', '.join(f'`{path.parent}`' for path in found)}. Give one.")
    (masks,) = found
    image_folders = [masks.parent / IMAGE_FOLDER]
    if imagenet is not None:
        image_folders += [Path(imagenet) / name for name in ("train", "ILSVRC/Data/CLS-LOC/train", ".")]
    folders = subfolders(masks)
    places = (parent / folder / CATEGORIES for folder in (".", "data/categories") for parent in (root, masks.parent))
    categories = [folder.name for folder in folders] if len(folders) == 919 else []
    if listed := next(filter(Path.is_file, places), None):
        categories = listed.read_text().split()
    mask_ids = {wnid: mask_id for mask_id, wnid in enumerate(sorted(categories), start=1)}
    return Source(
        mask_rows,
        [MaskFolder(folder, image_folders, mask_ids.get(folder.name)) for folder in folders],
        [path.stat().st_mtime_ns for folder in folders for path in image_files(folder)],
    )


def open_paper_split(
    root: Path,
    imagenet: str | None = None,
    split: Literal["train", "validation"] = "train",
    class_seed: int | None = None,
    num_classes: int = 500,
    samples_per_class: int = 3,
) -> Source:
    """The paper's split of ImageNet-S919, section 4: classes in sorted order without those of the five merged pairs;
    the first 500 give three training images each, and the last 414 one validation image each.

    The released split is not reproducible, since it depends on the file system's order of folders.

    Args:
        root, imagenet: as for [`open_imagenet_s`].
        class_seed: seed to shuffle the classes with, for Tables 8 and 9; not shuffled by default.
        num_classes: training classes, for Figure 7b. The validation classes are the same up to 500.
        samples_per_class: training images of each class, for Figure 7a.

    Raises:
        ValueError: there are not enough classes, or images of a class.
    """
    merged = {*MERGED, *MERGED.values()}
    everything = open_imagenet_s(root, imagenet)
    shards = [shard for shard in everything.shards if shard.path.name not in merged]
    if samples_per_class < 1:
        raise ValueError(f"samples_per_class is {samples_per_class}, expected at least 1.")
    if not 0 < num_classes < len(shards):
        raise ValueError(
            f"num_classes is {num_classes}, but `{root}` has {len(shards)} classes beside the merged ones, some of which "
            "must be left for validation."
        )
    if class_seed is not None:
        random.Random(class_seed).shuffle(shards)
    if split == "train":
        chosen, first = shards[:num_classes], samples_per_class
    elif split == "validation":
        chosen, first = shards[max(num_classes, len(shards) - PAPER_VALIDATION_CLASSES) :], 1
    else:
        raise ValueError(f"The paper's split has no part `{split}`; expected `train` or `validation`.")
    for shard in chosen:
        if (count := len(image_files(shard.path))) < first:
            raise ValueError(f"`{shard.path}` has {count} masks, but {first} are asked for.")
    return replace(everything, shards=[replace(shard, first=first) for shard in chosen])


def mask_rows(shards: list[MaskFolder]) -> Iterator[dict]:
    """Rows with binary masks. Labels follow the wnid in the file name, since merged folders hold images of two
    classes."""
    for shard in shards:
        for path in image_files(shard.path)[: shard.first]:
            row = {"file_name": f"{shard.path.name}/{path.stem}.JPEG"}
            try:
                yield row | _image_mask_label(path, shard)
            except (ValueError, OSError) as error:
                yield row | {"problem": f"`{path}`: {error}"}


def _image_mask_label(path: Path, shard: MaskFolder) -> dict:
    """Image, binary mask and label of one mask file. Raises a `ValueError` or `OSError` if it cannot be used."""
    wnid = path.stem.split("_")[0]
    if wnid not in label_of_wnid():
        raise ValueError(f"`{wnid}` is not a wnid of ImageNet-1k")
    if shard.path.name not in (wnid, MERGED.get(wnid)):
        raise ValueError(f"an image of {wnid} in the folder of {shard.path.name}: put it into its own")
    folders = (root / name for root in shard.image_folders for name in (shard.path.name, wnid))
    image = next(filter(Path.is_file, (folder / f"{path.stem}.JPEG" for folder in folders)), None)
    if image is None:
        raise ValueError(
            f"its image {path.stem}.JPEG is not in {', '.join(f'`{root}`' for root in shard.image_folders)}; give your "
            "ImageNet-1k with --imagenet"
        )

    coded = to_rgb(Image.open(path))
    red, green, _ = coded.split()
    ids = np.asarray(red) + 256 * np.asarray(green, dtype=np.uint16)  # the documented code of a class
    foreground = (ids != 0) & (ids != IGNORE)
    inside = ids[foreground]
    present = [inside[0].item()] if len(inside) and inside.min() == inside.max() else np.unique(inside).tolist()
    if len(present) != 1:
        raise ValueError(f"the mask has the classes {present}, expected one: draw it again, or leave it out")
    if shard.mask_id not in (None, present[0]):
        raise ValueError(f"the mask has class {present[0]}, but {shard.path.name} is class {shard.mask_id}")
    mask = Image.fromarray(255 * foreground.astype(np.uint8))
    return {
        "image": {"bytes": None, "path": str(image)},
        "mask": encode_image(upright_mask(mask, image), f"{path.stem}.bmp"),
        "label": label_of_wnid()[wnid],
    }
