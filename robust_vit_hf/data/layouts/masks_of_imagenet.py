"""Sets of masks alone, whose images are in your ImageNet-1k."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image, ImageOps

from ..imagenet_classes import label_of_wnid
from ..schema import encode_image
from .class_folders import image_files


@dataclass(frozen=True)
class MaskFolder:
    """Folder of mask files. Sets define how they are named and read.

    Args:
        image_folders: roots of images, in order of preference.
        first: number of masks to take, sorted by name; all by default.
    """

    path: Path
    image_folders: list[Path]
    first: int | None = None

    def names(self, mask: Path) -> tuple[str, list[str]]:
        """Wnid of a mask file, and names of its image below a root, in order of preference; the first is the row's name."""
        raise NotImplementedError

    def read(self, mask: Path) -> Image.Image:
        """A mask with one channel, 0 or 255."""
        raise NotImplementedError


def mask_rows(shards: list[MaskFolder]) -> Iterator[dict]:
    """Rows with binary masks."""
    for shard in shards:
        for path in image_files(shard.path)[: shard.first]:
            wnid, names = shard.names(path)
            places = (folder / name for folder in shard.image_folders for name in names)
            image, row = next(filter(Path.is_file, places), None), {"file_name": names[0]}
            if image is None:
                folders = ", ".join(f"`{folder}`" for folder in shard.image_folders)
                problem = f"`{path}`: its image {names[0]} is not in {folders}: give your ImageNet-1k with --imagenet"
                yield row | {"problem": problem}
                continue
            try:
                mask = encode_image(upright_mask(shard.read(path), image), f"{path.stem}.bmp")
                yield row | {
                    "image": {"bytes": None, "path": str(image)},
                    "mask": mask,
                    "label": label_of_wnid()[wnid],
                }
            except (LookupError, OSError, ValueError) as error:
                yield row | {"problem": f"`{path}`: {error}"}


def upright_mask(mask: Image.Image, image: Path) -> Image.Image:
    """A mask of the stored pixels of an image file, turned as decoding turns the image according to EXIF.

    Raises:
        ValueError: their sizes differ.
    """
    with Image.open(image) as opened:
        if opened.size != mask.size:
            raise ValueError(
                f"the mask is {mask.width}×{mask.height}, but `{image}` is {opened.width}×{opened.height}"
            )
        mask.getexif()[ExifTags.Base.Orientation] = opened.getexif().get(ExifTags.Base.Orientation, 1)
    return ImageOps.exif_transpose(mask)
