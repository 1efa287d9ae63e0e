"""Maps in linear memory equal those of held attentions, with all gradients, on every supported architecture."""

import pytest
import torch

from robust_vit_hf import ConfidenceLoss, RelevanceLoss, relevance_map
from robust_vit_hf.relevance import linear_memory
from robust_vit_hf.relevance.architectures import VisionTransformer
from robust_vit_hf.relevance.attention import EXPLICIT_ATTENTION, LINEAR_MEMORY_ATTENTION
from robust_vit_hf.relevance.linear_memory import POSITION_BIASES, attention_for, propagate_recorded
from robust_vit_hf.relevance.relevance_map import map_of_tokens, propagate_relevance

from ..helpers.architectures import FAMILIES
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
    explicit = type(model).__name__ in POSITION_BIASES
    assert attention_for(VisionTransformer(model), 16, False) == ("explicit" if explicit else "linear_memory")
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


@pytest.mark.parametrize("name", ["ViT", "DeiT", "DeiT, distilled", "Dinov2WithRegisters", "CLIP", "SigLIP"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_attentions_of_all_implementations(name, checkpointing):
    """Maps, losses and gradients from `output_attentions=True` are those of eager attention, and of [`relevance_map`]."""
    pixel_values, mask, results = images(), (images(seed=1)[:, :1] > 0).float(), []
    for implementation in ("eager", EXPLICIT_ATTENTION, LINEAR_MEMORY_ATTENTION, None):
        model = FAMILIES[name].tiny().train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        if implementation is None:
            model.set_attn_implementation(LINEAR_MEMORY_ATTENTION if checkpointing else "sdpa")
            output = relevance_map(model, pixel_values, 1)
            logits, relevance = output.logits, output.relevance
        else:
            model.set_attn_implementation(implementation)
            output = model(pixel_values, output_attentions=True)
            attentions, logits, row = output.attentions, output.logits, torch.tensor(FAMILIES[name].read()).float()
            linear = implementation == LINEAR_MEMORY_ATTENTION
            read = [attention.output for attention in attentions] if linear else attentions
            gradients = torch.autograd.grad(logits[:, 1].sum(), read, retain_graph=True)
            propagate, row = (propagate_recorded, row) if linear else (propagate_relevance, row.expand(2, -1))
            relevance = map_of_tokens(propagate(attentions, gradients, row), (4, 4), pixel_values)
        losses = RelevanceLoss()(relevance, mask) | ConfidenceLoss()(logits)
        (0.8 * losses["relevance_loss"] + 0.2 * losses["confidence_loss"]).backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        results.append(
            (relevance, logits, losses, {name: grad for name, grad in gradients.items() if grad is not None})
        )
    (relevance, logits, losses, gradients), *others = results
    assert relevance.amax() == 1 and relevance.amin() == 0
    scale = max(gradient.abs().max().item() for gradient in gradients.values())
    for own_relevance, own_logits, own_losses, own_gradients in others:
        torch.testing.assert_close(own_relevance, relevance, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(own_logits, logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(own_losses, losses, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(own_gradients, gradients, atol=3e-6 * scale, rtol=1e-4)


def test_which_path(monkeypatch):
    monkeypatch.setattr(linear_memory, "MIN_TOKENS", 16)

    def chosen(model, num_tokens: int = 16, create_graph: bool = False) -> str:
        return attention_for(VisionTransformer(model), num_tokens, create_graph)

    assert chosen(tiny_vit()) == LINEAR_MEMORY_ATTENTION
    assert chosen(tiny_vit(), 15) == EXPLICIT_ATTENTION
    assert chosen(tiny_vit(), create_graph=True) == EXPLICIT_ATTENTION
    assert chosen(tiny_vit(attention_probs_dropout_prob=0.1).train()) == EXPLICIT_ATTENTION
    assert chosen(tiny_vit(attention_probs_dropout_prob=0.1)) == LINEAR_MEMORY_ATTENTION
    clip = FAMILIES["CLIP"].tiny(attention_dropout=0.1)
    assert chosen(clip) == LINEAR_MEMORY_ATTENTION
    assert chosen(clip.train()) == EXPLICIT_ATTENTION
    checkpointing = FAMILIES["ViT"].tiny()
    checkpointing.gradient_checkpointing_enable({"use_reentrant": False})
    assert chosen(checkpointing, 15) == EXPLICIT_ATTENTION
    assert chosen(checkpointing.train(), 15) == LINEAR_MEMORY_ATTENTION
    for implementation in ("eager", EXPLICIT_ATTENTION):
        model = tiny_vit()
        model.set_attn_implementation(implementation)
        assert chosen(model) == EXPLICIT_ATTENTION
