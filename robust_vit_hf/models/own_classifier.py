"""Classifiers of your own from Python: a function of images with class names and a transform, as a model and a processor of transformers."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import BaseImageProcessor, BatchFeature, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from ..data.classes import check_class_names


class OwnClassifier(PreTrainedModel):
    """A function as an image classifier, for measurements. It cannot be saved, or trained unless it is a torch module.

    Args:
        predict: takes images `(B, 3, H, W)`, on the CPU unless it is a torch module, and returns logits `(B, C)`.
        classes: names of the C classes, in the order of the logits.
        transform: takes a PIL image in RGB, and returns a tensor `(3, H, W)`.
    """

    config_class = PreTrainedConfig
    main_input_name = "pixel_values"
    NO_MAP = "the attention of a function cannot be read, so it has no relevance map."

    def __init__(self, predict: Callable[[torch.Tensor], Any], classes: Sequence[str], transform: Callable):
        super().__init__(PreTrainedConfig(id2label=dict(enumerate(check_class_names(classes)))))
        self.predict = predict.eval() if isinstance(predict, nn.Module) else predict
        # A function has no weights that could tell it from another: its logits for a picture do, see `weights_digest`.
        picture = Image.merge(
            "RGB", [Image.linear_gradient("L"), Image.radial_gradient("L"), Image.new("L", (256, 256))]
        )
        device, pixels = next((parameter.device for parameter in self.parameters()), None), transform(picture)
        if not isinstance(pixels, torch.Tensor) or pixels.ndim != 3 or len(pixels) != 3:
            raise ValueError(f"`transform` gave {_described(pixels)}; expected a tensor (3, H, W).")
        with torch.no_grad():
            probe = self(pixels[None].to(device)).logits
        self.probe = nn.Parameter(probe.float(), requires_grad=False)

    def forward(self, pixel_values: torch.Tensor, **kwargs) -> ImageClassifierOutput:
        """Logits `(B, C)` of images `(B, 3, H, W)`."""
        given = pixel_values if isinstance(self.predict, nn.Module) else pixel_values.cpu()
        output, wanted = self.predict(given), (len(given), self.config.num_labels)
        if np.shape(output) != wanted:
            raise ValueError(
                f"`predict` gave {_described(output)} for {len(given)} images; expected logits {wanted}, one for each of `classes`."
            )
        return ImageClassifierOutput(logits=torch.as_tensor(output).to(pixel_values.device))


class OwnProcessor(BaseImageProcessor):
    """A transform of a PIL image to a tensor `(3, H, W)`, as an image processor."""

    model_input_names: ClassVar = ["pixel_values"]

    def __init__(self, transform: Callable[[Image.Image], torch.Tensor]):
        super().__init__()
        self.transform = transform

    def preprocess(self, images: Sequence[Image.Image], return_tensors: str | None = "pt", **kwargs) -> BatchFeature:
        """Tensors `(3, H, W)` of images, stacked if they have one size."""
        tensors = [self.transform(image.convert("RGB")) for image in images]
        same = len({tensor.shape for tensor in tensors}) == 1
        return BatchFeature({"pixel_values": torch.stack(tensors) if same else tensors})

    def to_dict(self) -> dict[str, Any]:
        """Settings as JSON values: the transform is a function, whose text may not tell it from another."""
        return {"image_processor_type": type(self).__name__}


def _described(found: Any) -> str:
    return f"a {type(found).__name__} of shape {tuple(np.shape(found))}"
