"""What models gain on objects that are pasted in other ways, on photographs that were not used in any training.

    python -m experiments other_images --output_dir runs/other-images --bf16 \\
        --pairs runs/tested/fresh-10/model runs/tested/fresh-10/background-swap

`--pairs` has models of emoji-shift before and after, in folders named by set and method. All are measured on the same
drawings, of a seed of their own, each on one crop of one photograph, at one place, pasted in four ways:

- `plain`: as the images of emoji-shift, in the same sizes;
- `lit`: in the light of the crop (grey world: its mean colour is that of the light), with a soft edge, and a soft
  shadow on the ground;
- `occluded`: a quarter to a half of it behind what is at the lower edge of the same photograph, with a ragged border;
- `scaled`: half as large.

The photographs are those of desktop_photographs.py, which are downloaded and unpacked in the folder, next to contact
sheets. Adds to other_images.parquet next to this script: licences, and how many objects are right on each photograph,
by set, effort or method, way and side. It goes on after a kill.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import datasets
import numpy as np
from numpy.random import Generator
from PIL import Image, ImageChops, ImageFilter, ImageOps
from PIL.Image import Image as Picture
from scipy import ndimage

from robust_vit_hf.data import emoji_shift as artwork
from robust_vit_hf.data.emoji_shift import CLASS_NAMES, IMAGE_SIZE, SPLITS
from robust_vit_hf.evaluation.accuracy import measure_accuracy
from robust_vit_hf.evaluation.session import open_session
from robust_vit_hf.evaluation.sets import EvaluationSet
from robust_vit_hf.utils.cache import Cache
from robust_vit_hf.utils.environment import environment
from robust_vit_hf.utils.images import save_picture_grid

from ..scripts import chosen_model, script_parser
from .desktop_photographs import fetch
from .outcomes import read_outcomes, write_outcomes


SEED = 2042  # of no other images
SHEET = 48  # images of a contact sheet
Corner = tuple[int, int]  # upper left, of an object


def crop(photograph: Picture, rng: Generator, foreground: bool = False) -> Picture:
    """A square of the photograph, as emoji-shift takes it; or at its lower edge."""
    side = int(rng.integers(112, 169))
    left, top = (int(rng.integers(0, length - side + 1)) for length in photograph.size)
    top = photograph.height - side if foreground else top
    box = (left, top, left + side, top + side)
    return photograph.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR, box)


def draw_object(label: int, rng: Generator, vendors: Sequence[str] = SPLITS["background_new"].vendors) -> Picture:
    """A drawing of a class, turned as in emoji-shift, RGBA without transparent margins."""
    spec = SPLITS["background_new"]
    drawing = artwork.emoji(CLASS_NAMES[label], vendors[rng.integers(len(vendors))])
    if rng.random() < 0.5:
        drawing = ImageOps.mirror(drawing)
    drawing = drawing.rotate(rng.uniform(-spec.max_angle, spec.max_angle), Image.Resampling.BICUBIC, expand=True)
    return drawing.crop(drawing.getchannel("A").getbbox())


def paste(image: Picture, drawing: Picture, corner: Corner, *unused) -> None:
    image.paste(drawing, corner, drawing)


def paste_lit(image: Picture, drawing: Picture, corner: Corner, *unused) -> None:
    light = np.sqrt(np.asarray(image).mean(axis=(0, 1)) / 127.5)  # the root, as drawings have some light of their own
    (x, y), (width, height), alpha = corner, drawing.size, drawing.getchannel("A")
    shadow = Image.new("L", image.size)
    shadow.paste(alpha.resize((width, max(1, height // 3))), (x + width // 8, y + height - height // 4))
    shadow = shadow.filter(ImageFilter.GaussianBlur(width / 12)).point(lambda value: 0.6 * value)
    image.paste((0, 0, 0), mask=shadow)
    colours = np.clip(np.asarray(drawing.convert("RGB")) * light, 0, 255).astype(np.uint8)
    wide = ImageOps.expand(alpha, 6)
    soft = ImageOps.crop(ImageChops.darker(wide, wide.filter(ImageFilter.GaussianBlur(1.5))), 6)
    image.paste(Image.fromarray(colours), corner, soft)


def paste_occluded(image: Picture, drawing: Picture, corner: Corner, texture: Picture, rng: Generator) -> None:
    """The texture covers the object from a side that is drawn between lower left and lower right, with a ragged
    border."""
    image.paste(drawing, corner, drawing)
    canvas = Image.new("L", image.size)
    canvas.paste(drawing.getchannel("A"), corner)
    angle, hidden = rng.uniform(-np.pi / 4, np.pi / 4), rng.uniform(0.25, 0.5)
    rough = ndimage.gaussian_filter(rng.normal(size=(IMAGE_SIZE, IMAGE_SIZE)), 4)
    y, x = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE]
    depth = y * np.cos(angle) + x * np.sin(angle) + 3 * rough / rough.std()
    level = np.quantile(depth[np.asarray(canvas) > 127], 1 - hidden)
    image.paste(texture, mask=Image.fromarray(np.uint8(255 * np.clip(depth - level + 0.5, 0, 1))))


# How an object is pasted, and its size relative to emoji-shift.
WAYS: dict[str, tuple[Callable, float]] = {
    "plain": (paste, 1),
    "lit": (paste_lit, 1),
    "occluded": (paste_occluded, 1),
    "scaled": (paste, 0.5),
}


def compose(number: int, photograph: Picture, way: str) -> Picture:
    """Image `number`, pasted in one way. All ways share the crops, the drawing and the random numbers that come
    first."""
    rng, (put, size) = np.random.default_rng([SEED, number]), WAYS[way]
    image, texture = crop(photograph, rng), crop(photograph, rng, foreground=True)
    drawing = draw_object(number % len(CLASS_NAMES), rng)
    scale = size * rng.uniform(*SPLITS["background_new"].side) * IMAGE_SIZE / max(drawing.size)
    drawing = drawing.resize([max(1, round(length * scale)) for length in drawing.size], Image.Resampling.BICUBIC)
    corner = tuple(int(rng.random() * (IMAGE_SIZE - length + 1)) for length in drawing.size)
    put(image, drawing, corner, texture, rng)
    return image


def make_sets(photographs: list[Picture], places: np.ndarray, folder: Path) -> dict[str, EvaluationSet]:
    """Images by way, of which contact sheets are written."""
    sets, labels = {}, [number % len(CLASS_NAMES) for number in range(len(places))]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASS_NAMES))})
    for way in WAYS:
        images = [compose(number, photographs[place], way) for number, place in enumerate(places)]
        shown = [(CLASS_NAMES[label], np.asarray(image)) for label, image in zip(labels, images, strict=True)][:SHEET]
        save_picture_grid([shown[first : first + 8] for first in range(0, len(shown), 8)], folder / f"{way}.png")
        rows = datasets.Dataset.from_dict({"image": images, "label": labels}, features)
        sets[way] = EvaluationSet.of(rows, len(CLASS_NAMES))
    return sets


def measured(before: Path, after: Path, sets: dict, places: np.ndarray, folder: Path, bf16: bool) -> dict:
    """How many objects are right on each photograph, by way and side, and the commit. A model that was kept is the one
    before."""
    models = str(before), str(chosen_model(after) or before), "model"
    of_pair, cache = folder / after.parent.name / after.name, Cache(folder / "cache")
    with open_session(*models, of_pair, cache=cache, bf16=bf16) as session:
        found = measure_accuracy(session.with_sets(sets), relevance=False)
    counts = {
        way: {side: np.bincount(places, result.correct(side)).astype(int).tolist() for side in result.sides}
        for way, result in found.items()
    }
    return counts | {"commit": environment()["commit"]}


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, nargs="+", required=True, metavar="FOLDER", help="before, after, …")
    parser.add_argument("--objects", type=int, default=12, help="on each photograph (default: 12, five of each class)")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    arguments = parser.parse_args()
    folder = arguments.output_dir
    photographs = fetch(folder / "packages")
    places = np.random.default_rng(SEED).permutation(arguments.objects * len(photographs)) % len(photographs)
    sets = make_sets([image for image, _ in photographs.values()], places, folder)
    facts = {"photographs": {name: known for name, (_, known) in photographs.items()}, "objects": arguments.objects}
    file = Path(__file__).with_suffix(".parquet")
    runs, _ = read_outcomes(file)
    for before, after in zip(arguments.pairs[::2], arguments.pairs[1::2], strict=True):
        found = measured(before, after, sets, places, folder / "measured", arguments.bf16)
        runs[f"{after.parent.name}/{after.name}"] = found
        write_outcomes(file, runs, facts | environment())
