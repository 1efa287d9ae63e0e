"""Maps in linear memory equal those of held attentions, with all gradients, on every supported architecture."""

import pytest
import torch

from robust_vit_hf import relevance_map
from robust_vit_hf.relevance import linear_memory
from robust_vit_hf.relevance.architectures import VisionTransformer
from robust_vit_hf.relevance.linear_memory import POSITION_BIASES, has_linear_memory

from ..helpers.families import FAMILIES
from ..helpers.tiny import images, tiny_vit


def map_and_gradients(model, **options) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    output = relevance_map(model, images(), 1, **options)
    ((output.relevance - 0.3).square().mean() + output.logits.square().mean()).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return output.relevance.detach(), output.logits.detach(), gradients


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_both_paths_are_equal(name, training, monkeypatch):
    family = FAMILIES[name]
    held = map_and_gradients(family.tiny().train(training))
    monkeypatch.setattr(linear_memory, "MIN_TOKENS", 0)
    monkeypatch.setattr(linear_memory, "CPU_CHUNK", 300)  # which does not divide the number of tokens
    model = family.tiny().train(training)
    assert has_linear_memory(VisionTransformer(model), 16, False) == (type(model).__name__ not in POSITION_BIASES)
    linear = map_and_gradients(model)
    for one, two in zip(held[:2], linear[:2], strict=True):
        torch.testing.assert_close(two, one, atol=1e-5, rtol=1e-5)
    for context in () if training else (torch.no_grad, torch.inference_mode):  # training drops some layers at random
        with context():
            output = relevance_map(model, images(), 1)
        torch.testing.assert_close(output.relevance, held[0], atol=1e-5, rtol=1e-5)
        assert not output.relevance.requires_grad
    assert held[2].keys() == linear[2].keys()
    # Biases of keys have no gradient but for rounding, since the softmax does not depend on them.
    scale = max(gradient.abs().max().item() for gradient in held[2].values())
    for parameter, gradient in held[2].items():
        torch.testing.assert_close(linear[2][parameter], gradient, atol=3e-6 * scale, rtol=1e-4)


def test_no_attention_matrix_is_held(monkeypatch):
    """Of all tensors that the graph saves, none has a number of tokens twice."""
    monkeypatch.setattr(linear_memory, "MIN_TOKENS", 0)
    monkeypatch.setattr(linear_memory, "CPU_CHUNK", 300)
    model, sizes = tiny_vit(image_size=64), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: sizes.append(tensor.shape) or tensor, lambda x: x):
        relevance_map(model, torch.randn(1, 3, 64, 64), 1).relevance.mean()
    num_tokens = 65
    assert sizes and not [size for size in sizes if list(size).count(num_tokens) > 1]


def test_which_path(monkeypatch):
    monkeypatch.setattr(linear_memory, "MIN_TOKENS", 16)
    assert has_linear_memory(VisionTransformer(tiny_vit()), 16, False)
    assert not has_linear_memory(VisionTransformer(tiny_vit()), 15, False)
    assert not has_linear_memory(VisionTransformer(tiny_vit()), 16, True)  # second order
    assert not has_linear_memory(VisionTransformer(tiny_vit(attention_probs_dropout_prob=0.1).train()), 16, False)
    assert has_linear_memory(VisionTransformer(tiny_vit(attention_probs_dropout_prob=0.1)), 16, False)
    clip = FAMILIES["CLIP"].tiny(attention_dropout=0.1)
    assert has_linear_memory(VisionTransformer(clip), 16, False)
    assert not has_linear_memory(VisionTransformer(clip.train()), 16, False)
    eager = tiny_vit()
    eager.set_attn_implementation("eager")
    assert not has_linear_memory(VisionTransformer(eager), 16, False)
