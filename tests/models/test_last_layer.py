"""The last linear layer of every architecture."""

import pytest
import torch

from robust_vit_hf.models.added_classifiers import OwnClassifier
from robust_vit_hf.models.last_layer import LastLayer, NoLastLayer

from ..helpers.architectures import FAMILIES, WITHOUT_MAP
from ..helpers.tiny import images, tiny_vit


SIZE = (32, 32)


MODELS = {name: family.tiny for name, family in FAMILIES.items()}
MODELS |= {name: WITHOUT_MAP[name].tiny for name in ("ResNet", "Swin", "MobileNet V2", "EfficientNet", "ConvNeXt")}


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_another_layer_in_place_of_the_models(name):
    """The logits are those of the layer on the features; another layer gives what it says, and nothing else changes."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    layer = LastLayer(model, SIZE)
    logits, features = layer.outputs(images())
    torch.testing.assert_close(features @ layer.weight.T + layer.bias, logits, atol=1e-5, rtol=1e-5)
    weight, bias = torch.randn_like(layer.weight), torch.randn_like(layer.bias) * layer.has_bias
    layer.replace(weight, bias)
    again, same = layer.outputs(images())
    torch.testing.assert_close(same, features)
    torch.testing.assert_close(again, features @ weight.T + bias, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(LastLayer(model, SIZE).weight, weight)


def changed(change, **overrides):
    model = tiny_vit(**overrides)
    change(model)
    return model


class Twice(torch.nn.Module):
    """Of which the logits are the mean over an image and a darker one."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, features):
        return (self.layer(features) + self.layer(0.9 * features)) / 2


OTHERS = {
    "as many classes as hidden units": lambda: tiny_vit(hidden_size=4, num_attention_heads=2, intermediate_size=4),
    "a layer that is not used": lambda: changed(lambda model: setattr(model, "auxiliary", torch.nn.Linear(24, 4))),
    "bfloat16": lambda: tiny_vit().to(torch.bfloat16),
}


@pytest.mark.parametrize("name", OTHERS)
@torch.no_grad()
def test_the_layer_is_found_among_others(name):
    model = OTHERS[name]()
    given = images().to(model.dtype)
    layer = LastLayer(model, SIZE)
    assert torch.equal(layer.weight, model.classifier.weight.float())
    features = model.vit(given).last_hidden_state[:, 0]
    torch.testing.assert_close(layer.outputs(given)[1], features.float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("of", [Twice, lambda layer: torch.nn.Sequential(layer, torch.nn.ReLU())])
def test_a_layer_whose_outputs_are_not_the_logits(of):
    model = changed(lambda model: setattr(model, "classifier", of(model.classifier)))
    with pytest.raises(NoLastLayer, match="ViTForImageClassification"):
        LastLayer(model, SIZE)


def test_models_without_one():
    with pytest.raises(NoLastLayer, match="OwnClassifier"):
        LastLayer(OwnClassifier(lambda x: x.mean(dim=(2, 3)), ["a", "b", "c"]), SIZE)
