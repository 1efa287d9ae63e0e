"""The rule that chose among settings in the experiments."""

from dataclasses import replace

import numpy as np

from experiments.sweeps.bounded_choice import Setting, choose_setting, rank


def measured(top1: float, home: float, weight: float = 1.0, count: int = 100) -> Setting:
    """Right on shares of the images."""
    mixed_rand, original = ((np.arange(count) < round(count * share)).astype(float) for share in (top1, home))
    return Setting(mixed_rand, original, "swap", weight)


BEFORE = replace(measured(0.3, 0.95, 0.0), name="original")


def test_the_highest_within_the_bound_is_first():
    best, costly = measured(0.6, 0.94), measured(0.9, 0.9)
    assert rank([BEFORE, costly, measured(0.5, 0.95), best], BEFORE, max_loss=1.0)[0] is best
    assert rank([BEFORE, costly, best], BEFORE, max_loss=5.0)[0] is costly
    assert rank([BEFORE, costly, best], BEFORE, max_loss=0.0)[0] is BEFORE
    assert rank([measured(0.3, 0.95), measured(0.2, 0.95), BEFORE], BEFORE, 1.0)[0] is BEFORE


def test_the_bound_is_rounded_up_to_whole_images():
    """Of 20 images, one is 5 points."""
    before = measured(0.3, 0.95, 0.0, count=20)
    one, two = (measured(0.6, home, count=20) for home in (0.9, 0.85))
    assert rank([before, one], before, max_loss=1.0)[0] is one
    assert rank([before, two], before, max_loss=1.0)[0] is before
    assert rank([before, one], before, max_loss=0.0)[0] is before


def test_among_those_within_one_standard_error_the_mildest_is_chosen():
    """Of 100 images, one fewer is within it, and ten fewer are not."""
    best, as_good, worse = measured(0.6, 0.94), measured(0.59, 0.97), measured(0.5, 0.99)
    assert choose_setting([BEFORE, best, as_good, worse], BEFORE, max_loss=1.0) is as_good
    assert choose_setting([BEFORE, best, worse], BEFORE, max_loss=1.0) is best
    costly = measured(0.9, 0.8)
    assert choose_setting([BEFORE, costly, worse], BEFORE, max_loss=1.0) is worse
    assert choose_setting([BEFORE], BEFORE, max_loss=1.0) is BEFORE
    # Of two images, one is a standard error of the sample, which is larger than that of all by the root of two.
    before, best, milder = (measured(*of, count=2) for of in ((0.0, 1.0), (1.0, 0.5), (0.5, 1.0)))
    assert choose_setting([before, best, milder], before, max_loss=1.0) is milder


def test_images_that_do_not_count_are_left_out():
    whole = measured(0.5, 0.95)
    right = np.where(np.arange(100) < 50, whole.mixed_rand, np.nan)  # without all that were wrong
    assert replace(whole, mixed_rand=right).top1() == 1.0
