"""Summaries, tables and plots of a run, by hand."""

import numpy as np
import pytest
import scipy.stats
from matplotlib.container import ErrorbarContainer

from robust_vit_hf.results import tables
from robust_vit_hf.results.intervals import NUM_RESAMPLES, mean_change
from robust_vit_hf.results.plots import accuracy_figure
from robust_vit_hf.results.run_results import SetResult, SideResult
from robust_vit_hf.results.tables import Table


def side(correct: list[bool], labels: list[int], **scores) -> SideResult:
    """Predictions that are right where they should be; 6 and 7 are wrong."""
    rows = zip(correct, labels, strict=True)
    predictions = np.array([[label, 6, 7, 8, 9] if right else [6, 7, 8, 9, label] for right, label in rows])
    ranks = np.where(correct, 0, 4)
    return SideResult(ranks, {"top1": float(np.mean(correct)), "top5": 1.0} | scores, predictions)


def result(*sides: list[bool], name: str = "a", labels: list[int] | None = None, **facts) -> SetResult:
    """A set on which `before`, `after` and `control` are right as given."""
    labels = labels or [0] * len(sides[0])
    named = dict(zip(("before", "after", "control"), (side(correct, labels) for correct in sides), strict=False))
    return SetResult(name, named, np.array(labels), **facts)


def first(count: int, of: int = 4) -> list[bool]:
    return [index < count for index in range(of)]


def compared() -> dict[str, SetResult]:
    val = result(first(4), first(3), first(4), name="val")
    for name, score in (("before", 0.5), ("after", 0.75)):
        val.sides[name].scores["mean_iou"] = score
    shifted = [
        result(first(1), first(3), first(1), name="a", shifted=True),
        result(first(2), first(2), first(1), name="b", shifted=True),
    ]
    return {one.name: one for one in (val, *shifted)}


def test_comparison_by_hand():
    run = compared()  # `b` with as many corrected as broken
    run["b"] = result(first(2), first(2)[::-1], first(1), name="b", shifted=True)
    rows = {row["set"]: row for row in tables.set_rows(run)}
    assert (rows["val"]["top1_before"], rows["val"]["top1_after"]) == (1, 0.75)
    assert (rows["val"]["corrected"], rows["val"]["broken"]) == (0, 1)
    assert (rows["a"]["corrected"], rows["a"]["broken"]) == (2, 0)
    mean = rows["mean of the shifted sets"]
    assert (mean["top1_before"], mean["top1_after"], mean["top1_control"]) == (0.375, 0.625, 0.25)
    assert (mean["num_images"], mean["corrected"], mean["broken"]) == (8, 4, 2)
    assert mean["mean_iou_before"] is None and rows["val"]["mean_iou_after"] == 0.75


def test_the_interval_of_a_change_against_scipy():
    rng = np.random.default_rng(0)
    before, after = rng.random(150) < 0.5, rng.random(150) < 0.6
    difference = mean_change([result(before, after)])
    reference = scipy.stats.bootstrap(
        (before.astype(float), after.astype(float)),
        lambda x, y, axis: (y - x).mean(axis=axis),
        paired=True,
        n_resamples=NUM_RESAMPLES,
        method="percentile",
        rng=1,
    )
    assert [difference.low, difference.high] == pytest.approx(list(reference.confidence_interval), abs=0.01)
    assert difference.mean == pytest.approx(after.mean() - before.mean())


def test_intervals_hold_the_change_and_have_a_width_where_nothing_changes():
    rows = {row["set"]: row for row in tables.set_rows(compared())}
    assert (rows["b"]["change_low"], rows["b"]["change_high"]) == (-0.75, 0.75)  # 3 / 4 images
    unchanged = mean_change([result(first(2), first(2)), result(first(2, 8), first(2, 8), name="b")])
    assert (unchanged.low, unchanged.high) == (-0.75, 0.75)  # the fewer images count
    assert rows["a"]["change_low"] <= 0.5 <= rows["a"]["change_high"]
    assert tables.set_rows(compared()) == tables.set_rows(compared())  # the same resamples every time


