"""Tables and metric of sets with groups."""

import re
from unittest.mock import patch

import numpy as np
import pytest

from robust_vit_hf.evaluation.sets import own_set
from robust_vit_hf.metrics.robust_accuracy import WorstGroupAccuracy
from robust_vit_hf.results.intervals import Difference, Resamples
from robust_vit_hf.results.set_tables import group_tables

from ..helpers.commands import call, succeed
from ..helpers.metrics import load
from ..helpers.results import result, run_of
from ..helpers.tiny import masked_dataset, save_pretrained, tiny_vit


def test_the_worst_group_and_the_weighted_average():
    groups = np.repeat(np.array(["a", "b"], dtype=object), 100)
    birds = result("test", groups=groups, weights={"a": 3.0, "b": 1.0}, before=0.5, after=0.75)
    (table,) = group_tables(run_of(birds))
    cells = {row[0]: [cell.split(" ")[0] for cell in row[1:]] for row in table.rows}
    assert cells == {
        "a": ["100", "100.0", "100.0", "+0.0"],
        "b": ["100", "0.0", "50.0", "+50.0"],
        "worst group": ["–", "0.0", "50.0", "+50.0"],
        "average, weighted by the training groups": ["200", "75.0", "87.5", "+12.5"],
    }
    (table,) = group_tables(run_of(result("test", groups=groups, weights={"a": 1.0}, before=0.5)))
    assert table.rows[-1][0] == "average over the groups" and table.rows[-1][2].startswith("50.0")


def test_groups_of_the_training_without_images_are_named():
    groups, weights = np.repeat(np.array(["a", "b"], dtype=object), 100), dict.fromkeys("fedcba", 1.0)
    birds = result("test", groups=groups, weights=weights, before=0.5, after=1.0)
    (table,) = group_tables(run_of(birds))
    assert table.title.endswith("Without 4 groups of the training that have no images here: c, d, e, …")
    birds.group_weights.pop("f")
    assert group_tables(run_of(birds))[0].title.endswith(
        "Without 3 groups of the training that have no images here: c, d, e"
    )
    birds.group_weights.clear()
    assert "Without" not in group_tables(run_of(birds))[0].title


def test_many_groups():
    """More than 100 have no rows of their own; their number, the worst and the average are those that few groups would have."""
    few = np.repeat(np.array(["a", "b", "c"], dtype=object), [60, 60, 80])
    (expected,) = group_tables(run_of(result("test", groups=few, before=0.5, after=0.75)))
    names = np.arange(6000) // 200
    many = np.array([f"{name}" for name in names] + [f"right {index}" for index in range(4000)], dtype=object)
    groups = result("test", 10_000, groups=many, weights=dict.fromkeys(many, 1.0), before=0.5, after=0.75)
    groups.sides["before"].ranks[:] = np.arange(10_000) % 2 * (np.arange(10_000) < 6000)
    groups.sides["after"].ranks[:] = 0
    (table,) = group_tables(run_of(groups))
    assert [row[:2] for row in table.rows] == [
        ["worst of 4,030 groups", "–"],
        ["average, weighted by the training groups", "10000"],
    ]
    assert table.rows[0][2].startswith("50.0 [") and table.rows[0][3] == "100.0 [0.0, 100.0]"
    assert table.rows[1][3] == "100.0 [100.0, 100.0]" and len(table.head) == len(table.rows[0])
    assert [row[0] for row in expected.rows] == ["a", "b", "c", "worst group", "average over the groups"]
    with patch("robust_vit_hf.results.set_tables.MANY_GROUPS", 2):
        (within,) = group_tables(run_of(result("test", groups=few, before=0.5, after=0.75)))
    assert [row[2:] for row in within.rows] == [row[2:] for row in expected.rows[-2:]]


def test_a_group_of_one_image_changes_by_at_most_all():
    changed = Resamples(np.zeros(9), 1).interval(Difference)
    assert (changed.low, changed.high) == (-1, 1)
    few, many = (Resamples(np.ones(9), count) for count in (10, 100))
    assert [(one - few).interval(Difference).high for one in (few, many)] == [0.3, 0.3]  # the fewer images count


