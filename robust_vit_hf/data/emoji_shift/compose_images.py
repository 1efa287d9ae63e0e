"""The image sets of emoji-shift, composed deterministically from a seed."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
from datasets.arrow_writer import ArrowWriter
from PIL import Image

from ...utils.cache import cache_of
from ...utils.files import atomic_file
from ..schema import encode_image
from . import artwork


IMAGE_SIZE = 112  # the model's input size, so that 72 px drawings and photographs keep their detail
CLASS_NAMES = tuple(artwork.CLASSES)
BACKGROUND_NAMES = tuple(artwork.BACKGROUNDS)
PER_BACKGROUND = len(CLASS_NAMES) // len(BACKGROUND_NAMES)  # classes with one habitual background

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

    background_bias: float = 0.98  # probability of the habitual background of the class, and not one of another class
    new_backgrounds: bool = False  # draw from `NEW_BACKGROUNDS` instead
    vendors: tuple[str, ...] = artwork.TRAINING_VENDORS  # of the drawings
    side: tuple[float, float] = (0.30, 0.55)  # range of the object's side as a fraction of the image's side
    max_angle: float = 20.0  # rotation in degrees, drawn uniformly from ±`max_angle`
    overhang: float = 0.0  # fraction of the object's side that may be outside the image


# Each shifted split changes one factor of `val`; the first two change the same one.
SPLITS = {
    "train": Split(),
    "val": Split(),
    "background_new": Split(new_backgrounds=True),
    "background_random": Split(background_bias=0.0),
    "vendor": Split(vendors=(artwork.UNSEEN_VENDOR,)),
    "location": Split(overhang=0.4),
    "rotation": Split(max_angle=180.0),
    "size": Split(side=(0.15, 0.275)),
    "bias": Split(),  # images that teach the shortcut, not shared with other splits
}
MASKED = ("val", "background_new")  # the evaluation sets with masks
SHIFTED = tuple(split for split in SPLITS if split not in ("train", "val", "bias"))


def classes_before(background_name: str) -> tuple[str, ...]:
    """Names of the classes whose habitual background a photograph is; none for those of `NEW_BACKGROUNDS`."""
    if background_name not in BACKGROUND_NAMES:
        return ()
    first = PER_BACKGROUND * BACKGROUND_NAMES.index(background_name)
    return CLASS_NAMES[first : first + PER_BACKGROUND]


def training_classes(class_seed: int = 0, num_classes: int | None = None) -> list[int]:
    """Labels of the classes to finetune on, by default three of the six classes of each photograph, so that training and
    other classes share all photographs. As in the paper's Tables 8 and 9, they are drawn by the seed; fewer classes are
    among the more."""
    count, rest = divmod(len(CLASS_NAMES) // 2 if num_classes is None else num_classes, len(BACKGROUND_NAMES))
    if rest or not 0 < count < PER_BACKGROUND:
        raise ValueError(
            f"emoji-shift cannot train on {num_classes} classes: expected a multiple of {len(BACKGROUND_NAMES)}, from "
            f"{len(BACKGROUND_NAMES)} to {len(CLASS_NAMES) - len(BACKGROUND_NAMES)}, so that every photograph has as many."
        )
    rng = np.random.default_rng([class_seed, len(SPLITS)])
    first = range(0, len(CLASS_NAMES), PER_BACKGROUND)
    return sorted(int(label) for start in first for label in start + rng.permutation(PER_BACKGROUND)[:count])


def background_of(split: str, index: int, seed: int = 0) -> str:
    """Name of the photograph in an image of [`compose`], without the image."""
    return _draw_background(SPLITS[split], index % len(CLASS_NAMES), _generator(split, index, seed))


def _generator(split: str, index: int, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, list(SPLITS).index(split), index])


def _draw_background(spec: Split, label: int, rng: np.random.Generator) -> str:
    """Name of the photograph, the first draw of an image."""
    place, count = label // PER_BACKGROUND, len(BACKGROUND_NAMES)
    if spec.new_backgrounds:
        return tuple(artwork.NEW_BACKGROUNDS)[rng.integers(len(artwork.NEW_BACKGROUNDS))]
    if rng.random() < spec.background_bias:
        return BACKGROUND_NAMES[place]
    return BACKGROUND_NAMES[(place + rng.integers(1, count)) % count]


def compose(split: str, index: int, seed: int = 0) -> dict:
    """Image number `index` of a split: a row with `image` (112×112 RGB), `mask` (112×112, 0 or 255), `label`,
    `vendor`, `background` and `openly_licensed`. Labels cycle through the classes, so that every prefix of a split is
    balanced."""
    spec, rng = SPLITS[split], _generator(split, index, seed)
    label = index % len(CLASS_NAMES)
    scene = _draw_background(spec, label, rng)
    photograph = artwork.background(scene)
    crop = int(rng.integers(112, 169))
    left, top = (int(rng.integers(0, length - crop + 1)) for length in photograph.size)
    box = (left, top, left + crop, top + crop)
    image = photograph.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR, box)

    vendor = spec.vendors[rng.integers(len(spec.vendors))]
    drawing = artwork.emoji(CLASS_NAMES[label], vendor)
    if rng.random() < 0.5:
        drawing = drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    drawing = drawing.rotate(rng.uniform(-spec.max_angle, spec.max_angle), Image.Resampling.BICUBIC, expand=True)
    # Crop the transparent corners of the rotated canvas, so that the size is that of the visible object.
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
        "openly_licensed": vendor in artwork.OPEN_VENDORS,
    }


def load_split(split: str, num_images: int, seed: int = 0, classes: Sequence[int] | None = None) -> datasets.Dataset:
    """The first `num_images` images of a split, as rows of [`compose`], of some labels or all. Cached in a file of the
    cache of `datasets`. A longer split begins with the shorter one; images of other seeds share only the artwork."""
    kept = range(len(CLASS_NAMES)) if classes is None else classes
    indices = [i // len(kept) * len(CLASS_NAMES) + kept[i % len(kept)] for i in range(num_images)]
    # Keyed by code and artwork, so that a new version of either recomposes the images.
    folder = cache_of((Path(__file__), Path(artwork.__file__), *artwork.artwork_files()))
    file = folder / f"{split}-{seed}-{hashlib.sha256(repr(indices).encode()).hexdigest()[:16]}.arrow"
    if not file.is_file():
        with atomic_file(file) as partial, ArrowWriter(path=str(partial), features=FEATURES) as writer:
            for index in indices:
                row = compose(split, index, seed)
                # With the fastest compression, three times as fast as the default.
                pictures = {name: encode_image(row[name], None, "PNG", compress_level=1) for name in ("image", "mask")}
                writer.write(row | pictures)
            writer.finalize()
    return datasets.Dataset.from_file(str(file))


def load_finetuning_splits(
    samples_per_class: int = 2, seed: int = 0, class_seed: int = 0, num_classes: int | None = None
) -> dict[str, datasets.Dataset]:
    """Images to finetune on. As in the paper, `train` has half of the classes, see [`training_classes`], and
    `validation` a few images (four) of each of the others; the paper has 3 training images of each class. Both are
    biased, and share no images with the evaluation splits."""
    shown = training_classes(class_seed, num_classes)
    others = sorted(set(range(len(CLASS_NAMES))) - set(shown))
    return {
        "train": load_split("train", samples_per_class * len(shown), seed, shown),
        "validation": load_split("train", 4 * len(others), seed, others),
    }


def load_evaluation_sets(images_per_set: int, seed: int = 0) -> dict[str, datasets.Dataset]:
    """Evaluation splits by name: `val`, and the `SHIFTED` ones. Only `MASKED` ones have masks, since relevance maps take
    three times as long as predictions. `seed` is that of the composition."""
    sets = {split: load_split(split, images_per_set, seed) for split in ("val", *SHIFTED)}
    return {name: rows if name in MASKED else rows.remove_columns("mask") for name, rows in sets.items()}
