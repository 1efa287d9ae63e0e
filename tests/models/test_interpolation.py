"""Interpolation of two models: exact at both ends, right in between, and an error where it would mean nothing."""

import pytest
import torch
from transformers import PreTrainedModel

from robust_vit_hf.models.interpolation import interpolate

from ..helpers.architectures import FAMILIES
from ..helpers.tiny import tiny_vit


def bits(model: PreTrainedModel) -> dict[str, bytes]:
    flat = {name: value.contiguous().view(-1) for name, value in model.state_dict().items()}
    return {name: value.view(torch.uint8).numpy().tobytes() for name, value in flat.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_both_ends_are_exact(dtype):
    before, after = tiny_vit(seed=0).to(dtype), tiny_vit(seed=1).to(dtype)
    with torch.no_grad():  # what arithmetic would lose: the sign of a zero, a small beside a huge number
        before.classifier.bias[:3] = torch.tensor([-0.0, 1e-30, 1e30])
        after.classifier.bias[:3] = torch.tensor([3.0, 1e30, 1e-30])
    originals = bits(before), bits(after)
    assert originals[0] != originals[1]
    assert bits(interpolate(before, after, 0)) == originals[0]
    assert bits(interpolate(before, after, 1.0)) == originals[1]
    interpolate(before, after, 0.3)
    assert (bits(before), bits(after)) == originals  # neither is changed


@pytest.mark.parametrize("dtype, rtol", [(torch.float32, 1e-6), (torch.bfloat16, 2**-8)])  # rounded once
def test_midpoint_by_hand(dtype, rtol):
    before, after = tiny_vit(seed=0).to(dtype), tiny_vit(seed=1).to(dtype)
    after.config.problem_type = "single_label_classification"
    mixed = interpolate(before, after, 0.25)
    assert type(mixed) is type(after) and mixed.config.problem_type == "single_label_classification"
    start, end = before.state_dict(), after.state_dict()
    assert mixed.state_dict().keys() == end.keys()
    for name, value in mixed.state_dict().items():
        assert value.dtype == dtype
        expected = 0.75 * start[name].double() + 0.25 * end[name].double()
        torch.testing.assert_close(value.double(), expected, rtol=rtol, atol=1e-7)
    assert all(parameter.requires_grad for parameter in mixed.parameters())


def test_buffers():
    """Floating-point buffers are mixed, integer ones are not."""
    models = tiny_vit(seed=0), tiny_vit(seed=1)
    for model, value in zip(models, (1.0, 3.0), strict=True):
        model.register_buffer("running_mean", torch.full((2,), value))
        model.register_buffer("count", torch.tensor(7))
    mixed = interpolate(*models, 0.5)
    assert mixed.running_mean.tolist() == [2.0, 2.0] and mixed.count.dtype == torch.int64 and mixed.count == 7


@pytest.mark.parametrize(
    "make_after, message",
    [
        (
            FAMILIES["Dinov2"].tiny,
            "`architecture` is ViTForImageClassification before and Dinov2ForImageClassification after",
        ),
        (lambda: tiny_vit(num_labels=5), "`num_labels` is 4 before and 5 after"),
        (lambda: tiny_vit(num_attention_heads=4), "`num_attention_heads`"),
        (lambda: tiny_vit(layer_norm_eps=1e-6), "`layer_norm_eps`"),
        (lambda: tiny_vit(hidden_act="relu"), "`hidden_act` is gelu before and relu after"),
        (lambda: tiny_vit(id2label=dict(enumerate("abcd"))), r"`id2label\[0\]` is LABEL_0 before and a after"),
        (lambda: tiny_vit(num_hidden_layers=3), r"`vit\S+` is missing before"),
        (lambda: tiny_vit(intermediate_size=40), r"\(48, 24\) \S+ before and \(40, 24\) \S+ after"),
        (lambda: tiny_vit().half(), "float16 after"),
    ],
)
def test_models_that_do_not_fit(make_after, message):
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=message):
        interpolate(tiny_vit(), make_after(), 0.5)


def test_an_adapter_is_refused_and_a_merged_one_is_not():
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    wrapped = get_peft_model(tiny_vit(), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    for model in (wrapped, wrapped.base_model.model):
        with pytest.raises(ValueError, match="cannot be interpolated"):
            interpolate(tiny_vit(), model, 0.5)
    merged = wrapped.merge_and_unload()
    mixed = interpolate(tiny_vit(), merged, 0.5)
    assert bits(mixed) != bits(tiny_vit()) and bits(mixed) != bits(merged)
