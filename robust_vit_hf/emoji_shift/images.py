"""The image sets of emoji-shift, composed deterministically from a seed."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
from datasets.arrow_writer import ArrowWriter
from PIL import Image

from ..utils.cache import cache_of
from ..utils.files import atomic_file
from . import artwork
from .artwork import BACKGROUNDS, CLASSES, OPEN_VENDORS, TRAINING_VENDORS, UNSEEN_VENDOR, background, emoji


IMAGE_SIZE = 112  # the model's input size, so that 72 px drawings and photographs keep their detail
CLASS_NAMES = tuple(CLASSES)
BACKGROUND_NAMES = tuple(BACKGROUNDS)

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
    """Distribution of the images of a split.

    Args:
        background_bias: probability of the habitual background of the class; otherwise it is drawn from all
            backgrounds, or from those of the other classes if `adversarial`.
        vendors: vendors of the drawings.
        side: range of the object's side as a fraction of the image's side.
        max_angle: rotation in degrees, drawn uniformly from ±`max_angle`.
        overhang: fraction of the object's side that may be outside the image.
    """

    background_bias: float = 0.0
    adversarial: bool = False
    vendors: tuple[str, ...] = TRAINING_VENDORS
    side: tuple[float, float] = (0.35, 0.60)
    max_angle: float = 20.0
    overhang: float = 0.0


# Each shifted split changes one factor in addition to the background, as in SI-Score
# (https://huggingface.co/papers/2007.08558).
SPLITS = {
    "train": Split(background_bias=0.98),
    "val": Split(background_bias=0.98),
    "background_random": Split(),
    "background_adversarial": Split(adversarial=True),
    "vendor": Split(vendors=(UNSEEN_VENDOR,)),
    "location": Split(overhang=0.4),
    "rotation": Split(max_angle=180.0),
    "size": Split(side=(0.15, 0.35)),
    "bias": Split(background_bias=0.98),  # images that teach the shortcut, not shared with other splits
}
SHIFTED = tuple(split for split in SPLITS if split not in ("train", "val", "bias"))


def training_classes(class_seed: int = 0) -> list[int]:
    """Labels of the 50 classes to finetune on: two or three of the five classes of each photograph, so that training
    and other classes share all photographs. As in the paper's Tables 8 and 9, they are drawn by the seed.
    """
    rng = np.random.default_rng([class_seed, len(SPLITS)])
    scenes = len(BACKGROUND_NAMES)
    counts = rng.permutation([2, 3] * (scenes // 2))
    per_scene = len(CLASS_NAMES) // scenes
    drawn = [scene + scenes * rng.permutation(per_scene)[:count] for scene, count in enumerate(counts)]
    return sorted(int(label) for labels in drawn for label in labels)


def compose(split: str, index: int, seed: int = 0) -> dict:
    """Image number `index` of a split: a row with `image` (112×112 RGB), `mask` (112×112, 0 or 255), `label`,
    `vendor`, `background` and `openly_licensed`. Labels cycle through the classes, so that every prefix of a split is
    balanced."""
    spec = SPLITS[split]
    rng = np.random.default_rng([seed, list(SPLITS).index(split), index])
    label = index % len(CLASS_NAMES)

    habitual = label % len(BACKGROUND_NAMES)
    if spec.adversarial:
        scene = (habitual + rng.integers(1, len(BACKGROUND_NAMES))) % len(BACKGROUND_NAMES)
    else:
        scene = habitual if rng.random() < spec.background_bias else rng.integers(len(BACKGROUND_NAMES))
    photograph = background(BACKGROUND_NAMES[scene])
    crop = int(rng.integers(112, 169))
    left, top = (int(rng.integers(0, length - crop + 1)) for length in photograph.size)
    image = photograph.resize(
        (IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR, (left, top, left + crop, top + crop)
    )

    vendor = spec.vendors[rng.integers(len(spec.vendors))]
    drawing = emoji(CLASS_NAMES[label], vendor)
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
        "background": BACKGROUND_NAMES[scene],
        "openly_licensed": vendor in OPEN_VENDORS,
    }


def load_split(split: str, num_images: int, seed: int = 0, classes: Sequence[int] | None = None) -> datasets.Dataset:
    """The first `num_images` images of a split. Cached in a file of the cache of `datasets`.

    Args:
        split: one of `SPLITS`.
        num_images: number of rows. A longer split begins with the shorter one.
        seed: seed of the composition. Images of other seeds share only the artwork.
        classes: labels to keep; all by default.

    Returns:
        Dataset with the columns of [`compose`].

    Raises:
        ValueError: unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"emoji-shift has no split `{split}`; expected one of {', '.join(SPLITS)}.")
    kept = range(len(CLASS_NAMES)) if classes is None else classes
    indices = [i // len(kept) * len(CLASS_NAMES) + kept[i % len(kept)] for i in range(num_images)]
    # Keyed by code and artwork, so that a new version of either recomposes the images.
    folder = cache_of((Path(__file__), Path(artwork.__file__), *artwork.artwork_files()))
    file = folder / f"{split}-{seed}-{hashlib.sha256(repr(indices).encode()).hexdigest()[:16]}.arrow"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(file) as partial, ArrowWriter(path=str(partial), features=FEATURES) as writer:
            for index in indices:
                row = compose(split, index, seed)
                writer.write(row | {column: {"bytes": _png(row[column])} for column in ("image", "mask")})
            writer.finalize()
    return datasets.Dataset.from_file(str(file))


def _png(image: Image.Image) -> bytes:
    """Encode an image as PNG with the fastest compression, three times as fast as the default."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def load_finetuning_splits(
    samples_per_class: int = 2, seed: int = 0, class_seed: int = 0
) -> dict[str, datasets.Dataset]:
    """Images to finetune on, `train` and `validation`. As in the paper, `train` has half of the classes, and
    `validation` a few images (two) of each of the others. Both are biased, and share no images with the evaluation
    splits.

    Args:
        samples_per_class: training images of each of the 50 classes; 3 in the paper.
        seed: seed of the composition.
        class_seed: seed of [`training_classes`].
    """
    shown = training_classes(class_seed)
    others = sorted(set(range(len(CLASS_NAMES))) - set(shown))
    return {
        "train": load_split("train", samples_per_class * len(shown), seed, shown),
        "validation": load_split("train", 2 * len(others), seed, others),
    }


def load_evaluation_sets(images_per_set: int) -> dict[str, datasets.Dataset]:
    """Evaluation splits by name: `val`, and the `SHIFTED` ones."""
    return {split: load_split(split, images_per_set) for split in ("val", *SHIFTED)}
