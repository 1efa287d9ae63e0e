"""`robust-vit interpolate`: one model as a folder, and several interpolation weights measured on sets."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel

from robust_vit_hf import eval_transform, make_image_processor
from robust_vit_hf.evaluation.interpolate import WEIGHTS_FILE
from robust_vit_hf.evaluation.sets import EvaluationSet, load_evaluation_set
from robust_vit_hf.models.interpolation import interpolate

from ..helpers import layouts
from ..helpers.commands import call, files_below, succeed
from ..helpers.tiny import GOLDFISH, IMAGE_SIZE, PRETRAINING, STINGRAY, TENCH, save_pretrained, tiny_vit


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[Path]:
    """A model before, and one after, of 1000 classes. The first predicts the stingray, and the second the tench."""
    root, of = tmp_path_factory.mktemp("models"), {"before": 6, "after": 0}
    models = [tiny_vit(seed, num_labels=1000) for seed in range(2)]
    for model, label in zip(models, of.values(), strict=True):
        model.classifier.bias.data[label] = 9.0
    return [save_pretrained(model, root / name) for model, name in zip(models, of, strict=True)]


def test_the_command_writes_an_ordinary_model(models, tmp_path):
    output = tmp_path / "new" / "between"
    printed = succeed("interpolate", *models, "--weight", 0.25, "--output_dir", output)
    assert f"{output}: 0.75 · {models[0]} + 0.25 · {models[1]}" in printed
    assert [path.name for path in output.parent.iterdir()] == ["between"]
    files = files_below(output)
    assert files.keys() == {"config.json", "model.safetensors", "preprocessor_config.json", "interpolation.json"}
    record = {"interpolation_weight": 0.25, "before": "before", "after": "after"}
    assert json.loads(files["interpolation.json"]) == record
    for name, content in files.items():
        assert str(models[0].parent).encode() not in content
        assert (b"interpolation_weight" in content) == (name == "interpolation.json")
    first, second = (AutoImageProcessor.from_pretrained(folder).to_dict() for folder in (models[1], output))
    assert first == second

    before, after, loaded = map(AutoModelForImageClassification.from_pretrained, (*models, output))
    expected = interpolate(before, after, 0.25).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())


def test_weight_0_is_the_model_before_with_its_own_processor(models, tmp_path, caplog):
    before = tmp_path / "before"
    shutil.copytree(models[0], before)
    processor = AutoImageProcessor.from_pretrained(before)
    processor.image_mean = [0.1, 0.2, 0.3]
    processor.save_pretrained(before)
    for weight, expected in ((0, [0.1, 0.2, 0.3]), (0.5, PRETRAINING.image_mean)):
        caplog.clear()
        succeed("interpolate", before, models[1], "--weight", weight, "--output_dir", tmp_path / str(weight))
        assert ("differ in image_mean. " in caplog.text) == (weight == 0.5)
        assert AutoImageProcessor.from_pretrained(tmp_path / str(weight)).image_mean == tuple(expected)


MISSING = ["no/such/model", "nor/this/one"]


def test_a_folder_with_something_in_it_is_refused_before_loading(tmp_path):
    (tmp_path / "precious").write_text("precious")
    for output in (tmp_path, tmp_path / "precious"):
        completed = call("interpolate", *MISSING, "--weight", 0.5, "--output_dir", output)
        assert completed.status == 1 and "exists already: name another folder" in completed.error
    assert files_below(tmp_path) == {"precious": b"precious"}


@torch.no_grad()
def top1(model: PreTrainedModel, sets: dict[str, EvaluationSet], processor) -> dict[str, float]:
    """Accuracies by hand, of all images at once."""
    accuracies = {}
    for name, rows in sets.items():
        images = rows.dataset.with_transform(eval_transform(processor, rows.border))[:]["pixel_values"]
        logits = model(torch.stack(images)).logits
        classes = list(rows.class_subset or range(logits.shape[1]))
        predicted = [classes[index] for index in logits[:, classes].argmax(dim=1).tolist()]
        accuracies[name] = np.mean([label in ids for label, ids in zip(predicted, rows.accepted, strict=True)])
    return accuracies


def results_of(folder: Path) -> dict:
    return json.loads((folder / WEIGHTS_FILE).read_text())


def test_weights_on_sets_of_the_paper(models, tmp_path):
    """By default in steps of a tenth; what is right is up to the protocol. The last column is the mean of the shifted sets."""
    sources = {
        "imagenet-1k": layouts.class_folders(tmp_path / "imagenet" / "val", {TENCH: 3, GOLDFISH: 2}, ".JPEG").parent,
        "imagenet-a": layouts.class_folders(tmp_path / "a", {STINGRAY: 4}),
        "objectnet": layouts.objectnet(tmp_path / "objectnet-1.0"),
    }
    named = [f"{name}={folder}" for name, folder in sources.items()]
    output = tmp_path / "out"
    options = ["--in_distribution", named[0], "--shifted", *named[1:]]
    options += ["--output_dir", output, "--protocol"]
    assert "| 0.3 | 0.0 | 100.0 | 0.0 | 50.0 |" in succeed("interpolate", *models, *options, "native")
    results = results_of(output)
    assert list(results["weights"]) == [str(step / 10) for step in range(11)]
    assert results["in_distribution"] == ["imagenet-1k"] and results["shifted"] == ["imagenet-a", "objectnet"]
    assert str(tmp_path) not in (output / WEIGHTS_FILE).read_text()

    before, after = (AutoModelForImageClassification.from_pretrained(folder) for folder in models)
    processor = make_image_processor("native", IMAGE_SIZE, AutoImageProcessor.from_pretrained(models[1]))
    sets = {name: load_evaluation_set(name, str(folder), "native") for name, folder in sources.items()}
    for weight in (0.0, 0.3, 1.0):
        expected = top1(interpolate(before, after, weight), sets, processor)
        usual, *shifted = expected.values()
        assert (usual, shifted[0]) == ((0.6, 0.0) if weight == 1 else (0.0, 1.0))
        means = {"mean_in_distribution": usual, "mean_shifted": np.mean(shifted)}
        assert results["weights"][str(weight)] == {"top1": expected, **means}

    # Started again, from another folder with the same weights, with other interpolation weights: what was measured stays.
    moved = shutil.copytree(models[1], tmp_path / "elsewhere")
    again = call("interpolate", models[0], moved, "--weights", 1, 0.45, 0, *options, "native")
    assert again.status == 0 and "weight-0.45:" in again.err
    assert "weight-0.0:" not in again.err and "weight-1.0:" not in again.err
    resumed = results_of(output)["weights"]
    assert list(resumed) == ["0.0", "0.45", "1.0"] and resumed["1.0"] == results["weights"]["1.0"]
    # Under another protocol, images are measured anew.
    assert "weight-1.0:" in call("interpolate", *models, *options, "paper").err
    assert results_of(output)["weights"] != results["weights"]
