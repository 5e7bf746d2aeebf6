"""Tables and sentences say what the runs say, and "not run" of what is not there."""

import re

import pytest
from made_up import made_up_predictions, made_up_profile, made_up_run, made_up_runs

from manyviews.config.runs import run_specs
from manyviews.config.schema import ClaimsConfig
from manyviews.report import tables, text
from manyviews.runs.store import CURVES, Results
from manyviews.stats.claims import verdicts, verdicts_table
from manyviews.stats.compare import compare
from manyviews.stats.dose import dose_curve
from manyviews.stats.frontier import recipes

KNN, SPECS, PROFILE = "id_knn_accuracy", run_specs(), made_up_profile()
ORIGINAL = SPECS.of_study("original")
# k-NN on training classes; the other measures of each run differ from it, see made_up.
FINALS = {"baseline": [0.20, 0.22, 0.24], "resnet34": [0.25, 0.27, 0.32], "views8": [0.40, 0.45, 0.47]}
RUNS = made_up_runs(FINALS)
ESTIMATE = {
    "mean": 0.123,
    "n": 3.0,
    "seed_low": 0.1,
    "seed_high": 0.15,
    "image_low": 0.11,
    "image_high": 0.13,
}
NAN = float("nan")


def test_an_accuracy_comes_with_half_of_the_wider_interval():
    """Over seeds 10 to 15, over images 11 to 13: 2.5. Of one seed, that over images."""
    assert tables.accuracy_text(ESTIMATE) == "12.3 ± 2.5"
    one = ESTIMATE | {"seed_low": NAN, "seed_high": NAN, "n": 1.0}
    assert tables.accuracy_text(one) == "12.3 ± 1.0"
    assert tables.accuracy_text(one | {"image_low": NAN, "image_high": NAN}) == "12.3"


def test_a_difference_comes_with_the_outer_ends_of_its_intervals_and_its_sign():
    assert tables.difference_text(ESTIMATE | {"image_high": 0.16}) == "+12.3 (+10.0 to +16.0)"
    below = {"mean": -0.05, "seed_low": NAN, "seed_high": NAN, "image_low": -0.07, "image_high": 0.01}
    assert tables.difference_text(below) == "-5.0 (-7.0 to +1.0)"
    assert tables.difference_text({"mean": NAN, "note": "no seed in common"}) == "no seed in common"
    assert tables.difference_text({"mean": NAN, "note": ""}) == "not run"


def test_measured_accuracies_stand_above_ones_own_and_the_originals():
    """Each measure of each run under its own name; t interval of 20, 22, 24: 4.303 * 2 / sqrt(3) = 5.0."""
    own = Results(made_up_runs({"baseline": [0.19]}), None, published=False)
    table = tables.accuracies(Results(RUNS, None, published=True), own)
    assert list(table.columns) == [tables.MEASURE_TITLES[measure] for measure in CURVES]
    of_baseline = table.loc["ResNet-18, 2 views"]
    assert list(of_baseline.index) == ["ours, n = 3", "yours, n = 1", "the original"]
    assert [cell.split()[0] for cell in of_baseline.iloc[0]] == ["22.0", "28.0", "17.0", "25.5"]
    assert of_baseline.iloc[0, 0] == "22.0 ± 5.0"
    assert of_baseline.iloc[1, 0].startswith("19.0 ± ")
    assert list(of_baseline.iloc[2]) == ["18.0", "20.0", "12.0", "19.0"]
    assert list(table.loc["ResNet-34, 2 views"].index) == ["ours, n = 3"]
    assert list(table.loc[("ResNet-34, 8 views", "the original")]) == ["30.0", "32.0", "19.0", "24.0"]
    assert set(table.loc[("ResNet-18, supervised", "ours")]) == {"not run"}


def test_baselines_stand_below_the_runs():
    """Raw pixels, and the initial weights of each of the two networks: 10 % for k-NN on training classes."""
    table = tables.accuracies(Results(RUNS, made_up_predictions(0.31), published=True)).xs("", level=1)
    assert list(table.loc["Raw pixels"]) == ["31.0", "37.0", "26.0", "34.5"]
    networks = [name for name in table.index if name.startswith("Untrained")]
    assert networks == ["Untrained ResNet-18, 3 x 3", "Untrained ResNet-34, 7 x 7"]
    assert list(table.loc[networks[1]]) == ["10.0", "16.0", "5.0", "13.5"]


