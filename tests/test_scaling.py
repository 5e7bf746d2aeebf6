"""The law of length: known laws are found again, and what they foretell is right."""

import numpy as np
import pytest
from made_up import made_up_runs
from scipy.optimize import curve_fit

from manyviews.rows import members
from manyviews.scaling import (
    Curve,
    error_curve,
    farther,
    fit_log_linear,
    fit_power_law,
    foretell,
    law_intervals,
    misses,
)

X = 1000.0 * 2.0 ** np.arange(6)
SPREAD = 0.01


def power(x, floor, scale, exponent):
    return floor + scale * (x / 1000) ** -exponent


def curve_of(error: np.ndarray, n_seeds: int = 3, n_images: int = 2000, spread: float = 0.0) -> Curve:
    """Scores whose mean is the error, for each seed moved by a little."""
    generator = np.random.default_rng(0)
    rank = np.arange(n_images) / n_images
    scores = np.stack(
        [[(rank < e + spread * generator.normal()) * 1.0 for _ in range(n_seeds)] for e in error]
    )
    return Curve(tuple("abcdef"), X, scores)


@pytest.mark.parametrize("law", [(0.2, 0.5, 0.5), (0.0, 0.8, 0.3), (0.4, 0.3, 1.2)])
def test_a_power_law_is_found_again(law):
    found = fit_power_law(X, power(X, *law), SPREAD)
    assert (found.floor, found.scale, found.exponent) == pytest.approx(law, abs=0.02)


def test_on_clean_data_it_is_scipys_curve_fit():
    generator = np.random.default_rng(2)
    error = power(X, 0.2, 0.5, 0.7) + 0.002 * generator.normal(size=6)
    found = fit_power_law(X, error, SPREAD)
    theirs, _ = curve_fit(power, X, error, p0=(0.1, 0.5, 0.5), bounds=(0, [1, 2, 4]))
    assert found(X) == pytest.approx(power(X, *theirs), abs=2e-3)


def test_an_outlier_moves_it_less_than_least_squares():
    law = (0.2, 0.5, 0.7)
    error = power(X, *law)
    error[2] += 0.1
    theirs, _ = curve_fit(power, X, error, p0=(0.1, 0.5, 0.5), bounds=(0, [1, 2, 4]))
    off = np.abs(fit_power_law(X, error, SPREAD)(X) - power(X, *law)).mean()
    assert off < np.abs(power(X, *theirs) - power(X, *law)).mean()


def test_a_line_over_the_logarithm_is_found_again():
    found = fit_log_linear(X, 0.7 - 0.08 * np.log2(X / X[0]), SPREAD)
    assert (found.first, found.slope) == pytest.approx((0.7, -0.08), abs=1e-6)


def test_each_form_foretells_its_own_data_and_not_the_others():
    a_law = curve_of(power(X, 0.3, 0.5, 1.0))
    assert abs(foretell(a_law, "power law").mean) < 0.005
    assert foretell(a_law, "log-linear").mean < -0.02  # a straight line runs on beyond it
    a_trend = curve_of(0.8 - 0.08 * np.log2(X / X[0]))
    assert abs(foretell(a_trend, "log-linear").mean) < 0.005
    assert foretell(a_law, "power law").n == 3


def test_an_outlier_is_what_lies_beyond_the_scatter_of_the_seeds():
    """Of one seed alone, beyond what the choice of the images moves."""
    curve = curve_of(power(X, 0.2, 0.5, 0.7), spread=0.02)
    assert curve.spread == pytest.approx(curve.scores.mean(axis=2).std(axis=1, ddof=1).max(), rel=0.6)
    alone = Curve(curve.names, curve.x, curve.scores[:, :1])
    assert alone.spread == pytest.approx((0.25 / 2000) ** 0.5, rel=0.2)  # of a share near a half
    assert curve_of(np.full(6, 0.4)).spread == 1e-3


def test_fits_are_compared_on_the_same_seeds():
    """Their misses scatter together, so that their difference is known better than either."""
    curve = curve_of(power(X, 0.3, 0.5, 1.0), spread=0.01)
    law, line = misses(curve, "power law"), misses(curve, "log-linear")
    apart = farther(line, law)
    assert apart.low > 0
    assert apart.mean == pytest.approx(np.mean(np.abs(line[0]) - np.abs(law[0])))
    assert apart.mean == pytest.approx(-farther(law, line).mean)


def test_the_held_out_run_is_seen_by_no_fit():
    """It may be anything: the forecast stays, so that what it misses by moves along."""
    error = power(X, 0.2, 0.5, 0.7)
    for law in ("power law", "log-linear"):
        before = foretell(curve_of(error), law).mean
        after = foretell(curve_of(error + np.array([0, 0, 0, 0, 0, 0.1])), law).mean
        assert before - after == pytest.approx(0.1, abs=1e-3)


def test_intervals_hold_the_truth_and_widen_with_the_noise():
    law = (0.2, 0.5, 0.7)
    calm, noisy = (law_intervals(curve_of(power(X, *law), spread=s)) for s in (0.001, 0.01))
    for value, name in ((law[0], "floor"), (law[2], "exponent")):
        assert calm[name][0] <= value <= calm[name][1]
        assert noisy[name][1] - noisy[name][0] > calm[name][1] - calm[name][0]


def test_the_curve_is_of_the_seeds_that_all_lengths_have():
    finals = {name: [0.3, 0.4, 0.5] for name in members("length")} | {"length_8": [0.6, 0.7]}
    curve = error_curve(made_up_runs(finals), members("length"), "id_knn_accuracy")
    assert curve.names == ("length_quarter", "length_half", "baseline", "length_2", "length_4", "length_8")
    assert curve.scores.shape[:2] == (6, 2)
    assert curve.error == pytest.approx([0.65] * 5 + [0.35])
    assert error_curve({}, members("length"), "id_knn_accuracy") is None
