"""NaN and infinite values stop what they would spoil."""

import math

import pytest
import torch

from robust_vit_hf import RobustViTTrainer

from ..helpers.tiny import masked_dataset, tensor_rows, tiny_config, tiny_vit


def make_trainer(folder, rows, **settings) -> RobustViTTrainer:
    return RobustViTTrainer(tiny_vit(), tiny_config(folder, per_device_train_batch_size=4, **settings), rows)


def spoil(trainer: RobustViTTrainer, row: int) -> None:
    """Let one image of the training set become NaN, as a broken transform does."""
    transform = trainer.train_dataset.format["format_kwargs"]["transform"]

    def spoiled(rows):
        batch = transform(rows)
        batch["pixel_values"] = [
            pixels * math.nan if index == row else pixels
            for pixels, index in zip(batch["pixel_values"], batch["row_index"], strict=True)
        ]
        return batch

    trainer.train_dataset = trainer.train_dataset.with_transform(spoiled)


def test_a_nan_image_is_named_and_nothing_is_saved(tmp_path):
    trainer = make_trainer(tmp_path, masked_dataset(8), save_strategy="steps", save_steps=1)
    spoil(trainer, 5)
    with pytest.raises(ValueError, match=r"Step [12]: the .* of row 5 \(.*\) is NaN or infinite"):
        trainer.train()
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


def test_an_image_of_a_stream_is_named(tmp_path):
    trainer = make_trainer(tmp_path, masked_dataset(4).to_iterable_dataset(), max_steps=1)
    stream, seen = trainer.train_dataset, []
    transform = stream.transform

    def spoiled(rows):
        seen.append(transform(rows))
        return seen[-1] | {"pixel_values": [seen[-1]["pixel_values"][0] * (math.nan if len(seen) == 3 else 1)]}

    stream.transform = spoiled
    with pytest.raises(ValueError, match=r"Step 1: the loss of train dataset, row 2 \(image in the table\) is NaN"):
        trainer.train()


def test_rows_without_an_index_are_named_by_their_place(tmp_path):
    rows = tensor_rows(4)
    rows[1]["pixel_values"] = rows[1]["pixel_values"] * math.inf
    trainer = make_trainer(tmp_path, rows)
    with pytest.raises(ValueError, match="Before the first step: the prediction of image 1 of the batch is NaN"):
        trainer.train()


def test_validation_images_are_named(tmp_path):
    rows = tensor_rows(4)
    rows[1]["pixel_values"] = rows[1]["pixel_values"] * math.nan
    trainer = RobustViTTrainer(tiny_vit(), tiny_config(tmp_path), tensor_rows(4), rows)
    with pytest.raises(ValueError, match=r"Validation: the .* of image 1 of the batch is NaN or infinite"):
        trainer.evaluate()


def test_weights_that_are_not_finite(tmp_path):
    model = tiny_vit()
    with torch.no_grad():
        model.vit.layernorm.weight[3] = math.nan
    trainer = RobustViTTrainer(model, tiny_config(tmp_path / "run"), masked_dataset(4))
    with pytest.raises(
        ValueError,
        match=r"weights are NaN or infinite, 1 in all, such as `vit.layernorm.weight`, so the model was not saved",
    ):
        trainer.save_model()
    assert not (tmp_path / "run" / "model.safetensors").exists()