@pytest.mark.parametrize(
    "groups",
    [np.repeat(range(40), 2), np.concatenate([np.repeat(range(6), 20), range(6, 36)])],
    ids=["pairs", "singles"],
)
def test_groups_that_a_draw_of_all_images_would_miss(groups):
    """Of a few images each, or of one: every draw has all groups, so that the mean is in its interval."""
    small = result("test", len(groups), groups=groups.astype(str).astype(object), before=1.0)
    small.sides["before"].ranks[::4] = 5
    (table,) = group_tables(run_of(small))
    for row in table.rows:
        mean, low, high = (float(end) for end in re.split(r"[^-+\w.]+", row[2].rstrip("]")))
        assert low <= mean <= high, row


def birds(groups):
    dataset = masked_dataset(len(groups))
    return dataset.add_column("group", groups)


def test_training_groups_that_are_no_weights(tmp_path):
    """Those of the evaluated images themselves, and some that cannot be read."""
    birds([-1, -1, 7]).to_parquet(tmp_path / "train-00000.parquet")
    birds([-1, 7]).to_parquet(tmp_path / "test-00000.parquet")
    for split in ("train", "train[:2]"):
        assert own_set(str(tmp_path), split).group_weights is None
    assert own_set(str(tmp_path), "test").group_weights == {"-1": 2 / 3, "7": 1 / 3}
    birds(["x", None, "y"]).to_parquet(tmp_path / "train-00000.parquet")
    with pytest.raises(ValueError, match="`train`: row 1 has no `group`"):
        own_set(str(tmp_path), "test")


def test_equal_outcomes_of_a_few_images_have_an_interval(tmp_path):
    """Three images that are all right do not show that all are: the rule of three."""
    groups = np.array(["a"] * 3 + ["b"] * 100, dtype=object)
    (table,) = group_tables(run_of(result("test", 103, groups=groups, before=1.0, after=1.0)))
    cells = {row[0]: row[2:] for row in table.rows}
    assert cells["a"] == ["100.0 [0.0, 100.0]", "100.0 [0.0, 100.0]", "+0.0 [-100.0, +100.0]"]
    assert cells["b"] == ["100.0 [97.0, 100.0]", "100.0 [97.0, 100.0]", "+0.0 [-3.0, +3.0]"]
    assert cells["worst group"] == cells["a"]


def test_the_metric_of_the_worst_group():
    columns = {"predictions": [0, 0, 1, 1, 0], "references": [0, 1, 1, 1, []], "groups": ["a", "a", "b", "b", "c"]}
    script, streaming = (
        load("worst_group_accuracy", "groups", group_weights={"a": 1, "b": 3}),
        WorstGroupAccuracy({"a": 1, "b": 3}),
    )
    streaming.update(**columns)
    assert script.compute(**columns) == streaming.compute()
    assert streaming.compute() == {
        "worst_group_top1": 0.5,
        "worst_group": "a",
        "average_top1": 0.25 * 0.5 + 0.75 * 1.0,
        "top1": 0.75,
        "per_group_top1": {"a": 0.5, "b": 1.0},
        "num_images": 4,
        "num_excluded": 1,
    }


@pytest.mark.parametrize("group", [None, float("nan")])
def test_a_group_that_is_none(group):
    with pytest.raises(ValueError, match=r"group of image 1 \(row 1 of the batch\) is"):
        WorstGroupAccuracy().update([0, 1], [0, 1], groups=["a", group])


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -1.0])
def test_a_weight_that_is_none(weight):
    with pytest.raises(ValueError, match="weight of the group b is"):
        WorstGroupAccuracy({"a": 1.0, "b": weight})


def test_groups_of_a_diagnosis(tmp_path):
    """Beside the measures, as `evaluate` has them."""
    birds(list("xxxy")).to_parquet(tmp_path / "data" / "train-00000.parquet")
    birds(list("xyxyyxxy")).to_parquet(tmp_path / "data" / "validation-00000.parquet")
    model = save_pretrained(tiny_vit(2), tmp_path / "model", "paper")  # right on other images with other backgrounds
    options = ["--model", model, "--dataset", tmp_path / "data", "--output_dir"]
    printed = [succeed(command, *options, tmp_path / command) for command in ("diagnose", "evaluate")]
    diagnosed, evaluated = (text[text.index("Groups of `validation`") :].split("\n\n")[:2] for text in printed)
    assert diagnosed == evaluated and "| average, weighted by the training groups | 8 |" in diagnosed[1]
    assert "Groups of `validation`" in (tmp_path / "diagnose" / "tables.md").read_text()
    birds(["x", None, "y", "y"]).to_parquet(tmp_path / "data" / "validation-00000.parquet")
    completed = call("diagnose", *options, tmp_path / "other")
    assert "`validation`: row 1 has no `group`: give every image one, or remove the column." in completed.error
