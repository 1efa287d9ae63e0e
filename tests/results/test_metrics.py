"""What the metrics share, as scripts of `evaluate` and as streaming classes: loading, doctests, batches, processes, refusals."""

import doctest
import sys

import evaluate
import numpy as np
import pytest
import torch

from ..helpers.metrics import CLASSES, OF_GROUPS, SCRIPTS, add, example, in_batches, load, noise, streaming
from ..helpers.tiny import ROOT


SUBSET = {"class_subset": [9, 1, 4, 2, 11, 7, 0]}
CASES = [(name, {}) for name in CLASSES] + [("robust_accuracy", SUBSET), ("calibration", SUBSET)]
CASES += [("calibration", {"from_logits": False, "num_bins": 10})]
every_metric = pytest.mark.parametrize("name", CLASSES)
script_and_class = pytest.mark.parametrize("make", [load, streaming])


@pytest.mark.parametrize("name", SCRIPTS)
def test_doctests(name, in_root):
    results = doctest.testmod(sys.modules[SCRIPTS[name].__module__])
    assert results.attempted >= 3 and not results.failed
    # Without the fences, which would count as output.
    card = (ROOT / "eval" / name / "README.md").read_text().replace("```python\n", "").replace("```\n", "")
    runner = doctest.DocTestRunner()
    runner.run(doctest.DocTestParser().get_doctest(card, {}, f"{name}/README.md", None, 0))
    assert runner.tries > 5 and not runner.failures


@every_metric
def test_pushed_as_it_is(name, hub, tmp_path):
    """The folder as a repository of the Hub."""
    hub.add("spaces", f"user/{name}", ROOT / "eval" / name)
    metric = evaluate.load(f"user/{name}", revision="main", cache_dir=str(tmp_path))
    assert metric.compute(**example(name)) == load(name).compute(**example(name))


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_card_cites_what_the_script_does(name):
    groups = ("groups",) if name in OF_GROUPS else ()
    citation = load(name, *groups).citation
    assert f"```bibtex\n{citation.strip()}\n```" in (ROOT / "eval" / name / "README.md").read_text(encoding="utf-8")


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
    with pytest.raises(ValueError, match=r"image 5 \(row 1 of the batch\).*NaN"):
        add(metric, predictions=bad, references=columns["references"][4:6])
    assert metric.compute() == load(name).compute(**{key: column[:4] for key, column in columns.items()})


@every_metric
def test_unequal_lengths_and_unknown_settings(name):
    columns = example(name)
    for make in (load, streaming):
        with pytest.raises(ValueError, match=r"^references: .*'predictions': 3, 'references': 2"):
            add(make(name), predictions=columns["predictions"][:3], references=columns["references"][:2])
    with pytest.raises(TypeError, match="no setting class_subest"):
        load(name, class_subest=[1])
    with pytest.raises(TypeError, match="num_bins"):
        load(name).compute(**columns, num_bins=3)


GAP, WORST = ("background_gap", {}), ("worst_group_accuracy", {"group_weights": {"a": 1.0}})
MAPS = ("relevance_segmentation", {})


