"""ImageNet-S919: 10 annotated training images of each of 919 classes, and the paper's split of them.

Source: https://huggingface.co/papers/2106.03149, https://github.com/LUSSeg/ImageNet-S
"""

import io
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, ImageOps

from ..imagenet_classes import label_of_wnid
from ..schema import Source
from .folders import image_files, subfolders


MASK_FOLDER, IMAGE_FOLDER = "train-semi-segmentation", "train-semi"
IGNORE = 1000
# Classes of ImageNet-1k that share one folder and mask id in ImageNet-S, under the second wnid.
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
    """Masks of one class, and where their images may be.

    Args:
        path: folder of the masks.
        image_folders: roots of folders of images by wnid, the first that has an image wins.
        mask_id: value of the class in the masks; `None` where it is not known.
        first: how many images to take, in the order of their names; all by default.
    """

    path: Path
    image_folders: list[Path]
    mask_id: int | None
    first: int | None = None


def open_imagenet_s(root: Path, imagenet: str | None = None) -> Source:
    """All annotated training images.

    Args:
        root: folder that holds `train-semi-segmentation`, at most two levels down.
        imagenet: your ImageNet-1k, with `train/<wnid>` or `<wnid>`, for images that are not in `train-semi`.

    Raises:
        FileNotFoundError: there is no folder of masks.
        ValueError: there are several, and none is that of ImageNet-S919.
    """
    level, found = [root], []
    for _ in range(3):
        found += [folder / MASK_FOLDER for folder in level if (folder / MASK_FOLDER).is_dir()]
        level = [child for folder in level for child in subfolders(folder)]
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
    categories = _categories(root, masks, [folder.name for folder in folders])
    return Source(
        mask_rows,
        [
            MaskFolder(folder, image_folders, categories.index(folder.name) + 1 if folder.name in categories else None)
            for folder in folders
        ],
        [path.stat().st_mtime_ns for folder in folders for path in image_files(folder)],
    )


def _categories(root: Path, masks: Path, folders: list[str]) -> list[str]:
    """Wnids in the order of the mask ids, which start at 1; none where that is not known."""
    for folder in (root, masks.parent, root / "data" / "categories", masks.parent / "data" / "categories"):
        if (folder / "ImageNetS_categories_im919.txt").is_file():
            return sorted((folder / "ImageNetS_categories_im919.txt").read_text().split())
    return folders if len(folders) == 919 else []


def open_paper_split(
    root: Path,
    imagenet: str | None = None,
    split: Literal["train", "validation"] = "train",
    class_seed: int | None = None,
    num_classes: int = 500,
    samples_per_class: int = 3,
) -> Source:
    """The paper's split of ImageNet-S919, section 4: classes in sorted order without those of the five merged pairs; the
    first 500 give three training images each, and the last 414 one validation image each.

    The released split follows the order in which a file system lists folders, which nobody can repeat; here all is
    sorted.

    Args:
        root, imagenet: as for [`open_imagenet_s`].
        split: which part.
        class_seed: shuffle the classes first, for Tables 8 and 9; not by default.
        num_classes: training classes, for Figure 7b. The validation classes stay the same up to 500.
        samples_per_class: training images of each class, for Figure 7a.

    Raises:
        ValueError: there are not so many classes, or not so many images of one.
    """
    merged = {*MERGED, *MERGED.values()}
    everything = open_imagenet_s(root, imagenet)
    shards = [shard for shard in everything.shards if shard.path.name not in merged]
    if samples_per_class < 1:
        raise ValueError(f"samples_per_class is {samples_per_class}, expected at least 1.")
    if not 0 < num_classes < len(shards):
        raise ValueError(
            f"num_classes is {num_classes}, but `{root}` has {len(shards)} classes beside the merged ones, of which "
            "some must be left for validation."
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
        if len(image_files(shard.path)) < first:
            raise ValueError(f"`{shard.path}` has {len(image_files(shard.path))} masks, but {first} are asked for.")
    return replace(
        everything, shards=[MaskFolder(shard.path, shard.image_folders, shard.mask_id, first) for shard in chosen]
    )


def mask_rows(shards: list[MaskFolder]) -> Iterator[dict]:
    """Rows with binary masks. The label is that of the file name's wnid: a merged folder holds images of two classes."""
    for shard in shards:
        for path in image_files(shard.path)[: shard.first]:
            row = {"file_name": f"{shard.path.name}/{path.stem}.JPEG"}
            try:
                yield row | _image_mask_label(path, shard)
            except (ValueError, OSError) as error:
                yield row | {"problem": f"`{path}`: {error}"}


def _image_mask_label(path: Path, shard: MaskFolder) -> dict:
    """Image, binary mask and label of one mask file.

    Raises:
        ValueError: there is no image, another size, no or several classes in the mask, or an unknown wnid.
        OSError: a file cannot be read.
    """
    wnid = path.stem.split("_")[0]
    if wnid not in label_of_wnid():
        raise ValueError(f"`{wnid}` is no wnid of ImageNet-1k")
    if shard.path.name not in (wnid, MERGED.get(wnid)):
        raise ValueError(f"an image of {wnid} in the folder of {shard.path.name}: put it into its own")
    candidates = [
        root / name / f"{path.stem}.JPEG" for root in shard.image_folders for name in (shard.path.name, wnid)
    ]
    image = next((candidate for candidate in candidates if candidate.is_file()), None)
    if image is None:
        raise ValueError(
            f"its image {path.stem}.JPEG is not in {', '.join(f'`{root}`' for root in shard.image_folders)}; give your "
            "ImageNet-1k with --imagenet"
        )

    coded = Image.open(path).convert("RGB")
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
    with Image.open(image) as opened:
        if opened.size != coded.size:
            raise ValueError(
                f"the mask is {coded.width}×{coded.height}, but `{image}` is {opened.width}×{opened.height}"
            )
        # Masks are drawn on the stored pixels. Whoever decodes the image turns it as its EXIF says, so the mask is turned too.
        mask.getexif()[ExifTags.Base.Orientation] = opened.getexif().get(ExifTags.Base.Orientation, 1)
    encoded = io.BytesIO()
    ImageOps.exif_transpose(mask).save(encoded, "BMP")
    return {
        "image": {"bytes": None, "path": str(image)},
        "mask": {"bytes": encoded.getvalue(), "path": f"{path.stem}.bmp"},
        "label": label_of_wnid()[wnid],
    }
