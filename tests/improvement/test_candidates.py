"""The rule that chooses among candidates."""

from dataclasses import replace

import numpy as np
import pytest

from robust_vit_hf.improvement.candidates import (
    VARIANTS,
    Mixture,
    TrainingSettings,
    candidates_table,
    choose_cheapest,
    finalists,
    first_trainings,
)
from robust_vit_hf.improvement.fit_layers import LayerSettings
from robust_vit_hf.improvement.options import ImproveOptions
from robust_vit_hf.results.choice import choose, may_be_lost, rank


def measured(top1: float, home: float, variant="swap", rate=1e-5, steps=80, alpha=1.0, count=100) -> Mixture:
    """Right on shares of the images."""
    values = [(np.arange(count) < round(count * share)).astype(float) for share in (top1, home)]
    return Mixture(*values, None if variant is None else TrainingSettings(variant, rate, steps), alpha)


BEFORE = measured(0.3, 0.95, variant=None, alpha=0.0)


def test_the_highest_within_the_bound_is_first():
    best, costly, original = measured(0.6, 0.94), measured(0.9, 0.9), BEFORE
    assert rank([original, costly, measured(0.5, 0.95), best], BEFORE, max_loss=1.0)[0] is best
    assert rank([original, costly, best], BEFORE, max_loss=5.0)[0] is costly
    assert rank([original, costly, best], BEFORE, max_loss=0.0)[0] is original


def test_the_bound_is_rounded_up_to_whole_images():
    """Of 20 images, one is 5 points."""
    before = measured(0.3, 0.95, variant=None, alpha=0.0, count=20)
    one, two = (measured(0.6, home, count=20) for home in (0.9, 0.85))
    assert rank([before, one], before, max_loss=1.0)[0] is one
    assert rank([before, two], before, max_loss=1.0)[0] is before
    assert rank([before, one], before, max_loss=0.0)[0] is before
    assert [may_be_lost(BEFORE, float(points)) for points in range(100)] == [(points, 100) for points in range(100)]


def test_equals_are_ordered_by_fall_rate_and_share():
    candidates = [
        measured(0.6, 0.95, rate=1e-5), measured(0.6, 0.95, rate=3e-6), measured(0.6, 0.94, rate=1e-6),
        measured(0.6, 0.95, rate=3e-6, alpha=0.5),
    ]  # fmt: skip
    order = rank(candidates, BEFORE, max_loss=1.0)
    assert [(one.settings.learning_rate, one.alpha) for one in order] == [
        (3e-6, 0.5),
        (3e-6, 1.0),
        (1e-5, 1.0),
        (1e-6, 1.0),
    ]


def test_among_those_within_one_standard_error_the_mildest_is_chosen():
    """Of 100 images, one fewer is within it, and ten fewer are not."""
    best, as_good, worse = measured(0.6, 0.94), measured(0.59, 0.97), measured(0.5, 0.99)
    assert choose([BEFORE, best, as_good, worse], BEFORE, max_loss=1.0) is as_good
    assert choose([BEFORE, best, worse], BEFORE, max_loss=1.0) is best
    costly = measured(0.9, 0.8)
    assert choose([BEFORE, costly, worse], BEFORE, max_loss=1.0) is worse
    assert choose([BEFORE], BEFORE, max_loss=1.0) is BEFORE
    # Of two images, one is a standard error of the sample, which is larger than that of all by the root of two.
    before, best, milder = (measured(*of, count=2) for of in ((0.0, 1.0), (1.0, 0.5), (0.5, 1.0)))
    assert choose([before, best, milder], before, max_loss=1.0) is milder


def test_the_original_wins_where_nothing_is_better():
    assert rank([measured(0.3, 0.95), measured(0.2, 0.95), BEFORE], BEFORE, 1.0)[0] is BEFORE
    assert rank([measured(0.9, 0.5), BEFORE], BEFORE, 1.0)[0] is BEFORE


def test_images_that_do_not_count_are_left_out():
    one = measured(0.5, 0.95)
    values = one.mixed_rand.copy()
    values[50:] = np.nan  # all that were wrong
    assert Mixture(values, one.original, one.settings, 1.0).top1() == 1.0


