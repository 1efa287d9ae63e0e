"""What README, docs and the pages of experiments say of results is what the files of results give."""

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.pages import experiment, without_model
from experiments.pages import experiment_results as of_experiment
from experiments.pages.experiment_results import HOME, LABELS, PAPER_WEIGHTS, RANDOM, SHIFTED, SWAP, runs_of, tested
from experiments.pages.gains import effort_runs, gain_at
from experiments.pages.pasted_objects import difference, over_both
from experiments.pages.text_blocks import BENCHMARKS, BLOCK, RESULTS, benchmark, by_group, commits_of, texts
from experiments.pages.write_pages import BLOCKS, PICTURE, points_of
from experiments.sweeps.choose_settings import choose_settings
from experiments.sweeps.results import Results
from experiments.sweeps.runs import OURS
from experiments.sweeps.seed_intervals import Difference, Gains, change, mean_gain, versus

from ..helpers.tiny import ROOT


SHOWN = {block[2]: block for path in texts() for block in BLOCK.finditer(path.read_text())}
SLOW = ("differences", "findings", "gain and loss", "half of the classes")  # the picture shows them too
ANEW = "run `python -m experiments write_pages`"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in SHOWN]
)
def test_texts_are_those_of_the_results(name):
    block = SHOWN[name]
    assert block[0] == f"{block[1]}{BLOCKS[name]()}\n{block[3]}", ANEW


def test_every_block_is_shown_once():
    assert SHOWN.keys() == BLOCKS.keys()
    found = [BLOCK.findall(path.read_text()) for path in texts()]
    assert sum(map(len, found)) == len(SHOWN)
    for path, blocks in zip(texts(), found, strict=True):
        text = path.read_text()
        markers = [len(re.findall(rf"(?:<!--|#) {marker}", text)) for marker in ("results: ", "end of results")]
        assert markers == [len(blocks)] * 2, path


def test_the_picture_shows_the_points_of_the_results():
    with Image.open(PICTURE) as image:
        assert image.text["points"] == points_of(experiment.price_picture()), ANEW


def test_bars_reach_to_the_ends_of_their_intervals():
    gaps = [of_set["without"]["bg_gap"] for of_set in benchmark("before_training")["sets"].values()]
    bars = [bar[:, 0] for bars in without_model.picture().axes[0].collections for bar in bars.get_segments()]
    ends = sorted((100 * gap["low"], 100 * gap["high"]) for gap in gaps)
    np.testing.assert_allclose(sorted(map(tuple, bars)), ends)


def test_another_result_changes_the_texts(monkeypatch):
    """The tests above can fail: with the predictions of one run reversed, a block is another."""
    results, before = tested(), experiment.sets_block()
    first = next(run for run in results.runs if run.method in experiment.SHOWN)
    sets = {
        name: replace(of_set, sides={"before": of_set.sides["after"], "after": of_set.sides["before"]})
        for name, of_set in first.sets.items()
    }
    others = [replace(run, sets=sets) if run is first else run for run in results.runs]
    monkeypatch.setattr(of_experiment, "tested", lambda: replace(results, runs=others))
    assert experiment.sets_block() != before