def test_the_interval_of_the_mean_row_is_that_of_the_mean_of_the_changes():
    """Sets are independent of one another: the mean of n alike varies by the square root of n less than one of them."""
    sets = {name: result(first(100, 400), first(220, 400), name=name, shifted=True) for name in "abcd"}
    *rows, mean = tables.set_rows(sets)
    lengths = [row["change_high"] - row["change_low"] for row in rows]
    assert lengths == pytest.approx([2 * 1.96 * (0.3 * 0.7 / 400) ** 0.5] * 4, rel=0.1)
    assert mean["change_high"] - mean["change_low"] == pytest.approx(np.mean(lengths) / 2, rel=0.1)
    assert (mean["change_low"] + mean["change_high"]) / 2 == pytest.approx(0.3, abs=0.005)


def test_training_classes_and_the_others():
    labels = [0] * 4 + [1] * 4
    both = result([*first(1), *first(4)], [*first(4), *first(0)], labels=labels)
    *_, table = tables.tables_of({"a": both}, [0, 5])
    assert table.title == "Training classes and others, in per cent" and table.rows == [
        ["a", "training", "4", "25.0", "100.0", "+75.0", "100.0", "100.0", "+0.0"],
        ["a", "other", "4", "100.0", "0.0", "-100.0", "100.0", "100.0", "+0.0"],
    ]
    assert table.head[3:6] == ["top-1 before", "top-1 after", "change of top-1"]
    *_, table = tables.tables_of({"a": result(first(1))}, [0])
    assert table.head == ["set", "classes", "images", "top-1 before", "top-5 before"]
    assert table.rows == [["a", "training", "4", "25.0", "100.0"], ["a", "other", "0", "–", "–"]]
    assert "classes" not in tables.tables_of({"a": both})[-1].head


def test_class_changes_are_sorted():
    labels = [3] * 2 + [8] * 5 + [9]
    before, after = ([True, False, *first(1, 5), True], [False, False, *first(3, 5), True])
    changes = tables.class_changes([result(before, after, labels=labels)])
    assert list(changes) == [3, 9, 8] and list(changes.values()) == pytest.approx([-0.5, 0, 0.4])
    runs = [  # on other images
        result([False, True, True], [True, True, True], labels=[0, 1, 1]),
        result([True, True, False, True], [True, False, False, True], labels=[1, 1, 0, 2]),
    ]
    assert tables.class_changes(runs) == {1: -0.25, 2: 0.0, 0: 0.5}


def test_curves():
    factors = {"angle": np.array([0.0, 0, 20, 20, 20, 40]), "area": np.array([0.2] * 6)}
    sides = [[True, False, False, True, True, True], [True, True, False, True, True, True]]
    labels = [0, 0, 0, 0, -1, -1]  # the last two do not count
    assert tables.curves(result(*sides, labels=labels, factors=factors)) == {
        "angle": {"value": [0, 20], "num_images": [2, 2], "before": [0.5, 0.5], "after": [1, 0.5]},
    }


def test_bars_have_the_interval_of_the_change_at_their_ends():
    rows = tables.set_rows(compared())
    (drawn,) = (one for one in accuracy_figure(rows).axes[0].containers if isinstance(one, ErrorbarContainer))
    for row, line in zip(rows, drawn.lines[2][0].get_segments(), strict=True):
        ends = [100 * (row["top1_before"] + row[f"change_{end}"]) for end in ("low", "high")]
        assert line[:, 1].tolist() == pytest.approx(ends, abs=1e-6) and ends[0] < 100 * row["top1_after"] < ends[1]


def test_names_of_classes_and_sets_do_not_break_a_table():
    table = Table("Changes", ["class", "a|b"], [["x | y\nz", "<b>1</b>"], ["a\\|b\\", "1"]])
    lines = table.markdown().splitlines()
    assert lines[:3] == ["| class | a\\|b |", "|---|---:|", "| x \\| y z | &lt;b>1&lt;/b> |"]
    assert lines[3] == r"| a\\\|b\\ | 1 |"  # of which GitHub reads two cells