def test_first_trainings_are_swap_at_each_rate_from_each_start():
    first = first_trainings(None, [3e-6, 1e-5], max_steps=240, starts=["original", "layer"])
    assert [(one.start, one.learning_rate, one.steps) for one in first] == [
        (start, rate, 80) for start in ("original", "layer") for rate in (3e-6, 1e-5)
    ]
    assert {(one.variant, one.options["method"]) for one in first} == {("swap", "swap")}
    (named,) = first_trainings("gradmask", [1e-6], max_steps=1)
    assert named.options == {"method": "gradmask"} and named.steps == 1
    assert len({one.name for one in first}) == len(first)


def test_a_training_is_chosen_if_it_is_better_than_a_new_layer_without_doubt():
    layer = replace(measured(0.6, 0.95), settings=LayerSettings("map", 10.0))
    assert choose_cheapest([BEFORE, layer, measured(0.62, 0.95)], BEFORE, 1.0) is layer  # two images of 100
    better = measured(0.7, 0.95)
    assert choose_cheapest([BEFORE, layer, better], BEFORE, 1.0) is better
    costly = replace(layer, original=measured(0.6, 0.9).original)
    assert choose_cheapest([BEFORE, costly, measured(0.62, 0.95)], BEFORE, 1.0).settings.variant == "swap"


def test_the_cost_is_at_most_four_trainings():
    first = first_trainings(None, [3e-6, 1e-5, 3e-5], max_steps=240)
    last = finalists([measured(0.5, 0.95, one.variant, one.learning_rate) for one in first], BEFORE, 1.0, 240)
    assert sum(one.steps for one in (*first, *last)) <= 4 * 240


def test_finalists_are_the_best_settings_without_and_with_the_relevance_loss():
    better, worse = measured(0.8, 0.95, "swap", 1e-5), measured(0.7, 0.95, "swap", 3e-6)
    without, with_map = finalists([worse, better, BEFORE], BEFORE, 1.0, 240)
    assert without == replace(better.settings, steps=240)
    assert with_map == replace(without, variant="swap and relevance", options=VARIANTS["swap and relevance"])
    assert finalists([BEFORE], BEFORE, 1.0, 240) == []
    # The first trainings were of all steps.
    assert [one.variant for one in finalists([better], BEFORE, 1.0, better.settings.steps)] == ["swap and relevance"]


@pytest.mark.parametrize("variant, has_map", [("swap", False), ("gradmask", True)])
def test_finalists_without_the_relevance_loss_are_the_two_best(variant, has_map):
    rates = {3e-6: 0.7, 1e-5: 0.8, 3e-5: 0.6}
    candidates = [measured(right, 0.95, variant, rate) for rate, right in rates.items()]
    last = finalists([*candidates, BEFORE], BEFORE, 1.0, 240, has_map)
    assert [(one.variant, one.learning_rate, one.steps) for one in last] == [
        (variant, 1e-5, 240), (variant, 3e-6, 240),
    ]  # fmt: skip
    assert finalists(candidates, BEFORE, 1.0, candidates[0].settings.steps, has_map) == []


def test_each_learning_rate_has_a_name_of_its_own():
    first, other, usual = (TrainingSettings("swap", rate, 80) for rate in (1.2345678e-5, 1.2345679e-5, 1e-5))
    assert first.name != other.name and str(first) != str(other)
    assert usual.name == "swap-from-original-1e-05-80"
    with pytest.raises(ValueError, match="`learning_rates` not to be empty"):
        ImproveOptions(model="m", dataset="d", output_dir="o", learning_rates=[])


def test_the_table_shows_every_candidate_with_its_intervals():
    chosen, costly = measured(0.6, 0.95), measured(0.9, 0.5, rate=3e-5)
    table = candidates_table([BEFORE, costly, chosen], BEFORE, chosen, max_loss=1.0)
    assert [row[-1] for row in table.rows] == ["chosen", "", "loses too much"]
    assert table.rows[0][2] == "60.0" and table.rows[0][3].startswith("+30.0 [+2")
    assert table.rows[1][0] == "original" and table.rows[2][4].startswith("-45.0 [")


def test_changes_are_paired_by_image():
    gain, home = measured(0.35, 0.95).changes(BEFORE)
    assert gain.mean == pytest.approx(0.05) and gain.low > 0.005
    assert home.mean == 0 and home.high == pytest.approx(0.03)  # agreement of 100 images
