"""The figures of the experiment in README and docs are those of its files of results."""

import runpy
from dataclasses import replace

import pytest

from .helpers.tiny import ROOT


write = runpy.run_path(str(ROOT / "docs" / "experiment" / "write.py"))


@pytest.fixture(scope="module")
def results():
    return write["load"]()


def test_texts_are_those_of_the_results(results):
    for path, text in write["texts"](results).items():
        assert path.read_text() == text, f"{path}: run `python docs/experiment/write.py`"


def test_every_block_is_shown_and_known():
    shown = [name for file in write["TEXTS"] for _, name, _ in write["BLOCK"].findall((ROOT / file).read_text())]
    assert set(shown) <= write["BLOCKS"].keys() and len(shown) == len(set(shown)) > 3
    for file in write["TEXTS"]:
        text = (ROOT / file).read_text()
        assert text.count(" results: ") == text.count(" end of results") == len(write["BLOCK"].findall(text))


def test_another_result_changes_the_texts(results):
    """The test above can fail: with the predictions of one run reversed, the texts are others."""
    first = next(run for run in results.runs if run.composed)
    swapped = {
        name: replace(of, sides={"before": of.sides["after"], "after": of.sides["before"]})
        for name, of in first.composed.items()
    }
    sets = {
        name: replace(of, sides={"before": of.sides["after"], "after": of.sides["before"]})
        for name, of in first.sets.items()
    }
    others = [replace(run, composed=swapped, sets=sets) if run is first else run for run in results.runs]
    changed = write["texts"](replace(results, runs=others))
    assert any(path.read_text() != text for path, text in changed.items())


def test_results_are_of_known_commits(results):
    assert all(run.commit and "dirty" not in run.commit for run in results.runs)


def test_labels_cover_all_methods(results):
    assert {run.method for run in results.runs} <= write["LABELS"].keys()