def test_seen_and_unseen_classes_are_compared_on_equal_terms():
    """In folds on unseen classes, and with as few labels on training classes; see made_up for the numbers."""
    row = tables.equal_terms(RUNS).loc["ResNet-18, 2 views"]
    assert {name: cell.split()[0] for name, cell in row.items()} == {
        "k-NN, unseen classes, in folds": "18.0",
        "linear, unseen classes, in folds": "24.0",
        "k-NN, training classes, few labels": "20.0",
        "linear, training classes, few labels": "26.5",
    }


def test_a_comparison_says_how_each_run_differs_and_what_it_cost():
    """4 x the epochs with the rate moved per step and per epoch: 15, 18 and 15 points below."""
    runs = made_up_runs({"length_4": FINALS["views8"], "length_4_epochs": FINALS["resnet34"]})
    runs["resnet18_views8"] = runs["length_4"]
    table = tables.comparison(runs, compare(runs, "identity", [KNN], 0.02))
    four, same, other, missing = (table.loc[SPECS.title(name)] for name in SPECS.members("identity"))
    assert (four["Relation"], four["Difference (points)"]) == ("reference", "")
    assert same["Difference (points)"] == "the same run as ResNet-18, 4 x epochs"
    assert other["Difference (points)"].startswith("-16.0 (-20")
    assert (other["Relation"], other["n"]) == ("lower", "3")
    assert (other["linear (%)"], other["k-NN, unseen, in folds (%)"]) == ("34.0", "24.0")
    for cost in ("Steps", "MACs of training (G)"):
        assert four[cost] == other[cost] != ""
    assert missing.iloc[0] == "not run"
    assert missing["Difference (points)"].startswith(f"not run: {SPECS.title('views8_epochs')}")
    assert len(table.columns) <= 8


def test_differences_name_both_sides_and_the_measure():
    compared = compare(RUNS, "original", CURVES, 0.02, reference="resnet34")
    table = tables.differences(compared)
    rows = table.loc["ResNet-34, 8 views − ResNet-34, 2 views"]
    assert list(rows["Measure"]) == [tables.MEASURE_TITLES[measure] for measure in CURVES]
    assert rows["Points"].iloc[0].startswith("+16.0 (")
    assert set(rows["Relation"]) == {"higher"}
    assert table.loc["ResNet-18, 2 views − ResNet-34, 2 views", "Points"].iloc[0].startswith("-6.0 (")


def test_a_verdict_has_a_line_and_its_numbers_another():
    judged = verdicts(RUNS, made_up_predictions(0.31), PROFILE.claims)
    table = tables.verdicts(judged)
    assert list(table.index) == list("ABCDE")
    assert table.loc["C", "Its own comparison"] == "supported"
    assert table.loc["C", "A fair one"] == "✗ longer training, not more views"
    decides = table["What decides, in points"]
    assert decides["C"].startswith(
        "eight views at equal epochs are four times the optimiser steps, which gain +16"
    )
    assert decides["C"].endswith("), n = 3")
    assert decides["E"].startswith("ResNet-34, 8 views − raw pixels (k-NN, unseen classes, in folds): ")
    assert table.loc["A", "A fair one"] == "not tested"
    assert decides["A"].startswith("not run: ResNet-34, 3 x 3")
    numbers = tables.differences(verdicts_table(judged)).reset_index()
    of_c = numbers[numbers["claim"] == "C"].set_index("compared")
    assert of_c.loc["as reported", "Difference of"] == "ResNet-34, 8 views − ResNet-34, 2 views"
    assert of_c.loc["as reported", "Points"].startswith("+16.0 (")
    assert of_c.loc["controlled", "Points"] == "not run: 4 in a batch, SupCon L_out; 2 in a batch"
    assert list(of_c["Outcome"]) == ["supported", "not tested"]
    of_b = numbers[(numbers["claim"] == "B") & (numbers["compared"] == "as reported")]
    assert of_b["Difference of"].item() == "ResNet-34, 8 views since epoch 3"
    of_e = set(numbers.loc[numbers["claim"] == "E", "Difference of"])
    assert of_e == {f"ResNet-34, 8 views − {name}" for name in ("raw pixels", "random initialisation")}


def answers(finals) -> str:
    """32 distinct views are all that four times the four epochs draw."""
    runs = made_up_runs(finals)
    runs |= {"distinct32_4": runs["length_4"]} if "length_4" in runs else {}
    return text.answers(Results(runs, None, published=False), PROFILE).data


