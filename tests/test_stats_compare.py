"""Differences, their one judgement, factors and cost, of made-up runs whose answer is known."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from made_up import ABOVE, around, made_up_predictions, made_up_runs
from scipy import stats

from manyviews.config.runs import run_specs
from manyviews.config.schema import ConfigError
from manyviews.probes.predictions import MEASURES
from manyviews.stats.compare import (
    FACTORS,
    accuracy_table,
    compare,
    difference,
    factorial_effects,
    holm,
    learning_curve,
    relate,
    scores,
)
from manyviews.stats.intervals import FIELDS, Estimate, estimate

KNN = "id_knn_accuracy"
MARGIN = 0.02
SPECS = run_specs()
NAN = float("nan")

# Where an interval lies, beside a margin of 2.
INTERVALS = {
    "above": (2.1, 5),
    "over the upper end": (1, 5),
    "within": (-1.9, 1.9),
    "over the lower end": (-5, -1),
    "below": (-5, -2.1),
    "over both ends": (-5, 5),
    "none": (NAN, NAN),
}
DECIDED = {"above": "higher", "within": "equivalent", "below": "lower"}


@pytest.mark.parametrize(("seeds", "images"), list(itertools.product(INTERVALS, repeat=2)))
def test_a_relation_needs_both_intervals_on_one_side(seeds, images):
    """The whole truth table: what both say alike is decided, and where one is missing the other decides."""
    said = {DECIDED.get(place, "undecided") for place in (seeds, images) if place != "none"}
    expected = said.pop() if len(said) == 1 else "undecided"
    assert relate(Estimate(0, 3, *INTERVALS[seeds], *INTERVALS[images]), 2) == expected


def test_fewer_than_three_seeds_and_the_margin_itself_decide_nothing():
    for interval, n in itertools.product(INTERVALS.values(), (1, 2)):
        assert relate(Estimate(0, n, *interval, *interval), 2) == "undecided"
    for low, high in ((2, 2), (-2, -2), (2, 5), (-5, -2), (-2, 2)):
        assert relate(Estimate(0, 3, low, high, low, high), 2) == "undecided"


@pytest.mark.parametrize("measure", MEASURES)
def test_a_difference_is_the_first_minus_the_second_on_the_same_seeds_and_images(measure):
    """Oracle: a double loop over seeds and images."""
    runs = made_up_runs({"resnet34": [0.3, 0.35, 0.4, 0.45], "views8": [0.5, 0.52, 0.61]})
    split, column = MEASURES[measure]
    expected = [[], [], []]
    for seed in range(3):
        a, b = (runs[name][seed].predictions.query(f"split == '{split}'") for name in ("views8", "resnet34"))
        for label, of_a, of_b in zip(a["label"], a[column], b[column], strict=True):
            if not pd.isna(of_a):
                expected[seed].append(float(of_a == label) - float(of_b == label))
    one = difference(runs, "views8", "resnet34", measure)
    assert one == estimate(np.array(expected))
    assert one.mean == pytest.approx((0.2 + 0.17 + 0.21) / 3, abs=1 / 400)


def test_images_are_paired_by_their_index_and_must_be_the_same():
    whole = made_up_predictions(0.5)
    shuffled = whole.sample(frac=1, random_state=0)
    assert np.array_equal(*scores([whole, shuffled], KNN))
    with pytest.raises(ValueError, match="scored different images"):
        scores([whole, whole[whole["image"] != 7]], KNN)


def test_a_comparison_has_a_row_for_each_run_and_measure():
    finals = {"length_4": 0.5, "length_4_epochs": 0.6, "views8_epochs": 0.3}
    runs = made_up_runs({name: around(final) for name, final in finals.items()})
    measures = [KNN, "ood_linear_accuracy"]
    table = compare(runs, "identity", measures, MARGIN)
    assert list(table) == ["comparison", "run", "reference", "measure", *FIELDS, "relation", "note"]
    assert set(zip(table["comparison"], table["reference"], strict=True)) == {("identity", "length_4")}
    others = ("resnet18_views8", "length_4_epochs", "views8_epochs")
    assert list(table[["run", "measure"]].itertuples(index=False)) == list(
        itertools.product(others, measures)
    )
    assert list(table["mean"]) == pytest.approx([NAN, NAN, 0.1, 0.1, -0.2, -0.2], nan_ok=True)
    assert list(table["relation"][2:]) == ["higher", "higher", "lower", "lower"]
    other = compare(runs, "identity", [KNN], MARGIN, reference="length_4_epochs").set_index("run")
    assert other["mean"].dropna().to_dict() == pytest.approx({"length_4": -0.1, "views8_epochs": -0.3})


def test_what_cannot_be_compared_says_why():
    """Only the seeds that both have must be alike: one of k8_inside that joint lacks is not."""
    ends = [0.4, 0.5, 0.6, 0.7]
    runs = made_up_runs({"joint": ends, "k4_inside": ends, "k8_inside": ends})
    odd = made_up_runs({"k8_inside": [0.9], "k8_pairs": ends}, precision="bfloat16")
    runs["k8_inside"] = odd["k8_inside"] + runs["k8_inside"][2:]
    runs |= {"joint": runs["joint"][1:3], "k4_inside": runs["k4_inside"][3:], "k8_pairs": odd["k8_pairs"]}
    runs |= {"k4_outside": runs["joint"]} | made_up_runs({"k8_outside": ends}, device_type="cuda")
    table = compare(runs, "interaction", [KNN], MARGIN).set_index("run")
    assert table["note"].to_dict() == {
        "k4_pairs": f"not run: {SPECS.title('k4_pairs')}",
        "k4_outside": "the same run",
        "k4_inside": "no seed in common",
        "k8_pairs": "computed in bfloat16 and float32",
        "k8_outside": "made on cpu and cuda",
        "k8_inside": "",
    }
    assert table.drop(index="k8_inside")[[*FIELDS, "relation"]].isna().all(axis=None)
    assert table.loc["k8_inside", "n"] == 1
    assert set(compare({}, "interaction", [KNN], MARGIN)["note"].str[:8]) == {"not run:"}


def family(rows) -> pd.DataFrame:
    """A comparison whose rows have given p values, seeds, directions and relations."""
    table = pd.DataFrame(rows, columns=["p", "n", "mean", "relation"])
    error = table["mean"].abs() / stats.t.isf(table["p"] / 2, table["n"] - 1)
    half = error * stats.t.ppf(0.975, table["n"] - 1)
    return table.assign(seed_low=table["mean"] - half, seed_high=table["mean"] + half)


def test_holm_adjusts_the_p_values_of_a_family():
    """A textbook's four, .01 .04 .03 .005: a difference beyond .05 is undecided, what is equivalent stays."""
    rows = [(0.01, 3, 0.2, "higher"), (0.04, 4, -0.3, "lower"), (0.03, 5, 0.01, "equivalent")]
    table = family([*rows, (0.005, 7, -0.1, "lower")]).set_axis([8, 2, 6, 4])
    judged = holm(table)
    assert list(judged["p_holm"]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert list(judged["relation"]) == ["higher", "undecided", "equivalent", "lower"]
    assert judged.drop(columns=["p_holm", "relation"]).equals(table.drop(columns="relation"))
    at_most_one = holm(family([(0.6, 3, 0.1, "higher"), (0.7, 4, 0.2, "equivalent")]))
    assert list(at_most_one["p_holm"]) == [1, 1]


def test_a_family_counts_the_runs_that_are_missing_or_of_one_seed():
    """Six in all. Oracle: SciPy's t test of the seeds' differences; 6 times the least p, then 5 times."""
    finals = {"joint": [0.40, 0.44, 0.41], "k4_outside": [0.52, 0.58, 0.54], "k8_outside": [0.6, 0.66, 0.59]}
    runs = made_up_runs(finals | {"k8_inside": [0.9]})
    table = holm(compare(runs, "interaction", [KNN], MARGIN)).set_index("run")
    gaps = {name: np.subtract(finals[name], finals["joint"]) for name in ("k4_outside", "k8_outside")}
    p = {name: stats.ttest_1samp(gap, 0).pvalue for name, gap in gaps.items()}
    assert p["k4_outside"] < p["k8_outside"]
    expected = {"k4_outside": 6 * p["k4_outside"], "k8_outside": 5 * p["k8_outside"]}
    assert table["p_holm"].dropna().to_dict() == pytest.approx(expected, rel=1e-6)
    assert table["relation"].dropna().to_dict() == {
        "k4_outside": "higher",
        "k8_outside": "higher",
        "k8_inside": "undecided",
    }


def test_final_accuracies_are_means_over_seeds_beside_what_the_original_reported():
    runs = made_up_runs({"views8": [0.5, 0.6, 0.66]})
    few = "id_few_labels_linear_accuracy"
    table = accuracy_table(runs, ["resnet34", "views8", "baseline"], [*MEASURES, few])
    table = table.set_index(["run", "measure"])
    for measure, above in {**ABOVE, few: 0.045}.items():
        assert table.loc[("views8", measure), "mean"] == pytest.approx(0.58667 + above, abs=1 / 400)
    assert math.isnan(table.loc[("views8", few), "image_low"])
    assert table.loc[["resnet34", "baseline"], "mean"].isna().all()
    assert table.loc["views8", "reported"].dropna().to_list() == [0.30, 0.32, 0.19, 0.24]
    assert table.loc["baseline", "reported"].dropna().to_list() == [0.18, 0.20, 0.12, 0.19]
    assert table.loc["resnet34", "reported"].isna().all()


def test_effects_are_those_of_a_regression_on_coded_factors():
    """Oracle: each effect is twice the coefficient of an ordinary least squares fit to -1 and +1."""
    generator = np.random.default_rng(1)
    names = SPECS.members("factorial")
    finals = {name: list(np.round(generator.uniform(0.2, 0.8, 3), 3)) for name in names}
    table = factorial_effects(made_up_runs(finals), "factorial", KNN, MARGIN)
    codes = [
        [1 if getattr(SPECS.runs[name], field) == high else -1 for field, _, high in FACTORS.values()]
        for name in names
    ]
    design = np.array([[1, a, b, c, a * b, a * c, b * c, a * b * c] for a, b, c in codes])
    fitted = np.linalg.lstsq(design, [np.mean(finals[name]) for name in names], rcond=None)[0]
    assert list(table["mean"]) == pytest.approx(2 * fitted[1:])
    depth, stem, length = FACTORS
    assert list(table["effect"])[:4] == [depth, stem, length, f"{depth} x {stem}"]
    assert table["effect"].iloc[-1] == f"{depth} x {stem} x {length}"


def test_effects_are_judged_and_need_all_cells_made_alike():
    """Eight views an epoch are four times the length."""
    long = ("length_4", "views8", "resnet34_conv3_4", "resnet18_conv7_4")
    runs = made_up_runs({name: around(0.5 if name in long else 0.3) for name in SPECS.members("factorial")})
    relations = factorial_effects(runs, "factorial", KNN, MARGIN).set_index("effect")["relation"]
    assert list(relations[relations != "equivalent"].items()) == [("4 x length", "higher")]
    other = made_up_runs({"views8": [0.5]}, precision="bfloat16")
    assert factorial_effects(runs | other, "factorial", KNN, MARGIN).empty


@pytest.mark.parametrize("change", [{"depth": 18}, {"n_views": 4}, {"comparisons": ()}])
def test_a_run_that_is_no_cell_of_its_own_is_an_error(change, monkeypatch):
    """It doubles another, has a level that is none, or is missing."""
    other = SPECS.runs["resnet34_conv3"].model_copy(update=change)
    specs = SPECS.model_copy(update={"runs": SPECS.runs | {"resnet34_conv3": other}})
    monkeypatch.setattr("manyviews.stats.compare.run_specs", lambda: specs)
    with pytest.raises(ConfigError, match="'factorial' needs one run for each of"):
        factorial_effects({}, "factorial", KNN, MARGIN)


def test_a_learning_curve_has_each_cost_and_the_range_of_the_seeds():
    seeds = made_up_runs({"views8": [0.5, 0.8, 0.6]})["views8"]
    curve = learning_curve(seeds, "ood_linear_accuracy")
    last = curve.iloc[-1]
    assert (last["epoch"], last["steps"]) == (4, seeds[0].summary["steps"])
    assert last["views_forwarded"] == seeds[0].summary["views_forwarded"]
    assert last["macs"] == seeds[0].summary["macs"]
    ends = np.array([0.5, 0.8, 0.6]) + ABOVE["ood_linear_accuracy"]
    assert list(last[["low", "mean", "high"]]) == pytest.approx([ends.min(), ends.mean(), ends.max()])
    assert (curve[["epoch", "views_forwarded", "macs"]].iloc[0] == 0).all()
    middle = curve.iloc[2] / last
    assert list(middle[["epoch", "steps", "macs"]]) == pytest.approx([0.5] * 3)
