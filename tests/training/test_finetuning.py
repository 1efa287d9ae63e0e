"""The finetuning from a folder of images to a measured model."""

import pytest

from ..helpers.commands import call
from ..helpers.tiny import masked_dataset, save_pretrained, tiny_vit


@pytest.fixture
def options(tmp_path) -> list:
    """Options of a run on images without a validation split, which names no device."""
    save_pretrained(tiny_vit(), tmp_path / "model")
    masked_dataset(8).to_parquet(tmp_path / "data" / "train-00000.parquet")
    options = ["--model", tmp_path / "model", "--dataset", tmp_path / "data", "--output_dir", tmp_path / "run"]
    return [*options, "--max_steps", 1, "--report_to", "none"]


def test_validation_images_are_needed_to_evaluate(options):
    assert "validation" in call("train", *options).error