def test_the_five_answers_follow_from_the_results():
    """Each with its number: a gain, doses too few and enough, arms that gain, recipes at two prices."""
    doses = {"length_4": [0.71, 0.72, 0.73], "distinct2_4": [0.40, 0.42, 0.41]}
    doses |= {f"distinct{n}_4": [0.7 + n / 1e4, 0.715, 0.725] for n in (4, 8, 16)}
    arms = {"joint": [0.30, 0.31, 0.32], "k4_outside": [0.45, 0.46, 0.47], "k8_outside": [0.33, 0.29, 0.31]}
    said = answers(FINALS | doses | arms)
    identity, gain, dose, interaction, budget = re.findall(r"\d\. \*\*(.*?)(?=\n\d\. |$)", said, re.DOTALL)
    assert "8 fresh views an epoch are 4 passes" in identity
    assert "gain of 4 times the training: +16.0 (" in gain
    assert "points from *ResNet-34, 2 views* to *ResNet-34, 8 views*" in gain
    assert "**4 distinct views of an image, or more, teach as much** as 32 fresh ones" in dose
    assert re.search(r"within 2\.0 points: -\d\.\d \(-.*\); 2 teach less: -31\.0 \(-3.* to -2", dose)
    assert "gain over two in 1 of 2 variants" in interaction
    assert "the best of 2 variants, *4 in a batch, SupCon L_out*, differs by +15.0 (" in interaction
    assert "in 1 of 2 variants (n = 3)." in interaction
    assert "points: higher." in interaction
    assert "Train the smaller network longer: *ResNet-18, 4 x epochs* reaches 72.0 % (n = 3)" in budget
    assert "*ResNet-34, 8 views*, which reaches 44.0 % (difference +28.0 (" in budget
    assert "), n = 3: higher)" in budget
    assert "as much as the eight views, *4 in a batch, SupCon L_out*, needs 13 %" in budget
    assert "In short: by construction, eight views an epoch train the network longer; in a training" in said
    assert "4 distinct views of an image teach as much as ever new ones (by k-NN on training" in said
    assert "By the other three accuracies the dose that suffices is 4." in dose
    made = len(FINALS | doses | arms)
    about = rf"\*\*Synthetic images \(10 classes, 16 x 16 pixels, 4 epochs; {made} of \d\d runs made with 3 "
    assert re.match(about + r"seeds, \d\.\d core-hours\): no evidence", said)
    assert "*L_out*, *L_in*: SupCon's mean" in said


def test_what_four_times_a_training_gains_is_told_where_the_original_s_was_not_run():
    """From each length that has one four times as long, with as many seeds as there are."""
    lengths = {"baseline": [0.50, 0.51, 0.52], "length_quarter": [0.40, 0.41, 0.42], "length_4": [0.6]}
    said = answers(lengths)
    gains = said[said.index("4 times the training. Its eight views were not run. But ") :].split("; ")
    assert "8 views for 1 epoch are all but *ResNet-18, 2 views*, 4 epochs, which gains +10.0 (" in gains[0]
    assert gains[0].endswith(" points over two views for 1 epoch: higher (n = 3)")
    assert gains[1].startswith("8 views for 4 epochs are all but *ResNet-18, 4 x epochs*, 16 epochs, which")
    assert "points over two views for 4 epochs: undecided (n = 1)." in gains[1]
    assert re.search(r"budget\.\*\* From 4 to 16 epochs: \+10\.0 \(.*\) points, undecided \(n = 1", said)
    assert "which gains" not in answers(FINALS | lengths)
    few = answers(FINALS | lengths | {"views8": [0.5]})  # of the original's own, one seed: the others help
    assert re.search(
        r"to \*ResNet-34, 8 views\*: undecided \(n = 1\)\. Likewise, 8 views for 1 epoch are all but", few
    )
    assert "not compared (not run: ResNet-34, 2 views). But" in answers(lengths | {"views8": [0.5]})


def test_what_twice_the_price_buys_is_told_where_the_eight_views_were_not_run():
    """Twice the epochs gain 11 points, and a network of nearly twice the price 6."""
    said = answers(
        {name: FINALS[name] for name in ("baseline", "resnet34")} | {"length_half": [0.10, 0.11, 0.12]}
    )
    assert "From 2 to 4 epochs (more: not run), *ResNet-18, 2 views*: +11.0" in said
    assert re.search(
        r"to \*ResNet-34, 2 views\*, with the original's first layer of 7 x 7 pixels in place of 3 x 3, "
        r"for 1\.9 times the multiply-adds: \+6\.0 \(.*\), undecided \(n = 3\)\.",
        said,
    )
    assert "does not pay" not in said


