"""`pipeline("relevance-map")`: the class of an image, and its relevance map or LayerCAM."""

from typing import Any

import torch
from torchvision.transforms.v2 import functional
from transformers import AutoModelForImageClassification, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from ..data.classes import class_index, classes_of_model
from ..data.transforms import check_resized, place_in_image
from ..utils.images import overlay as overlay_map
from ..utils.images import upright_image
from .layer_cam import class_map, map_name


class RelevanceMapPipeline(Pipeline):
    """Class, score and map of an image or a list of images: PIL images, paths or URLs. The map is the relevance map, or for
    models without one [`~robust_vit_hf.relevance.layer_cam.layer_cam`].

    Args:
        target (`int` or `str`, *optional*): id or name of the class to explain; by default the predicted class of each image.
        overlay (`bool`, *optional*, defaults to `False`): whether to return the image overlaid with its map, too.

    Returns:
        For each image a dict with `label` and `score`, name and probability of the explained class; `relevance` or
        `layercam`, the map as a greyscale image (mode L) of the size of the image, white for the highest value, and black
        for the lowest and outside the crop of the processor; and with `overlay=True` `overlay`, a colour image.

    Raises:
        OSError: a file or URL cannot be read as an image.
        ValueError: no layer of the model gives a map, the target is not one of its classes, or an image has no documented
            conversion to RGB, see [`~robust_vit_hf.utils.images.to_rgb`].

    Example:
        explain = pipeline("relevance-map", model="google/vit-base-patch16-224")
        explain("photo.jpg", overlay=True)["overlay"].save("relevance.png")
    """

    _load_processor = False
    _load_image_processor = True
    _load_feature_extractor = False
    _load_tokenizer = False

    def __call__(self, images, **arguments):
        return [] if isinstance(images, list) and not images else super().__call__(images, **arguments)

    def _sanitize_parameters(self, target=None, overlay=None):
        if isinstance(target, str):
            target = class_index(target, classes_of_model(self.model.config))
        forward = {} if target is None else {"target": target}
        return {}, forward, {} if overlay is None else {"overlay": overlay}

    def preprocess(self, image: Any) -> dict[str, Any]:
        image = upright_image(image)
        check_resized([image], self.image_processor)
        pixel_values = self.image_processor(image, return_tensors="pt")["pixel_values"]
        return {"image": image, "pixel_values": pixel_values.to(self.model.dtype)}

    def _forward(self, inputs: dict[str, Any], target: int | None = None) -> dict[str, Any]:
        output = class_map(self.model, inputs["pixel_values"], target)
        classes = output.logits.argmax(dim=1) if target is None else torch.full((len(output.logits),), target)
        scores = output.logits.float().softmax(dim=1).gather(1, classes.to(output.logits.device).unsqueeze(1))
        return {"image": inputs["image"], "relevance": output.relevance, "class": classes[:, None], "score": scores}

    def postprocess(self, outputs: dict[str, Any], overlay: bool = False) -> dict[str, Any]:
        image = outputs["image"][0] if isinstance(outputs["image"], list) else outputs["image"]
        relevance = place_in_image(outputs["relevance"][0, 0], image.size, self.image_processor)
        answer = {
            "label": self.model.config.id2label[int(outputs["class"][0, 0])],
            "score": float(outputs["score"][0, 0]),
            map_name(self.model).lower(): relevance,
        }
        if overlay:
            pixels, grey = (functional.pil_to_tensor(picture) / 255 for picture in (image, relevance))
            answer["overlay"] = functional.to_pil_image(overlay_map(pixels[None], grey[None])[0])
        return answer


PIPELINE_REGISTRY.register_pipeline(
    "relevance-map", pipeline_class=RelevanceMapPipeline, pt_model=AutoModelForImageClassification
)
