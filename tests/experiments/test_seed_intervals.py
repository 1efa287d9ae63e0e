"""Intervals of changes over seeds, images and what they share."""

from dataclasses import replace

import numpy as np
import pytest
import scipy

from experiments.sweeps.choose_settings import choose_settings
from experiments.sweeps.seed_intervals import Gains, change, mean_gain, mean_over, versus


def test_the_interval_over_seeds_is_students():
    """Of seeds with images of their own, over the means of the sets; of two, no resample is beyond both, and what a
    third would give is."""
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
    assert apart.freedom == pytest.approx(199) and apart.high - apart.low < (found.high - found.low) / 2


def test_photographs_and_objects_both_widen_the_interval():
    """All photographs with all objects, against the three variances of a mixed model of which each is drawn anew."""
    rng, sizes = np.random.default_rng(0), (5, 40, 24)
    values = (
        rng.normal(0, 1, sizes) + rng.normal(0, 2, (40, 1)) + rng.normal(0, 1.5, 24) + rng.normal(0, 0.3, (5, 1, 1))
    )
    drawn = np.indices(sizes[1:]).reshape(2, -1)
    found = mean_gain({"a": [Gains(of.reshape(-1), str(seed), drawn) for seed, of in enumerate(values)]})
    of_each = [values.mean(others).var(ddof=1) / len(values.mean(others)) for others in ((1, 2), (0, 2), (0, 1))]
    error = (found.high - found.mean) / scipy.stats.t.ppf(0.975, found.freedom)
    assert error**2 == pytest.approx(sum(of_each), rel=0.05) and found.mean == pytest.approx(values.mean())


def test_photographs_count_and_not_their_images(results):
    run = results.runs[0]
    name, of_set = next((name, of) for name, of in run.sets.items() if of.usable.any())
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


def test_runs_count_the_same_while_seeds_have_the_interval():
    """Seeds of 0.15 and 0.6 have a standard error of 0.225; the quantile of Student's t is that of one degree of
    freedom."""
    found = mean_over([0.1, 0.2, 0.6], ["0", "0", "1"])
    assert found.mean == pytest.approx(0.3) and found.seeds == 2
    margins = found.high - found.mean, found.mean - found.low
    assert margins == pytest.approx(2 * (12.7062 * 0.225,), rel=1e-4)