def test_what_more_than_the_baseline_s_length_buys_is_told_with_its_seeds():
    original = {name: FINALS[name] for name in ("baseline", "resnet34")}
    said = answers(original | {"length_half": [0.1] * 3, "length_4": [0.3]})
    assert "From 2 to 4 epochs, *ResNet-18, 2 views*: +12.0" in said
    assert re.search(r"; from 4 to 16 epochs: \+10\.0.*, undecided \(n = 1\)\. From the base", said)


@pytest.mark.parametrize(
    ("half", "words"), [([0.1] * 3, "do"), ([0.15, 0.19, 0.24], "may"), ([0.23] * 3, "do not either")]
)
def test_of_a_larger_network_and_of_longer_training_it_is_said_which_pays(half, words):
    """The gain of the network is ruled out; that of the epochs is there, undecided, or ruled out."""
    said = answers({"baseline": [0.22] * 3, "length_half": half, "resnet34": [0.16, 0.17, 0.18]})
    assert f"For twice the cost, this larger network does not pay, twice the epochs {words}. " in said
    assert "), so no gain of 2.0 (n = 3)." in said
    of_three = {"baseline": [0.22] * 3, "length_half": half, "resnet34": [0.2] * 3, "length_2": [0.3] * 3}
    assert "From 2 to 4 epochs, *ResNet-18, 2 views*" in answers(of_three)


def test_the_longer_training_is_advised_only_where_it_is_as_accurate_and_what_loses_is_named():
    arms = {"joint": [0.30, 0.31, 0.32], "k4_outside": [0.11, 0.12, 0.13]}
    said = answers(FINALS | {"length_4": [0.40, 0.41, 0.42]} | arms)
    assert "Train the smaller" not in said
    assert "*ResNet-18, 4 x epochs* reaches 41.0 % (n = 3)" in said
    assert "four or eight views of an image in one loss show no gain over two" in said
    assert "show no decided gain over two" in answers(arms | {"k8_outside": [0.27, 0.35, 0.33]})
    assert "length, beside *2 in a batch*, *4 in a batch, SupCon L_out* differs by -19.0 (" in said
    worse = answers(arms | {"k8_outside": [0.07, 0.08, 0.09]})
    assert worse.count("*4 in a batch, SupCon L_out*") == 1
    assert "**worse is *8 in a batch, SupCon L_out*: -23.0 (" in worse
    scattered = {"length_4": [0.30, 0.44, 0.58]}  # as accurate in the mean, and undecided
    assert "Train the smaller" not in answers(FINALS | scattered)


def test_where_nothing_cheaper_reaches_the_eight_views_it_is_said():
    assert "No cheaper recipe that was run reaches as much as the eight views." in answers(FINALS)


def test_one_s_own_gain_names_its_runs_where_the_published_ones_lack():
    lengths = {"baseline": [0.50, 0.51, 0.52], "length_quarter": [0.40, 0.41, 0.42]}
    own = Results(made_up_runs({"resnet34": [0.3], "views8": [0.4]}), None, published=False)
    published = Results(made_up_runs(lengths), None, published=True)
    said = text.answers(published, PROFILE, own).data
    your_own = r"\(n = 3\)\. Your own \*ResNet-34, 8 views\* gains \+10\.0.* over your \*ResNet-34, 2 views\*"
    assert re.search(your_own, said)
    whole = Results(made_up_runs(FINALS), None, published=True)
    assert "(n = 3); yours: +10.0" in text.answers(whole, PROFILE, own).data


def test_what_was_run_otherwise_is_not_compared_and_not_called_not_run():
    """Doses, arms and lengths in another number format than what they are compared with."""
    runs = made_up_runs(
        {name: [0.3, 0.4, 0.5] for name in ("baseline", "distinct2", "joint", "k4_outside", "length_half")}
    )
    for name in ("distinct2", "k4_outside", "length_half"):
        for run in runs[name]:
            run.environment["precision"] = "float16"
    said = text.answers(Results(runs, None, published=False), PROFILE).data
    in_two = r"not compared (computed in"
    assert f"In a training as long as the baseline's, doses are {in_two}" in said
    assert f"in one loss: {in_two}" in said
    assert f"budget.** Not compared ({in_two[14:]}" in said


