"""The tables of `improve` and of new layers in README and docs are those of the results of benchmarks."""

import re
import runpy

import numpy as np
import pytest

from robust_vit_hf.improvement.improve import FULL_GAINED
from robust_vit_hf.results.intervals import Gains, mean_gain

from .helpers.tiny import ROOT


write = runpy.run_module("experiments.write_tables")
SLOW = "docs/methods.md"  # which reads the results of the experiment


@pytest.mark.parametrize(
    "path", [pytest.param(path, marks=pytest.mark.slow if path == SLOW else ()) for path in write["TEXTS"]]
)
def test_tables_are_those_of_the_results(path, monkeypatch):
    text = (ROOT / path).read_text()
    assert text == write["text"](path), "run `python -m experiments write_tables`"
    assert text.count("<!-- table: ") == len(write["BLOCK"].findall(text)) > 0


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda path: str(path.relative_to(ROOT))
)
def test_nothing_measured_is_written_by_hand(path):
    """Columns of numbers, which are aligned to the right, and intervals stand in blocks."""
    by_hand = re.sub(r"<!-- (table|results): .*?<!-- end|```.*?```", "", path.read_text(), flags=re.DOTALL)
    assert not re.findall(r"(?<!:)---:|.*\d \[[-+−]?\d.*", by_hand)


def test_a_mean_over_models_has_the_interval_of_student():
    changes = [{"new": {"change": change}} for change in (0.1, 0.2, 0.3)]
    assert write["mean_change"](changes, "new") == "+20.0 [-4.8, +44.8]"  # 4.303 × 0.1 / √3
    assert write["mean_change"]([{"new": {"change": 0.1, "low": 0.05, "high": 0.15}}], "new") == "+10.0 [+5.0, +15.0]"


def test_improve_tells_what_the_other_effort_gained():
    for has_map, more in FULL_GAINED.items():
        names = [name for kind, sets in write["KINDS"].items() if ("DINOv2" in kind) is has_map for name in sets]
        assert round(write["full_gained"](names)) == more


def test_the_interval_over_photographs_is_that_over_images_with_as_many_on_each():
    """Counts by photograph are all that is kept of benchmarks/other_images.py."""
    rng = np.random.default_rng(0)
    outcomes = rng.integers(-1, 2, (3, 40, 12))  # by model, photograph and object
    drawn = np.repeat(np.arange(40), 12)
    of_images = [Gains(one.reshape(-1).astype(float), str(model), drawn) for model, one in enumerate(outcomes)]
    found, expected = write["over_both"](outcomes.mean(axis=2)), mean_gain({"all": of_images})
    assert (found.mean, found.low, found.high) == pytest.approx((expected.mean, expected.low, expected.high))
