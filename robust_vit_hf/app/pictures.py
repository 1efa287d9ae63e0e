"""What the page shows of an image: its best classes and relevance maps, and its object on other backgrounds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from ..data import emoji_shift as artwork
from ..data.background_edits import CONDITIONS, paste
from ..data.transforms import denormalize, eval_transform, normalization, place_in_image
from ..diagnosis.example_strip import EXAMPLES_FILE, Composed, load_composed
from ..evaluation.session import Session
from ..masks.tokencut import TokenCut
from ..metrics.robust_accuracy import TOP
from ..metrics.streaming import RelevanceSegmentation
from ..relevance.attribution import ATTRIBUTION_METHODS
from ..relevance.layer_cam import LAYER_CAM, layer_cam
from ..relevance.relevance_map import forward_logits
from ..utils.files import RESULTS_FILE, read_json
from ..utils.images import overlay, to_rgb


PICTURE_SIDE = 512  # longest side of the pictures, in pixels
MAX_SIDE = 384  # pixels of the longer side in the search for the object, whose time grows with the sixth power
Picture = tuple[Image.Image, str]  # with a caption: what it shows, and a line for each model's prediction
MARKS = {"right": "✓", "taken": "●", "other": "✗"}  # by the kind of prediction, see [`Composed.kind`]
# Kinds of images of a diagnosis. Of two models, one needs to make the prediction.
KINDS = ("all", "predicted as the class of the background", "wrong on another background", "right everywhere")
WITH_OBJECT = tuple(name for name in CONDITIONS if name not in ("no_fg", "only_bg"))
NUM_BACKGROUNDS = 5
PHOTOGRAPHS = ("grass", "brick", "china", "coins", "hubble")  # backgrounds for models without a diagnosis


@dataclass(frozen=True)
class Explanation:
    """A model's prediction for an image, and its map, if the models have maps of one kind."""

    top: list[tuple[int, float]]  # five classes with probabilities, best first
    target: int  # the explained class
    score: float  # its probability
    picture: Image.Image  # the image, overlaid with the map
    agreement: dict[str, float]  # of map and mask, see [`RelevanceSegmentation`]; empty without a mask


def read_image(path: str) -> tuple[Image.Image, bool]:
    """Read an image file as upright RGB, with the colours of transparent pixels; and whether it has transparency."""
    try:
        with Image.open(path) as file:
            return to_rgb(ImageOps.exif_transpose(file)), file.has_transparency_data
    except Exception as error:  # codecs raise any type
        name = Path(path).name
        reason = str(error).replace(path, name)
        raise ValueError(f"`{name}` cannot be read as an image: {reason}. Save it as PNG or JPEG.") from error


def picture_of(image: Image.Image) -> Image.Image:
    """The image in the size in which it is shown, with `PICTURE_SIDE` pixels on its longer side."""
    factor = PICTURE_SIDE / max(image.size)
    return image.resize([max(1, round(factor * side)) for side in image.size])


def compare_maps(
    session: Session, image: Image.Image, target: int | None, method: str | None, mask: Image.Image | None = None
) -> tuple[dict[str, Explanation], Image.Image | None]:
    """Explanations by side, of the class `target` or of each prediction, and a picture of the difference between the
    maps of two models."""
    shown, attribute = picture_of(image), ATTRIBUTION_METHODS.get(method)
    attribute = layer_cam if session.map_name == LAYER_CAM else attribute
    pixels, explanations, placed = pil_to_tensor(shown)[None] / 255, {}, {}
    for side, of in session.sides.items():
        inputs = eval_transform(of.processor)({"image": [image]} | ({"mask": [mask]} if mask is not None else {}))
        pixel_values = inputs["pixel_values"][0][None].to(session.accelerator.device)
        picture, agreement = shown, {}
        with torch.no_grad():
            output = None if method is None else attribute(of.model, pixel_values, target)
            logits = forward_logits(of.model, pixel_values) if output is None else output.logits
        probabilities = logits[0].float().softmax(dim=0)
        scores, best = (values.tolist() for values in probabilities.topk(min(TOP, len(probabilities))))
        explained = best[0] if target is None else target
        if output is not None:
            relevance = output.relevance.cpu()
            placed[side] = pil_to_tensor(place_in_image(relevance[0, 0], shown.size, of.processor))[None] / 255
            picture = to_pil_image(overlay(pixels, placed[side])[0])
            if mask is not None:
                segmentation = RelevanceSegmentation()
                segmentation.update(relevance, inputs["mask"][0][None])
                agreement = segmentation.compute()
        top = list(zip(best, scores, strict=True))
        explanations[side] = Explanation(top, explained, probabilities[explained].item(), picture, agreement)
    if "after" not in placed:
        return explanations, None
    change = (placed["after"] - placed["before"] + 1) / 2  # green: gained relevance; pink: lost relevance
    return explanations, to_pil_image(overlay(pixels, change, "vanimo")[0])


