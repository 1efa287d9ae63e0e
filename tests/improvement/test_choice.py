"""The choice of a candidate by its worth, the outcome by cross-validation, and what the verdict says of it."""

from dataclasses import replace

import numpy as np
import pytest

from robust_vit_hf.improvement import choice
from robust_vit_hf.improvement.candidates import Candidate
from robust_vit_hf.improvement.choice import Outcome, choose, cross_validated, resolution, worth
from robust_vit_hf.results.intervals import Difference


def candidate(usual: float, other: float, weight: float = 1.0, count: int = 100) -> Candidate:
    """Right on the first images of each kind."""
    of_usual, of_other = ((np.arange(count) < round(count * share)).astype(float) for share in (usual, other))
    return Candidate(of_usual, of_other, of_usual, of_other, "swap" if weight else "original", weight)


BEFORE = candidate(0.95, 0.3, 0.0)


def outcome(
    usual: float, other: float, share: float = 0.25, deviations: tuple[float, float] = (0.005, 0.02)
) -> Outcome:
    """Changes with these standard deviations, of 200 images."""
    rng = np.random.default_rng(0)
    draws = rng.normal([usual, other], deviations, (1000, 2))
    before = np.tile([0.9, 0.4], (1001, 1))
    return Outcome((share,), before, before + np.concatenate([[[usual, other]], draws]), 200)


def test_the_highest_worth_is_chosen():
    mild, strong = candidate(0.99, 0.5), candidate(0.95, 0.58)
    assert worth(0.99, 0.5, 0.25) == pytest.approx(0.8675)
    assert choose([BEFORE, mild, strong], 0.25) is mild  # 0.8675 and 0.8575
    assert choose([BEFORE, mild, strong], 0.5) is strong  # 0.745 and 0.765
    assert choose([BEFORE, candidate(0.97, 0.2)], 0.25) is BEFORE  # 0.7875 and 0.7775
    assert choose([BEFORE, candidate(0.97, 0.2)], 0.1) is not BEFORE
    first, second = (candidate(0.95, 0.5, weight) for weight in (0.25, 0.5))
    assert choose([BEFORE, first, second], 0.25) is first  # among equals


def test_none_that_loses_on_usual_backgrounds_is_chosen():
    """Whatever it gains on composites, at any share; nor in the folds of the cross-validation."""
    harmful = candidate(0.94, 0.9)
    assert choose([BEFORE, harmful], 0.25) is choose([BEFORE, harmful], 1.0) is BEFORE
    assert choose([BEFORE, harmful, candidate(0.95, 0.4)], 1.0).top1 == (0.95, 0.4)
    every_fifth = (np.arange(100) % 5 > 0).astype(float)
    losing = replace(harmful, usual=BEFORE.usual * every_fifth)
    assert cross_validated([BEFORE, losing], np.zeros(100, int), (1.0,)).change.mean == 0


def test_candidates_are_compared_by_the_probability_of_the_right_class():
    """Of two that are right on the same images, the surer one is chosen, and what is measured is whether they are
    right; each image has a class of its own."""
    right = np.tile([1.0, 0.0], 20)
    unsure, sure = (Candidate(right, right, share * right, share * right, "swap", 1.0) for share in (0.6, 0.9))
    before = Candidate(0 * right, 0 * right, 0 * right, 0 * right)
    assert choose([before, unsure, sure], 0.25) is sure
    found = cross_validated([before, unsure, sure], np.arange(40), (0.25,))
    assert found.usual.mean == found.other.mean == found.change.mean == 0.5
    fewer = replace(sure, usual=np.where(np.arange(40) < 2, 0.0, right))  # an image less than `unsure`, and surer
    assert choose([unsure, fewer], 0.25) is unsure and choose([before, unsure, fewer], 0.25) is fewer


def test_images_without_composites_count_as_they_are_alone():
    """Half of the images have none, and all of the others are right."""
    usual = np.ones(100)
    other = np.where(np.arange(100) < 50, 1.0, np.nan)
    none = np.where(np.isnan(other), np.nan, 0.0)
    full, before = Candidate(usual, other, usual, other, "swap", 1.0), Candidate(usual, none, usual, none)
    found = cross_validated([before, full], np.zeros(100, int), (0.5,))
    assert found.other.mean == 1 and found.usual.mean == 0 and found.change.mean == pytest.approx(0.5)


def test_the_folds_that_choose_do_not_measure():
    """Of many candidates that differ by chance, the best looks better than the original, and is not."""
    gains, looks = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        right = (rng.random((41, 100)) < 0.5).astype(float)
        candidates = [Candidate(of, of, of, of, weight=float(number > 0)) for number, of in enumerate(right)]
        found = cross_validated(candidates, np.arange(100) % 4, (0.25,))
        gains.append(found.change.mean)
        best = choose(candidates, 0.25)
        looks.append(best.usual.mean() - right[0].mean())
    assert np.mean(looks) > 0.08 and abs(np.mean(gains)) < 0.04


