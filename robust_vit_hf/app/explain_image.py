"""An image as the models see it: best classes, relevance maps, their difference, and agreement with a mask."""

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torchvision.transforms.v2 import functional

from ..data.transforms import eval_transform, place_in_image
from ..evaluation.session import Session
from ..metrics.robust_accuracy import TOP
from ..metrics.streaming import RelevanceSegmentation
from ..relevance.attribution import ATTRIBUTION_METHODS
from ..relevance.layer_cam import LAYER_CAM, layer_cam
from ..relevance.relevance_map import forward_logits
from ..utils.images import overlay, to_rgb


PICTURE_SIDE = 512  # longest side of the pictures, in pixels


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
        raise ValueError(
            f"`{name}` cannot be read as an image: {str(error).replace(path, name)}. Save it as PNG or JPEG, and try again."
        ) from error


def picture_of(image: Image.Image) -> Image.Image:
    """The image in the size in which it is shown, with `PICTURE_SIDE` pixels on its longer side."""
    factor = PICTURE_SIDE / max(image.size)
    return image.resize([max(1, round(factor * side)) for side in image.size])


def compare_maps(
    session: Session, image: Image.Image, target: int | None, method: str | None, mask: Image.Image | None = None
) -> tuple[dict[str, Explanation], Image.Image | None]:
    """Explanations by side, of the class `target` or of each prediction, and a picture of the difference between the maps of two models."""
    device, shown = session.accelerator.device, picture_of(image)
    attribute = layer_cam if session.map_name == LAYER_CAM else ATTRIBUTION_METHODS.get(method)
    pixels = functional.pil_to_tensor(shown)[None] / 255
    explanations, placed = {}, {}
    for side, of in session.sides.items():
        rows = {"image": [image]} | ({"mask": [mask]} if mask is not None else {})
        inputs = eval_transform(of.processor)(rows)
        pixel_values, picture, agreement = inputs["pixel_values"][0][None].to(device), shown, {}
        with torch.no_grad():
            output = None if method is None else attribute(of.model, pixel_values, target)
            logits = forward_logits(of.model, pixel_values) if output is None else output.logits
        probabilities = logits[0].float().softmax(dim=0)
        scores, best = (values.tolist() for values in probabilities.topk(min(TOP, len(probabilities))))
        explained = best[0] if target is None else target
        if output is not None:
            relevance = output.relevance.cpu()
            over_image = place_in_image(relevance[0, 0], shown.size, of.processor)
            placed[side] = functional.pil_to_tensor(over_image)[None] / 255
            picture = functional.to_pil_image(overlay(pixels, placed[side])[0])
            if mask is not None:
                segmentation = RelevanceSegmentation()
                segmentation.update(relevance, inputs["mask"][0][None])
                agreement = segmentation.compute()
        top = list(zip(best, scores, strict=True))
        explanations[side] = Explanation(top, explained, probabilities[explained].item(), picture, agreement)
    if "after" not in placed:
        return explanations, None
    change = (placed["after"] - placed["before"] + 1) / 2  # green: gained relevance; pink: lost relevance
    return explanations, functional.to_pil_image(overlay(pixels, change, "vanimo")[0])