@dataclass(frozen=True)
class Diagnosed:
    """Result of `robust-vit diagnose`: verdicts and warnings as text, and images in all conditions."""

    text: str
    examples: list[Composed]

    def order(self, kind: str) -> list[int]:
        """Indices of the examples of one of [`KINDS`]."""
        return [index for index, example in enumerate(self.examples) if _is_of(kind, example)]


def _is_of(kind: str, example: Composed) -> bool:
    swapped = [predicted["mixed_rand"] for predicted in example.predicted.values()]
    with_object = [predicted[name] for predicted in example.predicted.values() for name in WITH_OBJECT]
    taken, wrong = example.donor in swapped, {*swapped} != {example.label}
    right = all(best in (None, example.label) for best in with_object)
    return dict(zip(KINDS, (True, taken, wrong, right), strict=True))[kind]


def diagnosis_folder(folder: Path) -> Path:
    """The folder itself, or its `diagnosis/`: the one with results of a diagnosis and examples."""
    for place in (folder, folder / "diagnosis"):
        if "diagnosis" in (read_json(place / RESULTS_FILE) or {}) and (place / EXAMPLES_FILE).is_file():
            return place
    raise ValueError(f"`{folder}` has no diagnosis: give the --output_dir of `robust-vit diagnose` or `improve`.")


def read_diagnosis(folder: Path, session: Session) -> Diagnosed:
    """Read the output folder of `robust-vit diagnose`, or of `robust-vit improve`, which has one."""
    place = diagnosis_folder(folder)
    results = read_json(place / RESULTS_FILE)
    if not results["weights"].items() <= {side: of.weights for side, of in session.sides.items()}.items():
        raise ValueError(f"`{folder}` is a diagnosis of other models: give its --model and --compare.")
    diagnosed = results["diagnosis"]
    verdicts = [*diagnosed.items(), *results.get("attributes", {}).items()]
    lines = [
        f"{side.capitalize()}: {of['sentence']}" if len(diagnosed) > 1 else of["sentence"] for side, of in verdicts
    ]
    lines += results.get("advice", [])
    lines += dict.fromkeys(warning for verdict in diagnosed.values() for warning in verdict["warnings"])
    return Diagnosed("\n\n".join(lines), load_composed(place / EXAMPLES_FILE))


def condition_pictures(example: Composed) -> list[Picture]:
    """An image of a diagnosis in all conditions in which it could be composed, with the predictions."""
    pictures = []
    for name in CONDITIONS:
        predicted = {side: best[name] for side, best in example.predicted.items()}
        if None not in predicted.values():
            title = f"{name}: on {example.donor}" if name == "mixed_rand" else name
            kinds = {side: (example.kind(side, name), best) for side, best in predicted.items()}
            pictures.append((example.pictures[name], _caption(title, kinds)))
    return pictures


def _caption(title: str, predicted: Mapping[str, tuple[str, str]]) -> str:
    """A line for each side, from the kind of its prediction and its text."""
    names = {side: f"{side}: " if len(predicted) > 1 else "" for side in predicted}
    return "\n".join([title, *(f"{MARKS[kind]} {names[side]}{text}" for side, (kind, text) in predicted.items())])


