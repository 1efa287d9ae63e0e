"""Objects on other backgrounds: images of a diagnosis in all conditions, and the object of any image, cut out and
pasted."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from ..data import emoji_shift as artwork
from ..data.composition import CONDITIONS, paste
from ..data.emoji_shift import classes_before
from ..data.geometry import normalization
from ..data.known_sets import BUNDLED_BENCHMARK, find_benchmark
from ..data.transforms import eval_transform
from ..diagnosis.composed_examples import Composed, load_composed
from ..diagnosis.what_to_photograph import PAIRS_FILE, TAKEN_FILE, TAKEN_RULE, matrices
from ..evaluation.examples import EXAMPLES_FILE
from ..evaluation.session import Session
from ..masks.tokencut import TokenCut
from ..relevance.overlay import denormalize
from ..relevance.relevance_map import forward_logits
from ..results.tables import Table
from ..utils.files import RESULTS_FILE, read_json
from .explain_image import picture_of


Picture = tuple[Image.Image, str]  # with a caption: what it shows, and a line for each model's prediction
MARKS = {"right": "✓", "taken": "●", "other": "✗"}  # of predictions, see `Composed.kind`
# Kinds of images of a diagnosis, of any of its models.
KINDS = ("all", "taken for the class of the background", "wrong on another background", "right everywhere")
WITH_OBJECT = tuple(name for name in CONDITIONS if name not in ("no_fg", "only_bg"))
NUM_BACKGROUNDS = 5
TEXTS = ["image", "label", "donor_class"]  # columns, even if a class is called `1` or `NA`
PHOTOGRAPHS = ("grass", "brick", "china", "coins", "hubble")  # backgrounds without images of the models' classes
MAX_SIDE = 384  # of images to find a mask in, for an answer in seconds, since time grows with its sixth power


@dataclass(frozen=True)
class Diagnosed:
    """Result of `robust-vit diagnose`: the verdict of each model with its warnings, images in all conditions, and tables of what was
    taken for what."""

    text: str
    examples: list[Composed]
    tables: list[Table]

    def order(self, shown: str) -> list[int]:
        """Indices of the examples of one of [`KINDS`]."""
        return [index for index, example in enumerate(self.examples) if shown == KINDS[0] or _is_of(shown, example)]


def _is_of(kind: str, example: Composed) -> bool:
    if kind == KINDS[1]:
        return any(of_side["mixed_rand"] == example.donor for of_side in example.predicted.values())
    if kind == KINDS[2]:
        return any(of_side["mixed_rand"] != example.label for of_side in example.predicted.values())
    predicted = [of_side[name] for of_side in example.predicted.values() for name in WITH_OBJECT]
    return all(best in (None, example.label) for best in predicted)


def read_diagnosis(folder: Path, session: Session) -> Diagnosed:
    """Read the output folder of `robust-vit diagnose`, or of `robust-vit improve`, which has one."""
    place = diagnosis_folder(folder)
    results = read_json(place / RESULTS_FILE)
    models = {side: one.weights for side, one in session.sides.items()}
    if not results["weights"].items() <= models.items():
        raise ValueError(
            f"The diagnosis in `{folder}` is of other models: start the page with the --model and --compare that were diagnosed."
        )
    found = results["diagnosis"]
    said = [*found.items(), *results.get("attributes", {}).items()]
    lines = [f"{side.capitalize()}: {of['sentence']}" if len(found) > 1 else of["sentence"] for side, of in said]
    lines += results.get("advice", [])
    lines += dict.fromkeys(warning for of in found.values() for warning in of["warnings"])
    return Diagnosed("\n\n".join(lines), load_composed(place / EXAMPLES_FILE), _what_was_taken(place))


def _what_was_taken(folder: Path) -> list[Table]:
    """The images that follow the background of another class, and the matrices of classes; none in a Space, which has no such files."""
    if not (folder / PAIRS_FILE).is_file():
        return []
    pairs, taken = (
        pd.read_csv(folder / name, dtype=dict.fromkeys(TEXTS, str), keep_default_na=False)
        for name in (PAIRS_FILE, TAKEN_FILE)
    )
    images = Table(TAKEN_RULE, ["image", "class", "taken for"], taken[TEXTS].to_numpy().tolist())
    return [table for table in (images, *matrices(pairs)) if table.rows]


def diagnosis_folder(folder: Path) -> Path:
    """The folder itself, or its `diagnosis/`: the one with results of a diagnosis and examples."""
    for place in (folder, folder / "diagnosis"):
        if "diagnosis" in (read_json(place / RESULTS_FILE) or {}) and (place / EXAMPLES_FILE).is_file():
            return place
    raise ValueError(
        f"`{folder}` has no diagnosis with `{EXAMPLES_FILE}`: expected the --output_dir of `robust-vit diagnose` or "
        "`robust-vit improve`. If it has no such file, run the command again: what it measured is reused."
    )


def condition_pictures(example: Composed) -> list[Picture]:
    """An image of a diagnosis in each condition that it has, with the predictions."""
    pictures = []
    for name in CONDITIONS:
        predicted = {side: of_side[name] for side, of_side in example.predicted.items()}
        if None not in predicted.values():
            title = f"{name}: on {example.donor}" if name == "mixed_rand" else name
            lines = [_line(example.kind(side, name), side, best, predicted) for side, best in predicted.items()]
            pictures.append((example.pictures[name], "\n".join([title, *lines])))
    return pictures


@dataclass(frozen=True)
class Background:
    """An RGB picture to paste an object on, what it shows, and classes that are usually seen on it."""

    picture: Image.Image
    name: str
    classes: frozenset[str]


def other_backgrounds(session: Session, diagnosed: Diagnosed | None) -> list[Background]:
    """Backgrounds of images of a diagnosis, of different classes as far as there are, or else photographs of emoji-shift."""
    if diagnosed is not None:
        names = [one.label for one in diagnosed.examples]
        turns = [names[:place].count(name) for place, name in enumerate(names)]  # classes in turn
        chosen = sorted(range(len(names)), key=turns.__getitem__)[:NUM_BACKGROUNDS]
        examples = [diagnosed.examples[place] for place in chosen]
        return [Background(one.pictures["only_bg"], one.label, frozenset([one.label])) for one in examples]
    of_bundled = find_benchmark(session.classes) == BUNDLED_BENCHMARK
    side = session.sides["before"]
    pixel_values = eval_transform(side.processor)({"image": [artwork.background(name) for name in PHOTOGRAPHS]})
    pictures = denormalize(torch.stack(pixel_values["pixel_values"]), side.processor)
    return [
        Background(to_pil_image(picture), name, frozenset(classes_before(name) if of_bundled else ()))
        for picture, name in zip(pictures, PHOTOGRAPHS, strict=True)
    ]


def find_mask(cut: TokenCut, image: Image.Image) -> Image.Image:
    small = image.copy()
    small.thumbnail((MAX_SIDE, MAX_SIDE))
    (result,) = cut([small], [{}])
    if result.mask is None or result.rejected:
        raise ValueError(f"TokenCut found no object: {result.rejected}. Give an image in which one object stands out.")
    return result.mask.resize(image.size, Image.Resampling.NEAREST)


def show_mask(image: Image.Image, mask: Image.Image) -> Image.Image:
    """An RGB image whose background is dimmed."""
    image = picture_of(image)
    dimmed = Image.blend(image, Image.new("RGB", image.size, "white"), 0.75)
    return Image.composite(image, dimmed, mask.resize(image.size))


def pasted_pictures(
    session: Session, image: Image.Image, mask: Image.Image, backgrounds: Sequence[Background]
) -> tuple[list[Picture], str]:
    """An RGB image and its object on other backgrounds with predictions, and a sentence on how many of them change."""
    pictures, predicted = None, {}
    for side, of in session.sides.items():
        row = eval_transform(of.processor)({"image": [image], "mask": [mask]})
        pixel_values, weight = row["pixel_values"][0][None], row["mask"][0][None]
        if not weight.any():
            raise ValueError(
                "The object that TokenCut found lies outside of the crop that the models see: crop the image around the object."
            )
        size = pixel_values.shape[:1:-1]  # of a picture: width and height
        normalize = normalization(of.processor)
        others = torch.stack([normalize(pil_to_tensor(one.picture.resize(size))) for one in backgrounds])
        composed = torch.cat([pixel_values, paste(pixel_values, weight, others)])
        with torch.no_grad():
            logits = forward_logits(of.model, composed.to(session.accelerator.device)).float().cpu()
        scores, best = logits.softmax(dim=1).max(dim=1)
        names = [session.classes[index] for index in best.tolist()]
        predicted[side] = list(zip(names, scores.tolist(), strict=True))
        if pictures is None:
            pictures = [to_pil_image(one) for one in denormalize(composed, of.processor)]
    classes, captions = [frozenset(), *(one.classes for one in backgrounds)], []
    for place, title in enumerate(["the image", *(f"on {one.name}" for one in backgrounds)]):
        lines = [title]
        for side, of_side in predicted.items():
            name, score = of_side[place]
            kind = "right" if name == of_side[0][0] else "taken" if name in classes[place] else "other"
            lines.append(_line(kind, side, f"{name} {score:.0%}", predicted))
        captions.append("\n".join(lines))
    changed = {side: sum(name != of_side[0][0] for name, _ in of_side) for side, of_side in predicted.items()}
    counts = " · ".join(_of_side(side, f"{count} of {len(backgrounds)}", changed) for side, count in changed.items())
    return list(zip(pictures, captions, strict=True)), f"Predictions that change with the background: {counts}."


def _line(kind: str, side: str, text: str, sides: Collection[str]) -> str:
    return f"{MARKS[kind]} {_of_side(side, text, sides)}"


def _of_side(side: str, text: str, sides: Collection[str]) -> str:
    return f"{side}: {text}" if len(sides) > 1 else text
