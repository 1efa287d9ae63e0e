"""NaN and infinite values stop a training before they reach the weights."""

import math

import pytest
import torch

from robust_vit_hf import RobustViTTrainer

from ..helpers.tiny import tensor_rows, tiny_config, tiny_vit


def spoiled(value: float) -> list[dict]:
    rows = tensor_rows(8)
    rows[5]["pixel_values"] = rows[5]["pixel_values"] * value
    return rows


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_image(value, tmp_path):
    config = tiny_config(tmp_path, save_strategy="steps", save_steps=1, per_device_train_batch_size=4)
    trainer = RobustViTTrainer(tiny_vit(), config, spoiled(value), spoiled(value))
    message = r"NaN or infinite for an image of the batch: .*confidence_loss.*learning rate, which is 0.001"
    with pytest.raises(ValueError, match=message):
        trainer.evaluate()
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


def test_weights(tmp_path):
    model = tiny_vit()
    with torch.no_grad():
        model.vit.layernorm.weight[3] = math.nan
    with pytest.raises(ValueError, match="NaN or infinite for an image"):
        RobustViTTrainer(model, tiny_config(tmp_path), tensor_rows(8)).train()