@dataclass(frozen=True)
class Background:
    """An RGB picture to paste an object on, what it shows, and classes that are usually seen on it."""

    picture: Image.Image
    name: str
    classes: frozenset[str]


def other_backgrounds(session: Session, diagnosed: Diagnosed | None) -> list[Background]:
    """Backgrounds of images of a diagnosis, of as many classes as possible, or else photographs of emoji-shift."""
    if diagnosed is not None:
        names = [example.label for example in diagnosed.examples]
        turns = [names[:place].count(name) for place, name in enumerate(names)]  # classes in turn
        order = sorted(range(len(names)), key=turns.__getitem__)[:NUM_BACKGROUNDS]
        examples = [diagnosed.examples[place] for place in order]
        return [Background(shown.pictures["only_bg"], shown.label, frozenset([shown.label])) for shown in examples]
    of_bundled = artwork.has_classes(session.classes)
    processor = session.sides["before"].processor
    pixel_values = eval_transform(processor)({"image": [artwork.background(name) for name in PHOTOGRAPHS]})
    pictures = map(to_pil_image, denormalize(torch.stack(pixel_values["pixel_values"]), processor))
    classes = (frozenset(artwork.classes_before(name) if of_bundled else ()) for name in PHOTOGRAPHS)
    return list(map(Background, pictures, PHOTOGRAPHS, classes))


def find_mask(cut: TokenCut, image: Image.Image) -> Image.Image:
    small = image.copy()
    small.thumbnail((MAX_SIDE, MAX_SIDE))
    (result,) = cut([small], [{}])
    if result.mask is None or result.rejected:
        raise ValueError(f"No object was found: {result.rejected}. Give an image in which one object stands out.")
    return result.mask.resize(image.size, Image.Resampling.NEAREST)


def pasted_pictures(
    session: Session, image: Image.Image, mask: Image.Image, backgrounds: Sequence[Background]
) -> tuple[list[Picture], str]:
    """The RGB image and its object on other backgrounds, as the first model sees them, with predictions, and a sentence
    on how many predictions change. `mask` is a greyscale mask of the object, of the size of the image."""
    titles, several = ["the image", *(f"on {other.name}" for other in backgrounds)], len(session.sides) > 1
    usual = [frozenset(), *(other.classes for other in backgrounds)]
    pictures, counts, captions = None, [], [{} for _ in titles]
    for side, of in session.sides.items():
        row = eval_transform(of.processor)({"image": [image], "mask": [mask]})
        pixel_values, weight = row["pixel_values"][0][None], row["mask"][0][None]
        if not weight.any():
            raise ValueError("The object is outside the part that the models see: crop the image around it.")
        normalize, size = normalization(of.processor), pixel_values.shape[:1:-1]  # width and height
        others = torch.stack([normalize(pil_to_tensor(other.picture.resize(size))) for other in backgrounds])
        composed = torch.cat([pixel_values, paste(pixel_values, weight, others)])
        pictures = pictures or [to_pil_image(picture) for picture in denormalize(composed, of.processor)]
        with torch.no_grad():
            logits = forward_logits(of.model, composed.to(session.accelerator.device)).float().cpu()
        scores, best = (maxima.tolist() for maxima in logits.softmax(dim=1).max(dim=1))
        names = [session.classes[index] for index in best]
        for place, (name, score) in enumerate(zip(names, scores, strict=True)):
            kind = "right" if name == names[0] else "taken" if name in usual[place] else "other"
            captions[place][side] = (kind, f"{name} {score:.0%}")
        changed = sum(name != names[0] for name in names)
        counts.append(f"{f'{side}: ' if several else ''}{changed} of {len(backgrounds)}")
    sentence = f"Predictions that change with the background: {' · '.join(counts)}."
    return list(zip(pictures, map(_caption, titles, captions), strict=True)), sentence
