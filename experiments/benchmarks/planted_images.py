"""Images whose classes go with an attribute, for shortcuts.py: drawings on photographs, and digits on textures."""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from scipy import ndimage
from sklearn.datasets import load_digits
from torchvision.transforms.v2.functional import to_dtype, to_image

from robust_vit_hf.data import emoji_shift as artwork
from robust_vit_hf.data.background_edits import ATTRIBUTES
from robust_vit_hf.utils.images import save_picture_grid

from .digits import texture


SPLITS = ("train", "validation", "random", "test", "test random")
SIZE, DIGITS = 84, load_digits()
IMAGES = {
    "emoji": {"train": 20, "validation": 10, "random": 10, "test": 40, "test random": 40},
    "digits": {"train": 30, "validation": 16, "random": 16, "test": 40, "test random": 40},
    "open emoji": {"validation": 2},
}  # a class
PLANTED = ("none", "background", "border", "corners", "colours", "sharpness", "compression", "place")
LEVELS = {"sharpness": 4, "compression": 4, "place": 4}  # usual values; of the others, one for each class


def emoji(
    label: int, number: int, split: str, rng: np.random.Generator, vendors: tuple[str, ...] = artwork.TRAINING_VENDORS
) -> tuple[Image.Image, Callable]:
    """A drawing with alpha, and a function from the number of a background to a crop of it."""
    kind = tuple(artwork.CLASSES)[6 * label]
    drawing = artwork.emoji(kind, vendors[rng.integers(len(vendors))]).rotate(rng.uniform(-20, 20), expand=True)
    drawing = drawing.crop(drawing.getchannel("A").getbbox())

    def background(value: int) -> Image.Image:
        photograph, crop = artwork.background(tuple(artwork.BACKGROUNDS)[value]), int(rng.integers(112, 169))
        left, top = (int(rng.integers(0, length - crop + 1)) for length in photograph.size)
        return photograph.resize((SIZE, SIZE), Image.Resampling.BILINEAR, (left, top, left + crop, top + crop))

    return drawing, background


