"""Claims of the paper: their signs, their values, and verdicts on them."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import scipy

from experiments.paper.check_claims import (
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
from experiments.paper.published_tables import published_models
from experiments.paper.set_titles import UNSHIFTED
from experiments.sweeps.choose_settings import choose_settings
from experiments.sweeps.results import Results
from experiments.sweeps.results_parquet import read_results
from robust_vit_hf.data.known_sets import PAPER_SETS

from ..helpers.experiment import MASKED, result_rows, write_rows


def test_findings(results):
    """Of one seed; and a claim about two methods has the other sign if they are exchanged."""
    runs = [run for run in results.runs if run.learning_rate == 1e-6 and run.seed == "0"]
    swapped = {"robustvit": "without-background", "without-background": "robustvit"}
    other = [replace(run, method=swapped.get(run.method, run.method)) for run in runs]
    found = findings(Results(runs))
    of_one = {finding.statement: verdict for finding, verdict in zip(found, verdicts(found), strict=True)}
    assert of_one["Top-1 rises on INet-A"] == "agrees" and of_one["Top-1 falls on INet val"] == "inconclusive"
    assert of_one["Top-1 rises on Sketch"] == "not measured"
    name = "w/o background loss (Eq. 1): less gain on the shifted sets"
    values = [{one.statement: one.value for one in of}[name] for of in (found, findings(Results(other)))]
    assert [value.mean > 0 for value in values] == [False, True]


@pytest.mark.parametrize(
    "sign, low, high, verdict",
    [
        (RISES, 0.01, 0.3, "agrees"),
        (RISES, -0.01, 0.3, "inconclusive"),
        ("falls", 0.0, 0.0, "inconclusive"),
        (ALIKE, -0.019, 0.019, "agrees"),
        (ALIKE, 0.001, 0.03, "inconclusive"),
        (ALIKE, 0.021, 0.03, "disagrees"),
        ("is as good or better", -0.019, 0.3, "agrees"),
        ("is as good or better", -0.05, 0.3, "inconclusive"),
        ("is as good or better", -0.05, -0.03, "disagrees"),
        (NO_MORE, -0.3, -0.1, "agrees"),
        (NO_MORE, -0.3, 0.03, "inconclusive"),
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
    assert verdicts(found) == ["inconclusive", "agrees", "inconclusive", "agrees"]
    others = [replace(found[0], value=None), replace(found[3], sign=UNTESTED)]  # do not count
    assert verdicts([*found, *others])[-2:] == ["not measured", "no test"]
    assert verdicts(found) == verdicts([*found, *others])[:4]


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


@pytest.mark.parametrize("gain, verdict", [(0.07, "agrees"), (-0.07, "disagrees"), (0.0, "inconclusive")])
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


def test_the_interval_of_a_difference_on_other_images():
    found = _less(Difference(0.1, 0.0, 0.3), Difference(0.05, 0.02, 0.06))
    expected = (-0.05, -0.05 - math.hypot(0.03, 0.2), -0.05 + math.hypot(0.01, 0.1))
    assert (found.mean, found.low, found.high) == pytest.approx(expected)
