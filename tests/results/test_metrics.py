"""What the metrics share, as scripts of `evaluate` and as streaming classes: loading, doctests, batches, refusals."""

import doctest
import json
import math
import os
import shutil
import subprocess
import sys

import evaluate
import numpy as np
import pytest
import torch

from ..helpers.metrics import CLASSES, SCRIPTS, add, example, in_batches, load, noise, streaming
from ..helpers.tiny import ROOT


SUBSET = {"class_subset": [9, 1, 4, 2, 11, 7, 0]}
CASES = [(name, {}) for name in CLASSES] + [("robust_accuracy", SUBSET), ("calibration", SUBSET)]
CASES += [("calibration", {"from_logits": False})]
every_metric = pytest.mark.parametrize("name", CLASSES)
script_and_class = pytest.mark.parametrize("make", [load, streaming])


@pytest.mark.parametrize("name", SCRIPTS)
def test_doctests(name, in_root):
    results = doctest.testmod(sys.modules[type(load(name)).__module__])
    assert results.attempted >= 3 and not results.failed
    # Without the fences, which would count as output.
    card = (ROOT / "eval" / name / "README.md").read_text().replace("```python\n", "").replace("```\n", "")
    runner = doctest.DocTestRunner()
    runner.run(doctest.DocTestParser().get_doctest(card, {}, f"{name}/README.md", None, 0))
    assert runner.tries > 5 and not runner.failures


BY_HAND = {
    "robust_accuracy": [
        [{"class_subset": [0, 2, 3]}, {"predictions": [[1.0, 9.0, 0, 2], [1.0, 3, 2, 0]], "references": [0, [2, 1]]}],
        {"top1": 0.5, "num_images": 2},
    ],
    "calibration": [
        [{"from_logits": False}, {"predictions": [[0.8, 0.2], [0.4, 0.6]], "references": [0, 0]}],
        {"ece": (0.2 + 0.6) / 2, "nll": -math.log(0.8 * 0.4) / 2, "brier": (2 * 0.2**2 + 2 * 0.6**2) / 2},
    ],
    "relevance_segmentation": [
        [{}, {"predictions": [[[1.0, 0.8], [0.2, 0.0]]], "references": [[[1, 0], [0, 0]]]}],
        {"pixel_accuracy": 0.75, "mean_iou": (2 / 3 + 1 / 2) / 2, "pointing_game": 1, "energy": 0.5, "auc": 1},
    ],
    "background_gap": [
        [
            {},
            {
                "predictions": [0, 1, 1, 1],
                "references": [0, 1, 0, 1],
                "groups": ["mixed_same"] * 2 + ["mixed_rand"] * 2,
            },
        ],
        {"bg_gap": 0.5, "object_focus": None},
    ],
    "worst_group_accuracy": [
        [
            {"group_weights": {"land": 1, "sea": 3}},
            {"predictions": [[0.0, 1.0]] * 3, "references": [1, 0, [1]], "groups": ["land", "land", "sea"]},
        ],
        {"worst_group": "land", "worst_group_top1": 0.5, "average_top1": 0.25 * 0.5 + 0.75, "top1": 2 / 3},
    ],
}
LOAD_ALONE = """
import json, sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder

class Others(PathFinder):
    @classmethod
    def find_spec(cls, name, *more):
        hidden = name.split(".")[0] in ("robust_vit_hf", "torch", "transformers", "scipy", "sklearn")
        return None if hidden else super().find_spec(name, *more)

sys.meta_path = [BuiltinImporter, FrozenImporter, Others]
import evaluate
cases = json.load(sys.stdin).items()
print(json.dumps({name: evaluate.load(f"./{name}", **settings).compute(**of) for name, ((settings, of), _) in cases}))
"""


def test_a_copied_folder_needs_evaluate_and_numpy_alone(tmp_path):
    for name in SCRIPTS:
        shutil.copytree(ROOT / "eval" / name, tmp_path / name, symlinks=True)
    environment = os.environ | {"HF_HOME": str(tmp_path / "hub")}
    command = {"args": [sys.executable, "-c", LOAD_ALONE], "input": json.dumps(BY_HAND), "cwd": tmp_path}
    done = subprocess.run(**command, env=environment, capture_output=True, text=True, check=True)
    results = json.loads(done.stdout)
    for name, (_, expected) in BY_HAND.items():
        assert {key: results[name][key] for key in expected} == pytest.approx(expected), name


@pytest.mark.parametrize("name, settings", CASES)
def test_batches_and_order_do_not_matter(name, settings):
    """Nor does it matter whether the script or the class computes, to the last bit."""
    columns = example(name, **settings)
    expected = load(name, **settings).compute(**columns)
    count = len(columns["predictions"])
    order = np.random.default_rng(1).permutation(count)
    shuffled = {key: [column[row] for row in order] for key, column in columns.items()}
    for make in (load, streaming):
        for size in (1, 4, 64, count):
            assert in_batches(make(name, **settings), size, **columns) == expected
        assert in_batches(make(name, **settings), count, **shuffled) == expected
    assert in_batches(load(name, **settings, keep_in_memory=True), 4, **columns) == expected
    metric = load(name, **settings)
    for row in range(count):
        metric.add(prediction=columns["predictions"][row], reference=columns["references"][row])
    assert metric.compute() == expected


@every_metric
@script_and_class
def test_tensors(name, make):
    """Tensors of torch give what arrays give, in half precision and within a graph too."""
    columns = example(name)
    predictions = torch.tensor(columns["predictions"], dtype=torch.bfloat16, requires_grad=True)
    references = columns["references"]
    expected = load(name).compute(predictions=predictions.detach().double().numpy(), references=references)
    if isinstance(references, list):  # as an array, which is filled up with -1
        references = [[*ids, -1, -1, -1][:3] for ids in references]
    references = torch.as_tensor(references)
    assert in_batches(make(name), 50, predictions=predictions, references=references) == expected


