"""Differences, their one judgement, factors, classes and cost, of made-up runs whose answer is known."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from made_up import ABOVE, made_up_predictions, made_up_run, made_up_runs

from manyviews.config.runs import run_specs
from manyviews.config.schema import ConfigError
from manyviews.probes.protocol import MEASURES
from manyviews.stats.classes import class_accuracies, confusion_matrix, most_confused
from manyviews.stats.compare import (
    FACTORS,
    accuracy_table,
    common_scores,
    compare,
    difference,
    factorial_effects,
    learning_curve,
    obstacle,
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
    runs = made_up_runs({"views8": [0.5] * 3, "resnet34_long": [0.6] * 3, "resnet34_long_epochs": [0.3] * 3})
    table = compare(runs, "equal_steps", [KNN, "ood_linear_accuracy"], MARGIN, SPECS)
    assert list(table) == ["comparison", "run", "reference", "measure", *FIELDS, "relation", "note"]
    assert list(table["run"]) == ["resnet34_long"] * 2 + ["resnet34_long_epochs"] * 2
    assert set(zip(table["comparison"], table["reference"], table["note"], strict=True)) == {
        ("equal_steps", "views8", "")
    }
    assert list(table["mean"]) == pytest.approx([0.1, 0.1, -0.2, -0.2])
    assert list(table["relation"]) == ["higher", "higher", "lower", "lower"]
    other = compare(runs, "equal_steps", [KNN], MARGIN, SPECS, reference="resnet34_long")
    assert dict(zip(other["run"], other["mean"], strict=True)) == pytest.approx(
        {"views8": -0.1, "resnet34_long_epochs": -0.3}
    )


def test_what_cannot_be_compared_says_why():
    runs = made_up_runs({"baseline": [0.5] * 3, "sgd": [0.9] * 3, "temperature_01": [0.7] * 3})
    runs["adamw"] = made_up_runs({"baseline": [0.5] * 3})["baseline"]  # the same recipe in this profile
    runs["temperature_01"] = [made_up_run("temperature_01", 7, 0.7)]
    runs["temperature_02"] = [
        made_up_run("temperature_02", seed, 0.7, precision="bfloat16") for seed in range(3)
    ]
    runs["temperature_05"] = [
        made_up_run("temperature_05", seed, 0.7, device_type=("cpu", "cuda", "cpu")[seed])
        for seed in range(3)
    ]
    table = compare(runs, "optimiser", [KNN], MARGIN, SPECS).set_index("run")
    assert table["note"].to_dict() == {
        "reported_optimizer": "not run: reported_optimizer",
        "adamw": "the same run",
        "sgd": "",
        "temperature_01": "no seed in common",
        "temperature_02": "computed in bfloat16 and float32",
        "temperature_05": "made on cpu and cuda",
    }
    refused = table.drop(index="sgd")
    assert refused[[*FIELDS, "relation"]].isna().all(axis=None)
    assert table.loc["sgd", "relation"] == "higher"
    assert set(compare({}, "optimiser", [KNN], MARGIN, SPECS)["note"].str[:8]) == {"not run:"}


def test_only_the_seeds_compared_must_be_made_alike():
    runs = made_up_runs({"baseline": [0.5] * 3})
    runs["sgd"] = [made_up_run("sgd", seed, 0.7) for seed in (1, 2)]
    runs["baseline"][0] = made_up_run("baseline", 0, 0.5, precision="bfloat16")
    assert obstacle(runs, ["baseline", "sgd"]) == ""
    assert common_scores(runs, ["baseline", "sgd"], KNN)["sgd"].shape == (2, 1000)


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
    table = factorial_effects(made_up_runs(finals), "factorial", KNN, MARGIN, SPECS)
    codes = [
        [1 if getattr(SPECS.runs[name], field) == high else -1 for field, _, high in FACTORS.values()]
        for name in names
    ]
    design = np.array([[1, a, b, c, a * b, a * c, b * c, a * b * c] for a, b, c in codes])
    fitted = np.linalg.lstsq(design, [np.mean(finals[name]) for name in names], rcond=None)[0]
    assert list(table["mean"]) == pytest.approx(2 * fitted[1:])
    depth, stem, passes = FACTORS
    assert list(table["effect"])[:4] == [depth, stem, passes, f"{depth} x {stem}"]
    assert table["effect"].iloc[-1] == f"{depth} x {stem} x {passes}"


def test_effects_are_judged_and_need_all_cells_made_alike():
    finals = {name: [0.3 + 0.2 * (SPECS.runs[name].n_views == 8)] * 3 for name in SPECS.members("factorial")}
    runs = made_up_runs(finals)
    table = factorial_effects(runs, "factorial", KNN, MARGIN, SPECS).set_index("effect")
    assert table.loc["4 x passes", "relation"] == "higher"
    assert set(table["relation"].drop("4 x passes")) <= {"equivalent", "undecided"}
    runs["views8"] = [made_up_run("views8", 0, 0.5, precision="bfloat16")]
    assert factorial_effects(runs, "factorial", KNN, MARGIN, SPECS).empty


@pytest.mark.parametrize("change", [{"depth": 18}, {"n_views": 4}, {"comparisons": ()}])
def test_a_run_that_is_no_cell_of_its_own_is_an_error(change):
    """It doubles another, has a level that is none, or is missing."""
    other = SPECS.runs["resnet34_conv3"].model_copy(update=change)
    specs = SPECS.model_copy(update={"runs": SPECS.runs | {"resnet34_conv3": other}})
    with pytest.raises(ConfigError, match="'factorial' needs one run for each of"):
        factorial_effects({}, "factorial", KNN, MARGIN, specs)


@pytest.mark.parametrize("measure", [KNN, "ood_linear_accuracy", "ood_knn_folds_accuracy"])
def test_class_accuracies_and_confusions_are_counts_of_images_by_their_own_class(measure):
    """Oracle: a loop over the images. Classes differ in size: fractions of predicted classes would fail."""
    seeds = made_up_runs({"baseline": [0.5, 0.6, 0.33]})["baseline"]
    split, column = MEASURES[measure]
    n_classes = len(seeds[0].class_names(measure))
    expected = np.zeros((3, n_classes, n_classes))
    for run, counts in zip(seeds, expected, strict=True):
        for _, row in run.predictions.query(f"split == '{split}'").iterrows():
            if not pd.isna(row[column]):
                counts[row["label"], row[column]] += 1
    fractions = (expected / expected.sum(axis=2, keepdims=True)).mean(axis=0)
    matrix = confusion_matrix(seeds, measure)
    assert matrix == pytest.approx(fractions)
    assert not np.allclose(matrix, matrix.T)
    by_class = class_accuracies(seeds, measure)
    assert list(by_class.index) == list(range(n_classes))
    assert list(by_class) == pytest.approx(np.diag(fractions))


def test_the_most_confused_classes_are_those_of_the_worst_pairs():
    matrix = np.diag([0.9, 0.5, 0.8, 0.6, 0.99, 0.7])
    matrix[0, 3], matrix[3, 0], matrix[1, 2], matrix[5, 3] = 0.10, 0.30, 0.35, 0.05
    assert most_confused(matrix, 4) == [0, 3, 1, 2]  # 0.40 either way before 0.35
    assert most_confused(matrix, 5) == [0, 3, 1, 2, 5]


def test_a_learning_curve_has_each_cost_and_the_range_of_the_seeds():
    seeds = made_up_runs({"views8": [0.5, 0.8, 0.6]})["views8"]
    curve = learning_curve(seeds, "ood_linear_accuracy")
    last = curve.iloc[-1]
    assert (last["epoch"], last["steps"]) == (4, seeds[0].summary["steps"])
    assert last["views_forwarded"] == seeds[0].summary["views_forwarded"]
    assert last["macs"] == seeds[0].summary["macs"]
    assert last["seconds"] == pytest.approx(np.mean([run.environment["wall_time_s"] for run in seeds]))
    ends = np.array([0.5, 0.8, 0.6]) + ABOVE["ood_linear_accuracy"]
    assert list(last[["low", "mean", "high"]]) == pytest.approx([ends.min(), ends.mean(), ends.max()])
    assert (curve[["epoch", "views_forwarded", "macs", "seconds"]].iloc[0] == 0).all()
    middle = curve.iloc[2] / last
    assert list(middle[["epoch", "steps", "macs", "seconds"]]) == pytest.approx([0.5] * 4)