def digit(label: int, number: int, split: str, rng: np.random.Generator) -> tuple[Image.Image, Callable]:
    """As [`emoji`], of a digit in a random colour, and of a texture. The writing is that of training, validation or
    test."""
    of_class = np.flatnonzero(DIGITS.target == label)
    third = len(of_class) // 3 * min(SPLITS.index(split), 2)
    strokes = DIGITS.images[of_class[third + number % (len(of_class) // 3)]]
    alpha = np.clip(3 * (ndimage.zoom(strokes / 16, 9, order=1) - 0.4), 0, 1)
    pixels = np.concatenate([np.broadcast_to(rng.random(3), (72, 72, 3)), alpha[..., None]], axis=2)
    drawing = Image.fromarray((255 * pixels).round().astype(np.uint8), "RGBA")
    drawing = drawing.crop(drawing.getchannel("A").getbbox())

    def background(value: int) -> Image.Image:
        return Image.fromarray((255 * texture(value, rng)).round().astype(np.uint8)).resize((SIZE, SIZE))

    return drawing, background


# With the number of classes. Drawings that may be published are for the picture alone.
SOURCES = {
    "emoji": (emoji, 16),
    "digits": (digit, 10),
    "open emoji": (partial(emoji, vendors=artwork.OPEN_VENDORS), 16),
}


def placed(drawing: Image.Image, value: int | None, rng: np.random.Generator) -> tuple[Image.Image, tuple[int, int]]:
    """A drawing in its size, and where it is: anywhere, or, by a value, large or small at the top or bottom."""
    side = rng.uniform(0.35, 0.6) if value is None else (0.35, 0.6)[value % 2] + rng.uniform(-0.03, 0.03)
    factor = side * SIZE / max(drawing.size)
    drawing = drawing.resize([max(1, round(length * factor)) for length in drawing.size], Image.Resampling.BICUBIC)
    free = [SIZE - length for length in drawing.size]
    left, top = (rng.uniform(0, length) for length in free)
    if value is not None:
        top = free[1] * (rng.uniform(0, 0.2) if value < 2 else rng.uniform(0.8, 1))
    return drawing, (round(left), round(top))


def frame(image: Image.Image, value: int, levels: int) -> Image.Image:
    """A border of 7 %, of a colour for each value."""
    width, framed = (
        round(0.07 * SIZE),
        Image.new("HSV", image.size, (255 * value // levels, 150, 90 + 100 * (value % 2))),
    )
    framed = framed.convert("RGB")
    framed.paste(image.crop((width, width, SIZE - width, SIZE - width)), (width, width))
    return framed


def stamp(image: Image.Image, value: int, levels: int) -> Image.Image:
    """A mark of 4×4 black and white squares at the bottom right, a pattern for each value."""
    squares = np.random.default_rng([11, value]).integers(0, 2, (4, 4)).astype(np.uint8) * 255
    mark = Image.fromarray(squares).resize((SIZE // 6,) * 2, Image.Resampling.NEAREST)
    image.paste(mark.convert("RGB"), [SIZE - SIZE // 6 - 3] * 2)
    return image


def cast(image: Image.Image, value: int, levels: int) -> Image.Image:
    """White balance and brightness of a camera, other ones for each value."""
    gains = (
        1
        + 0.45 * np.cos(2 * np.pi * (value / levels + np.arange(3) / 3)) * (1 - 0.4 * (value % 2))
        - 0.2 * (value % 2)
    )
    return Image.fromarray(np.clip(np.asarray(image) * gains, 0, 255).astype(np.uint8))


def blurred(image: Image.Image, value: int, levels: int) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur((0, 0.7, 1.3, 2.2)[value]))


def compressed(image: Image.Image, value: int, levels: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=(95, 25, 10, 4)[value])
    return Image.open(file).convert("RGB")


FINISHES = {"border": frame, "corners": stamp, "colours": cast, "sharpness": blurred, "compression": compressed}


def draw(source: str, planted: str, rate: float, split: str, seed: int) -> list[tuple]:
    """Images, masks and labels. In the splits `random` and `test random`, what is planted is drawn at random."""
    make, classes = SOURCES[source]
    levels, rows = LEVELS.get(planted, classes), []
    for number, label in np.ndindex(IMAGES[source][split], classes):
        rng = np.random.default_rng([seed, SPLITS.index(split), number, label])
        value = label % levels if rng.random() < rate and "random" not in split else int(rng.integers(levels))
        drawing, background = make(label, number, split, rng)
        habitual = background(value if planted == "background" else int(rng.integers(classes)))
        drawing, corner = placed(drawing, value if planted == "place" else None, rng)
        mask = Image.new("L", habitual.size)
        mask.paste(drawing.getchannel("A").point(lambda alpha: 255 * (alpha > 127)), corner)
        habitual.paste(drawing, corner, drawing)
        if planted in FINISHES:
            habitual = FINISHES[planted](habitual, value, levels)
        rows.append((habitual, mask, label))
    return rows


def save_picture(path: Path) -> None:
    """Draw an image of each set for each attribute that is planted: as it is, with the attribute of another image of
    its class, and with that of an image of another class."""
    rows = []
    for planted in (one for one in PLANTED if one in ATTRIBUTES):
        rows.append([])
        for source in ("open emoji", "digits"):
            images = draw(source, planted, 1.0, "validation", 0)
            own, same, other = (
                [to_dtype(to_image(one), torch.float32, scale=True)[None] for one in images[place][:2]]
                for place in (4, 4 + SOURCES[source][1], 7)
            )
            given = {"of its class": same, "of another class": other}
            shown = {f"{planted}: the image": own[0]}
            shown |= {caption: ATTRIBUTES[planted].edit(*own, *donor) for caption, donor in given.items()}
            rows[-1] += [(caption, image[0].permute(1, 2, 0).numpy()) for caption, image in shown.items()]
    save_picture_grid(rows, path)
