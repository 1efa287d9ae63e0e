"""Sets and masks written by the functions of `robust-vit data prepare` and `masks`."""

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from robust_vit_hf.data.image_sets import prepare as prepare_set
from robust_vit_hf.data.options import PrepareOptions
from robust_vit_hf.masks.make_masks import prepare_masks
from robust_vit_hf.masks.options import CocoOptions


def prepare(name: str, sources: list[str], output: Path, **options) -> dict[str, tuple[int, int]]:
    """Rows and rejected rows of each split of a set that is written."""
    return counts_of(prepare_set(PrepareOptions(set=name, sources=sources, output_dir=output, **options)))


def masks_by(masker: Callable, images: Path, output: Path, **options) -> dict[str, tuple[int, int]]:
    """Rows and rejected rows of each split of images with masks that a mask maker of the test makes."""
    given = CocoOptions(images=str(images), output_dir=output, annotations="none.json", **options)
    return counts_of(prepare_masks(given, lambda options, features: masker))


def counts_of(text: str) -> dict[str, tuple[int, int]]:
    """Rows and rejected rows by split in what a command says that it wrote: `<split>: <rows> rows, <rejected> rejected`."""
    lines = (line.partition(": ") for line in text.splitlines()[:-1])
    return {split: tuple(int(part.split()[0].replace(",", "")) for part in of.split(", ")) for split, _, of in lines}


def half_mask(image: Image.Image) -> Image.Image:
    """Mask of the left half of an image."""
    mask = Image.new("L", image.size)
    mask.paste(255, (0, 0, image.width // 2, image.height))
    return mask
