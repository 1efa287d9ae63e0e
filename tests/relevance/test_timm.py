"""Relevance maps of timm's models: fused attention, threads, activation checkpointing, second order, and models without a map."""

import pytest
import torch
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

from robust_vit_hf import RobustViTTrainer, relevance_map
from robust_vit_hf.relevance.architectures import VisionTransformer, why_no_map

from ..helpers.architectures import PLAIN, WITH_MAP, TimmFamily, explicit_attentions, slow_map
from ..helpers.tiny import CHECKPOINTING, images, tensor_rows, tiny_config
from .test_threads import assert_as_alone, mapped, plain


TIMM = {name: family for name, family in WITH_MAP.items() if isinstance(family, TimmFamily)}


def fused(model) -> set[bool]:
    return {block.attn.fused_attn for block in model.timm_model.blocks}


def test_maps_and_plain_passes_at_once():
    model = TIMM["EVA-02 (timm)"].tiny()
    assert_as_alone(
        lambda: mapped(relevance_map, model, images(), 1),
        lambda: mapped(relevance_map, model, images(3, seed=1)),
        lambda: plain(model, images(seed=2)),
        rounds=10,
    )
    assert fused(model) == {True}
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks


@pytest.mark.parametrize("name", ["ViT (timm)", "EVA-02 (timm)"])
@pytest.mark.parametrize("second_order", [False, True])
def test_activation_checkpointing(name, second_order, tmp_path, processor):
    trainers = []
    for checkpointing in (False, True):
        config = tiny_config(
            tmp_path / str(checkpointing), second_order=second_order, **{CHECKPOINTING: checkpointing}
        )
        trainers.append(RobustViTTrainer(TIMM[name].tiny(), config, tensor_rows(8), processing_class=processor))
        trainers[-1].train()
    plainly, checkpointed = trainers
    losses = [[log["loss"] for log in trainer.state.log_history if "loss" in log] for trainer in trainers]
    assert VisionTransformer(checkpointed.model).is_checkpointing
    assert losses[1] == pytest.approx(losses[0], rel=1e-6) and len(losses[0]) == 2
    for one, two in zip(plainly.model.parameters(), checkpointed.model.parameters(), strict=True):
        torch.testing.assert_close(two, one, atol=1e-6, rtol=1e-5)


def test_activation_checkpointing_needs_unfused_attention():
    model = TIMM["ViT (timm)"].tiny().train()
    model.timm_model.set_grad_checkpointing()
    with pytest.raises(ValueError, match="set_fused_attn"):
        relevance_map(model, images())
    for block in model.timm_model.blocks:
        block.attn.fused_attn = False  # as after `timm.layers.set_fused_attn(False)`
    relevance_map(model, images(), 1).relevance.mean().backward()
    assert model.timm_model.blocks[0].attn.qkv.weight.grad.abs().max() > 0
    assert fused(model) == {False}


def test_second_order():
    """The gradient of the map through attention gradients, against the whole graph over the recorded attentions."""
    model, explicit = (TIMM["ViT (timm)"].tiny() for _ in range(2))
    relevance_map(model, images(), 1, create_graph=True, normalize=False).relevance.square().mean().backward()
    slow_map(explicit, images(), torch.eye(17)[0], create_graph=True).square().mean().backward()
    for (name, one), two in zip(model.named_parameters(), explicit.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, atol=1e-7, rtol=1e-3, msg=lambda m, n=name: n + m)


def test_dropout_of_attentions():
    """The map is that of the attentions after dropout, which the forward pass reads."""
    model = TIMM["ViT (timm)"].tiny().train()
    for block in model.timm_model.blocks:
        block.attn.attn_drop.p = 0.5
    torch.manual_seed(1)
    output = relevance_map(model, images(), 1, normalize=False, start_layer=1)
    torch.manual_seed(1)
    logits, attentions = explicit_attentions(model, images())
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), attentions[1:])
    row = (attentions[1] * gradient).relu().mean(dim=1)[:, 0, 1:]
    assert (row == 0).float().mean() > 0.2
    expected = torch.nn.functional.interpolate(row.reshape(2, 1, 4, 4), (32, 32), mode="bilinear")
    torch.testing.assert_close(output.relevance, expected)


@pytest.mark.parametrize(
    "architecture, arguments, why",
    [
        ("test_resnet", {}, "`test_resnet` does not have one attention over one patch grid"),
        ("vit_dwee_patch16_reg1_gap_256", PLAIN, "one attention over one patch grid"),  # their difference
        ("vit_small_patch16_18x2_224", PLAIN, "one attention over one patch grid"),  # beside each other
        ("vit_base_patch16_siglip_224", PLAIN, "head of `vit_base_patch16_siglip_224`"),
        ("vit_tiny_patch16_224", PLAIN | {"global_pool": "avgmax"}, "head of `vit_tiny_patch16_224`"),
        (
            "vit_tiny_patch16_224",
            PLAIN | {"global_pool": "avg", "pool_include_prefix": True},
            "head of `vit_tiny_patch16_224`",
        ),
    ],
)
def test_models_without_a_map(architecture, arguments, why):
    config = TimmWrapperConfig(architecture=architecture, model_args=arguments, num_labels=4)
    model = TimmWrapperForImageClassification(config).eval()
    with pytest.raises(ValueError, match=why):
        relevance_map(model, images())
    assert why_no_map(model)
    assert model(images()).logits.shape == (2, 4)
