"""The measurement that eval/README.md shows, as a command."""

import importlib.util
import re
import sys

import pytest
import torch
from transformers import AutoModelForImageClassification

from robust_vit_hf import load_masked_dataset, make_image_processor
from robust_vit_hf.cli import commands

from ..helpers.commands import call, succeed
from ..helpers.tiny import IMAGE_SIZE, ROOT, masked_folder, save_pretrained, tiny_vit


@pytest.fixture
def flips(tmp_path, monkeypatch) -> None:
    """The module of the page in its place, and its line in the table of commands."""
    text = (ROOT / "eval" / "README.md").read_text().partition("## Add a measurement")[2]
    code, line = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "flips.py").write_text(code)
    name = "robust_vit_hf.evaluation.flips"
    spec = importlib.util.spec_from_file_location(name, tmp_path / "flips.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(commands.COMMANDS, "flips", eval(f"{{{line}}}", {"Command": commands.Command})["flips"])


def test_its_command_measures_and_keeps(flips, tmp_path):
    for name, seed in (("before", 0), ("after", 1)):
        model = tiny_vit(seed)
        with torch.no_grad():
            model.classifier.weight *= 8
        save_pretrained(model, tmp_path / name)
    masked_folder(tmp_path / "data", validation=12)
    options = ["--dataset", tmp_path / "data", "--output_dir", tmp_path / "out", "--batch_size", 5]
    pair = ["--model", tmp_path / "before", "--compare", tmp_path / "after"]
    printed = succeed("flips", *pair, *options)

    expected = []
    for name in ("before", "after"):
        model = AutoModelForImageClassification.from_pretrained(tmp_path / name).eval()
        processor = make_image_processor("paper", IMAGE_SIZE)
        images = load_masked_dataset(str(tmp_path / "data"), "validation")["image"]
        pixel_values = processor([image.convert("RGB") for image in images], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            best = [model(values).logits.argmax(1) for values in (pixel_values, pixel_values.flip(-1))]
        expected.append((best[0] == best[1]).double().mean().item())
    assert expected[0] != expected[1] and 0 < min(expected)
    assert f"| validation | {100 * expected[0]:.1f} | {100 * expected[1]:.1f} |" in printed

    assert call("flips", "--model", tmp_path / "after", *options).err.count("validation, ") == 0  # of the cache
    assert f"| validation | {100 * expected[1]:.1f} |" in succeed("flips", "--model", tmp_path / "after", *options)
    assert "--images_per_set" in succeed("flips", "--help_all")