@pytest.mark.parametrize(("finals", "words"), [([0.2] * 3, "less"), ([0.4] * 3, "more")])
def test_a_largest_dose_that_is_not_enough_says_on_which_side_it_is(finals, words):
    said = answers({"baseline": [0.3, 0.3, 0.3], "distinct2": finals})
    assert re.search(
        rf"the baseline's, 2 distinct views of an image, the most that were run, teach {words}", said
    )
    assert "teach less: " not in said


def test_answers_without_runs_say_so_and_one_seed_decides_nothing():
    assert answers({}).count("ot run") == 4  # the gain, the dose, interaction, a budget
    one = answers({"length_4": [0.7], "distinct2_4": [0.3], "joint": [0.3], "k4_outside": [0.5]})
    assert "teach as much**" not in one
    assert "in one loss are not judged, with fewer than 3 seeds (n = 1). At the" in one
    assert "length, beside *2 in a batch*, *4 in a batch, SupCon L_out* differs by +20.0" in one
    two = answers({"joint": [0.3], "k4_outside": [0.5], "k8_outside": [0.2]})  # the best alone would flatter
    assert " and *8 in a batch, SupCon L_out* differs by -10.0 (" in two
    assert "how many distinct views an image needs is not decided" in one
    assert "n = 1" in one


def test_other_probes_are_shown_for_each_run_and_kind_of_class():
    """Trained and initial weights, training and unseen classes differ; means over the seeds."""
    of_id, of_ood = (tables.sweep(RUNS, task) for task in ("id", "ood"))
    assert list(of_id.columns) == ["random initialisation", *(SPECS.title(name) for name in FINALS)]
    assert list(of_id.iloc[0]) == [15.0, 27.0, 33.0, 49.0]
    assert list(of_ood.iloc[0]) == [10.0, 22.0, 28.0, 44.0]
    assert list(of_id.iloc[1]) == [22.0, 34.0, 40.0, 56.0]
    assert of_id.index[0] == ("fc", False, "knn", "5")


def test_yours_agree_with_the_published_where_intervals_overlap():
    near = {"baseline": [0.21, 0.22, 0.25]}
    far = {"views8": [0.101, 0.102, 0.103]}
    own = made_up_runs(near | far)
    table = tables.beside_published(RUNS, own | {"distinct32": own["baseline"]})  # the same run, shown once
    assert list(table.index.unique("Run")) == ["ResNet-18, 2 views", "ResNet-34, 8 views"]
    by_run = table.xs(tables.MEASURE_TITLES[KNN], level=tables.MEASURE)
    assert list(by_run["agree"]) == ["yes", "no"]
    assert by_run["published"].str.startswith(("22.0", "44.0")).all()
    assert by_run["yours"].str.startswith(("22.7", "10.2")).all()
    assert list(by_run.iloc[:, 2]) == ["+0.7", "-33.8"]


def test_settings_are_those_that_depart_from_the_originals():
    table = tables.settings(RUNS, ORIGINAL)
    assert list(table.loc["training.epochs"]) == ["50", "4", "4", "4"]
    assert list(table.loc["training.learning_rate"]) == ["0.6", "0.1", "0.1", "0.1"]
    assert list(table.loc["depth"]) == ["", "18", "34", "34"]
    assert "training.temperature" not in table.index
    assert "training.image_fraction" not in table.index


def test_images_and_cost_are_told():
    facts = tables.data_facts(RUNS)
    assert "synthetic" in facts.index.name
    assert list(facts.loc["training classes"]) == [10, 200, 1000, 20.0, "10.0 %"]
    assert list(facts.loc["unseen classes"]) == [8, 400, 400, 50.0, "12.5 %"]
    assert "photographs" in tables.data_facts(made_up_runs({"baseline": [0.2]}, synthetic=False)).index.name
    cost = tables.cost(RUNS, ORIGINAL).loc["ResNet-34, 8 views"]
    assert list(cost[["Parameters (M)", "Steps", "Views forwarded", "CPU time (s)"]]) == [
        "10.20",
        "64",
        "6,400",
        "127",
    ]
    mixed = {"sgd": [made_up_run("sgd", 0, 0.3, precision="bfloat16")]} | RUNS
    assert tables.environment(mixed).loc["precision"].item() == "bfloat16, float32"


