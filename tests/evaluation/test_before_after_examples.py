"""Examples of images before and after: of which kind, drawn how, and what their figure shows."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from robust_vit_hf import relevance_map
from robust_vit_hf.evaluation import examples as before_after_figure
from robust_vit_hf.evaluation.accuracy import measure_accuracy, set_result, write_finetuning_results
from robust_vit_hf.evaluation.examples import KINDS, Example, draw, explain, rows_of_kind
from robust_vit_hf.evaluation.sets import EvaluationSet
from robust_vit_hf.results.tables import main_table, set_rows

from ..helpers.sessions import session_of
from ..helpers.tiny import masked_dataset, tiny_vit


NUM_IMAGES = 80


def test_images_with_an_empty_mask_are_not_those_whose_relevance_left_the_background(monkeypatch, tmp_path):
    rows = masked_dataset(4).remove_columns("label")
    of_set = EvaluationSet(rows, [[0]] * 4)
    measured = {side: of_set.table.assign(predictions=4 * [[best]]) for side, best in (("before", 1), ("after", 0))}
    session = SimpleNamespace(sets={"a": of_set}, map_name="relevance")
    backgrounds = [{"before": 0.5, "after": 0.4}, {}, {"before": 0.9, "after": 0.2}, {"before": 1.0}]
    groups = []

    def explained(images, *_):
        return [Example(name, row, "x", Image.new("RGB", (8, 8)), background=backgrounds[row]) for name, row in images]

    def drawn(given):
        groups.extend(given)
        return SimpleNamespace(savefig=lambda path, **_: path.touch())

    monkeypatch.setattr(before_after_figure, "explain", explained)
    monkeypatch.setattr(before_after_figure, "before_after_figure", drawn)
    results = {"a": set_result("a", of_set, measured)}
    before_after_figure.write_before_after(tmp_path, results, session)
    title, ranked = next(iter(groups[0].items()))
    assert "of 2 those" in title and [example.row for example in ranked] == [2, 0]


def test_kinds_and_what_may_be_shown():
    accepted, before, after = [[0], [0], [0, 1], [], [2]], [1, 0, 1, 2, 2], [0, 0, 2, 2, 2]
    rows = masked_dataset(5).remove_columns("label").add_column("openly_licensed", [True, False, True, True, True])
    of_set = EvaluationSet(rows, accepted)
    measured = {
        side: of_set.table.assign(predictions=[[best] for best in predicted])
        for side, predicted in (("before", before), ("after", after))
    }
    results = {"a": set_result("a", of_set, measured)}
    found = {kind: rows_of_kind(kind, results, {"a": of_set})["a"] for kind in KINDS}
    assert found == {"corrected": [0], "broken": [2], "unchanged": [4]}


def test_a_draw_begins_with_the_shorter_one_and_takes_sets_in_turn():
    rows = {"a": list(range(20)), "b": list(range(100, 103))}
    drawn = draw(rows, 9, seed=3)
    assert [name for name, _ in drawn] == ["a", "b", "a", "b", "a", "b", "a", "a", "a"]
    assert draw(rows, 4, seed=3) == drawn[:4] and len(set(drawn)) == 9
    assert draw({"a": rows["a"]}, 6, seed=3) == [pair for pair in drawn if pair[0] == "a"]
    assert draw(rows, 9, seed=4) != drawn
    # Sets of equal length in other orders: else those of one benchmark, with the same classes in the same rows, would show the same rows.
    rows = dict.fromkeys(("a", "b"), range(20))
    drawn = draw(rows, 40, seed=3)
    orders = [[row for name, row in drawn if name == of] for of in rows]
    assert sorted(orders[0]) == sorted(orders[1]) == [*range(20)] and orders[0] != orders[1]


def test_shares_of_the_relevance_by_hand():
    """On the background of all relevance, and in the object of its pixels, for the predicted class."""
    session = session_of({"before": tiny_vit(0), "after": tiny_vit(1)}, {"noise": EvaluationSet.of(masked_dataset(4))})
    results, rows = measure_accuracy(session), session.sets["noise"]
    for side in session.sides.values():
        side.model.train()  # as where the results were kept, and nothing was measured
    (example,) = explain([("noise", 2)], session, results)
    for side, of in session.sides.items():
        row = rows.dataset.with_transform(rows.transform(of.processor))[2]
        output = relevance_map(of.model, row["pixel_values"][None])
        inside, whole = (output.relevance[0] * row["mask"]).sum().item(), output.relevance.sum().item()
        assert example.background[side] == pytest.approx(1 - inside / whole, rel=1e-4)
        assert example.coverage[side] == pytest.approx(inside / row["mask"].sum().item(), rel=1e-4)
        assert example.confidence[side] == pytest.approx(output.logits.softmax(dim=1).max().item(), rel=1e-4)


def test_the_examples_of_the_figure_follow_its_captions(tmp_path, monkeypatch):
    session = session_of(
        {"before": tiny_vit(0), "after": tiny_vit(1)}, {"noise": EvaluationSet.of(masked_dataset(60))}
    )
    results = measure_accuracy(session)
    saved = []
    draw_figure = before_after_figure.before_after_figure
    monkeypatch.setattr(
        before_after_figure, "before_after_figure", lambda rows: saved.append(rows[0]) or draw_figure(rows)
    )
    for _ in range(2):
        table = write_finetuning_results(tmp_path, results, replace(session, settings={"learning_rate": 1e-3}))
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["rows"] == set_rows(results) and written["settings"] == {"learning_rate": 1e-3}
    assert written["versions"]["torch"] == torch.__version__
    assert table == main_table(set_rows(results)).markdown() and table in (tmp_path / "tables.md").read_text()
    assert (tmp_path / "before_after.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob("*.partial"))
    most, corrected, worse = saved[0].values()
    assert len(most) == len(corrected) == len(worse) == 4
    left = [example.background["before"] - example.background["after"] for example in most]
    assert left == sorted(left, reverse=True) and left[0] >= max(
        example.background["before"] - example.background["after"] for example in corrected
    )
    for example in most:  # the prediction is the true class afterwards alone, and so is its map
        assert example.predicted["before"] != example.label == example.predicted["after"]
        assert example.maps["after", "predicted"] == example.maps["after", "true"]
        assert example.maps["before", "predicted"] != example.maps["before", "true"]
    again = saved[1].values()
    for first, second in zip((most, corrected, worse), again, strict=True):
        assert [example.row for example in first] == [example.row for example in second]
