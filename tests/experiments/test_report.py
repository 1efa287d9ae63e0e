"""`robust-vit report`: the paper's tables, figures and findings from one file of results."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy
import yaml
from PIL import Image
from pyarrow import parquet as pq

from experiments.paper.findings import (
    ALIKE,
    METHOD_CLAIMS,
    NO_MORE,
    RISES,
    SIMILAR,
    UNTESTED,
    Difference,
    Finding,
    _less,
    findings,
    findings_table,
    verdicts,
)
from experiments.paper.paper_plots import size_figure
from experiments.paper.published import published_models
from experiments.paper.published_tables import accuracy_tables
from experiments.sweeps.choose_settings import choose_mixtures, choose_settings
from experiments.sweeps.gain_and_price import price_figure, price_table, prices
from experiments.sweeps.results import Results
from experiments.sweeps.results_parquet import join, read_results, write_results
from robust_vit_hf.data.known_sets import PAPER_SETS, UNSHIFTED, title_of
from robust_vit_hf.models.model_names import MODELS
from robust_vit_hf.results.intervals import Gains, change, mean_gain, versus
from robust_vit_hf.results.run_results import OURS, SetResult, SideResult

from ..helpers.commands import call, files_below, succeed
from ..helpers.experiment import MASKED, result_rows, write_rows
from ..helpers.layouts import miniatures
from ..helpers.timm_models import HUB_CONFIG, saved_in, tiny
from ..helpers.tiny import DATA, ROOT, masked_dataset, tiny_vit


FIXED = DATA / "experiment"


@pytest.fixture
def results(tmp_path):
    return read_results(write_rows(tmp_path / "results.parquet", result_rows()))


def test_the_report_of_a_fixed_file(tmp_path):
    """Equal to the committed one, and to the byte from one time to the next, figures too."""
    for name in ("a", "b"):
        succeed("report", FIXED / "results.parquet", "--output_dir", tmp_path / name)
    files = files_below(tmp_path / "a")
    assert files == files_below(tmp_path / "b")
    for name in ("report.md", "report.tex"):
        assert files[name].decode() == (FIXED / name).read_text()
    figures = {
        "price",
        "figure_4",
        *(f"figure_8_to_14_{name}" for name in ("imagenet-1k", "imagenet-a", "si-score-rotation")),
    }
    assert {name for name in files if not name.startswith("report.")} == {
        f"{figure}.{kind}" for figure in figures for kind in ("png", "pdf")
    }
    with Image.open(tmp_path / "a" / "figure_4.png") as picture:
        assert picture.width > 300


@pytest.mark.parametrize(
    "before, after, bound, verdicts",
    [
        (0.75, {1e-6: 0.625, 1e-5: 0.5}, 0.25, {1e-6: "", 1e-5: "chosen"}),
        (0.75, {1e-6: 0.625, 1e-5: 0.5}, 0.2, {1e-6: "chosen", 1e-5: ""}),
        # As counts of images say: of 50 images one less is right, which as a difference of floats is more than 0.02.
        (0.98, {1e-6: 0.98, 1e-5: 0.96}, 0.02, {1e-6: "", 1e-5: "chosen"}),
        (0.8, {1e-6: 0.4, 1e-5: 0.6}, 0.02, {1e-6: "", 1e-5: "beyond the bound"}),  # the one with the least fall
    ],
)
def test_the_highest_rate_whose_fall_is_at_most_the_bound_is_chosen(before, after, bound, verdicts, tmp_path):
    rows = [
        row | {"validation_before": before, "validation_after": after[row["learning_rate"]]} for row in result_rows()
    ]
    chosen, table = choose_settings(read_results(write_rows(tmp_path / "r.parquet", rows, bound=bound)))
    assert {float(row[2]): row[-1] for row in table.rows if row[:2] == ["ViT-B", "robustvit"]} == verdicts
    assert [verdicts[run.learning_rate] for run in chosen if run.method == "robustvit"] == 4 * [max(verdicts.values())]


@pytest.mark.parametrize(
    "row_change, message",
    [
        ({"epochs": 3.0}, "ViT-B, robustvit: its learning rates 1e-06, 1e-05 differ in their seeds or epochs"),
        ({"validation_after": None}, "differ in their validation images, some of which have no labels"),
    ],
)
def test_rates_with_other_budgets_are_refused(row_change, message, tmp_path):
    rows = result_rows()
    rows = [row | (row_change if row["run"] == "ViT-B-robustvit-1e-05-1" else {}) for row in rows]
    assert message in call("report", write_rows(tmp_path / "r.parquet", rows), "--output_dir", tmp_path / "out").error


def test_the_interval_over_seeds_is_students():
    """Of seeds with images of their own, over the means of the sets; of two, no resample is beyond both, and what a third would
    give is."""
    gains = {
        name: [
            Gains((np.arange(200) < right).astype(int), str(seed), np.arange(200), str(seed))
            for seed, right in enumerate(rights)
        ]
        for name, rights in {"a": (20, 60), "b": (0, 40)}.items()
    }
    difference = mean_gain(gains)
    margin = 12.706 * 0.1  # Student's t with one degree of freedom; the deviation is 0.1 √2, of two seeds
    assert (difference.low, difference.high) == pytest.approx((0.15 - margin, 0.15 + margin), abs=1e-4)
    assert difference.level(0) == pytest.approx(scipy.stats.ttest_1samp([0.05, 0.25], 0).pvalue)
    assert difference.level(difference.low) == pytest.approx(0.05) and difference.level(0, below=True) == 1


def test_what_seeds_share_widens_the_interval():
    """Images of all seeds, against a mixed model with a variance of seeds, of images and of the rest."""
    rng = np.random.default_rng(0)
    values = rng.random((5, 40)) + rng.normal(0, 2, 40) + rng.normal(0, 0.1, (5, 1))
    found = mean_gain({"a": [Gains(of, str(seed), np.arange(40)) for seed, of in enumerate(values)]})
    residuals = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    of_seeds, of_images = (values.mean(axis).var(ddof=1) / len(values.mean(axis)) for axis in (1, 0))
    expected = of_seeds + of_images - (residuals**2).sum() / (4 * 39) / (5 * 40)
    error = (found.high - found.mean) / scipy.stats.t.ppf(0.975, found.freedom)
    assert error**2 == pytest.approx(expected, rel=0.02) and found.mean == pytest.approx(values.mean())
    assert 10 < found.freedom < 44
    both = [Gains(of, str(seed), np.arange(40)) for seed, of in enumerate(values)]
    both += [replace(one, values=one.values + 0.1) for one in both]  # two models of each seed
    assert mean_gain({"a": both}).high == pytest.approx(found.high + 0.05)
    apart = mean_gain({"a": [Gains(of, str(seed), np.arange(40), str(seed)) for seed, of in enumerate(values)]})
    assert apart.freedom == pytest.approx(4) and apart.high - apart.low < (found.high - found.low) / 2


def test_photographs_count_and_not_their_images(results):
    run = results.runs[0]
    name, of_set = next((name, of) for name, of in run.sets.items() if of.classes is not None)
    ours = [replace(run, seed=str(seed)) for seed in range(5)]
    of_photographs = [replace(one, sets={name: replace(of_set, clusters=np.arange(len(of_set)) % 3)}) for one in ours]
    alone, crossed = change(ours, [name]), change(of_photographs, [name])
    assert alone.mean == crossed.mean and crossed.freedom == pytest.approx(2, rel=0.3) and alone.freedom > 10


def test_agreement_of_all_images_and_runs_has_a_width():
    gains = {
        name: [Gains(np.zeros(count, dtype=int), "0", np.arange(count))] for name, count in {"a": 60, "b": 30}.items()
    }
    difference = mean_gain(gains)
    assert (difference.mean, difference.low, difference.high) == (0.0, -0.1, 0.1)
    both = {name: [replace(of, seed=seed) for of in of_set for seed in "01"] for name, of_set in gains.items()}
    assert mean_gain(both).high == 0.1
    for sign, ends in ((1, (0.9, 1.0)), (-1, (-1.0, -0.9))):  # no change is more than that of all images
        certain = mean_gain({"a": [Gains(np.full(30, sign), "0", np.arange(30))]})
        assert (certain.low, certain.high) == pytest.approx(ends, abs=1e-12)


def test_runs_are_paired_by_model_and_seed(results):
    runs = choose_settings(results)[0]
    ours, other = ([run for run in runs if run.method == name] for name in ("robustvit", "bce"))
    against = versus(ours, other, ["imagenet-a"])
    assert against.mean == pytest.approx(change(other, ["imagenet-a"]).mean - change(ours, ["imagenet-a"]).mean)
    assert versus(ours, [], ["imagenet-a"]) is None
    assert versus(ours[:1], other[1:2], ["imagenet-a"]) is None  # of another seed
    one = other[0].sets["imagenet-a"]
    for changed in ({"images": "0123"}, {"classes": one.classes[::-1]}):
        moved = [replace(run, sets=run.sets | {"imagenet-a": replace(one, **changed)}) for run in other]
        with pytest.raises(ValueError, match="on other images of `imagenet-a` each"):
            versus(ours, moved, ["imagenet-a"])


def verdicts_of(runs):
    found = findings(Results(runs))
    return {finding.statement: verdict for finding, verdict in zip(found, verdicts(found), strict=True)}


def test_findings(results):
    chosen, _ = choose_settings(results)
    assert verdicts_of(chosen)["Top-1 rises on INet-A"] == "unresolved"  # 2 seeds
    one_seed = [run for run in chosen if run.seed == "0"]
    of_one = verdicts_of(one_seed)
    assert of_one["Top-1 rises on INet-A"] == "agrees" and of_one["Top-1 falls on INet val"] == "unresolved"
    assert of_one["RRR gains less on the shifted sets than Ours"] == "not measured"
    assert of_one["Top-1 rises on Sketch"] == "not measured"
    name = "w/o background loss (Eq. 1): less gain on the shifted sets"
    runs = [run for run in results.runs if run.learning_rate == 1e-6]
    swapped = {"robustvit": "without-background", "without-background": "robustvit"}
    other = [replace(run, method=swapped.get(run.method, run.method)) for run in runs]
    found = [{f.statement: f for f in findings(Results(of))}[name] for of in (runs, other)]
    assert [finding.value.mean > 0 for finding in found] == [False, True]
    # A claim about one of the paper's models is about that one, and about models of the user where none is the paper's.
    claim = "w/o classification loss (Eq. 4) (ViT-B): less gain on the shifted sets"
    names = {"bce": "without-confidence"}
    runs = [replace(run, method=names.get(run.method, run.method)) for run in runs]
    own = [replace(run, model={"ViT-B": "a", "DeiT-B": "b"}[run.model]) for run in runs]
    of_one, of_own = ({f.statement: f.value for f in findings(Results(of))}[claim] for of in (runs, own))
    assert of_own is not None and of_own.mean != of_one.mean
    # Of the classes that were trained on and the others, a set tells where it has images of both in every seed.
    group = "Both groups of classes gain similarly on the shifted sets"
    one_kind = [replace(run, training_classes={*range(8)}) if run.seed == "1" else run for run in runs]
    of_both, of_some = ({f.statement: f.value for f in findings(Results(of))}[group] for of in (runs, one_kind))
    assert of_both is not None and of_some is None


@pytest.mark.parametrize(
    "sign, low, high, verdict",
    [
        (RISES, 0.01, 0.3, "agrees"),
        (RISES, -0.01, 0.3, "unresolved"),
        ("falls", 0.0, 0.0, "unresolved"),
        (ALIKE, -0.019, 0.019, "agrees"),
        (ALIKE, 0.001, 0.03, "unresolved"),
        (ALIKE, 0.021, 0.03, "disagrees"),
        ("is as good or better", -0.019, 0.3, "agrees"),
        ("is as good or better", -0.05, 0.3, "unresolved"),
        ("is as good or better", -0.05, -0.03, "disagrees"),
        (NO_MORE, -0.3, -0.1, "agrees"),
        (NO_MORE, -0.3, 0.03, "unresolved"),
        (NO_MORE, 0.03, 0.1, "disagrees"),
    ],
)
def test_verdicts_follow_the_interval(sign, low, high, verdict):
    assert verdicts([Finding("Table 1", "claim", sign, Difference((low + high) / 2, low, high))]) == [verdict]


def test_verdicts_of_many_claims_are_those_of_holm():
    """The k-th smallest of m levels is compared with 5 % / (m + 1 - k), up to the first one above."""
    levels = (0.03, 0.015, 0.0251, 0.001)
    ends = [scipy.stats.norm.ppf(1 - level / 2) / scipy.stats.norm.ppf(0.975) for level in levels]
    found = [Finding("Table 1", "claim", RISES, Difference(0.1, 0.1 - 0.1 / end, 0.1 + 0.1 / end)) for end in ends]
    assert [finding.levels["agrees"] for finding in found] == pytest.approx(levels)
    assert verdicts(found) == ["unresolved", "agrees", "unresolved", "agrees"]
    others = [replace(found[0], value=None), replace(found[3], sign=UNTESTED)]  # do not count
    assert (
        verdicts([*found, *others])[-2:] == ["not measured", "no test"]
        and verdicts(found) == verdicts([*found, *others])[:4]
    )


@pytest.mark.parametrize("claim", [claim for claim in METHOD_CLAIMS if claim.source == "Table 4"])
def test_the_claims_have_the_signs_of_the_published_figures(claim):
    names = [name for name in PAPER_SETS if (name not in UNSHIFTED) == claim.shifted]
    for model in claim.models:
        published = published_models()[model]["paper"]
        one, two = (published["full-loss" if m == "robustvit" else m] for m in (claim.first, claim.second))
        difference = np.mean([two[name]["top1"] - one[name]["top1"] for name in names]) / 100
        if claim.sign == ALIKE:
            assert abs(difference) <= SIMILAR
        else:
            assert (difference > 0) == (claim.sign == RISES)


@pytest.mark.parametrize("gain, verdict", [(0.07, "agrees"), (-0.07, "disagrees"), (0.0, "unresolved")])
def test_relevance_maps_agree_with_the_paper_where_they_cover_the_masks_better(gain, verdict, tmp_path):
    rows = result_rows()
    for row in rows:
        if row["set"] == MASKED:
            row["mean_iou_after"] = row["mean_iou_before"] + gain + 0.001 * int(row["seed"])
    chosen, _ = choose_settings(read_results(write_rows(tmp_path / "results.parquet", rows)))
    claim = "The relevance maps cover the masks better: mIoU"
    (row,) = findings_table([one for one in findings(Results(chosen)) if one.statement == claim]).rows
    assert row[0] == "Table 3" and row[2] == "2" and row[-1] == verdict
    low, high = (float(end) for end in re.search(r"\[(.*), (.*)\]", row[3]).groups())
    assert low < 100 * gain + 0.05 < high and high - low == pytest.approx(
        2 * 12.706 * 0.05, abs=0.11
    )  # Student's t, 1


def test_gain_and_price_by_rate_and_share(results):
    """The chosen setting of each method, its other rates, and its mixtures with the original model."""
    ours = [run for run in results.runs if run.method == "robustvit" and run.model == "ViT-B"]
    halves = [replace(run, name=f"{run.name}, half", share=0.5) for run in ours]
    chosen = [run for run in ours if run.learning_rate == 1e-6]
    found = prices([*ours, *halves], chosen, "imagenet-a", "imagenet-1k")["robustvit"]
    assert [(point.learning_rate, point.share, point.chosen) for point in found] == [
        (1e-6, 0.5, False), (1e-6, 1.0, True), (1e-5, 0.5, False), (1e-5, 1.0, False)
    ]  # fmt: skip
    assert found[1].gain == change(chosen, ["imagenet-a"]) and found[1].home == change(chosen, ["imagenet-1k"])
    table = price_table({"robustvit": found}, {"robustvit": "squared error"}, "INet-A", "INet val")
    assert table.rows == [["squared error", "1e-06", "2", "–", str(found[1].gain), str(found[1].home)]]
    mixed = [run for run in halves if run.learning_rate == 1e-5]  # the rule may choose a mixture of another rate
    of_both = prices([*ours, *halves], [*chosen, *mixed], "imagenet-a", "imagenet-1k")
    rows = price_table(of_both, {}, "INet-A", "INet val").rows
    assert [row[:2] for row in rows] == [["robustvit, mixture of 0.5", "1e-05"], ["robustvit", "1e-06"]]
    axis = price_figure({"robustvit": found}, {}, "INet-A", "INet val").axes[0]
    through_rates, through_mixtures = (line.get_xydata() for line in axis.lines[:2])
    points = [(100 * point.home.mean, 100 * point.gain.mean) for point in found]
    assert through_rates.tolist() == [list(points[1]), list(points[3])]
    assert through_mixtures.tolist() == [[0, 0], list(points[0]), list(points[1])]  # and not those of the other rate
    uneven = Difference(0.1, 0.08, 0.17)  # as of one seed
    bars = price_figure({"": [replace(found[1], gain=uneven, home=uneven)]}, {}, "", "").axes[0].collections
    ends = sorted(np.ptp(bar.get_segments()[0], axis=0).tolist() for bar in bars)
    assert ends == [pytest.approx([0, 9]), pytest.approx([9, 0])]
    assert all(bar.get_segments()[0].max() == pytest.approx(17) for bar in bars)
    of_chosen = price_figure(of_both, {}, "INet-A", "INet val").axes[0].lines[1].get_xydata()
    assert of_chosen.tolist() == [[0, 0], list(points[2]), list(points[3])]
    of_one_seed = [run for run in halves if run.seed == ours[0].seed]  # a mean over others than the chosen setting's
    found = prices([*ours, *of_one_seed], chosen, "imagenet-a", "imagenet-1k")
    lines = price_figure(found, {}, "INet-A", "INet val").axes[0].lines
    assert (
        ":" not in [line.get_linestyle() for line in lines]
        and lines[0].get_xydata().tolist() == through_rates.tolist()
    )
    timed = [replace(ours[0], seed=str(seed), seconds=of) for seed, of in enumerate((10.0, 20.0, 90.0, None))]
    (point,) = prices(timed, timed, "imagenet-a", "imagenet-1k")["robustvit"]
    assert (point.seconds, point.seeds) == (20.0, 4)  # the median, of those that were not resumed
    assert price_table({"robustvit": [point]}, {}, "INet-A", "INet val").rows[0][:4] == [
        "robustvit",
        "1e-06",
        "4",
        "20",
    ]
    models = {(run.model, run.learning_rate): run for run in results.runs if run.method == "robustvit"}
    of_models = [models["ViT-B", 1e-6], models["DeiT-B", 1e-5]]  # each model has its own rate
    found = prices(results.runs, of_models, "imagenet-a", "imagenet-1k")
    rates = {name: [point.learning_rate for point in points if point.chosen] for name, points in found.items()}
    assert rates == {"ViT-B, robustvit": [1e-6], "DeiT-B, robustvit": [1e-5]}
    with pytest.raises(ValueError, match=r"ViT-B, robustvit: the chosen setting, .* was not measured on"):
        prices(results.runs, [replace(chosen[0], learning_rate=0.5)], "imagenet-a", "imagenet-1k")


def measured(run, share, gained, lost):
    """A run on 100 validation images, of which it corrects some on other backgrounds and loses some as they are."""

    def on(before, after):
        ranks = [np.where(np.arange(100) < right, 0, 5) for right in (before, after)]
        sides = dict(zip(("before", "after"), map(SideResult, ranks), strict=True))
        return SetResult("validation", sides, np.zeros(100, dtype=int))

    return replace(run, share=share, composed={"mixed_rand": on(20, 20 + gained), "original": on(90, 90 - lost)})


def test_settings_are_compared_on_the_seeds_that_all_have(results):
    """The lower rate corrects more images of the first seed, and none of the second, which the higher one lacks."""
    runs = [run for run in results.runs if run.method == "robustvit" and run.model == "ViT-B"]
    low = [measured(run, 1.0, 50 if run.seed == "0" else 0, 0) for run in runs if run.learning_rate == 1e-6]
    high = [measured(run, 1.0, 30, 0) for run in runs if run.learning_rate == 1e-5 and run.seed == "0"]
    assert len(low) == 2 and len(high) == 1
    chosen, table = choose_settings(replace(results, runs=[*low, *high], choose_by="mixed_rand"))
    assert chosen == low and [row[6] for row in table.rows] == ["70.0", "50.0"]


def test_settings_are_paired_by_seed_in_any_order_of_the_runs(results):
    """Of each seed, the higher rate corrects two images more and loses one: clearly better by the same images alone."""
    runs = [run for run in results.runs if run.method == "robustvit" and run.model == "ViT-B"]
    gained = {("0", 1e-6): 50, ("0", 1e-5): 52, ("1", 1e-6): 0, ("1", 1e-5): 2}
    runs = [measured(run, 1.0, gained[run.seed, run.learning_rate], run.learning_rate == 1e-5) for run in runs]
    for order in ((0, 1, 2, 3), (0, 1, 3, 2), (3, 0, 2, 1)):
        chosen, _ = choose_settings(replace(results, runs=[runs[place] for place in order], choose_by="mixed_rand"))
        assert {run.learning_rate for run in chosen} == {1e-5}


def test_a_mixture_is_chosen_where_all_weights_lose_too_much(results):
    """Of 100 validation images, all weights correct 50 on other backgrounds and lose 10 as they are, half of them 30
    and none. A setting without mixtures is not chosen from."""
    runs = [run for run in results.runs if run.method == "robustvit" and run.model == "ViT-B"]
    low, high = ([run for run in runs if run.learning_rate == rate] for rate in (1e-6, 1e-5))
    all_weights, halves = ([measured(run, *of) for run in high] for of in ((1.0, 50, 10), (0.5, 30, 0)))
    without = [measured(run, 1.0, 60, 0) for run in low]
    mixed = replace(results, runs=[*all_weights, *halves, *without], choose_by="mixed_rand")
    assert choose_mixtures(mixed) == halves
    assert choose_settings(mixed)[0] == without
    assert choose_mixtures(replace(mixed, runs=without)) == []
    assert choose_mixtures(replace(mixed, validation_bound=0.1)) == []  # all of the weights are chosen


def test_validation_images_without_a_label_do_not_choose(results):
    """50 of 100 have one. The model before corrects 20 of these on other backgrounds, the model after 40, and all as they are."""

    def on(before, after):
        ranks = [np.where(np.arange(100) < right, 0, 5) for right in (before, after)]
        sides = dict(zip(("before", "after"), map(SideResult, ranks), strict=True))
        return SetResult("validation", sides, np.where(np.arange(100) < 50, 0, -1))

    composed = {"mixed_rand": on(20, 40), "original": on(50, 50)}
    runs = [run for run in results.runs if (run.method, run.model) == ("bce", "ViT-B")]
    runs = [replace(run, composed=composed) for run in runs]
    _, table = choose_settings(replace(results, runs=runs, choose_by="mixed_rand"))
    assert [row[5:8] for row in table.rows] == [["40.0", "80.0", "0.0"]]


def test_the_interval_of_a_difference_on_other_images():
    found = _less(Difference(0.1, 0.0, 0.3), Difference(0.05, 0.02, 0.06))
    expected = (-0.05, -0.05 - math.hypot(0.03, 0.2), -0.05 + math.hypot(0.01, 0.1))
    assert (found.mean, found.low, found.high) == pytest.approx(expected)


def test_what_a_file_of_results_keeps_of_a_set(results, tmp_path):
    """Whether its images have one class, and how many classes were ranked."""
    run = results.runs[0]
    one = run.sets["imagenet-a"]
    sides = one.sides | {"after": replace(one.sides["after"], num_ranked=2)}  # of a set, the fewer count
    changed = replace(run, sets=run.sets | {"imagenet-a": replace(one, sides=sides, by_class=False)})
    write_results(tmp_path / "r.parquet", replace(results, runs=[changed]))
    (again,) = read_results(tmp_path / "r.parquet").runs
    assert [name for name, found in again.sets.items() if not found.by_class] == ["imagenet-a"]
    assert again.sets["imagenet-a"].accuracy("after", 5) is None and again.sets["imagenet-1k"].accuracy("after", 5)
    ranks = [[of.sets[name].sides["after"].ranks.tolist() for name in run.sets] for of in (run, again)]
    assert ranks[0] == ranks[1] and {rank for of_set in ranks[0] for rank in of_set} == {*range(6)}


def test_later_sets_are_no_mean_without_a_shift(results):
    """In some of them less is better."""
    run = results.runs[0]
    sets = run.sets | {"imagenet-9-only_bg_b": replace(run.sets["imagenet-1k"], name="imagenet-9-only_bg_b")}
    found = Results([replace(run, sets=sets)])
    assert found.unshifted == ["imagenet-1k"] and "imagenet-9-only_bg_b" in found.sets
    real, synthetic = (accuracy_tables(found)[name].head for name in ("table_1", "table_2"))
    assert set(real) - set(synthetic) >= {title_of("imagenet-9-only_bg_b")}


def test_two_runs_of_a_setting_and_seed_are_refused(results):
    """As of files of two machines, whose numbers have different formats."""
    again = [replace(run, name=f"{run.name}, again", settings='{"bf16": true}') for run in results.runs]
    with pytest.raises(
        ValueError, match=r"-1e-06-0` and `.*-1e-06-0, again` have the same setting and seed, and differ in bf16"
    ):
        choose_settings(join([results, replace(results, runs=again)]))
    longer = [replace(run, name=f"{run.name}, longer", epochs=60.0) for run in results.runs]
    with pytest.raises(ValueError, match="have the same setting and seed, and differ in num_train_epochs"):
        choose_settings(join([results, replace(results, runs=longer)]))


def test_files_are_joined_and_the_run_on_most_sets_is_taken(results):
    search = replace(results, runs=[replace(run, name=f"{run.name}, search", sets={}) for run in results.runs])
    search.runs[0] = replace(search.runs[0], settings='{"benchmark_sets": false}')
    joined = join([search, results])
    assert [run.name for run in joined.runs] == [run.name for run in results.runs]
    assert [run.name for run in join([results, search]).runs] == [run.name for run in results.runs]
    longer = replace(results, runs=[replace(run, name=f"{run.name}, longer", epochs=60.0) for run in results.runs])
    other = replace(results, runs=[replace(results.runs[0], name="other", settings='{"background_swap": 0.5}')])
    mixed = replace(results, runs=[replace(run, name=f"{run.name}, share 0.5", share=0.5) for run in results.runs])
    assert len(join([results, longer, other, mixed]).runs) == 3 * len(results.runs) + 1
    with pytest.raises(ValueError, match="were to be chosen by different rules"):
        join([results, replace(results, validation_bound=0.5)])
    of_both = [
        replace(results, runs=[replace(run, name=f"{run.name}, of {digest}", original=digest) for run in results.runs])
        for digest in ("0123", "4567")
    ]
    with pytest.raises(ValueError, match="have the same setting and seed, and differ in the original model"):
        choose_settings(join(of_both))
    alike = [
        replace(results, runs=[replace(run, original=digest) for run in results.runs]) for digest in ("0123", "4567")
    ]
    with pytest.raises(
        ValueError, match=rf"Two runs are named `{results.runs[0].name}`, and differ in their original"
    ):
        join(alike)


def test_numbers_of_samples_and_classes(results):
    """Figure 7 and its findings are of the variants of its grid."""
    variants = yaml.safe_load((ROOT / "trainer" / "grids" / "figure7.yaml").read_text())["variants"]
    ours = [run for run in results.runs if run.method == OURS and run.learning_rate == 1e-6]
    runs = []
    for variant in variants:
        images = len(runs) + 4
        runs += [
            replace(run, name=f"{run.name}, {variant}", method=variant, train_images=images, training_classes={0, 1})
            for run in ours
        ]
    measured = Results(runs)
    values = [finding.value for finding in findings(measured) if finding.source == "Figure 7"]
    assert len(values) == 4 and None not in values
    (axis,) = size_figure(measured).axes
    assert len(axis.lines[0].get_xdata()) == len(variants)


def test_the_original_is_that_of_all_seeds(results):
    """Of one model on one set of images, a single value; where each seed has its own, their mean and deviation."""
    rows = {row[1]: row for row in accuracy_tables(Results(results.runs))["table_1"].rows}
    assert "±" not in rows["Original"][3]
    first = next(run for run in results.runs if run.seed == "0")
    result = first.sets["imagenet-1k"]
    other = result.sides["before"].ranks.copy()
    other[:2] = 5 - other[:2]
    of_other = replace(result, sides=result.sides | {"before": SideResult(other)})
    seeds = [first, replace(first, seed="1", sets=first.sets | {"imagenet-1k": of_other})]
    tops = [run.sets["imagenet-1k"].accuracy("before") for run in seeds]
    rows = {row[1]: row for row in accuracy_tables(Results(seeds))["table_1"].rows}
    assert rows["Original"][3].startswith(f"{100 * np.mean(tops):.1f}±") and tops[0] != tops[1]
    sides = {
        name: replace(side, num_ranked=1) for name, side in result.sides.items()
    }  # as of objects that were cut out
    best_alone = replace(first, method="cut out", sets={"imagenet-1k": replace(result, sides=sides)})
    for runs in ([first, best_alone], [best_alone, first]):
        rows = {row[1]: row for row in accuracy_tables(Results(runs))["table_1"].rows}
        assert "–" not in rows["Original"][3] and "–" in rows["cut out"][3]


def test_top_five_is_unknown_where_a_run_has_no_ranks(results):
    """As of objects that were cut out, of which only the best class is known."""
    runs = []
    for run in results.runs:
        sets = {
            name: replace(of, sides=of.sides | {"after": SideResult(of.sides["after"].ranks, num_ranked=1)})
            for name, of in run.sets.items()
        }
        runs.append(replace(run, sets=sets))
    rows = {tuple(row[:2]): row for row in accuracy_tables(Results(runs))["table_1"].rows}
    known, unknown = (rows[f"Avg. change of top-{k}", "Ours"][3:] for k in (1, 5))
    assert all("[" in cell for cell in known) and {*unknown} == {"–"}


def test_refused(tmp_path):
    def error(*sources) -> str:
        return call("report", *sources, "--output_dir", tmp_path / "out").error

    old = write_rows(tmp_path / "old.parquet", result_rows())
    table = pq.read_table(old)
    facts = table.schema.metadata[b"robust-vit"]
    pq.write_table(table.replace_schema_metadata({"robust-vit": facts.replace(b'"version": 4', b'"version": 0')}), old)
    assert f"`{old}` is of version 0, and version 4 is read here: make it again from the folders" in error(old)
    (tmp_path / "empty").mkdir()
    assert "holds no complete run of `robust-vit sweep`: name the folder of a sweep" in error(tmp_path / "empty")
    assert not (tmp_path / "out").exists()


def test_names_of_sets_in_a_report(tmp_path):
    """Of a file that somebody else wrote: figures lie in the folder."""
    named = {"imagenet-1k": "../$\\frac{0$ \\", "imagenet-a": "a|b\0$_{%^/.."}
    rows = [row | {"set": named.get(row["set"], row["set"])} for row in result_rows()]
    # A method on one and on two images of each class, for Figure 7.
    rows += [row | {"run": f"{row['run']}, more", "train_images": 24, "seed": f"1{row['seed']}"} for row in rows]
    path = write_rows(tmp_path / "results.parquet", rows)
    succeed("report", path, "--output_dir", tmp_path / "in" / "out")
    assert {file.parent.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.p[nd][gf]")} == {"in/out"}


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """Folder of all sets of the paper, as `--imagenet` takes it, in miniature."""
    root = tmp_path_factory.mktemp("imagenet")
    for name, folder in miniatures(root / "layouts").items():
        (root / name).symlink_to(folder)
    for name in (*(f"paper-split-seed-{seed}" for seed in range(3)), "paper-split", "paper-split-tokencut"):
        for split, seed in (("train", 0), ("validation", 1)):
            rows = masked_dataset(4, seed).remove_columns("label").add_column("label", [0, 0, 1, 105])
            rows.to_parquet(root / name / f"{split}-00000.parquet")
    return root


@pytest.mark.parametrize(
    "name, models, tables",
    [
        pytest.param("table8", ["vit-b"], (1, 2, 8, 9, 10, 11), marks=pytest.mark.slow),
        pytest.param("table4", None, (4, 12), marks=pytest.mark.release),
        pytest.param("table1", None, (1, 10), marks=pytest.mark.release),
    ],
)
def test_a_grid_of_the_paper_in_miniature(name, models, tables, imagenet, hub, tmp_path):
    """From sweep to report for one epoch, with the paper's figures beside those that were measured: of the grid's models, in
    miniature on the Hub, or of some of them."""
    grid = yaml.safe_load((ROOT / "trainer" / "grids" / f"{name}.yaml").read_text())
    grid["grid"]["model"] = models or grid["grid"]["model"]
    for model in grid["grid"]["model"]:
        hub.add("models", MODELS[model].hub_ids[0], _miniature(model, tmp_path / model))
    grid["options"] |= {"num_train_epochs": 1, "use_cpu": True, "disable_tqdm": True}
    for variant in grid["variants"].values():  # one rate of one model shows what a method needs
        if "learning_rate" in variant:
            variant |= {"learning_rate": variant["learning_rate"][0], "model": grid["grid"]["model"][:1]}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid, sort_keys=False))
    options = ["--imagenet", imagenet, "--output_dir", tmp_path / "out", "--cluster", "debug"]
    printed = succeed("sweep", tmp_path / "grid.yaml", *options)
    assert "runs are complete." in printed
    # The original models are measured once on each set, for all runs.
    originals = [path.name.rpartition("-")[0] for path in (tmp_path / "out" / "originals").iterdir()]
    assert sorted({*originals} - {"validation"}) == sorted(grid["sets"])
    measured = len(grid["sets"]) * len(grid["grid"]["model"])
    assert len([name for name in originals if name != "validation"]) == measured
    succeed("report", tmp_path / "out", "--html", "--output_dir", tmp_path / "report")
    assert "data:image/webp" in (tmp_path / "report" / "report.html").read_text()  # examples of a run
    text = (tmp_path / "report" / "report.md").read_text()
    for number in tables:
        assert f"## Table {number}: " in text
    head = next(line for line in text.splitlines() if line.startswith("| model | method"))
    assert [column for column in PAPER_SETS.values() if f" {column} " in head]
    assert (
        "| ViT-B | Original, published | – | 81.5" in text and "| ViT-B | Ours, published (3 seeds) | – | 80.3" in text
    )


def _miniature(model: str, folder: Path) -> Path:
    """Files of a model of the paper on the Hub, with 2 layers, for images of 32 pixels."""
    seed = [*MODELS].index(model)  # results of models are kept by their weights
    if MODELS[model].hub_ids[0].startswith("timm/"):
        settings = {"num_classes": 1000, "model_args": {"num_heads": 3}}
        return saved_in(folder, tiny(seed, num_classes=1000, patch_size=8, depth=2), HUB_CONFIG | settings)
    tiny_vit(seed, num_labels=1000).save_pretrained(folder)
    return folder
