"""The metric `relevance_segmentation` against the released code, scikit-learn and fractions, and cases by hand."""

import json
from fractions import Fraction

import numpy as np
import pytest
import sklearn.metrics

from ..helpers.metrics import in_batches, load, maps, streaming
from ..helpers.tiny import DATA


def test_equality_with_the_released_code():
    inputs = np.load(DATA / "official_segmentation.npz")
    expected = json.loads((DATA / "official_segmentation.json").read_text())["values"]
    columns = {"predictions": inputs["relevance"], "references": inputs["mask"]}
    result = load("relevance_segmentation").compute(**columns)
    assert {name: result[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert in_batches(streaming("relevance_segmentation"), 2, **columns) == result


def test_segmentation_against_scikit_learn():
    relevance, masks = maps(9, 20)
    relevance = np.round(8 * np.clip(relevance, -2, 2)) / 8  # steps whose complements are exact, with many ties
    relevance[:, 0, 0], relevance[:, 0, 1] = -2, 2
    scaled = (relevance + 2) / 4
    predicted = scaled > scaled.mean(axis=(1, 2), keepdims=True)
    precisions, areas = [], []
    for scores, mask in zip(scaled, masks, strict=True):
        both = np.stack([~mask, mask]).ravel(), np.stack([1 - scores, scores]).ravel()
        precisions.append(sklearn.metrics.average_precision_score(*both))
        if 0 < mask.sum() < mask.size:
            areas.append(sklearn.metrics.roc_auc_score(mask.ravel(), scores.ravel()))
    shown = [(scores, mask) for scores, mask in zip(scaled, masks, strict=True) if mask.any()]
    result = load("relevance_segmentation").compute(predictions=relevance, references=masks)
    assert result == pytest.approx(
        {
            "pixel_accuracy": sklearn.metrics.accuracy_score(masks.ravel(), predicted.ravel()),
            "mean_iou": sklearn.metrics.jaccard_score(masks.ravel(), predicted.ravel(), average="macro"),
            "mean_ap": np.mean(precisions),
            "pointing_game": np.mean([mask[scores == 1].mean() for scores, mask in shown]),
            "energy": np.mean([scores[mask].sum() / scores.sum() for scores, mask in shown]),
            "auc": np.mean(areas),
            "num_images": 9,
            "num_empty_masks": 1,
            "num_full_masks": 1,
        }
    )


def slow_average_precision(relevance, mask) -> Fraction:
    """AP over (1 - map, map) in rational numbers, one threshold for each value."""
    low, high = min(relevance), max(relevance)
    scaled = [Fraction(value - low, high - low) for value in relevance]
    pairs = [(value, inside) for value, inside in zip(scaled, mask, strict=True)]
    pairs += [(1 - value, not inside) for value, inside in pairs]
    total, previous = Fraction(0), 0
    for threshold in sorted({value for value, _ in pairs}, reverse=True):
        kept = [inside for value, inside in pairs if value >= threshold]
        total += Fraction(sum(kept) - previous, len(relevance)) * Fraction(sum(kept), len(kept))
        previous = sum(kept)
    return total


@pytest.mark.parametrize("levels", [1, 2, 3, 7, 10, 255])
def test_equal_scores_are_one_threshold(levels):
    """A map in thirds, say, where 1/3 and 1 - 2/3 are different floats."""
    rng = np.random.default_rng(levels)
    relevance, mask = rng.integers(0, levels + 1, 64), rng.random(64) < 0.4
    relevance[:2] = 0, levels
    given, masks = [(relevance / levels).reshape(8, 8)], [mask.reshape(8, 8)]
    result = load("relevance_segmentation").compute(predictions=given, references=masks)
    expected = slow_average_precision(relevance.tolist(), mask.tolist())
    assert result["mean_ap"] == pytest.approx(float(expected), rel=1e-12)


HALF = [[1, 1], [0, 0]]


@pytest.mark.parametrize(
    "relevance, mask, expected",
    [
        # All-foreground mask: the mean is 0.5, so half of the pixels are found.
        ([[1, 0], [1, 0]], [[1, 1], [1, 1]], [0.5, 0.25, 0.5, 1, 1, None]),
        # Empty mask: the same the other way round, and nothing to point at.
        ([[1, 0], [1, 0]], [[0, 0], [0, 0]], [0.5, 0.25, 0.5, None, None, None]),
        # Flat map: everything is background; the rest is chance. AP: at score 1, 2 of 4; at 0, 4 of 8.
        ([[3, 3], [3, 3]], HALF, [0.5, 0.25, 0.5, 0.5, 0.5, 0.5]),
        ([[3, 3], [3, 3]], [[0, 0], [0, 0]], [1, 1, 1, None, None, None]),
        ([[3, 3], [3, 3]], [[1, 1], [1, 1]], [0, 0, 0.5, 1, 1, None]),
        # Perfect and inverted maps of any range. The inverted: at score 1, 0 of 4; at 0, 4 of 8.
        ([[7, 7], [-2, -2]], HALF, [1, 1, 1, 1, 1, 1]),
        ([[-2, -2], [7, 7]], HALF, [0, 0, 0.5, 0, 0, 0]),
        # Two maxima, of which one is inside.
        ([[1, 0], [1, 0]], HALF, [0.5, 1 / 3, 0.5, 0.5, 0.5, 0.5]),
        # Mask values between 0 and 1: foreground from 0.5.
        ([[7, 7], [-2, -2]], [[0.5, 0.9], [0.1, 0.49]], [1, 1, 1, 1, 1, 1]),
    ],
)
def test_segmentation_by_hand(relevance, mask, expected):
    result = load("relevance_segmentation").compute(predictions=[relevance], references=[mask])
    names = ("pixel_accuracy", "mean_iou", "mean_ap", "pointing_game", "energy", "auc")
    assert [result[name] for name in names] == pytest.approx(expected)


def test_pixels_are_counted_over_the_set_and_scores_over_images():
    """1 of 1 and 1 of 4 pixels are 2 of 5. The APs are 1, and 1/4 · 1/4 + 3/4 · 4/8 = 7/16."""
    given, masks = [[[5.0]], [[1.0, 1.0], [0.0, 0.0]]], [[[0]], [[0, 1], [1, 1]]]
    result = load("relevance_segmentation").compute(predictions=given, references=masks)
    assert result["pixel_accuracy"] == 0.4 and result["num_empty_masks"] == 1
    assert result["auc"] == 1 / 6 and result["mean_ap"] == (1 + 7 / 16) / 2


def test_memory_layout_does_not_matter():
    """A mean of 0.5, here with many pixels of that value, is rounded by the order in which the pixels are added."""
    values = np.random.default_rng(4).integers(0, 11, (16, 32)) / 10
    relevance = np.concatenate([values, 1 - values])
    assert np.asfortranarray(relevance).mean() != relevance.mean()
    rows, columns = (
        load("relevance_segmentation").compute(predictions=[layout], references=[np.eye(32)])
        for layout in (relevance, np.asfortranarray(relevance))
    )
    assert rows == columns
