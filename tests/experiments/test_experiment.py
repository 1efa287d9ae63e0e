"""The figures of the experiment in README and docs are those of its files of results."""

import json
import re
import runpy
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from ..helpers.tiny import ROOT


write = runpy.run_module("experiments.write_pages")
SHOWN = {found[2]: found for file in write["TEXTS"] for found in write["BLOCK"].finditer((ROOT / file).read_text())}
SLOW = ("differences", "findings", "price")  # the picture shows the prices too


@pytest.fixture(scope="module")
def results():
    return write["read"](write["TESTED"])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in SHOWN]
)
def test_texts_are_those_of_the_results(name, results):
    found = SHOWN[name]
    made = f"{found[1]}{write['BLOCKS'][name](results)}\n{found[3]}"
    assert found[0] == made, "run `python -m experiments write_pages`"


def test_the_picture_shows_the_points_of_the_results(results):
    with Image.open(write["PICTURE"]) as image:
        assert image.text["points"] == write["points_of"](write["picture"](results)), (
            "run `python -m experiments write_pages`"
        )


def test_one_command_makes_all_results():
    planned = ["make", "--dry-run", "--always-make", "--file", "experiments/Makefile", "RUNS=nowhere"]
    planned += ["all", "improve"]
    commands = subprocess.run(planned, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    grids = {path.name for path in (ROOT / "trainer" / "grids").glob("emoji-shift*.yaml")}
    assert set(re.findall(r"sweep trainer/grids/(\S+)", commands)) == grids
    reports = dict(re.findall(r"report (.+) --output_dir nowhere/report-(\S+)", commands))
    kept = {path.stem for path in (ROOT / "experiments" / "results").glob("*.parquet")}
    assert kept == {*reports.values(), write["EARLIER"].stem}
    assert "python benchmarks/improve.py --output_dir runs/improve --efforts minute full --bf16\n" in commands
    assert "runs/improve/improve.json" in re.findall(r"cp (\S+) benchmarks/", commands)
    pairs = [Path(path) for of in re.findall(r"other_images\.py .* --pairs (.+)", commands) for path in of.split()]
    measured = json.loads((ROOT / "experiments" / "benchmarks" / "other_images.json").read_text())["sets"]
    assert sorted((path.parent.name, path.name) for path in pairs[1::2]) == sorted(
        (name, made) for name, of_set in measured.items() for made in of_set
    )
    assert pairs[::2] == [path.parent / "model" for path in pairs[1::2]]
    documented = re.findall(
        r"`((?:robust-vit train|python).*runs/sis-model.*)`", (ROOT / "docs" / "sis.md").read_text()
    )
    assert len(documented) == 2 and all(f"bin/{command}" in commands for command in documented)


def test_the_intervals_cover_what_the_docs_say():
    found = json.loads((ROOT / "experiments" / "benchmarks" / "coverage.json").read_text())["found"]
    covered = [of["coverage"] for of in found]
    assert len(covered) == 30 and 0.93 <= min(covered) and max(covered) <= 0.97


def test_words_about_differences_are_those_of_the_intervals(results):
    """`write.py` writes "more", "unresolved" and "falls" whatever it measures. The intervals must agree."""
    new, on_forty, by_rate = write["SHIFTED"], write["pasting"]()["difference"], write["_by_rate"](write["STEPS"])
    layers, lp_ft = (write["_fitted"](results, side) for side in ("before", "after"))
    swapped, paper = (write["Results"](results.runs).of(name) for name in ("background-swap", write["PAPER_WEIGHTS"]))
    change, versus, less = write["change"], write["versus"], write["_less"]
    gains = [less(results, write["OURS"], "background-swap"), change(layers, [new]), by_rate[4e-7][write["RANDOM"]]]
    gains += [on_forty(write["OURS"], "background-swap", "plain"), on_forty("background-swap", "layer", "plain")]
    falls = [change(runs, ["vendor"]) for runs in (write["Results"](results.runs).of(write["OURS"]), swapped, lp_ft)]
    earlier = write["Results"](write["read"](write["EARLIER"]).runs)
    falls += [change(earlier.of(name), ["rotation"]) for name in ("robustvit", "bce", "background-swap")]
    unresolved = [
        less(results, "background-swap", "relevance-and-swap"),
        versus(swapped, layers, [new]),
        change(paper, [new]),
    ]
    unresolved += [of[new] for of in by_rate.values()]
    assert all(gain.low > 0 for gain in gains) and all(fall.high < 0 for fall in falls)
    assert all(one.low < 0 < one.high for one in unresolved)


def test_every_block_is_shown_and_known():
    shown = [name for file in write["TEXTS"] for _, name, _ in write["BLOCK"].findall((ROOT / file).read_text())]
    assert set(shown) <= write["BLOCKS"].keys() and len(shown) == len(set(shown)) > 3
    for file in write["TEXTS"]:
        text = (ROOT / file).read_text()
        assert text.count(" results: ") == text.count(" end of results") == len(write["BLOCK"].findall(text))


def test_another_result_changes_the_texts(results):
    """The test above can fail: with the predictions of one run reversed, a block is another."""
    first = next(run for run in results.runs if run.method in write["SHOWN"])
    sets = {
        name: replace(of, sides={"before": of.sides["after"], "after": of.sides["before"]})
        for name, of in first.sets.items()
    }
    others = [replace(run, sets=sets) if run is first else run for run in results.runs]
    sets_block = write["BLOCKS"]["sets"]
    assert sets_block(replace(results, runs=others)) != sets_block(results)


def test_results_are_of_one_commit():
    """All files are of the same code, without edits."""
    (commit,) = {run.commit for path in write["FILES"] for run in write["read"](path).runs}
    assert re.fullmatch("[0-9a-f]{40}", commit)


@pytest.mark.parametrize("file, least", [("SEARCH", 4), ("RATES", 9)])
def test_the_tested_settings_are_those_that_were_chosen(file, least, results):
    """Weights, and the learning rates that are chosen at these weights; on other models than those of the tests."""
    found = write["read"](write[file])
    chosen, _ = write["choose_settings"](found)
    expected = {
        run.method: run.tuned | ({"learning_rate": run.learning_rate} if file == "RATES" else {}) for run in chosen
    }
    tested = {run.method: json.loads(run.settings) | {"learning_rate": run.learning_rate} for run in results.runs}
    assert len(expected.keys() & tested.keys()) > least
    for method in expected.keys() & tested.keys():
        assert tested[method].items() >= expected[method].items(), method
    assert not {run.seed for run in found.runs} & {run.seed for run in results.runs}
    assert not any(run.sets for run in found.runs)


def test_labels_cover_all_methods(results):
    assert {run.method for run in results.runs} <= write["LABELS"].keys()