@pytest.mark.parametrize(
    "path",
    [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "experiments").glob("*.md"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_nothing_measured_is_written_by_hand(path):
    """Columns of numbers, which are aligned to the right, and intervals stand in blocks."""
    by_hand = re.sub(r"<!-- results: .*?<!-- end|```.*?```", "", path.read_text(), flags=re.DOTALL)
    assert not re.findall(r"(?<!:)---:|.*\d \[[-+−]?\d.*", by_hand)


def test_one_command_makes_all_results():
    planned = ["make", "--dry-run", "--always-make", "--file", "experiments/Makefile", "RUNS=nowhere"]
    planned += ["all"]
    commands = subprocess.run(planned, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    grids = {path.name for path in (ROOT / "experiments" / "grids").glob("emoji-shift*.yaml")}
    assert set(re.findall(r"sweep experiments/grids/(\S+)", commands)) == grids
    reports = dict(re.findall(r"report (.+) --output_dir nowhere/report-(\S+)", commands))
    assert {path.stem for path in RESULTS.glob("*.parquet")} == {*reports.values(), of_experiment.EARLIER.stem}
    pairs = [Path(path) for of in re.findall(r"other_images .* --pairs (.+)", commands) for path in of.split()]
    assert sorted((path.parent.name, path.name) for path in pairs[1::2]) == sorted(
        (name, method) for name, methods in by_group("other_images").items() for method in methods
    )
    assert pairs[::2] == [path.parent / "model" for path in pairs[1::2]]
    page = (ROOT / "experiments" / "sis.md").read_text()
    documented = re.findall(r"`((?:robust-vit train|python).*runs/sis-model.*)`", page)
    assert len(documented) == 2 and all(f"bin/{command}" in commands for command in documented)


def test_the_intervals_cover_what_the_docs_say():
    covered = [kind["coverage"] for kind in benchmark("coverage")["found"]]
    assert len(covered) == 30 and 0.93 <= min(covered) and max(covered) <= 0.98


def test_words_about_differences_are_those_of_the_intervals():
    """The blocks say "more", "inconclusive" and "falls" whatever is measured. The intervals must agree."""
    by_rate = of_experiment.gains_by_rate(of_experiment.STEPS)
    layers, lp_ft = (of_experiment.fitted(side) for side in ("before", "after"))
    gains = [of_experiment.difference(OURS, SWAP), change(layers, [SHIFTED])]
    gains += [difference(OURS, SWAP, "plain"), difference(SWAP, "layer", "plain")]
    falls = [change(runs, ["vendor"]) for runs in (runs_of(OURS), runs_of(SWAP), lp_ft)]
    earlier = Results(of_experiment.read(of_experiment.EARLIER).runs)
    falls += [change(earlier.of(name), ["rotation"]) for name in (OURS, "bce", SWAP)]
    inconclusive = [
        of_experiment.difference(SWAP, "relevance-and-swap"),
        versus(runs_of(SWAP), layers, [SHIFTED]),
        of_experiment.gain(PAPER_WEIGHTS),
        *(of_experiment.gain(method, HOME) for method in (OURS, SWAP)),
        *(gains_of_rate[SHIFTED] for gains_of_rate in by_rate.values()),
        by_rate[4e-7][RANDOM],
    ]
    assert all(gain.low > 0 for gain in gains) and all(fall.high < 0 for fall in falls)
    assert all(value.low < 0 < value.high for value in inconclusive)
    even = [experiment._verdict(Difference(0.0, -width, width)) for width in (0.01, 0.03)]
    assert even == ["similar", "inconclusive"]  # by the interval, and not by the mean


def test_results_are_of_one_commit():
    """All files are of the same code, without edits; of the frozen runs of `improve`, with drawings and with real
    objects, both efforts are."""
    commits = {run.commit for path in of_experiment.FILES for run in of_experiment.read(path).runs}
    frozen = {(name.startswith("photo"), run["commit"]) for (name, _), run in effort_runs().items()}
    assert len(commits) == 1 and len(frozen) == 2
    assert all(re.fullmatch("[0-9a-f]{40}", commit) for commit in commits | {commit for _, commit in frozen})


def test_pages_say_where_results_are_of_several_commits():
    shown = "".join(block[0] for block in SHOWN.values())
    several = [
        path.stem
        for path in BENCHMARKS.iterdir()
        if path.suffix in (".json", ".parquet") and ", " in commits_of(path.stem)
    ]
    assert {"real_photographs", "scale", "step"} <= {*several} and all(commits_of(name) in shown for name in several)


@pytest.mark.parametrize("path, least", [(of_experiment.SEARCH, 4), (of_experiment.RATES, 9)])
def test_the_tested_settings_are_those_that_were_chosen(path, least):
    """Weights, and the learning rates that are chosen at these weights; on other models than those of the tests."""
    searched, with_rate = of_experiment.read(path), path == of_experiment.RATES
    expected = {
        run.method: run.tuned | ({"learning_rate": run.learning_rate} if with_rate else {})
        for run in choose_settings(searched)[0]
    }
    settings = {run.method: json.loads(run.settings) | {"learning_rate": run.learning_rate} for run in tested().runs}
    assert len(expected.keys() & settings.keys()) > least
    for method in expected.keys() & settings.keys():
        assert settings[method].items() >= expected[method].items(), method
    assert not {run.seed for run in searched.runs} & {run.seed for run in tested().runs}
    assert not any(run.sets for run in searched.runs)
    assert {run.method for run in tested().runs} <= LABELS.keys() and {HOME, SHIFTED} <= runs_of(OURS)[0].sets.keys()


def test_gains_are_those_of_the_outcomes():
    """Of two models, on 30 photographs of four images: one more is right on each photograph, then one fewer on half of
    them."""
    numbers = {"background": np.repeat(range(30), 4), "class": np.tile(range(4), 30)}
    groups = {"scenes": {name: " ".join(map(str, of)) for name, of in numbers.items()}}
    runs = {
        name: {"places": {"scenes": {"before": "1100" * 30, "after": after * 15}}, "groups": groups}
        for name, after in {"a": "1110" * 2, "b": "11001000"}.items()
    }
    gain = gain_at(runs, "scenes")
    assert gain.mean == pytest.approx((30 - 15) / 240) and gain.low < 0 < gain.high
    one = gain_at({"a": runs["a"]}, "scenes")
    assert (one.mean, one.low, one.high) == pytest.approx((0.25, 0.15, 0.35))  # of each photograph the same: 3 / 30


def test_the_interval_over_photographs_is_that_over_images_with_as_many_on_each():
    """Counts by photograph are all that is kept of other_images.py."""
    outcomes = np.random.default_rng(0).integers(-1, 2, (3, 40, 12))  # by model, photograph and object
    drawn = np.repeat(np.arange(40), 12)
    of_images = [Gains(values.reshape(-1).astype(float), str(model), drawn) for model, values in enumerate(outcomes)]
    gain, expected = over_both(outcomes.mean(axis=2)), mean_gain({"all": of_images})
    assert (gain.mean, gain.low, gain.high) == pytest.approx((expected.mean, expected.low, expected.high))
