"""The law of length: known laws are found again, and what they forecast is right."""

import numpy as np
import pytest
from made_up import made_up_run, made_up_runs
from scipy.optimize import curve_fit

from manyviews.config.runs import run_specs
from manyviews.stats.intervals import seed_interval
from manyviews.stats.scaling import (
    ErrorCurve,
    error_curve,
    fit,
    forecast,
    log_linear,
    power_law,
)

X = 2.0 ** np.arange(6)
SPREAD = 0.01
LENGTHS = run_specs().members("length")
BY_LENGTH = ("length_quarter", "length_half", "baseline", "length_2", "length_4", "length_8")
KNN = "id_knn_accuracy"


def curve_of(error: np.ndarray, shifts=(-0.004, 0.001, 0.003), n_images: int = 1000) -> ErrorCurve:
    """Three seeds, whose errors differ by the shifts."""
    rank = (np.arange(n_images) + 0.5) / n_images
    scores = [[(rank < one + shift) * 1.0 for shift in shifts] for one in error]
    return ErrorCurve(BY_LENGTH, 1000 * X, np.array(scores))


@pytest.mark.parametrize("law", [(0.2, 0.5, 0.5), (0.0, 0.8, 0.3), (0.4, 0.3, 1.2)])
def test_a_power_law_is_found_again(law):
    assert fit("power law", X, power_law(X, *law), SPREAD) == pytest.approx(law, abs=0.02)


def test_a_line_over_the_logarithm_is_found_again():
    error = np.array([0.7, 0.62, 0.54, 0.46, 0.38, 0.30])  # 8 points less for each doubling
    assert fit("log-linear", X, error, SPREAD) == pytest.approx((0.7, -0.08), abs=1e-6)


def test_an_outlier_moves_it_less_than_least_squares():
    """SciPy's curve_fit, with which it agrees where there is none."""
    truth = power_law(X, 0.2, 0.5, 0.7)
    for outlier in (0, 0.1):
        error = truth + outlier * (np.arange(6) == 2)
        theirs, _ = curve_fit(power_law, X, error, p0=(0.1, 0.5, 0.5), bounds=(0, [1, 2, 4]))
        ours = power_law(X, *fit("power law", X, error, SPREAD))
        off_theirs, off = (np.abs(values - truth).mean() for values in (power_law(X, *theirs), ours))
        assert off < 0.7 * off_theirs if outlier else ours == pytest.approx(power_law(X, *theirs), abs=2e-3)


def test_the_held_out_run_is_seen_by_no_fit_and_more_accuracy_than_forecast_is_positive():
    """It may be anything: the forecast stays, so that what it misses by moves along."""
    error = power_law(X, 0.2, 0.5, 0.7)
    better = error - np.array([0, 0, 0, 0, 0, 0.1])
    for law in ("power law", "log-linear"):
        gained = forecast(curve_of(better), law).mean - forecast(curve_of(error), law).mean
        assert gained == pytest.approx(0.1, abs=2e-3)


def test_a_forecast_keeps_seeds_and_images_apart():
    """Over seeds: the t interval of what each seed's own line, here by least squares, misses by."""
    curve = curve_of(log_linear(X, 0.8, -0.08) - np.array([0, 0, 0, 0, 0, 0.03]), (-0.02, 0.005, 0.03))
    each = []
    for error in curve.scores.mean(axis=2).T:
        slope, first = np.polyfit(np.arange(5), error[:5], 1)
        each.append(first + 5 * slope - error[5])
    one = forecast(curve, "log-linear")
    assert (one.seed_low, one.seed_high) == pytest.approx(seed_interval(np.array(each)), abs=1e-3)
    assert (one.mean, one.n) == pytest.approx((0.03, 3), abs=1e-3)
    assert one.image_low < one.mean - 0.01 < one.mean + 0.01 < one.image_high


def test_an_outlier_is_what_lies_beyond_the_scatter_of_the_seeds():
    """Of one seed alone, beyond what the choice of the images moves."""
    curve = curve_of(power_law(X, 0.2, 0.5, 0.7), (-0.02, 0.0, 0.02))
    assert curve.spread == pytest.approx(0.02, rel=0.05)
    alone = ErrorCurve(curve.names, curve.views, curve_of(np.full(6, 0.4)).scores[:, :1])
    assert alone.spread == pytest.approx((0.4 * 0.6 / 1000) ** 0.5, rel=0.02)
    assert curve_of(np.full(6, 0.4), (0, 0, 0)).spread == 1e-3


def test_the_curve_is_of_the_seeds_that_all_lengths_have_from_short_to_long():
    finals = {name: [0.3, 0.4, 0.5] for name in LENGTHS} | {"length_8": [0.6, 0.71]}
    runs = made_up_runs(finals)
    curve = error_curve(runs, LENGTHS, KNN)
    assert curve.names == BY_LENGTH
    assert curve.scores.shape == (6, 2, 1000)
    assert curve.error == pytest.approx([0.65] * 5 + [0.345])
    assert list(curve.x) == [1, 2, 4, 8, 16, 32]
    assert list(curve.views) == [runs[name][0].summary["views_forwarded"] for name in BY_LENGTH]


def test_a_curve_needs_five_lengths_made_alike():
    runs = made_up_runs({name: [0.5] for name in LENGTHS})
    assert error_curve({name: runs[name] for name in LENGTHS[1:]}, LENGTHS, KNN).names[-1] == "length_8"
    assert error_curve({name: runs[name] for name in LENGTHS[2:]}, LENGTHS, KNN) is None
    twice = runs | {"length_quarter": runs["length_half"]}  # the same recipe in a profile of few epochs
    assert error_curve(twice, LENGTHS, KNN).x[1] == 2
    runs["length_8"] = [made_up_run("length_8", 0, 0.5, precision="bfloat16")]
    assert error_curve(runs, LENGTHS, KNN) is None