def test_break_even_is_where_gain_and_loss_are_equal():
    even, at_most = outcome(-0.02, 0.18).break_even
    assert even == pytest.approx(0.1) and 0.13 < at_most < 0.3
    assert "more than 10 % have other backgrounds (95 %: at most " in " ".join(outcome(-0.02, 0.18).sentences)
    assert outcome(0.01, 0.3).break_even[0] == 0 and "at any share" in outcome(0.01, 0.3).sentences[1]
    assert outcome(-0.05, -0.02).break_even == (1.0, 1.0)
    unbounded = outcome(-0.02, 0.05, deviations=(0.02, 0.05))
    assert unbounded.key == "inconclusive" and unbounded.break_even == pytest.approx((2 / 7, 1))
    few = replace(outcome(0.0, 0.45), count=12)  # whose interval is wider than their resamples
    assert few.key == "inconclusive" and few.break_even[1] < few.share
    assert not any("It is better" in text for found in (unbounded, few) for text in found.sentences)


@pytest.mark.parametrize(
    "usual, other, share, key",
    [
        (0.0, 0.4, 0.25, "better"),
        (-0.02, 0.4, 0.0, "worse"),
        (0.0, 0.05, 0.25, "inconclusive"),
        (-0.09, 0.01, 0.25, "worse"),
    ],
)
def test_the_verdict_is_that_of_the_interval_at_the_share(usual, other, share, key):
    found = outcome(usual, other, share)
    assert found.key == key and found.change.mean == pytest.approx((1 - share) * usual + share * other)
    assert found.sentences[0].startswith(choice.OUTCOMES[key])
    assert f"{100 * share:.0f} of them with other backgrounds" in found.sentences[0]
    assert found.sentences[0].endswith(f"the new model recognises {found.change.of_100}.")
    low, high = 100 * found.change.low, 100 * found.change.high
    ends = f"[{low:.1f}, {high:.1f}] more" if found.change.mean >= 0 else f"[{-high:.1f}, {-low:.1f}] fewer"
    assert found.change.of_100 == f"{100 * abs(found.change.mean):.1f} {ends}"
    assert Difference(-0.0, -0.5, 0.5).of_100 == "0.0 [-50.0, 50.0] more"


def test_the_interval_contains_how_far_composites_are_from_photographs():
    spread = (outcome(0.0, 0.4).other.high - outcome(0.0, 0.4).other.low) / 2
    assert spread == pytest.approx(1.96 * np.hypot(0.02, choice.COMPOSITES_ERROR), rel=0.1)
    assert outcome(0.0, 0.4, deviations=(0.02, 0.02)).usual.high == pytest.approx(1.96 * 0.02, rel=0.1)
    assert outcome(0.0, 0.4).usual.high == 3 / 200  # the least that 200 images can tell
    assert replace(outcome(0.9, 0.4), count=4).usual.high == 1  # and no more than all images change


def test_a_certain_loss_is_said_whatever_the_verdict():
    for other in (0.9, 0.05, -0.1):
        assert any("significantly worse: -9.0 [" in sentence for sentence in outcome(-0.09, other).sentences)
    assert not any("significantly" in sentence for sentence in outcome(-0.005, 0.4).sentences)
    certain = outcome(0.05, -0.3, 0.05)  # the change at the share is above 0, and contradicted
    assert certain.change.low > 0 and outcome(-0.05, 0.9).change.low > 0
    assert certain.key == outcome(-0.05, 0.9).key == "inconclusive"
    assert "other backgrounds it is significantly worse: -30.0 [" in certain.sentences[-2]
    assert certain.sentences[-1] == "The gain and the loss contradict each other."
    without_labels = replace(outcome(-0.09, 0.9), predicted=True).sentences
    assert without_labels[-1] == "On usual backgrounds, 9.0 % of its predictions are not those of your model."
    assert not any("significantly" in sentence for sentence in without_labels)


