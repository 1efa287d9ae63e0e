"""Sets of masks alone, whose images are in your ImageNet-1k."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL import ExifTags, Image, ImageOps

from ..imagenet_classes import label_of_wnid
from ..schema import encode_image


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
