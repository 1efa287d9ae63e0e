"""Measurement of models that are no plain ViT: `evaluate`, and what depends on maps."""

import json
from pathlib import Path

import pytest
import torch
from datasets import load_dataset
from transformers import AutoImageProcessor, ConvNextImageProcessor

from robust_vit_hf import load_model
from robust_vit_hf.results.run_results import read_predictions

from ..helpers.architectures import WITHOUT_MAP
from ..helpers.commands import call, succeed
from ..helpers.tiny import LABELS, LETTERS, masked_folder


REASON = "`ResNetForImageClassification` does not have one attention over one patch grid in each of its layers"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two ResNets of other weights, and images with masks."""
    folder = tmp_path_factory.mktemp("classifiers")
    for seed, side in enumerate(("before", "after")):
        model = WITHOUT_MAP["ResNet"].tiny(seed)
        model.config.update(LETTERS)
        model.save_pretrained(folder / side)
        ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.8).save_pretrained(folder / side)
    masked_folder(folder / "images", 1, 24)
    return folder


def pair(folder: Path) -> list:
    return ["--model", folder / "before", "--compare", folder / "after", "--dataset", folder / "images"]


def predictions(folder: Path, model) -> list[int]:
    images = load_dataset(str(folder / "images"), split="validation")["image"]
    processor = AutoImageProcessor.from_pretrained(folder / "after")
    with torch.no_grad():
        return model(processor(list(images), return_tensors="pt")["pixel_values"]).logits.argmax(dim=1).tolist()


@pytest.fixture(scope="module")
def evaluated(folder) -> Path:
    succeed("evaluate", *pair(folder), "--output_dir", folder / "evaluation")
    return folder / "evaluation"


def test_evaluate(folder, evaluated):
    """Tables without relevance, and why."""
    (results,) = json.loads((evaluated / "results.json").read_text())["protocols"].values()
    (row,) = results["rows"]
    predicted = {side: predictions(folder, load_model(str(folder / side))) for side in ("before", "after")}
    for side, classes in predicted.items():
        right = sum(best == LABELS[index % 8] for index, best in enumerate(classes))
        assert row[f"top1_{side}"] == pytest.approx(right / 24) and row[f"mean_iou_{side}"] is None
    shown = "Maps show LayerCAM, which is not comparable."
    assert results["notes"] == [f"Relevance is left out: {REASON}, so it has no relevance map. {shown}"]
    text = (evaluated / "tables.md").read_text()
    assert results["notes"][0] in text and "Top-1, in per cent" in text
    tables = read_predictions(evaluated / "model" / "predictions.parquet")["validation"]
    assert {side: [best[0] for best in table["predictions"]] for side, table in tables.items()} == predicted
    assert (evaluated / "model" / "before_after.png").is_file()


def test_sufficient_subsets(folder, tmp_path):
    """A subset alone has the probability that the table states."""
    options = ["--num_images", 4, "--threshold", 0.3, "--output_dir", tmp_path]
    succeed("experiments", "sis", *pair(folder)[:2], *pair(folder)[4:], *options)
    (scores,) = json.loads((tmp_path / "results.json").read_text())["scores"].values()
    assert scores["before"]["pairs"] == 4 and scores["before"]["found"] > 0
    assert scores["before"]["confidence"] >= 0.3 and 0 < scores["before"]["size"] < 1


def test_commands_about_maps_name_what_works(folder, evaluated, tmp_path):
    for command in (["segment", *pair(folder)], ["experiments", "figures", evaluated, *pair(folder)]):
        error = call(*command, "--output_dir", tmp_path / command[0]).error
        assert REASON in error and "`robust-vit diagnose`" in error
