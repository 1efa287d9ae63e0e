"""The supported architectures, each as a tiny model with random weights."""

import inspect
from dataclasses import dataclass, field

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel

from robust_vit_hf import DINOv3ViTForImageClassification
from robust_vit_hf.models.added_classifiers import CLIPZeroShotForImageClassification

from .tiny import SIZES


NUM_PATCHES = 16


@dataclass(frozen=True)
class Family:
    """An architecture, by what its users call it."""

    name: str
    model_class: type[PreTrainedModel]
    reads: str  # what the head reads, in words
    prefix: tuple[float, ...]  # weights of the prefix tokens in what the head reads
    patches: float  # weight of the patches, which share it
    settings: dict = field(default_factory=dict)  # of the configuration

    def tiny(self, seed: int = 0, **overrides) -> PreTrainedModel:
        """Model with 2 layers for 32×32 images, patch 8, 4 classes, whose weights, biases included, are all random."""
        torch.manual_seed(seed)
        # The eager attention is chosen when the model is built alone in Data2VecVision; the others switch.
        eager = {"attn_implementation": "eager"} if "Data2Vec" in self.model_class.__name__ else {}
        sizes = SIZES | self.settings | overrides
        config_class = self.model_class.config_class
        if "vision_config" in config_class.sub_configs:  # of images and texts
            sizes = {"num_labels": sizes.pop("num_labels"), "vision_config": sizes}
        model = self.model_class._from_config(config_class(**sizes), **eager)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.numel() > 1 and parameter.std() == 0:  # biases, relative positions, layer scales
                    parameter.add_(0.2 * torch.randn_like(parameter))
        return model.eval()

    @property
    def written(self) -> str:
        """The class in Markdown."""
        return f"`{self.model_class.__name__}`"

    def read(self) -> np.ndarray:
        """Weights (T,) of the tokens that the head reads."""
        return np.array([*self.prefix, *[self.patches / NUM_PATCHES] * NUM_PATCHES])


def resolution(model: PreTrainedModel) -> dict[str, bool]:
    """Argument for another resolution than the model was built for; some adapt by themselves."""
    accepted = inspect.signature(getattr(model, "vision_model", model).forward).parameters
    return {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in accepted else {}


_RELATIVE = {"use_relative_position_bias": True}
_CLS, _MEAN, _BOTH = "CLS token", "patch mean", "CLS token and patch mean"
_FAMILIES = (
    Family("ViT", transformers.ViTForImageClassification, _CLS, (1,), 0),
    Family("DeiT", transformers.DeiTForImageClassification, _CLS, (1, 0), 0),
    Family(
        "DeiT, distilled",
        transformers.DeiTForImageClassificationWithTeacher,
        "CLS and distillation tokens",
        (0.5, 0.5),
        0,
    ),
    Family("ViTMSN", transformers.ViTMSNForImageClassification, _CLS, (1,), 0),
    Family("Dinov2", transformers.Dinov2ForImageClassification, _BOTH, (1,), 1),
    Family("Dinov2WithRegisters", transformers.Dinov2WithRegistersForImageClassification, _BOTH, (1, 0, 0, 0, 0), 1),
    Family("DINOv3ViT", DINOv3ViTForImageClassification, _BOTH, (1, 0, 0, 0, 0), 1, {"num_register_tokens": 4}),
    Family("BEiT", transformers.BeitForImageClassification, _MEAN, (0,), 1, _RELATIVE),
    Family(
        "BEiT without mean pooling",
        transformers.BeitForImageClassification,
        _CLS,
        (1,),
        0,
        {"use_mean_pooling": False},
    ),
    Family("Data2VecVision", transformers.Data2VecVisionForImageClassification, _MEAN, (0,), 1, _RELATIVE),
    Family("IJepa", transformers.IJepaForImageClassification, _MEAN, (), 1),
    Family("CLIP, zero-shot", CLIPZeroShotForImageClassification, _CLS, (1,), 0, {"projection_dim": 16}),
    Family("CLIP", transformers.CLIPForImageClassification, _MEAN, (0,), 1),
    Family("MetaCLIP 2", transformers.MetaClip2ForImageClassification, _MEAN, (0,), 1),
    Family("SigLIP", transformers.SiglipForImageClassification, _MEAN, (), 1),
)
FAMILIES = {family.name: family for family in _FAMILIES}
