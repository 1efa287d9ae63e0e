"""The finetuning from a folder of images to a measured model."""

import json

import pytest
import torch

from ..helpers.commands import call, succeed
from ..helpers.tiny import masked_dataset, save_pretrained, tiny_vit


@pytest.fixture
def options(tmp_path) -> list:
    """Options of a run on images without a validation split, which names no device."""
    save_pretrained(tiny_vit(), tmp_path / "model")
    masked_dataset(8).to_parquet(tmp_path / "data" / "train-00000.parquet")
    options = ["--model", tmp_path / "model", "--dataset", tmp_path / "data", "--output_dir", tmp_path / "run"]
    return [*options, "--max_steps", 1, "--report_to", "none"]


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_bf16_on_a_cpu_without_validation_images(options, tmp_path):
    succeed("train", *options, "--bf16", "true", "--eval_strategy", "no")
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["training"]["precision"] == "bf16" and run["data"]["validation_images"] == 0
    assert run["training"]["checkpoint"] == "last"
    assert json.loads((tmp_path / "run" / "results.json").read_text())["rows"] == []


def test_validation_images_are_needed_to_evaluate(options):
    assert "validation" in call("train", *options).error
