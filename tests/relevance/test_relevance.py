"""Relevance maps: hand-computed cases, an independent reference, and what must not matter or change."""

import copy
import math
from functools import partial

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.parallel import DistributedDataParallel

from robust_vit_hf import relevance_map
from robust_vit_hf.relevance import attention as reading
from robust_vit_hf.relevance import linear_memory
from robust_vit_hf.relevance.architectures import VisionTransformer
from robust_vit_hf.relevance.attribution import ATTRIBUTION_METHODS, legrad
from robust_vit_hf.relevance.relevance_map import average_heads, min_max, propagate_relevance, upsample

from ..helpers.architectures import FAMILIES
from ..helpers.tiny import images, tiny_vit


def test_two_tokens_by_hand():
    attention = torch.tensor([[[[0.75, 0.25], [0.5, 0.5]]]])
    gradient = torch.tensor([[[[-1.0, 2.0], [4.0, 1.0]]]])
    # (∇A ⊙ A)⁺ = [[0, 0.5], [2, 0.5]]
    averaged = average_heads(attention, gradient)
    assert averaged.tolist() == [[[0.0, 0.5], [2.0, 0.5]]]
    # R = (I + Ā)(I + Ā) with Ā² = [[1, 0.25], [1, 1.25]]; row 0 of I + 2Ā + Ā² = [2, 1.25]
    row = propagate_relevance([attention] * 2, [gradient] * 2, torch.tensor([[1.0, 0.0]]))
    assert row.tolist() == [[2.0, 1.25]]


