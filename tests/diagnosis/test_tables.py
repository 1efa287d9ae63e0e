"""Top-1 and BG-Gap by columns of the images."""

import datasets
import numpy as np
import pytest

from robust_vit_hf.data.composition import CONDITIONS
from robust_vit_hf.diagnosis.report import slice_tables
from robust_vit_hf.diagnosis.verdict import Diagnosis


def diagnosis(right: np.ndarray, mixed: np.ndarray) -> Diagnosis:
    """Images of two classes in turn, right as they are and on the background of another class where given."""
    label = np.arange(len(right)) % 2
    columns = dict.fromkeys(CONDITIONS, np.where(right, label, 1 - label))
    columns |= {"mixed_rand": np.where(mixed, label, 1 - label), "label": label, "donor_class": 1 - label}
    columns |= {"accepted": [[int(one)] for one in label], "object_share": np.full(len(label), 0.1)}
    columns |= {"donor_same": label, "donor_rand": label, "relevance_on_object": np.full(len(label), 0.5)}
    return Diagnosis(columns, ["cow", "boat"])


def test_each_value_and_pair_has_its_top1_and_gap():
    camera = np.repeat(["old", "new", "toy"], [40, 40, 10])
    site = np.tile(["farm", "harbour"], 45)
    right, mixed = camera != "old", camera == "new"
    rows = datasets.Dataset.from_dict({"camera": camera.tolist(), "site": site.tolist()})
    found = {"before": diagnosis(right | (site == "farm"), mixed)}
    shares = {"old, farm": 0.6, "old, harbour": 0.3, "new, farm": 0.05, "new, harbour": 0.05}
    weights = {"camera": {"old": 0.45, "new": 0.05, "toy": 0.5}, "camera × site": shares | {"old, hill": 0.1}}
    tables = slice_tables(rows, ["camera", "site"], found, weights)
    camera, gaps, site, _, both, gaps_of_both = tables
    assert [(row[0], row[1], row[2].split()[0]) for row in camera.rows[:3]] == [  # without `toy`, of 10 images
        ("new", "40", "100.0"),
        ("old", "40", "50.0"),
        ("worst group", "–", "50.0"),
    ]
    assert camera.rows[3][2].startswith("55.0") and "Without" not in camera.title  # weighted as in training
    assert [(row[0], row[2].split()[0]) for row in gaps.rows] == [("new", "+0.0"), ("old", "+50.0")]
    assert [row[1] for row in site.rows[:2]] == ["45", "45"]
    assert [row[0] for row in both.rows[:4]] == ["new, farm", "new, harbour", "old, farm", "old, harbour"]
    assert both.rows[5][2].startswith("70.0") and both.title.endswith("that have no images here: old, hill")
    assert gaps_of_both.rows[2][2].startswith("+100.0")


def test_values_are_read_as_names(caplog):
    """An accent of one character or two is one name; empty text of a CSV is none."""
    rows = datasets.Dataset.from_dict(
        {"site": 20 * ["caf\u00e9", "cafe\u0301"], "camera": [str(one) for one in range(40)]}
    )
    found = {"before": diagnosis(np.ones(40, bool), np.ones(40, bool))}
    top1, _ = slice_tables(rows, ["site"], found, {})
    assert top1.rows[0][:2] == ["caf\u00e9", "40"]
    assert slice_tables(rows, ["camera"], found, {}) == [] and "No value of `camera` has 20 images" in caplog.text
    kinds = {"": datasets.Value("string"), float("nan"): datasets.Value("float64")}
    kinds[-1] = datasets.ClassLabel(names=["hill", "zoo"])
    for missing, kind in kinds.items():
        values = {"site": [*39 * [type(missing)(1)], missing]}
        rows = datasets.Dataset.from_dict(values, features=datasets.Features({"site": kind}))
        with pytest.raises(ValueError, match="row 39 has no `site`"):
            slice_tables(rows, ["site"], found, {})