@pytest.mark.parametrize(
    "metric, columns, error",
    [
        (("robust_accuracy", {}), {"predictions": [[0.0, 1.0], [1.0]]}, "predictions: .* lists of several lengths"),
        (("robust_accuracy", {"class_subset": [0, 2]}), {}, r"class_subset: expected ids of the 2 .* \[0, 2\]"),
        (("robust_accuracy", {"class_subset": ["cat"]}), {}, "class_subset: expected numbers .* <U3"),
        (("calibration", {"class_subset": [-1, 0]}), {}, r"class_subset: expected ids .* \[-1, 0\]"),
        (("calibration", {}), {"predictions": [0.0, 1.0]}, r"predictions: .* in 2 axes, .* shape \(2,\)"),
        (("calibration", {}), {"predictions": ["cat", "dog"]}, "predictions: expected numbers .* <U3"),
        (("calibration", {}), {"predictions": [[[0.0, 1.0]]] * 2}, r"predictions: .* shape \(2, 1, 2\)"),
        (("calibration", {}), {"references": "ab"}, "references: .* 'references': 'str'"),
        (("calibration", {}), {"references": {0: 1, 1: 0}}, "references: .* 'references': 'dict'"),
        (MAPS, {"predictions": [[["a"]]] * 2, "references": [[[1]]] * 2}, "map of image 0 .* in predictions: .* <U1"),
        (MAPS, {"predictions": [[[0.5, 1]]] * 2, "references": [[[0], [1]]] * 2}, r"image 0 .* \(1, 2\) .* \(2, 1\)"),
        (
            MAPS,
            {"predictions": [[[0.0, 1]]] * 2, "references": [[[0, 1], [1]]] * 2},
            "mask of image 0 .* in references: .* several lengths",
        ),
        (MAPS, {"predictions": [[[np.inf, 1]]] * 2, "references": [[[0, 1]]] * 2}, "image 0 .* NaN or infinity"),
        (MAPS, {"predictions": [[[0.5, 1]]] * 2, "references": [[[0, np.nan]]] * 2}, "image 0 .* NaN or infinity"),
        (GAP, {"groups": ["mixed_same"]}, "groups: .* 'groups': 1"),
        (
            GAP,
            {"groups": ["mixed_same", "mixd_rand"]},
            r"groups: expected images of mixed_rand, but got \['mixd_rand'",
        ),
        (WORST, {"groups": ["a", "b"]}, r"group_weights: .* \['a', 'b'\] and {'a': 1.0}"),
    ],
)
def test_what_does_not_fit_is_named(metric, columns, error):
    (name, settings), columns = metric, {"predictions": [[0.0, 1.0]] * 2, "references": [0, 1]} | columns
    with pytest.raises(ValueError, match=error):
        load(name, *(["groups"] if "groups" in columns else []), **settings).compute(**columns)
    with pytest.raises(ValueError, match=error):
        metric = SCRIPTS[name](**settings)
        metric.update(**columns)
        metric.compute()


@pytest.mark.parametrize(
    "name, settings, predictions, reference, message",
    [
        ("robust_accuracy", {}, [[0.0, 1.0]], 2, r"image 0 \(row 0 of the batch\)"),
        ("robust_accuracy", {}, [[-np.inf, -np.inf]], 1, "-inf for every class"),
        ("robust_accuracy", {}, [[0.0, 1.0]], -1, "expected the id"),
        ("robust_accuracy", {}, [[0.0, 1.0]], 0.5, "expected the id"),
        ("robust_accuracy", {}, [[0.0, 1.0]], "cat", "expected the id"),
        ("robust_accuracy", {}, [[3, 3]], 1, "different ids"),
        ("robust_accuracy", {}, [[3, -1]], 1, "different ids"),
        ("robust_accuracy", {}, ["LABEL_1"], 1, "label_mapping"),
        ("robust_accuracy", {"class_subset": [0, 2]}, [[0.0, 1.0, 0.0]], 1, "class_subset"),
        ("robust_accuracy", {"class_subset": [0, 2]}, [[0, 1]], 0, "class_subset"),
        ("calibration", {}, [[0.0, 1.0]], 2, "the reference"),
        ("calibration", {}, [[0.0, np.inf]], 1, r"image 0 \(row 0 of the batch\)"),
        ("calibration", {}, [[-np.inf, -np.inf]], 1, "without NaN or infinity"),
        ("calibration", {"from_logits": False}, [[0.9, 0.3]], 1, "sum to 1"),
        ("calibration", {"from_logits": False}, [[1.5, -0.5]], 1, "sum to 1"),
        ("calibration", {"from_logits": False, "class_subset": [0]}, [[0.0, 1.0]], 0, "above 0 in class_subset"),
        ("calibration", {"class_subset": [0]}, [[0.0, 1.0]], 1, "class_subset"),
    ],
)
def test_a_row_that_does_not_fit_is_refused(name, settings, predictions, reference, message):
    with pytest.raises(ValueError, match=message):
        load(name, **settings).add_batch(predictions=predictions, references=[reference])


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
