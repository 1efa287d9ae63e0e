"""Hard ImageNet: masks of 15 classes of ImageNet whose surroundings give them away.

Source: https://huggingface.co/papers/2210.11604, https://github.com/mmoayeri/HardImageNet
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from ..imagenet_classes import label_of_wnid
from ..schema import Source, encode_image
from .class_folders import image_files, places_below, upright_mask


@dataclass(frozen=True)
class MaskFiles:
    """Masks of a split, and the folders with the images of each wnid."""

    path: Path
    image_folders: list[Path]


def open_hard_imagenet(
    root: Path, imagenet: str | None = None, split: Literal["train", "validation"] = "validation"
) -> Source:
    """The masks of a split (`train` or `val`) with their images.

    Args:
        root: the unpacked set, with `train/<wnid>_<file>` and `val/<wnid>_<file>`, or a folder one or two levels above.
        imagenet: your ImageNet-1k, with `train/<wnid>` and `val/<wnid>`.

    Raises:
        FileNotFoundError: there is no folder of masks.
        ValueError: `imagenet` is missing, or the folder holds no images, as that of ImageNet itself.
    """
    if imagenet is None:
        raise ValueError(
            "Hard ImageNet has masks alone: give your ImageNet-1k, for the images, with --imagenet of `robust-vit data prepare`."
        )
    folders = {"train": ("train",), "validation": ("val", "validation")}
    if split not in folders:
        raise ValueError(f"Hard ImageNet has no split `{split}`; expected {', '.join(folders)}.")
    names = folders[split]
    masks = next((path for name in names for path in places_below(root, name) if path.is_dir()), None)
    if masks is None:
        raise FileNotFoundError(f"`{root}` has no folder `{names[0]}` of masks: unpack hardImageNet.zip there.")
    if not image_files(masks):
        raise ValueError(
            f"`{masks}` holds no masks `<wnid>_<file>`: give the unpacked hardImageNet.zip, and your ImageNet-1k with --imagenet."
        )
    places = [*names, *(f"ILSVRC/Data/CLS-LOC/{name}" for name in names), "."]
    image_folders = [Path(imagenet) / place for place in places]
    return Source(
        hard_rows, [MaskFiles(masks, image_folders)], [path.stat().st_mtime_ns for path in image_files(masks)]
    )


def hard_rows(shards: list[MaskFiles]) -> Iterator[dict]:
    """Rows with binary masks: any value above 0 is the object."""
    for shard in shards:
        for path in image_files(shard.path):
            wnid, _, name = path.name.partition("_")
            row = {"file_name": f"{wnid}/{Path(name).stem}.JPEG"}
            try:
                yield row | _image_mask_label(path, wnid, Path(name).stem, shard)
            except (OSError, ValueError) as error:
                yield row | {"problem": f"`{path}`: {error}"}


def _image_mask_label(path: Path, wnid: str, stem: str, shard: MaskFiles) -> dict:
    """Raises a `ValueError` or `OSError` if a mask cannot be used."""
    if wnid not in label_of_wnid():
        raise ValueError(f"`{wnid}` is not a wnid of ImageNet-1k")
    names = [f"{wnid}/{stem}.JPEG", f"{wnid}/{wnid}_{stem}.JPEG", f"{stem}.JPEG"]
    found = next(filter(Path.is_file, (folder / name for folder in shard.image_folders for name in names)), None)
    if found is None:
        raise ValueError(
            f"its image {names[0]} is not in {', '.join(f'`{folder}`' for folder in shard.image_folders)}: give your "
            "ImageNet-1k with --imagenet"
        )
    mask = Image.open(path).convert("L").point(lambda value: 255 * (value > 0))
    return {
        "image": {"bytes": None, "path": str(found)},
        "mask": encode_image(upright_mask(mask, found), f"{wnid}_{stem}.bmp"),
        "label": label_of_wnid()[wnid],
    }
