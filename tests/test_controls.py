"""Differences, equivalence, factors and cost of runs, on made-up ones whose answer is known."""

import numpy as np
import pytest
from made_up import made_up_run, made_up_runs
from scipy import stats

from manyviews import controls
from manyviews.config import ConfigError
from manyviews.controls import (
    contrast,
    contrasts,
    cost_curve,
    cost_to_reach,
    equivalence_p,
    factorial_effects,
    relate,
)
from manyviews.intervals import estimate
from manyviews.rows import ROWS, members

KNN = "id_knn_accuracy"
MARGIN = 0.02


@pytest.mark.parametrize(("mean", "equivalent"), [(0.0, True), (0.005, True), (0.02, False), (-0.05, False)])
def test_equivalence_is_that_the_90_percent_interval_lies_within_the_margin(mean, equivalent):
    """Two one-sided tests at 5 % and the 90 % t interval are the same question."""
    values = mean + np.array([-0.004, 0.001, 0.003, 0.0])
    half = stats.sem(values) * stats.t.ppf(0.95, len(values) - 1)
    within = values.mean() - half > -MARGIN and values.mean() + half < MARGIN
    assert (equivalence_p(values, MARGIN) < 0.05) == within == equivalent


def test_one_seed_shows_no_equivalence():
    assert np.isnan(equivalence_p(np.array([0.0]), MARGIN))
    scores = np.zeros((1, 1000))
    assert relate(estimate(scores), float("nan"), MARGIN) == "inconclusive"


def test_seeds_without_spread_are_judged_by_their_value():
    assert equivalence_p(np.full(3, 0.001), MARGIN) == 0
    assert equivalence_p(np.full(3, 0.03), MARGIN) == 1


@pytest.mark.parametrize(
    ("finals", "relation"),
    [
        ([0.50, 0.50, 0.50], "equivalent"),
        ([0.70, 0.72, 0.71], "higher"),
        ([0.30, 0.31, 0.32], "lower"),
        ([0.30, 0.70, 0.52], "inconclusive"),
        ([0.70, 0.72], "inconclusive"),
    ],
)
def test_runs_are_told_apart_as_far_as_the_seeds_tell(finals, relation):
    runs = made_up_runs({"views8": [0.5] * len(finals), "resnet34_long": finals})
    found = contrast(runs, "C1", "resnet34_long", "views8", KNN, MARGIN)
    assert found.relation == relation
    assert found.estimate.mean == pytest.approx(np.mean(finals) - 0.5)


def test_a_noisy_mean_within_the_margin_is_not_equivalence():
    runs = made_up_runs({"views8": [0.5] * 3, "resnet34_long": [0.45, 0.55, 0.5]})
    assert contrast(runs, "C1", "resnet34_long", "views8", KNN, MARGIN).relation == "inconclusive"


def test_a_part_compares_what_is_there():
    runs = made_up_runs({"views8": [0.5], "resnet34_long": [0.6]})
    assert [one.run for one in contrasts(runs, "C1", KNN, MARGIN)] == ["resnet34_long"]
    assert contrasts({}, "C1", KNN, MARGIN) == []


def test_effects_are_those_of_a_regression_on_coded_factors():
    """Each effect is twice the coefficient of an ordinary least squares fit to -1 and +1."""
    generator = np.random.default_rng(1)
    finals = {name: list(np.round(generator.uniform(0.2, 0.8, 3), 2)) for name in members("C2")}
    runs = made_up_runs(finals)
    effects = factorial_effects(runs, "C2", KNN)
    codes = {
        name: [
            1 if getattr(ROWS[name], factor) == high else -1 for factor, (_, high) in controls.FACTORS.items()
        ]
        for name in members("C2")
    }
    design = np.array([[1, a, b, c, a * b, a * c, b * c, a * b * c] for a, b, c in codes.values()])
    means = [np.mean([np.mean(run.summary[KNN]) for run in runs[name]]) for name in codes]
    fitted = np.linalg.lstsq(design, means, rcond=None)[0]
    assert [found.mean for found in effects.values()] == pytest.approx(2 * fitted[1:])
    assert next(iter(effects)) == "depth 34"
    assert list(effects)[-1] == "depth 34 x 7 x 7 first layer x 4 x passes"


def test_effects_need_all_cells():
    assert factorial_effects(made_up_runs({"baseline": [0.5], "views8": [0.6]}), "C2", KNN) == {}


def test_a_row_that_is_no_new_cell_is_an_error(monkeypatch):
    """And never takes the place of another."""
    runs = made_up_runs({name: [0.5] for name in members("C2")})
    for change, message in (
        ({"depth": 18}, "runs 'resnet18_conv7' and 'hot' of part 'C2' both have depth 18"),
        ({"n_views": 4}, "run 'hot' of part 'C2' has depth 18, stem conv7, n_views 4"),
    ):
        row = ROWS["resnet18_conv7"].model_copy(update=change)
        monkeypatch.setitem(ROWS, "hot", row)
        with pytest.raises(ConfigError, match=message):
            factorial_effects(runs, "C2", KNN)


def test_cost_to_reach_is_between_the_points_below_and_at_or_above():
    """Accuracy rises evenly from 0.1 to 0.5 over four measured epochs: 0.3 is reached after half of them."""
    run = made_up_run("baseline", 0, 0.5)
    below, reached = cost_to_reach([run], KNN, 0.3).to_dict("records")
    assert (below["epoch"], reached["epoch"]) == (1, 2)
    assert reached["images_forwarded"] == run.summary["images_forwarded"] / 2
    assert reached["multiply_adds"] == run.summary["multiply_adds"] / 2
    assert reached["seconds"] == run.environment["wall_time_s"] / 2
    assert cost_to_reach([run], KNN, 0.51) is None


def test_every_run_reaches_its_own_end():
    """Also where a mean over three seeds may be rounded in two ways."""
    generator = np.random.default_rng(0)
    for finals in generator.uniform(0.2, 0.8, (20, 3)):
        seeds = [made_up_run("baseline", seed, final) for seed, final in enumerate(finals)]
        end = cost_curve(seeds).iloc[-1]
        assert cost_to_reach(seeds, KNN, end[KNN]).iloc[-1]["epoch"] == end["epoch"]
