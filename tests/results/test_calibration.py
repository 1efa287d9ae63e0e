"""The metric `calibration` against the definitions in plain loops, and degenerate cases by hand."""

import math

import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from robust_vit_hf.metrics.calibration import log_sum_exp

from ..helpers.metrics import in_batches, load, noise, within


def slow_calibration(logits, references, subset=None, num_bins=15):
    """The definitions in plain loops."""
    columns = sorted(subset or range(logits.shape[1]))
    bins = [[] for _ in range(num_bins)]
    nll, brier, count = 0, 0, 0
    for row, accepted in enumerate(references):
        if not accepted:
            continue
        exponentials = {id: math.exp(logits[row, id]) for id in columns}
        probabilities = {id: value / sum(exponentials.values()) for id, value in exponentials.items()}
        predicted = min(columns, key=lambda id: (-logits[row, id], id))
        for index in range(num_bins):
            if index / num_bins < probabilities[predicted] <= (index + 1) / num_bins:
                bins[index].append((predicted in accepted, probabilities[predicted]))
        own = sum(value for id, value in probabilities.items() if id in accepted)
        nll -= math.log(own)
        brier += (1 - own) ** 2 + sum(value**2 for id, value in probabilities.items() if id not in accepted)
        count += 1
    ece = sum(abs(np.mean([c for c, _ in b]) - np.mean([p for _, p in b])) * len(b) for b in bins if b) / count
    scores = {"ece": ece, "nll": nll / count, "brier": brier / count}
    return pytest.approx(scores | {"num_images": count, "num_excluded": len(references) - count})


@pytest.mark.parametrize("subset", [None, [9, 1, 4, 2, 11, 7, 0]])
def test_calibration_against_a_slow_implementation(subset):
    logits, references = noise(200)
    if subset:
        references = within(references, subset)
    settings = {"class_subset": subset, "num_bins": 10}
    result = load("calibration", **settings).compute(predictions=logits, references=references)
    assert result == slow_calibration(logits, references, subset, 10)
    metric = load("calibration", **settings, from_logits=False)
    assert metric.compute(predictions=softmax(logits, axis=1), references=references) == pytest.approx(result)


@pytest.mark.parametrize("tenths", range(2, 10))
def test_a_confidence_on_an_edge_belongs_to_the_bin_below(tenths):
    """Whatever the rounding of its logarithm: there, a wrong image is set off by a right one."""
    confidences = tenths / 10, tenths / 10 - 0.01
    probabilities = [[of, *9 * [(1 - of) / 9]] for of in confidences]
    metric = load("calibration", from_logits=False, num_bins=10)
    assert metric.compute(predictions=probabilities, references=[1, 0])["ece"] == pytest.approx(
        abs(1 - sum(confidences)) / 2
    )


def test_sums_of_exponentials_are_those_of_scipy():
    """Also of ties, of extremes, and of rows without any."""
    values = np.random.default_rng(0).normal(scale=9, size=(64, 1000))
    values[:8], values[8:16, ::2], values[0], values[1, :2] = values[:8].round(), -np.inf, -np.inf, 1e4
    assert log_sum_exp(values) == pytest.approx(logsumexp(values, axis=1), rel=1e-15)


@pytest.mark.parametrize("subset", [None, range(0, 3000, 2)])
def test_memory_layout_does_not_matter(subset):
    """To the last bit, for batches of any size. NumPy adds rows and columns in different orders."""
    rng = np.random.default_rng(0)
    columns = {"predictions": rng.normal(size=(2, 3000)), "references": 2 * rng.integers(0, 1500, 2)}
    expected = load("calibration", class_subset=subset).compute(**columns)
    assert in_batches(load("calibration", class_subset=subset), 1, **columns) == expected
    columns["predictions"] = np.asfortranarray(columns["predictions"])
    assert load("calibration", class_subset=subset).compute(**columns) == expected


def test_calibration_at_the_extremes():
    sure = load("calibration").compute(predictions=[[1e4, 0.0, 0.0]], references=[0])
    assert (sure["ece"], sure["nll"], sure["brier"]) == (0, 0, 0)
    wrong = load("calibration").compute(predictions=[[1e4, 0.0, 0.0]], references=[1])
    assert (wrong["ece"], wrong["nll"], wrong["brier"]) == (1, 1e4, 2)
    impossible = load("calibration", from_logits=False).compute(predictions=[[1.0, 0.0, 0.0]], references=[1])
    assert (impossible["nll"], impossible["brier"]) == (math.inf, 2)
    every = load("calibration").compute(predictions=[[0.3, 0.2, 0.1]], references=[[2, 0, 1, 1]])
    assert every["nll"] == pytest.approx(0, abs=1e-15) and every["brier"] == pytest.approx(0, abs=1e-15)
