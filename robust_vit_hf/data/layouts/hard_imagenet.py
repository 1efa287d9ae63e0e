"""Hard ImageNet: masks of 15 classes of ImageNet whose surroundings give them away.

Source: https://huggingface.co/papers/2210.11604, https://github.com/mmoayeri/HardImageNet
"""

from functools import partial
from pathlib import Path

from PIL import Image

from ..schema import Source
from .folders_of_sets import change_times, image_files, places_below
from .masks_of_imagenet import mask_rows


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
    rows = partial(mask_rows, image_folders=image_folders, names_of=_names, read=_read)
    return Source(rows, paths, change_times(paths))


def _names(mask: Path) -> tuple[str, list[str]]:
    wnid, _, stem = mask.stem.partition("_")
    return wnid, [f"{wnid}/{stem}.JPEG", f"{wnid}/{wnid}_{stem}.JPEG", f"{stem}.JPEG"]


def _read(mask: Path) -> Image.Image:
    return Image.open(mask).convert("L").point(lambda value: 255 * (value > 0))  # any value above 0 is the object
