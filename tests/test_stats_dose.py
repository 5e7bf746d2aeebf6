"""Accuracy by distinct views, and the dose from which on more are no better: made-up runs of known answer."""

from itertools import product

import pandas as pd
import pytest
from made_up import ABOVE, around, made_up_runs

from manyviews.config.runs import run_specs
from manyviews.stats.compare import difference
from manyviews.stats.dose import Saturation, dose_curve, draws, saturation

KNN = "id_knn_accuracy"
# Two distinct views of an image are too few, four are enough.
FINALS = {"length_4": 0.71, "distinct2_4": 0.60, "distinct4_4": 0.705, "distinct8_4": 0.716}
FINALS |= {"distinct16_4": 0.708}


def made_up(finals=FINALS, **kind):
    """With what the loading of results adds: in four times the four epochs an image has 32 fresh views."""
    runs = made_up_runs({name: around(final) for name, final in finals.items()}, **kind)
    return runs | ({"distinct32_4": runs["length_4"]} if "length_4" in runs else {})


RUNS = made_up()


def curve_of(runs, measure=KNN):
    return dose_curve(runs, "dose_4", measure, 0.02)


def test_a_curve_goes_from_few_distinct_views_to_fresh_ones_whatever_the_order_of_the_runs(monkeypatch):
    specs = run_specs()
    backwards = specs.model_copy(update={"runs": dict(reversed(specs.runs.items()))})
    monkeypatch.setattr("manyviews.stats.compare.run_specs", lambda: backwards)
    measure = "ood_linear_accuracy"
    curve = curve_of(RUNS, measure)
    names = ["distinct2_4", "distinct4_4", "distinct8_4", "distinct16_4", "length_4"]
    assert list(curve["run"]) == names
    assert list(curve["distinct"]) == [2, 4, 8, 16, 32]
    assert list(curve["note"]) == ["", "", "", "", "fresh"]
    assert list(curve["relation"][:4]) == ["lower", "equivalent", "equivalent", "equivalent"]
    assert list(curve["mean"]) == pytest.approx(
        [FINALS[name] + ABOVE[measure] for name in names], abs=1 / 800
    )
    gaps = [difference(RUNS, name, "length_4", measure) for name in names[:4]]
    expected = pd.DataFrame([(gap.mean, gap.low, gap.high) for gap in gaps])
    assert curve[["difference", "low", "high"]][:4].to_numpy() == pytest.approx(expected.to_numpy())
    assert curve[["difference", "low", "high"]].iloc[4].isna().all()


def test_fresh_views_are_all_that_a_training_draws():
    """Epochs of each run times its views an epoch; in the shorter training that is eight."""
    runs = made_up_runs({"baseline": [0.5], "views8": [0.6], "length_8": [0.7], "k4_outside": [0.4]})
    drawn = {name: draws(seeds[0]) for name, seeds in runs.items()}
    assert drawn == {"baseline": 8, "views8": 32, "length_8": 64, "k4_outside": 8}
    short = made_up_runs({"baseline": [0.5], "distinct2": [0.4], "distinct4": [0.45]})
    short |= dict.fromkeys(("distinct8", "distinct16", "distinct32"), short["baseline"])
    curve = dose_curve(short, "dose", KNN, 0.02)
    assert list(curve["distinct"]) == [2, 4, 8]


def test_it_saturates_where_all_larger_doses_are_equivalent_to_fresh_views():
    """The whole truth table of three doses: what lies below an exception does not count."""
    answers = {}
    for relations in product(("lower", "equivalent", "higher", "undecided"), repeat=3):
        rows = [*zip((2, 4, 16), relations, ("", "", ""), strict=True), (50, None, "fresh")]
        answers[relations] = saturation(pd.DataFrame(rows, columns=["distinct", "relation", "note"]))
    assert answers["equivalent", "equivalent", "equivalent"] == Saturation(2, "")
    for relations, answer in answers.items():
        if relations[2] == "undecided":
            assert answer == Saturation(None, "undecided")
        elif relations[2] != "equivalent":
            assert answer == Saturation(None, "not reached")
        elif relations[1] != "equivalent":
            assert answer == Saturation(16, "")
        elif relations[0] != "equivalent":
            assert answer == Saturation(4, "")


@pytest.mark.parametrize(
    ("name", "found"), [("length_4", Saturation(None, "not run")), ("distinct2_4", Saturation(4, ""))]
)
def test_a_dose_not_run_or_not_alike_says_nothing_and_without_fresh_views_none_suffices(name, found):
    assert saturation(curve_of(RUNS)) == Saturation(4, "")
    missing = {other: seeds for other, seeds in RUNS.items() if other != name}
    unlike = RUNS | made_up({name: FINALS[name]}, precision="bfloat16")
    for runs in (missing, unlike):
        assert saturation(curve_of(runs)) == found