@pytest.mark.parametrize("family", ["ViT", "DeiT", "ViTMSN", "Dinov2"])
def test_work_spared_in_the_last_layer_changes_nothing(family, monkeypatch):
    """Heads that read the CLS token alone: same map, logits and gradient of every parameter as without the shortcut."""
    results = []
    for heads in (reading.CLS_HEADS, ()):
        monkeypatch.setattr(reading, "CLS_HEADS", heads)
        model = FAMILIES[family].tiny()
        output = relevance_map(model, images(3), 1)
        (output.relevance.square().mean() + output.logits.square().mean()).backward()
        results.append([output.relevance, output.logits, *(parameter.grad for parameter in model.parameters())])
    for spared, full in zip(*results, strict=True):
        if full is None:
            assert spared is None
        else:
            torch.testing.assert_close(spared, full, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("target", [4, -1, True, [0, 1], torch.tensor([0.0, 1.0, 2.0]), torch.zeros(3, 1).long()])
def test_bad_targets(target):
    with pytest.raises(ValueError, match="Expected `target`"):
        relevance_map(tiny_vit(), images(3), target)


@pytest.mark.parametrize("start_layer", [2, -1])
def test_layers_that_do_not_exist(start_layer):
    with pytest.raises(ValueError, match="start_layer"):
        relevance_map(tiny_vit(), images(3), start_layer=start_layer)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_pixel_that_is_not_finite_names_its_image(family, value):
    pixel_values, model = images(3), family.tiny()
    pixel_values[1, 2, 31, 0] = value
    for method in ATTRIBUTION_METHODS.values():
        with pytest.raises(ValueError, match="relevance map of image 1 of the batch"):
            method(model, pixel_values, 1)
    output = relevance_map(model, pixel_values, 1, check_finite=False)
    assert output.logits.isfinite().all(dim=1).tolist() == [True, False, True]


def test_weights_that_are_not_finite():
    model = tiny_vit()
    with torch.no_grad():
        model.classifier.bias[2] = math.nan
    for target in (None, 1, 2):
        with pytest.raises(ValueError, match="weights"):
            relevance_map(model, images(3), target)


def test_flat_map_is_zero_with_finite_gradients():
    tokens = torch.full((2, 1, 4, 4), 0.3, requires_grad=True)
    relevance = min_max(upsample(tokens, (32, 32)))
    assert torch.equal(relevance, torch.zeros(2, 1, 32, 32))
    relevance.square().sum().backward()
    assert tokens.grad.isfinite().all()

    model = tiny_vit()
    torch.nn.init.zeros_(model.classifier.weight)  # no logit depends on any attention
    assert torch.equal(relevance_map(model, images(3)).relevance, torch.zeros(3, 1, 32, 32))


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_a_map_is_flat_by_its_own_scale(scale):
    """The map of a confident model is small all over, and rounding of a large flat one is larger than such a map."""
    tokens = torch.linspace(0.2, 0.9, 16).view(1, 1, 4, 4)
    expected = min_max(upsample(tokens, (32, 32)))
    assert expected.max() == 1
    torch.testing.assert_close(min_max(upsample(tokens * scale, (32, 32))), expected)
    flat = upsample(torch.full((1, 1, 3, 3), 0.3 * scale), (37, 41))
    assert flat.amax() > flat.amin()  # by rounding
    assert not min_max(flat).any()


@pytest.mark.parametrize("method", [partial(relevance_map, create_graph=True), legrad], ids=["gae", "legrad"])
def test_second_order_by_finite_differences(method):
    """The head moves the map only through the attention gradients. A step along the slope changes the loss by its norm."""
    model, pixel_values = tiny_vit(seed=1).double(), images(1).double()
    (slope,) = torch.autograd.grad(method(model, pixel_values, 1).relevance.square().mean(), model.classifier.weight)
    losses = []
    for step in (1e-3, -1e-3):
        moved = copy.deepcopy(model)
        with torch.no_grad():
            moved.classifier.weight += step * slope / slope.norm()
        losses.append(method(moved, pixel_values, 1).relevance.double().square().mean().item())
    assert (losses[0] - losses[1]) / 2e-3 == pytest.approx(slope.norm().item(), rel=0.02)


@pytest.mark.parametrize("min_tokens", [0, 10**9], ids=["linear memory", "held attentions"])
def test_bf16_autocast(min_tokens, monkeypatch):
    """Under autocast the returned attentions of a prepared model are copies; the map is within 2e-2 of fp32."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    monkeypatch.setattr(linear_memory, "MIN_TOKENS", min_tokens)
    model = tiny_vit(initializer_range=0.05)  # activations of ordinary size: bf16 keeps three digits
    expected = relevance_map(model, images(3), 1).relevance
    AcceleratorState._reset_state(reset_partial_state=True)  # another test's Trainer may have left one
    prepared = Accelerator(mixed_precision="bf16", cpu=True).prepare(copy.deepcopy(model))
    output = relevance_map(prepared, images(3), 1)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert output.relevance.dtype == torch.float32
    assert (output.relevance - expected).abs().max() < 2e-2
    assert not torch.equal(output.relevance, expected)  # autocast was on
    output.relevance.square().mean().backward()
    assert prepared.vit.layers[0].attention.q_proj.weight.grad.abs().max() > 0


def test_autocast_of_a_prepared_adapter():
    """Accelerate changes the `forward` of the adapter, not of the model in it."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    adapter = get_peft_model(tiny_vit(initializer_range=0.05), LoraConfig(r=2, target_modules=["q_proj"])).eval()
    expected = relevance_map(adapter, images(3), 1).relevance
    AcceleratorState._reset_state(reset_partial_state=True)
    prepared = Accelerator(mixed_precision="bf16", cpu=True).prepare(adapter)
    output = relevance_map(prepared, images(3), 1)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert 0 < (output.relevance - expected).abs().max() < 2e-2
    output.relevance.square().mean().backward()
    moved = [name for name, weight in prepared.named_parameters() if weight.grad is not None and weight.grad.any()]
    assert moved and all("lora_" in name for name in moved)


@pytest.mark.parametrize("method", ATTRIBUTION_METHODS.values(), ids=ATTRIBUTION_METHODS)
def test_within_the_forward_of_the_model(method):
    """A forward pass that is given is called in place of the model's own, which here would never end."""
    model, calls = tiny_vit(), []
    expected = method(model, images(3), 1)

    def forward(**arguments):
        calls.append(arguments)
        return type(model).forward(model, **arguments)

    model.forward = lambda pixel_values: method(VisionTransformer(model, forward), pixel_values, 1)
    output = model(images(3))
    torch.testing.assert_close(output.relevance, expected.relevance)
    torch.testing.assert_close(output.logits, expected.logits)
    assert [arguments.keys() - {"output_attentions"} for arguments in calls] == [{"pixel_values"}]


@pytest.mark.parametrize("unused", [False, True])
def test_ddp(unused, tmp_path):
    """A map equals that of the model in DDP. In training, it would not be synchronised, except within the `forward` of that model."""

    class Mapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = tiny_vit()

        def forward(self, pixel_values):
            return relevance_map(self.model, pixel_values, 1).relevance

    single = tiny_vit()
    expected = relevance_map(single, images(3), 1).relevance
    expected.square().mean().backward()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = DistributedDataParallel(tiny_vit(), find_unused_parameters=unused)
        torch.testing.assert_close(relevance_map(model.eval(), images(3), 1).relevance, expected)
        with pytest.raises(ValueError, match="module that DDP wraps"):
            relevance_map(model.train(), images(3), 1)
        mapped = DistributedDataParallel(Mapped(), find_unused_parameters=True)
        mapped.eval()(images(3)).square().mean().backward()
        parameters = [*mapped.parameters()]
        del model, mapped  # or the last of them ends the group's threads, which rarely wait for the interpreter's lock
    finally:
        torch.distributed.destroy_process_group()
    for own, other in zip(parameters, single.parameters(), strict=True):
        assert (own.grad is None) == (other.grad is None)
        if other.grad is not None:
            torch.testing.assert_close(own.grad, other.grad)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_frozen_models(family):
    """A frozen model has the same map, and pixels keep their own graph."""
    model = family.tiny()
    expected = relevance_map(model, images(), 1).relevance.detach()
    model.requires_grad_(False)
    torch.testing.assert_close(relevance_map(model, images(), 1).relevance, expected)
    pixels = images().requires_grad_()
    relevance_map(model, pixels, 1).relevance.square().mean().backward()
    assert pixels.grad.abs().max() > 0


def test_not_a_transformers_model():
    with pytest.raises(ValueError, match="Expected a model of transformers"):
        relevance_map(torch.nn.Linear(3, 3), images(3))


def test_activation_checkpointing_in_second_order_needs_eager():
    model = tiny_vit().train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with pytest.raises(ValueError, match='set_attn_implementation\\("eager"\\)'):
        relevance_map(model, images(3), create_graph=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    model = tiny_vit()
    expected = relevance_map(model, images(3), 1).relevance
    relevance = relevance_map(model.cuda(), images(3).cuda(), 1).relevance
    torch.testing.assert_close(relevance.cpu(), expected, atol=1e-4, rtol=1e-4)