@every_metric
@script_and_class
def test_nothing_added(name, make):
    metric = make(name)
    with pytest.raises(ValueError, match=r"zero|add_batch"):
        metric.compute()
    add(metric, predictions=[], references=[])
    with pytest.raises(ValueError, match="zero usable images"):
        metric.compute()
    columns = example(name)
    add(metric, predictions=[], references=[])
    add(metric, **columns)
    assert metric.compute() == load(name).compute(**columns)


@every_metric
@script_and_class
def test_a_batch_that_raises_is_not_added(name, make):
    """The error names the row, and a metric goes on without the batch."""
    columns = example(name)
    metric = make(name)
    for part in (slice(3), slice(3, 4)):
        add(metric, **{key: column[part] for key, column in columns.items()})
    bad = columns["predictions"][4:6].copy()
    bad[1, 3] = np.nan
    with pytest.raises(ValueError, match=r"image 5.*NaN"):
        add(metric, predictions=bad, references=columns["references"][4:6])
    assert metric.compute() == load(name).compute(**{key: column[:4] for key, column in columns.items()})


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name != "relevance_segmentation"])
def test_unknown_settings(name):
    """The base class ignores them, so that a misspelt one would go unnoticed."""
    with pytest.raises(TypeError, match="unknown settings: class_subest"):
        load(name, class_subest=[1])


GAP, WORST = ("background_gap", {}), ("worst_group_accuracy", {"group_weights": {"a": 1.0}})
MAPS = ("relevance_segmentation", {})


@pytest.mark.parametrize(
    "metric, columns, error",
    [
        (("robust_accuracy", {"class_subset": [0, 2]}), {}, r"class_subset: expected ids of the 2 .* \[0 2\]"),
        (MAPS, {"predictions": [[[0.5, 1]]] * 2, "references": [[[0], [1]]] * 2}, r"image 0 .* \(1, 2\) .* \(2, 1\)"),
        (MAPS, {"predictions": [[[np.inf, 1]]] * 2, "references": [[[0, 1]]] * 2}, "image 0 .* NaN or infinity"),
        (GAP, {"groups": ["mixed_same", "mixd_rand"]}, r"expected images of mixed_rand, but got \['mixd_rand'"),
        (WORST, {"groups": ["a", None]}, "groups: expected a name"),
    ],
)
def test_what_does_not_fit_is_named(metric, columns, error):
    (name, settings), columns = metric, {"predictions": [[0.0, 1.0]] * 2, "references": [0, 1]} | columns
    with pytest.raises(ValueError, match=error):
        load(name, **settings).compute(**columns)


@pytest.mark.parametrize(
    "name, settings, predictions, reference, message",
    [
        ("robust_accuracy", {}, [[0.0, 1.0]], 2, "reference of image 0"),
        ("robust_accuracy", {}, [[3, 3]], 1, "different ids"),
        ("robust_accuracy", {}, ["LABEL_1"], 1, "label_mapping"),
        ("robust_accuracy", {"class_subset": [0, 2]}, [[0.0, 1.0, 0.0]], 1, "class_subset"),
        ("calibration", {}, [[0.0, np.inf]], 1, "image 0"),
        ("calibration", {"from_logits": False}, [[0.9, 0.3]], 1, "sum to 1"),
    ],
)
def test_a_row_that_does_not_fit_is_refused(name, settings, predictions, reference, message):
    with pytest.raises((ValueError, TypeError), match=message):
        load(name, **settings).add_batch(predictions=predictions, references=[reference])


def test_the_worst_group():
    columns = {"predictions": [0, 0, 1, 1, 0], "references": [0, 1, 1, 1, []], "groups": [0, 0, "b", "b", "c"]}
    of_groups = {"worst_group_top1": 0.5, "worst_group": "0", "per_group_top1": {"0": 0.5, "b": 1.0}}
    of_all = {"average_top1": 0.25 * 0.5 + 0.75 * 1.0, "top1": 0.75, "num_images": 4, "num_excluded": 1}
    weights = {0: 1, "b": 3}
    assert load("worst_group_accuracy", group_weights=weights).compute(**columns) == of_groups | of_all
    metric = load("worst_group_accuracy", group_weights=weights)
    for row in range(5):
        logits = torch.eye(2, dtype=torch.bfloat16)[columns["predictions"][row]]
        metric.add(prediction=logits, reference=columns["references"][row], groups=columns["groups"][row])
    assert metric.compute() == of_groups | of_all


def test_the_gap_within_a_class_subset():
    columns = {"predictions": [[0.0, 9.0, 1.0]] * 2, "references": [2, 0], "groups": ["mixed_same", "mixed_rand"]}
    assert load("background_gap", class_subset=[0, 2]).compute(**columns)["bg_gap"] == 1
    assert load("background_gap").compute(**columns)["bg_gap"] == 0


def test_combined():
    logits, references = noise()
    whole = {"predictions": logits, "references": references}
    names = ("robust_accuracy", "calibration")
    alone = {name: load(name).compute(**whole) for name in names}
    combined = evaluate.combine([load(name) for name in names])
    for start in range(0, 120, 8):
        combined.add_batch(predictions=logits[start : start + 8], references=references[start : start + 8])
    for row in range(120, 130):
        combined.add(prediction=logits[row], reference=references[row])
    results = combined.compute()
    assert results == evaluate.combine([load(name) for name in names]).compute(**whole)
    for name, values in alone.items():
        assert {key: results.get(key, results.get(f"{name}_{key}")) for key in values} == values
