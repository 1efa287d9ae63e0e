"""Photographs with unusual backgrounds are found by the features of backgrounds alone."""

import numpy as np

from robust_vit_hf.evaluation.other_backgrounds import Outputs
from robust_vit_hf.improvement.unusual import unusual_backgrounds


SIZE = 4


def outputs(count: int, exchanged: np.ndarray, seed: int) -> Outputs:
    """Two classes whose backgrounds differ, except that these images have the background of the other class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    backgrounds = rng.normal(size=(count, SIZE))
    backgrounds[:, 0] += 20 * (labels ^ np.isin(np.arange(count), exchanged))
    features = rng.normal(size=(count, SIZE))
    return Outputs(features, features[:, None], 3 + 4 * labels, backgrounds=backgrounds)


def test_backgrounds_of_another_class_are_unusual():
    """The numbers of the classes are not consecutive."""
    in_train, in_validation = np.array([2, 3, 10, 21, 22, 39, 50, 71]), np.array([1, 4, 5])
    train, validation = outputs(80, in_train, 0), outputs(30, in_validation, 1)
    found = unusual_backgrounds(train, validation)
    np.testing.assert_array_equal(np.flatnonzero(found[0]), in_train)
    np.testing.assert_array_equal(np.flatnonzero(found[1]), in_validation)
    validation.backgrounds[4] = np.nan  # whose mask is in doubt
    assert not unusual_backgrounds(train, validation)[1][4]


def test_at_least_a_tenth_is_unusual():
    """If the backgrounds tell the class of all images, those with the least margin are taken."""
    train, validation = outputs(80, np.array([]), 0), outputs(30, np.array([]), 1)
    train.backgrounds[40:42, 0] += [9, -9]  # nearly half of the way to the other class
    found = unusual_backgrounds(train, validation)
    assert found[0].sum() == 8 and found[0][40:42].all() and found[1].sum() == 3


def test_a_single_class_has_no_unusual_backgrounds():
    train, validation = (outputs(count, np.array([]), 0) for count in (20, 10))
    train.labels[:], validation.labels[:] = 3, 3
    assert not np.concatenate(unusual_backgrounds(train, validation)).any()