def test_more_images_are_asked_for_with_the_number_that_would_tell():
    """The interval of a change of 1 point has to become half as wide: four times as many images."""
    found = outcome(0.01, 0.01, 0.0, (0.02 / choice.NORMAL, 0.0))
    assert found.change.low == pytest.approx(-0.01, abs=0.001)
    (asked,) = (sentence for sentence in found.sentences if "images instead of 200" in sentence)
    assert 700 <= int(asked.split()[1].replace(",", "")) <= 900
    few = replace(outcome(0.05, 0.05, 0.0, (0.01, 0.0)), count=20)  # 3 / N is 5 points for 60 images
    assert few.key == "inconclusive" and int(few.sentences[-1].split()[1]) in (60, 61)
    assert not any("instead of" in sentence for sentence in outcome(0.0, 0.4).sentences)
    # The error of composites, 3.4 points at this share, stays.
    (asked,) = (text for text in outcome(0.04, 0.04, 0.25, (0.02 / 0.75, 0.0)).sentences if "instead of 200" in text)
    assert 650 <= int(asked.split()[1].replace(",", "")) <= 850
    assert outcome(0.03, 0.03, 0.25, (0.02, 0.0)).sentences[-1].startswith("More validation images would not tell")
    assert outcome(-0.01, 0.01).sentences[-1] == "On these images, the new one is not better."


def test_the_table_has_usual_and_other_backgrounds_and_the_share():
    table = outcome(-0.02, 0.18, 0.5).table
    assert [row[:3] for row in table.rows] == [
        ["usual backgrounds", "90.0", "88.0"],
        ["other backgrounds, composites", "40.0", "58.0"],
        ["50 % other backgrounds", "65.0", "73.0"],
    ]
    assert [row[3].partition(" ")[0] for row in table.rows] == ["-2.0", "+18.0", "+8.0"]


def test_what_images_can_tell_is_said_before():
    """1.96 standard errors of both changes, by their shares."""
    assert resolution(200, 0.0) == pytest.approx(100 * 1.96 * np.sqrt(0.04 / 200))
    assert resolution(200, 1.0) == pytest.approx(100 * 1.96 * np.hypot(np.sqrt(0.3 / 200), choice.COMPOSITES_ERROR))
    assert resolution(20, 0.25) == pytest.approx(15)  # 3 of 20 may change, although none did


def test_candidates_are_listed_by_worth_and_drawn():
    chosen, costly = candidate(0.95, 0.6), candidate(0.5, 0.9)
    table = choice.candidates_table([BEFORE, costly, chosen], chosen, 0.25)
    assert [row[:3] + row[-1:] for row in table.rows] == [
        ["swap", "1", "86.2", "chosen"], ["original", "–", "78.7", ""], ["swap", "1", "60.0", ""],
    ]  # fmt: skip
    assert table.rows[0][4].startswith("+30.0 [+2") and table.rows[2][3].startswith("-45.0 [")
    (axis,) = choice.candidates_figure([BEFORE, costly, chosen], chosen, 0.25).axes
    assert [line.get_xydata().tolist() for line in axis.lines[:3]] == [[[50, 90], [95, 60]], [[95, 30]], [[95, 60]]]


def test_photographs_with_unusual_backgrounds_contradict_composites():
    """A candidate that gains on composites, and as many photographs as it loses, is not chosen if it loses those with
    unusual backgrounds; nor is it called better if it is significantly worse there."""
    unusual = np.arange(100) >= 90
    before = replace(
        candidate(0.5, 0.3, 0.0), usual=np.where(unusual, 1.0, np.arange(100) < 40), unusual_background=unusual
    )
    traded = replace(candidate(0.5, 0.9), unusual_background=unusual)
    assert before.usual.sum() == traded.usual.sum() == 50 and choose([before, traded], 0.5) is before
    gaining = replace(candidate(0.5, 0.6), usual=before.usual, unusual_background=unusual)
    assert choose([before, traded, gaining], 0.5) is gaining
    assert choose([before, traded], 0.5, predicted=True) is traded
    found = cross_validated([before, gaining], np.arange(100) % 2, (0.5,))
    assert found.unusual == Difference(0.0, -0.3, 0.3)  # of ten photographs
    assert found.table.rows[1][:3] == ["unusual backgrounds, 10 photographs", "100.0", "100.0"]
    worse = replace(outcome(0.01, 0.4), count_unusual=50)
    changes = np.concatenate([worse.after, worse.before[:, :1] - 0.2], axis=1)
    worse = replace(worse, after=changes, before=np.concatenate([worse.before, worse.before[:, :1]], axis=1))
    assert (worse.unusual.mean, worse.unusual.high) == pytest.approx((-0.2, -0.14)) and worse.key == "inconclusive"
    assert "50 photographs whose background is unusual for their class, it is significantly worse" in str(
        worse.sentences
    )
    assert replace(worse, count_unusual=0).key == "better"


def test_without_a_share_the_verdict_compares_four():
    found = replace(outcome(-0.02, 0.4), shares=(0.05, 0.1, 0.25, 0.5))
    changes = {row[0]: row[-1].split()[0] for row in found.table.rows}
    assert changes["5 % other backgrounds"] == "+0.1" and changes["50 % other backgrounds"] == "+19.0"
    assert found.share == 0.5 and found.change == found.change_at(0.5)
    assert found.record()["changes"]["0.1"]["mean"] == pytest.approx(0.022)
