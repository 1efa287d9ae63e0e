"""The rule that chooses among candidates, and the trainings that it asks for."""

from dataclasses import replace

import numpy as np
import pytest

from robust_vit_hf.improvement.candidates import (
    Candidate,
    candidates_table,
    choose,
    choose_cheapest,
    may_be_lost,
    rank,
)
from robust_vit_hf.improvement.options import ImproveOptions
from robust_vit_hf.improvement.trainings import VARIANTS, Training, finalists, first_trainings


def measured(top1: float, home: float, rate: float = 1e-5, weight: float = 1.0, count: int = 100) -> Candidate:
    """Right on shares of the images."""
    mixed_rand, original = ((np.arange(count) < round(count * share)).astype(float) for share in (top1, home))
    return Candidate(mixed_rand, original, "swap", weight, rate)


def trained(top1: float, variant: str = "swap", rate: float = 1e-5, steps: int = 80) -> dict[Candidate, Training]:
    return {measured(top1, 0.95, rate): Training(variant, rate, steps)}


BEFORE = replace(measured(0.3, 0.95, 0.0, 0.0), name="original")


def test_the_highest_within_the_bound_is_first():
    best, costly = measured(0.6, 0.94), measured(0.9, 0.9)
    assert rank([BEFORE, costly, measured(0.5, 0.95), best], BEFORE, max_loss=1.0)[0] is best
    assert rank([BEFORE, costly, best], BEFORE, max_loss=5.0)[0] is costly
    assert rank([BEFORE, costly, best], BEFORE, max_loss=0.0)[0] is BEFORE
    assert rank([measured(0.3, 0.95), measured(0.2, 0.95), BEFORE], BEFORE, 1.0)[0] is BEFORE
    assert rank([measured(0.9, 0.5), BEFORE], BEFORE, 1.0)[0] is BEFORE


def test_the_bound_is_rounded_up_to_whole_images():
    """Of 20 images, one is 5 points."""
    before = measured(0.3, 0.95, 0.0, 0.0, count=20)
    one, two = (measured(0.6, home, count=20) for home in (0.9, 0.85))
    assert rank([before, one], before, max_loss=1.0)[0] is one
    assert rank([before, two], before, max_loss=1.0)[0] is before
    assert rank([before, one], before, max_loss=0.0)[0] is before
    assert [may_be_lost(BEFORE, float(points)) for points in range(100)] == [(points, 100) for points in range(100)]


def test_equals_are_ordered_by_fall_rate_and_weight():
    """New layers, of which nothing was trained, come first."""
    settings = [(0.95, 1e-5, 1.0), (0.95, 3e-6, 1.0), (0.94, 1e-6, 1.0), (0.95, 3e-6, 0.5), (0.95, 0.0, 1.0)]
    order = rank([measured(0.6, *setting) for setting in settings], BEFORE, max_loss=1.0)
    expected = [(0.0, 1.0), (3e-6, 0.5), (3e-6, 1.0), (1e-5, 1.0), (1e-6, 1.0)]
    assert [(candidate.learning_rate, candidate.weight) for candidate in order] == expected


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


def test_images_that_do_not_count_are_left_out():
    whole = measured(0.5, 0.95)
    right = np.where(np.arange(100) < 50, whole.mixed_rand, np.nan)  # without all that were wrong
    assert replace(whole, mixed_rand=right).top1() == 1.0


def test_first_trainings_are_swap_at_each_rate_from_each_start():
    first = first_trainings(None, [3e-6, 1e-5], max_steps=240, starts=["original", "layer"])
    assert [(training.start, training.learning_rate, training.steps) for training in first] == [
        (start, rate, 80) for start in ("original", "layer") for rate in (3e-6, 1e-5)
    ]
    assert {(training.variant, training.options["method"]) for training in first} == {("swap", "swap")}
    (named,) = first_trainings("gradmask", [1e-6], max_steps=1)
    assert named.options == {"method": "gradmask"} and named.steps == 1
    assert len({training.name for training in first}) == len(first)


def test_a_training_is_chosen_if_it_is_better_than_a_new_layer_without_doubt():
    layer, better, little = measured(0.6, 0.95, rate=0.0), measured(0.7, 0.95), measured(0.62, 0.95)
    assert choose_cheapest([BEFORE, layer, little], BEFORE, 1.0) is layer  # two images of 100
    assert choose_cheapest([BEFORE, layer, better], BEFORE, 1.0) is better
    costly = measured(0.6, 0.9, rate=0.0)
    assert choose_cheapest([BEFORE, costly, little], BEFORE, 1.0) is little


def test_finalists_are_the_best_settings_without_and_with_the_relevance_loss():
    better, worse = trained(0.8, rate=1e-5), trained(0.7, rate=3e-6)
    without, with_map = finalists(worse | better, BEFORE, 1.0, 240)
    (best,) = better.values()
    assert without == replace(best, steps=240)
    assert with_map == replace(without, variant="swap and relevance", options=VARIANTS["swap and relevance"])
    assert finalists({}, BEFORE, 1.0, 240) == []
    # The first trainings were of all steps.
    assert [training.variant for training in finalists(better, BEFORE, 1.0, 80)] == ["swap and relevance"]


@pytest.mark.parametrize("variant, has_map", [("swap", False), ("gradmask", True)])
def test_finalists_without_the_relevance_loss_are_the_two_best(variant, has_map):
    rates = {3e-6: 0.7, 1e-5: 0.8, 3e-5: 0.6}
    first = {candidate: of for rate, right in rates.items() for candidate, of in trained(right, variant, rate).items()}
    last = finalists(first, BEFORE, 1.0, 240, has_map)
    assert last == [Training(variant, 1e-5, 240), Training(variant, 3e-6, 240)]
    assert sum(training.steps for training in (*first.values(), *last)) <= 4 * 240  # what all together cost
    assert finalists(first, BEFORE, 1.0, 80, has_map) == []


def test_each_learning_rate_has_a_name_of_its_own():
    first, other, usual = (Training("swap", rate, 80) for rate in (1.2345678e-5, 1.2345679e-5, 1e-5))
    assert first.name != other.name and str(first) != str(other)
    assert usual.name == "swap-from-original-1e-05-80"
    with pytest.raises(ValueError, match="`learning_rates` not to be empty"):
        ImproveOptions(model="m", dataset="d", output_dir="o", learning_rates=[])


def test_the_table_shows_every_candidate_with_its_intervals():
    chosen, costly = measured(0.6, 0.95), measured(0.9, 0.5, rate=3e-5)
    table = candidates_table([BEFORE, costly, chosen], BEFORE, chosen, max_loss=1.0)
    assert [row[:2] + row[-1:] for row in table.rows] == [
        ["swap", "1", "chosen"], ["original", "–", ""], ["swap", "1", "loses too much"],
    ]  # fmt: skip
    assert table.rows[0][2] == "60.0" and table.rows[0][3].startswith("+30.0 [+2")
    assert table.rows[2][4].startswith("-45.0 [")


def test_changes_are_paired_by_image():
    gain, home = measured(0.35, 0.95).changes(BEFORE)
    assert gain.mean == pytest.approx(0.05) and gain.low > 0.005
    assert home.mean == 0 and home.high == pytest.approx(0.03)  # agreement of 100 images
