"""Equality with what the released code computes on a small random network (tests/golden/official_deit_like.*)."""

import json

import pytest
import torch
from safetensors.torch import load_file

from robust_vit_hf import ConfidenceLoss, RelevanceLoss, RobustViTTrainer, relevance_map
from robust_vit_hf.models.timm_format import timm_to_hf
from robust_vit_hf.relevance.architectures import VisionTransformer
from robust_vit_hf.training.methods import load_method

from ..helpers.tiny import DATA, tiny_config


SETTINGS = json.loads((DATA / "official_deit_like.json").read_text())


@pytest.fixture
def official():
    tensors = load_file(DATA / "official_deit_like.safetensors")
    parts = [
        timm_to_hf(
            {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)},
            num_heads=SETTINGS["heads"],
        )
        for prefix in ("state_dict.", "grad.")
    ]
    return parts[0], tensors, dict(parts[1].named_parameters())


def losses(model, tensors):
    output = relevance_map(model, tensors["pixel_values"], tensors["labels"])
    values = RelevanceLoss()(output.relevance, tensors["mask"]) | ConfidenceLoss()(output.logits)
    values["loss"] = 0.8 * values["relevance_loss"] + 0.2 * values["confidence_loss"]
    return output, values


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


def test_maps_logits_and_losses(official):
    model, tensors, _ = official
    output, values = losses(model, tensors)
    assert relative_error(output.relevance, tensors["out.relevance"]) < 1e-5
    assert relative_error(output.logits, tensors["out.logits"]) < 1e-5
    for name in ("background_loss", "foreground_loss", "confidence_loss", "loss"):
        assert values[name].item() == pytest.approx(SETTINGS["values"][name], rel=1e-5), name


def test_gradient_of_every_parameter(official):
    model, tensors, gradients = official
    losses(model, tensors)[1]["loss"].backward()
    parameters = dict(model.named_parameters())
    assert parameters.keys() == gradients.keys()
    for name, parameter in parameters.items():
        if "k_proj.bias" in name:
            # Softmax is invariant to it: the exact gradient is 0, and what is left is rounding.
            assert parameter.grad.abs().max() < 1e-7
        else:
            assert relative_error(parameter.grad, gradients[name]) < 1e-5, name


@pytest.mark.parametrize("name", ["gradmask", "rrr"])
def test_released_input_gradients(name, official, tmp_path):
    model, tensors, _ = official
    args = tiny_config(tmp_path, method=name, released_gradients=True)
    targets = {"label": tensors["labels"]}
    vit = VisionTransformer(model)
    values, _ = load_method(name)(args).per_image(vit, tensors["pixel_values"], tensors["mask"], targets)
    expected = SETTINGS["values"]
    assert values["background_loss"].mean().item() == pytest.approx(expected[f"{name}_background_loss"], rel=1e-4)
    assert values["confidence_loss"].mean().item() == pytest.approx(expected["ground_truth_cross_entropy"], rel=1e-5)


def test_five_steps_of_the_trainer(official, tmp_path):
    model, tensors, _ = official
    rows = [
        {"pixel_values": tensors["pixel_values"][i], "mask": tensors["mask"][i], "labels": tensors["labels"][i]}
        for i in range(SETTINGS["batch"])
    ]
    config = tiny_config(
        tmp_path,
        num_train_epochs=5,
        learning_rate=SETTINGS["adamw"]["lr"],
        weight_decay=SETTINGS["adamw"]["weight_decay"],
        per_device_train_batch_size=SETTINGS["batch"],
        lr_decay_rate=1.0,
    )
    trainer = RobustViTTrainer(model, config, rows)
    trainer.train()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged == pytest.approx(SETTINGS["loss_trajectory"], rel=1e-4)
