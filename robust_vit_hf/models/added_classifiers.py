"""Image classifiers that transformers lacks: CLIP for zero-shot classification, DINOv3, and Python functions."""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from transformers import (
    BaseImageProcessor,
    BatchFeature,
    CLIPPreTrainedModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    DINOv3ViTPreTrainedModel,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import ImageClassifierOutput

from ..data.classes import check_class_names
from ..relevance.layer_cam import layer_cam


class CLIPZeroShotForImageClassification(CLIPPreTrainedModel):
    """The image encoder of CLIP, with the normalised text embeddings of the classes as a fixed head. Logits are cosine
    similarities times a scale. The head consists of buffers, so that finetuning changes only the image encoder.

    `CLIPForImageClassification` of transformers instead averages the patches and has no projection.

    Source: https://huggingface.co/papers/2103.00020, section 3.1.2
    """

    config: CLIPVisionConfig
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values"
    input_modalities = ("image",)

    def __init__(self, config: CLIPVisionConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.vision_model = CLIPVisionModel._from_config(config)
        self.visual_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)
        embeds = F.normalize(torch.randn(config.num_labels, config.projection_dim), dim=-1)
        self.register_buffer("text_embeds", embeds)
        self.register_buffer("logit_scale", torch.tensor(math.log(1 / 0.07)))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.vision_model.embeddings.patch_embedding

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs,
    ) -> ImageClassifierOutput:
        """Logits `(B, C)` of images `(B, 3, H, W)`, and their mean cross-entropy with `labels` `(B,)`."""
        outputs = self.vision_model(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **kwargs)
        embeds = F.normalize(self.visual_projection(outputs.pooler_output), dim=-1)
        logits = self.logit_scale.exp() * embeds @ self.text_embeds.to(embeds.dtype).T
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **kwargs)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class DINOv3ViTForImageClassification(DINOv3ViTPreTrainedModel):
    """DINOv3 with a linear head over the CLS token and the mean of the patches, like the linear probe of its authors.

    Loaded from a checkpoint of the backbone, it has an untrained head: train it first.

    Source: https://huggingface.co/papers/2508.10104 and `dinov3/hub/classifiers.py` of its authors
    """

    base_model_prefix = "dinov3_vit"

    def __init__(self, config: DINOv3ViTConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.dinov3_vit = DINOv3ViTModel(config)
        self.classifier = nn.Linear(2 * config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs
    ) -> ImageClassifierOutput:
        """Logits `(B, C)` of images `(B, 3, H, W)`, and their mean cross-entropy with `labels` `(B,)`."""
        outputs = self.dinov3_vit(pixel_values, **kwargs)
        tokens = outputs.last_hidden_state
        patches = tokens[:, 1 + self.config.num_register_tokens :]
        logits = self.classifier(torch.cat([tokens[:, 0], patches.mean(dim=1)], dim=1))
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **kwargs)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class OwnClassifier(PreTrainedModel):
    """A function as an image classifier, for measurements. It cannot be saved, and only a torch module can be trained.

    Args:
        predict: takes images `(B, 3, H, W)`, on the CPU unless it is a torch module, and returns logits `(B, C)`, or
            probabilities, whose logarithms (of at least 1e-6) are used as logits.
        classes: names of the C classes, in the order of the logits.
    """

    config_class = PreTrainedConfig
    main_input_name = "pixel_values"
    NO_MAP = "the attention of a function cannot be read, so it has no relevance map."

    def __init__(self, predict: Callable[[torch.Tensor], Any], classes: Sequence[str]):
        super().__init__(PreTrainedConfig(id2label=dict(enumerate(check_class_names(classes)))))
        self.predict = predict.eval() if isinstance(predict, nn.Module) else predict
        self.place = nn.Parameter(torch.zeros(1), requires_grad=False)  # for `model.device`
        self._has_layer_cam: bool | None = None
        self._is_steady = isinstance(predict, nn.Module)

    def has_layer_cam(self, pixel_values: torch.Tensor | None = None) -> bool:
        """Whether [`layer_cam`] gives a map. It is tried once, on the first image of the first `pixel_values` `(B, 3, H, W)`. Until then, and
        for a function that is not a torch module, this is `False`."""
        if self._has_layer_cam is None and pixel_values is not None:
            self._has_layer_cam = False
            if isinstance(self.predict, nn.Module):
                with suppress(Exception):  # if it is not about gradients, the module raises it again
                    self._has_layer_cam = bool(layer_cam(self, pixel_values[:1], check_finite=False))
        return bool(self._has_layer_cam)

    def forward(self, pixel_values: torch.Tensor, **kwargs) -> ImageClassifierOutput:
        given = pixel_values if isinstance(self.predict, nn.Module) else pixel_values.cpu()
        output, wanted = self.predict(given), (len(given), self.config.num_labels)
        if isinstance(output, tuple) or np.shape(output) != wanted:
            raise ValueError(
                f"`predict` returned {_described(output)} for {len(given)} images; expected logits {wanted}, one for each of `classes`."
            )
        logits = torch.as_tensor(output).to(pixel_values.device).float()
        if not self._is_steady and logits.isfinite().all():  # its model may drop units, or normalise by the batch
            alone = torch.as_tensor(self.predict(given[:1].repeat(len(given), 1, 1, 1))[0]).to(logits)
            if not torch.allclose(alone, logits[0], 0.01, 0.01 * logits.abs().max().item(), equal_nan=True):
                raise ValueError("`predict` gives an image other logits in another batch: call `eval()` of its model.")
            self._is_steady = True
        if (logits >= 0).all() and torch.allclose(logits.sum(dim=1), torch.ones(()).to(logits), atol=1e-3):
            logits = logits.clamp(min=1e-6).log()
        return ImageClassifierOutput(logits=logits)


class OwnProcessor(BaseImageProcessor):
    """A transform of a PIL image to a tensor `(3, H, W)`, as an image processor."""

    model_input_names: ClassVar = ["pixel_values"]

    def __init__(self, transform: Callable[[Image.Image], torch.Tensor]):
        super().__init__()
        self.transform = transform

    def preprocess(self, images: Sequence[Image.Image], return_tensors: str | None = "pt", **kwargs) -> BatchFeature:
        """Tensors `(3, H, W)` of images, stacked if all have the same size."""
        tensors = [self.transform(image.convert("RGB")) for image in images]
        for pixels in tensors:
            if not isinstance(pixels, torch.Tensor) or pixels.ndim != 3 or len(pixels) != 3:
                raise ValueError(f"`transform` returned {_described(pixels)}; expected a tensor (3, H, W).")
        same = len({tensor.shape for tensor in tensors}) == 1
        return BatchFeature({"pixel_values": torch.stack(tensors) if same else tensors})

    def to_dict(self) -> dict[str, Any]:
        """Settings as JSON values, without the transform, since the text of two functions can be the same."""
        return {"image_processor_type": type(self).__name__}


def _described(output: Any) -> str:
    shape = "" if isinstance(output, tuple) else f" of shape {tuple(np.shape(output))}"  # its parts may have several
    return f"a {type(output).__name__}{shape}"
