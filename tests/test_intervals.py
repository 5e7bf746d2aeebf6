"""Intervals over seeds and over test images."""

import math

import numpy as np
import pytest
from scipy import stats

from manyviews.intervals import Estimate, estimate, estimate_without_images, image_interval, seed_interval


def test_the_interval_over_seeds_is_students():
    """Oracle: scipy's t interval."""
    values = np.array([0.2, 0.24, 0.31, 0.28])
    expected = stats.t.interval(0.95, 3, loc=values.mean(), scale=stats.sem(values))
    assert seed_interval(values) == pytest.approx(expected)


def test_one_seed_has_no_interval_over_seeds():
    found = estimate(np.array([[1.0, 0.0, 1.0, 1.0]]))
    assert math.isnan(found.seed_low)
    assert math.isnan(found.seed_high)
    assert found.n == 1
    assert found.mean == 0.75


def test_the_interval_over_images_is_the_binomials():
    """Oracle: the normal approximation of a share of 30 % of 2,000 images."""
    scores = np.arange(2000) % 10 < 3
    low, high = image_interval(scores.astype(float))
    error = 1.96 * math.sqrt(0.3 * 0.7 / 2000)
    assert (low, high) == pytest.approx((0.3 - error, 0.3 + error), abs=0.002)


def test_the_paired_bootstrap_does_not_see_what_two_runs_share():
    """Two runs right on the same half of the images, one also on 40 more: only those 40 vary."""
    a, b = np.zeros(1000), np.zeros(1000)
    a[:500] = b[:500] = 1
    a[500:540] = 1
    paired = image_interval(a - b)
    assert paired[0] > 0.025
    assert paired[1] < 0.055
    assert image_interval(b)[1] - image_interval(b)[0] > 2 * (paired[1] - paired[0])


def test_images_are_resampled_with_the_scores_of_all_seeds():
    """Seeds that are right on different images: their mean varies less than any one of them."""
    one, other = np.arange(400) % 2, 1 - np.arange(400) % 2
    found = estimate(np.stack([one, other]).astype(float))
    assert (found.image_low, found.image_high) == (0.5, 0.5)
    assert found.n == 2


def test_the_same_scores_give_the_same_interval():
    scores = np.random.default_rng(0).random((3, 500))
    assert estimate(scores) == estimate(scores)


def test_the_outer_ends_are_those_of_both_intervals():
    assert (Estimate(0, 3, -2, 1, -1, 3).low, Estimate(0, 3, -2, 1, -1, 3).high) == (-2, 3)
    no_images = estimate_without_images([0.1, 0.2, 0.3])
    assert (no_images.low, no_images.high) == (no_images.seed_low, no_images.seed_high)
