"""`robust-vit improve` of a model with classes that have no images."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageClassification

from robust_vit_hf.evaluation.sets import EvaluationSet
from robust_vit_hf.improvement.verdict import other_classes
from robust_vit_hf.models.loading import with_classes_alone
from robust_vit_hf.results.run_results import read_predictions

from ..helpers.commands import call, succeed
from ..helpers.sessions import session_of
from ..helpers.tiny import masked_dataset, tiny_vit


pytestmark = pytest.mark.usefixtures("better", "datasets_cache", "undrawn")


def two_of_four_classes(inputs: Path, folder: Path) -> list:
    for split in ("train", "validation"):
        for name in ("circle", "bar"):
            shutil.copytree(inputs / "photos" / split / name, folder / split / name)
    return ["--model", inputs / "model", "--dataset", folder, "--masks", inputs / "masks"]


def test_classes_without_images_are_named_and_left_as_they_are(inputs, tmp_path):
    """And are no wrong answers: top-1 counts among the two that have images."""
    options = two_of_four_classes(inputs, tmp_path / "two")
    options += ["--output_dir", tmp_path / "better"]
    refused = call("improve", *options, "--effort", "full").error
    assert "The model has 4 classes, 2 of them without images, and a training of all layers" in refused
    printed = succeed("improve", *options)
    named = "The model has 4 classes, 2 of them without images: cross, dot. Top-1 counts among the other 2."
    assert named in printed and "classes without images (2) moved by" in printed
    assert "New layers keep the weights of classes without images" in printed
    verdict = json.loads((tmp_path / "better" / "verdict.json").read_text())
    assert any(named in note for note in verdict["notes"])
    model, own = (
        AutoModelForImageClassification.from_pretrained(of) for of in (tmp_path / "better", inputs / "model")
    )
    assert model.config.num_labels == 4
    record = json.loads((tmp_path / "better" / "run.json").read_text())["training"]
    if "fitted" in record["last layer"]:
        cooled = float(record["temperature, fitted on the validation images"])
        torch.testing.assert_close(
            model.classifier.weight[2:] * cooled, own.classifier.weight[2:], rtol=0.02, atol=1e-4
        )
    predictions = read_predictions(tmp_path / "better" / "diagnosis" / "predictions.parquet")["validation"]
    assert {*predictions["before"]["original"]} <= {0, 1}


def test_a_model_with_little_to_gain_is_kept(inputs, tmp_path, monkeypatch):
    """Before anything is fitted or trained, also if it has classes without images."""
    monkeypatch.setattr("robust_vit_hf.diagnosis.verdict.Diagnosis.verdict", "no sign")
    for name in ("compute_features", "composite_outputs", "Finetuning"):
        monkeypatch.setattr(f"robust_vit_hf.improvement.improve.{name}", None)
    options = [*two_of_four_classes(inputs, tmp_path / "two"), "--effort", "full"]
    printed = succeed("improve", *options, "--output_dir", tmp_path / "kept")
    verdict = json.loads((tmp_path / "kept" / "verdict.json").read_text())
    assert verdict["outcome"] == "already_robust" and "there is little to gain, and nothing was trained" in printed
    assert not (tmp_path / "kept" / "config.json").is_file() and (tmp_path / "kept" / "report.html").is_file()


def test_a_model_of_these_classes_alone(inputs, tmp_path):
    options = two_of_four_classes(inputs, tmp_path / "two")
    options += ["--only_these_classes", "--output_dir", tmp_path / "better"]
    printed = succeed("improve", *options)
    assert "no images" not in printed
    model, own = (
        AutoModelForImageClassification.from_pretrained(of) for of in (tmp_path / "better", inputs / "model")
    )
    assert model.config.id2label == {0: "circle", 1: "bar"} and model.classifier.weight.shape[0] == 2
    cut = with_classes_alone(own, [3, 1])
    pixels = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    size = own.config.image_size
    pixels = torch.nn.functional.interpolate(pixels, (size, size))
    with torch.no_grad():
        torch.testing.assert_close(cut(pixels).logits, own(pixels).logits[:, [3, 1]])
    assert cut.config.id2label == {0: "dot", 1: "bar"} and own.config.num_labels == 4


def test_what_classes_without_images_take_is_told():
    """By models whose logits are the same for every image."""
    models = {name: tiny_vit() for name in ("before", "after")}
    for label, model in zip((3, 0), models.values(), strict=True):
        torch.nn.init.zeros_(model.classifier.weight)
        model.classifier.bias.data = 100 * torch.eye(4)[label]
    rows = EvaluationSet.of(masked_dataset(8).filter(lambda row: row["label"] < 2))
    (told,) = other_classes(session_of(models, {"noise": replace(rows, class_subset=(0, 1))}))
    assert "the mean logit of the classes without images (2) moved by -100.000 [-100.600, -99.400]" in told
    assert told.endswith(" 100.0 % were predicted as one of them before, and 0.0 % are now.")
