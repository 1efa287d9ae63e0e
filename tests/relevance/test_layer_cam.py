"""LayerCAM against a computation by hand, and of every architecture without a relevance map."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robust_vit_hf.models.added_classifiers import OwnClassifier
from robust_vit_hf.relevance.architectures import NoRelevanceMap
from robust_vit_hf.relevance.layer_cam import layer_cam, map_name, on_grid

from ..helpers.architectures import WITHOUT_MAP
from ..helpers.tiny import tensor_rows, tiny_vit


def own(predict) -> OwnClassifier:
    return OwnClassifier(predict, list("abcd"))


def test_equals_the_formula_by_hand():
    """The gradient of a logit behind an average over 64 places is weight / 64 everywhere."""
    torch.manual_seed(0)
    conv, head = nn.Conv2d(3, 6, 3, stride=4, padding=1), nn.Linear(6, 4)
    layers = conv, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head
    model = own(nn.Sequential(*layers)).requires_grad_(False)
    pixel_values, target = torch.randn(2, 3, 32, 32), torch.tensor([3, 1])
    with torch.no_grad():
        output = layer_cam(model, pixel_values, target)
        features = conv(pixel_values).clamp(min=0)
        weights = head.weight[target].clamp(min=0)[..., None, None] / 64
        cam = F.interpolate((weights * features).sum(1, keepdim=True).clamp(min=0), (32, 32), mode="bilinear")
        low, high = cam.amin((1, 2, 3), keepdim=True), cam.amax((1, 2, 3), keepdim=True)
        torch.testing.assert_close(output.relevance, (cam - low) / (high - low))
        torch.testing.assert_close(output.logits, model(pixel_values).logits)
    assert (high > 0).all() and not output.relevance.requires_grad


@pytest.mark.parametrize("error", [None, RuntimeError(), TypeError(), ValueError(), AttributeError()])
def test_a_module_is_tried_once_and_on_an_image_that_was_given(error):
    module, given = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten()), []

    def note(_, images):
        given.append(*images)
        if error and torch.is_grad_enabled():
            raise error

    module.register_forward_pre_hook(note)
    model, name, images = own(module), None if error else "LayerCAM", torch.randn(2, 3, 24, 40)
    assert map_name(model) is None and given == []
    assert map_name(model, images) == map_name(model, 2 * images) == map_name(model) == name
    assert len(given) == 1 and torch.equal(given[0], images[:1])
    with torch.no_grad():
        assert model(images).logits.shape == (2, 4)


@pytest.mark.parametrize("size", [(64, 96), (64, 64)])
def test_layouts(size):
    height, width = size[0] // 16, size[1] // 16
    features = torch.randn(2, 5, height, width)
    tokens = features.flatten(2).transpose(1, 2)
    prefixed = [torch.cat([torch.ones(2, count, 5), tokens], dim=1) for count in range(7)]
    for given in (features, features.movedim(1, 3), *prefixed[:6]):
        assert torch.equal(on_grid(given, size), features)
    for other in (features[:, :, :1, :1], tokens[..., :1], features.flatten(1), prefixed[6]):
        assert on_grid(other, size) is None


@pytest.mark.parametrize("name", WITHOUT_MAP)
def test_every_architecture(name):
    model = WITHOUT_MAP[name].tiny().eval().requires_grad_(False)
    pixel_values = torch.stack([row["pixel_values"] for row in tensor_rows(3)])
    maps = layer_cam(model, pixel_values, torch.tensor([0, 1, 2])).relevance
    assert map_name(model) == "LayerCAM" and maps.shape == (3, 1, 32, 32) and maps.dtype == torch.float32
    assert maps.min() == 0 and maps.max() == 1
    torch.testing.assert_close(maps[1:2], layer_cam(model, pixel_values[1:2], 1).relevance, atol=0.02, rtol=0)
    halved = WITHOUT_MAP[name].tiny().eval().bfloat16()  # another model, since LeViT keeps biases of the first dtype
    half = layer_cam(halved, pixel_values.bfloat16(), 1).relevance
    assert half.dtype == torch.float32 and half.isfinite().all() and half.max() == 1
    assert not any(module._forward_hooks for module in model.modules())


def test_models_without_such_a_layer():
    model = own(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4)))
    function = own(lambda images: images[:, 0, :4, 0])
    with pytest.raises(NoRelevanceMap, match="no LayerCAM"):
        layer_cam(model, torch.randn(2, 3, 32, 32))
    images = torch.randn(2, 3, 32, 32)
    assert [map_name(of, images) for of in (model, function, tiny_vit())] == [None, None, "relevance"]
