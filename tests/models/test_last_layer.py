"""The last linear layer of every architecture."""

import pytest
import torch
from transformers import (
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
)

from robust_vit_hf.models.last_layer import LastLayer, NoLastLayer
from robust_vit_hf.models.own_classifier import OwnClassifier

from ..helpers.families import FAMILIES


def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def resnet():
    return ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], num_labels=4)
    )


def swin():
    sizes = {
        "image_size": 32,
        "patch_size": 2,
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [1, 2],
        "window_size": 4,
    }
    return SwinForImageClassification(SwinConfig(**sizes, num_labels=4))


MODELS = {name: family.tiny for name, family in FAMILIES.items()} | {
    "ResNet": resnet,
    "Swin": swin,
    "MobileNetV2": lambda: MobileNetV2ForImageClassification(MobileNetV2Config(num_labels=4, depth_multiplier=0.35)),
}


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_another_layer_in_place_of_the_models(name):
    """The logits are those of the layer on the features; another layer gives what it says, and nothing else changes."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    layer = LastLayer(model, images())
    logits, features = layer.outputs(images())
    torch.testing.assert_close(features @ layer.weight.T + layer.bias, logits, atol=1e-5, rtol=1e-5)
    weight, bias = torch.randn_like(layer.weight), torch.randn_like(layer.bias) * layer.has_bias
    layer.replace(weight, bias)
    again, same = layer.outputs(images())
    torch.testing.assert_close(same, features)
    torch.testing.assert_close(again, features @ weight.T + bias, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(LastLayer(model, images()).weight, weight)


def test_models_without_one():
    with pytest.raises(NoLastLayer, match="OwnClassifier"):
        LastLayer(
            OwnClassifier(lambda x: x.mean(dim=(2, 3)), ["a", "b", "c"], lambda image: torch.zeros(3, 8, 8)), images()
        )