NOTHING = {
    "accuracies": lambda: tables.accuracies(Results({}, None, published=True)),
    "equal terms": lambda: tables.equal_terms({}),
    "sweep": lambda: tables.sweep({}, "id"),
    "dose": lambda: tables.dose(dose_curve({}, "dose", KNN, 0.02)),
    "recipes": lambda: tables.recipes(recipes({}, KNN, "baseline")),
    "comparison": lambda: tables.comparison({}, compare({}, "dose", [KNN], 0.02)),
    "differences": lambda: tables.differences(compare({}, "dose", [KNN], 0.02)),
    "findings": lambda: tables.differences(verdicts_table(verdicts({}, None, PROFILE.claims))),
    "numbers": lambda: tables.numbers({"slope": None}),
    "cost": lambda: tables.cost({}, ORIGINAL),
    "data": lambda: tables.data_facts({}),
    "environment": lambda: tables.environment({}),
    "state": lambda: text.state(Results({}, None, published=True), ORIGINAL, PROFILE).data,
    "answers": lambda: answers({}),
}


@pytest.mark.parametrize("name", NOTHING)
def test_what_was_not_run_is_called_so(name):
    shown = NOTHING[name]()
    words = shown if isinstance(shown, str) else shown.to_html()
    assert "not run" in words
    assert "NaN" not in words


def test_the_state_of_results_warns_of_all_that_a_reader_must_know():
    """Each warning where it is due, and nowhere else."""
    rising = Results(RUNS, made_up_predictions(0.05), published=True)
    plain = text.state(rising, ORIGINAL, PROFILE).data
    assert "3 of 4 runs are there (published with the project), with 3 seeds each" in plain
    assert "Synthetic" in plain
    assert "none of the runs end below that" in plain
    assert "probes of all of them converged" in plain
    for warning in ("n = 1", "computed in", "Below their own", "did not converge", "failed"):
        assert warning not in plain
    worse = made_up_runs({"baseline": [0.05], "views8": [0.4, 0.5]}, synthetic=False)
    worse["views8"][0].environment["precision"] = "bfloat16"
    worse["views8"][1].summary["linear_converged"] = False
    results = Results(worse, made_up_predictions(0.3), published=False)
    said = text.state(results, ORIGINAL, PROFILE, {"resnet34, seed0": "no loss"}).data
    for warning in (
        "n = 1 for some",
        "computed in bfloat16 and float32",
        "30.0 %; 1 of the runs ends below that: ResNet-18, 2 views.",
        "**Below their own initial weights end: ResNet-18, 2 views.**",
        "did not converge in: ResNet-34, 8 views, seed 1.",
        "- resnet34, seed0 failed: no loss",
    ):
        assert warning in said
    assert "Synthetic" not in said


def test_limits_that_were_changed_after_the_runs_are_told():
    assert "The margin was fixed before the runs were begun" in text.rules(PROFILE, RUNS).data
    stricter = PROFILE.model_copy(update={"claims": ClaimsConfig(margin=0.035)})
    said = text.rules(stricter, RUNS).data
    assert "beyond 3.5 points" in said
    assert "changed after the runs**: ResNet-18, 2 views, seed 0;" in said


def test_a_footer_tells_that_the_code_is_unknown_where_there_was_no_git():
    made = {"device": "A CPU", "precision": "float64", "git_dirty": False, "cpu_time_s": 7200}
    for commit, words in (("0123456789abc", "0123456789"), (None, "of an unknown commit")):
        runs = made_up_runs({"baseline": [0.2]}, git_commit=commit, **made)
        said = f"Code {words}; seeds 0; A CPU, float64; the trainings took 2.0 core-hours."
        assert text.provenance(runs).data == said


def test_pages_tell_which_runs_had_their_products_rounded_to_bfloat16():
    """Results that are older than the rounding say nothing of it."""
    code = {"git_commit": "0123456789abc", "git_dirty": False, "cpu_time_s": 7200}
    made = {"device": "A CPU", "precision": "bfloat16"} | code
    runs = made_up_runs({"baseline": [0.2]}, **made)
    assert "; A CPU, bfloat16; " in text.provenance(runs).data
    runs |= made_up_runs({"resnet34": [0.2]}, **made, rounded_products=True)
    assert "; A CPU, bfloat16 and bfloat16 by rounding; " in text.provenance(runs).data
    assert tables.environment(runs).loc["precision"].item() == "bfloat16, bfloat16 by rounding"
