"""Intervals over seeds and over test images."""

import math

import numpy as np
import pytest
from scipy import stats

from manyviews.stats.intervals import (
    Estimate,
    estimate,
    estimate_without_images,
    image_interval,
    seed_interval,
)


@pytest.mark.parametrize("n", [2, 3, 7])
def test_the_interval_over_seeds_is_students(n):
    """Oracle: SciPy's t interval."""
    values = np.array([0.2, 0.24, 0.31, 0.28, 0.11, 0.5, 0.47])[:n]
    theirs = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert seed_interval(values) == pytest.approx(theirs)


def test_the_interval_over_images_is_scipys_percentile_bootstrap():
    """Oracle: SciPy, which draws image by image. Both draw at random: ends agree to 3 % of the width."""
    generator = np.random.default_rng(1)
    scores = generator.choice([-1, -1 / 3, 0, 1 / 3, 1], 700, p=[0.05, 0.1, 0.6, 0.15, 0.1])
    theirs = stats.bootstrap((scores,), np.mean, n_resamples=9999, method="percentile", rng=generator)
    low, high = theirs.confidence_interval
    assert image_interval(scores) == pytest.approx((low, high), abs=0.03 * (high - low))


def test_the_paired_bootstrap_does_not_see_what_two_runs_share():
    """Two runs right on the same half of the images, one also on 40 more: only those 40 vary."""
    a, b = np.zeros(1000), np.zeros(1000)
    a[:500] = b[:500] = 1
    a[500:540] = 1
    low, high = image_interval(a - b)
    assert 0.025 < low < 0.04 < high < 0.055
    alone = image_interval(b)
    assert alone[1] - alone[0] > 2 * (high - low)


def test_an_estimate_keeps_seeds_and_images_apart():
    """Seeds right on different images: the mean of an image does not vary, that of a seed does."""
    scores = np.stack([np.arange(400) % 2, 1 - np.arange(400) % 2]).astype(float)
    scores[0, :40] = 0
    one = estimate(scores)
    assert (one.mean, one.n) == pytest.approx((0.475, 2))
    assert (one.seed_low, one.seed_high) == pytest.approx(seed_interval(np.array([0.45, 0.5])))
    assert (one.image_low, one.image_high) == image_interval(scores.mean(axis=0))
    assert one.image_high - one.image_low < 0.05 < one.seed_high - one.seed_low


def test_one_seed_has_no_interval_over_seeds():
    one = estimate(np.array([[1.0, 0.0, 1.0, 1.0]]))
    assert (one.mean, one.n) == (0.75, 1)
    assert math.isnan(one.seed_low)
    assert math.isnan(one.seed_high)
    assert (one.low, one.high) == (one.image_low, one.image_high)


def test_the_outer_ends_are_those_of_both_intervals():
    assert (Estimate(0, 3, -2, 1, -1, 3).low, Estimate(0, 3, -2, 1, -1, 3).high) == (-2, 3)
    assert (Estimate(0, 3, -1, 3, -2, 1).low, Estimate(0, 3, -1, 3, -2, 1).high) == (-2, 3)
    seeds_only = estimate_without_images([0.1, 0.2, 0.3])
    assert (seeds_only.low, seeds_only.high) == seed_interval(np.array([0.1, 0.2, 0.3]))
    neither = estimate_without_images([0.1])
    assert math.isnan(neither.low)
    assert math.isnan(neither.high)
