"""Verdicts on the original's claims, from made-up results whose outcome is known."""

import itertools

import numpy as np
import pytest
from made_up import made_up_predictions, made_up_run, made_up_runs

from manyviews.config.runs import run_specs
from manyviews.config.schema import ClaimsConfig
from manyviews.stats.claims import (
    CLAIMS,
    Criterion,
    combine,
    judge,
    outcome_of,
    verdicts,
    verdicts_table,
    window_start,
)
from manyviews.stats.compare import compare
from manyviews.stats.scaling import MIN_BUDGETS

SPECS = run_specs()
CONFIG = ClaimsConfig(margin=0.02, plateau_window=0.5, plateau_tolerance=0.01)
BY_KEY = {claim.key: claim for claim in CLAIMS}
KNN = ("id_knn_accuracy",)
GAIN = Criterion("views8", "gain", KNN, ("resnet34",))
NO_GAIN = Criterion("views8", "no gain", KNN, ("resnet34",))
LEVEL = Criterion("views8", "level", KNN)
YES, NO, OPEN = "supported", "not supported", "inconclusive"


def judged(criterion, runs, raw_pixels=None, config=CONFIG):
    return judge(criterion, runs, raw_pixels, config, SPECS)


def all_verdicts(runs, raw_pixels=None):
    return {one.claim.key: one for one in verdicts(runs, raw_pixels, CONFIG, SPECS)}


RELATIONS = ("higher", "equivalent", "lower", "undecided")


@pytest.mark.parametrize(
    ("expects", "outcomes"),
    [
        ("gain", (YES, NO, NO, OPEN)),
        ("no gain", (NO, YES, YES, OPEN)),
        ("level", (NO, YES, NO, OPEN)),
        ("forecast", (NO, YES, NO, OPEN)),
    ],
)
def test_an_outcome_follows_from_the_relation(expects, outcomes):
    """The whole truth table."""
    assert tuple(outcome_of(expects, relation) for relation in RELATIONS) == outcomes


def test_all_that_a_claim_asks_for_must_hold():
    """The whole truth table for two: one that fails decides, and support needs both."""
    table = {pair: combine(list(pair)) for pair in itertools.product((YES, NO, OPEN), repeat=2)}
    assert {pair for pair, outcome in table.items() if outcome == YES} == {(YES, YES)}
    assert {pair for pair, outcome in table.items() if outcome == NO} == {p for p in table if NO in p}


@pytest.mark.parametrize(
    ("two_views", "eight_views", "gain", "no_gain"),
    [
        ([0.30, 0.31, 0.32], [0.50, 0.52, 0.51], YES, NO),
        ([0.50, 0.52, 0.51], [0.30, 0.31, 0.32], NO, YES),  # below is no gain either
        ([0.300, 0.301, 0.302], [0.302, 0.301, 0.303], NO, YES),
        ([0.30, 0.40, 0.50], [0.31, 0.41, 0.51], NO, YES),  # one point on every seed; the margin is two
        ([0.30, 0.30, 0.30], [0.28, 0.33, 0.36], OPEN, OPEN),  # the seeds disagree
        ([0.30, 0.30, 0.30], [0.325, 0.325, 0.325], OPEN, OPEN),  # the seeds agree, the images do not tell
        ([0.30, 0.30], [0.50, 0.50], OPEN, OPEN),  # two seeds
        ([0.30], [0.90], OPEN, OPEN),
    ],
)
def test_a_gain_is_there_or_not_or_cannot_be_told(two_views, eight_views, gain, no_gain):
    runs = made_up_runs({"resnet34": two_views, "views8": eight_views})
    assert judged(GAIN, runs).outcome == gain
    assert judged(NO_GAIN, runs).outcome == no_gain


@pytest.mark.parametrize(("margin", "relation"), [(0.02, "undecided"), (0.2, "equivalent")])
def test_claims_and_controls_judge_a_difference_alike(margin, relation):
    runs = made_up_runs({"views8": [0.50, 0.51, 0.52], "resnet34_long": [0.53, 0.56, 0.53]})
    judgement = judged(BY_KEY["C"].controlled, runs, config=ClaimsConfig(margin=margin))
    finding, control = judgement.findings.iloc[0], compare(runs, "equal_steps", KNN, margin, SPECS).iloc[0]
    assert (control["run"], control["reference"]) == (finding["reference"], finding["run"])
    assert control["mean"] == pytest.approx(-finding["mean"])
    assert control["relation"] == finding["relation"] == relation


def test_only_seeds_that_both_runs_have_count_made_alike():
    runs = made_up_runs({"resnet34": [0.3] * 4, "views8": [0.5] * 4})
    assert judged(GAIN, runs | {"resnet34": runs["resnet34"][:2]}).outcome == OPEN
    judgement = judged(GAIN, {"resnet34": runs["resnet34"][:2], "views8": runs["views8"][2:]})
    assert (judgement.outcome, judgement.note) == ("not tested", "no seed in common")
    runs["views8"] = [made_up_run("views8", seed, 0.5, precision="bfloat16") for seed in range(3)]
    judgement = judged(GAIN, runs)
    assert (judgement.outcome, judgement.note) == ("not tested", "computed in bfloat16 and float32")


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ((0, 0.5, 1.001, 0.2, 1), YES),  # whatever happens within the window
        ((0, 0.5, 0.6, 1, 1), NO),  # level over the last step, not over the window
        ((0, 0.5, 1.2, 1, 1), NO),  # falling is not level
        ((0, 1.001, 0.6, 1, 1), NO),  # level over a longer window
    ],
)
def test_a_curve_is_level_from_where_its_last_part_begins_to_its_end(curve, expected):
    """40 points in all, so that 0.001 of them are within the tolerance and 0.2 are not."""
    runs = {"views8": [made_up_run("views8", seed, 0.5 + seed / 100, curve=curve) for seed in range(3)]}
    judgement = judged(LEVEL, runs)
    assert judgement.outcome == expected
    assert judgement.findings["reference"][0] == "epoch 2"
    change = (1 - curve[2]) * np.mean([0.4, 0.41, 0.42])
    assert judgement.findings["mean"][0] == pytest.approx(change)


def test_a_level_curve_is_judged_by_its_own_tolerance_and_needs_three_seeds():
    curve = (0, 0.5, 0.9625, 1, 1)  # 1.5 points: beyond the tolerance, within the margin
    seeds = [made_up_run("views8", seed, 0.5, curve=curve) for seed in range(3)]
    assert judged(LEVEL, {"views8": seeds}).outcome == NO
    wider = ClaimsConfig(margin=0.001, plateau_window=0.5, plateau_tolerance=0.02)
    assert judged(LEVEL, {"views8": seeds}, config=wider).outcome == YES
    assert judged(LEVEL, {"views8": seeds[:2]}, config=wider).outcome == OPEN


@pytest.mark.parametrize(("window", "start"), [(0.25, 3), (0.3, 2), (0.5, 2), (0.9, 0)])
def test_the_last_part_begins_at_the_last_measurement_before_it(window, start):
    assert window_start(made_up_run("views8", 0, 0.5), window) == start


E = BY_KEY["E"]


def test_carrying_over_is_gaining_over_raw_pixels_and_over_random_weights():
    """Truth table of the two baselines."""
    for start, pixels in itertools.product((0.1, 0.7), repeat=2):
        runs = made_up_runs({"views8": [0.50, 0.51, 0.52]}, start=start)
        expected = YES if start == pixels == 0.1 else NO
        for criterion in (E.as_reported, E.controlled):
            judgement = judged(criterion, runs, made_up_predictions(pixels))
            assert judgement.outcome == expected
            assert list(judgement.findings["reference"]) == ["raw_pixels"] * 2 + ["initial"] * 2
            signs = np.sign(judgement.findings["mean"])
            assert list(signs) == [1 if pixels == 0.1 else -1] * 2 + [1 if start == 0.1 else -1] * 2


def test_carrying_over_needs_raw_pixels():
    judgement = judged(E.controlled, made_up_runs({"views8": [0.5] * 3}), None)
    assert (judgement.outcome, judgement.note) == ("not tested", "not run: raw_pixels")
    assert judged(E.controlled, {}, None).note.startswith("not run: views8")


@pytest.mark.parametrize("probe", ["knn", "linear"])
def test_carrying_over_asks_both_probes_and_the_control_those_in_folds(probe):
    runs = made_up_runs({"views8": [0.50, 0.51, 0.52]})
    high = made_up_predictions(0.2, **{f"ood_{probe}_accuracy": 0.7})
    assert judged(E.as_reported, runs, high).outcome == NO
    assert judged(E.controlled, runs, high).outcome == YES
    high = made_up_predictions(0.2, **{f"ood_{probe}_folds_accuracy": 0.7})
    assert judged(E.as_reported, runs, high).outcome == YES
    assert judged(E.controlled, runs, high).outcome == NO
    high = made_up_predictions(0.2, **{f"id_{probe}_accuracy": 0.7})
    assert judged(E.controlled, runs, high).outcome == judged(E.as_reported, runs, high).outcome == YES


LENGTHS = ("length_quarter", "length_half", "baseline", "length_2", "length_4", "length_8")


def lengths(longest: float):
    """Runs whose errors are 0.2 + 0.5 / sqrt(length): .70 .55 .45 .38 .33 and, so forecast, .29."""
    finals = (0.30, 0.45, 0.55, 0.62, 0.67, longest)
    return made_up_runs({name: [final] * 3 for name, final in zip(LENGTHS, finals, strict=True)})


@pytest.mark.parametrize(("longest", "expected"), [(0.71, YES), (0.90, NO), (0.50, NO)])
def test_a_law_applies_if_it_forecasts_the_longest_run(longest, expected):
    judgement = judged(BY_KEY["D"].controlled, lengths(longest), config=ClaimsConfig(margin=0.05))
    assert judgement.outcome == expected
    (finding,) = judgement.findings.to_dict("records")
    assert (finding["run"], finding["reference"], finding["n"]) == ("length_8", "power law", 3)
    assert finding["mean"] == pytest.approx(longest - 0.71, abs=0.01)


def test_a_law_is_not_tested_without_all_lengths():
    runs = lengths(0.71)
    del runs["length_2"]
    assert judged(BY_KEY["D"].controlled, runs).note == "not run: length_2"


def test_the_claims_are_the_originals_five_and_name_what_there_is():
    assert [claim.key for claim in CLAIMS] == ["A", "B", "C", "D", "E"]
    known = {*SPECS.runs, "raw_pixels", "initial", "power law"}
    for criterion in (c for claim in CLAIMS for c in (claim.as_reported, claim.controlled) if c):
        assert {criterion.run, *criterion.references} <= known
    assert len(SPECS.members("length")) >= MIN_BUDGETS


def test_the_verdict_is_the_controls_whatever_the_originals_own_comparisons_say():
    finals = {
        "baseline": [0.30, 0.31, 0.32],
        "resnet34": [0.30, 0.31, 0.32],
        "views8": [0.50, 0.51, 0.52],
        "resnet34_conv3": [0.40, 0.41, 0.42],  # the larger network does better after all
        "resnet34_long": [0.50, 0.51, 0.52],  # as many steps do as well
        "length_4": [0.40, 0.41, 0.42],
        "length_8": [0.60, 0.61, 0.62],  # more training teaches more
    }
    runs = made_up_runs(finals, curve=(0, 0.4, 1, 1, 1))
    outcomes = {
        key: (verdict.as_reported.outcome, verdict.controlled.outcome)
        for key, verdict in all_verdicts(runs, made_up_predictions(0.2)).items()
    }
    untested = ("not tested", "not tested")
    assert outcomes == {"A": (YES, NO), "B": (YES, NO), "C": (YES, NO), "D": untested, "E": (YES, YES)}


def test_nothing_is_decided_without_runs_or_by_few_seeds():
    assert {one.controlled.outcome for one in all_verdicts({}).values()} == {"not tested"}
    compared = (*LENGTHS, "resnet34", "views8", "resnet34_conv3", "resnet34_long")
    few = made_up_runs({name: [0.1 + place / 15] * 2 for place, name in enumerate(compared)})
    for verdict in all_verdicts(few, made_up_predictions(0.1)).values():
        assert verdict.controlled.outcome == OPEN
        assert verdict.as_reported.outcome == ("not tested" if verdict.claim.key == "D" else OPEN)


def test_every_number_behind_a_verdict_is_in_the_table_and_why_there_is_none():
    """The claim's own evidence is no verdict on it while the control is missing."""
    runs = made_up_runs({"resnet34": [0.30, 0.31, 0.32], "views8": [0.50, 0.51, 0.52]})
    table = verdicts_table(list(all_verdicts(runs, made_up_predictions(0.2)).values()))
    reported, untested = table[table["claim"] == "C"].to_dict("records")
    expected = {
        "compared": "as reported",
        "judgement": YES,
        "note": "",
        "run": "views8",
        "n": 3,
        "outcome": YES,
    }
    expected |= {"reference": "resnet34", "measure": KNN[0], "relation": "higher"}
    assert {key: reported[key] for key in expected} == expected
    assert reported["mean"] == pytest.approx(0.2)
    assert untested["compared"] == "controlled"
    assert (untested["judgement"], untested["note"]) == ("not tested", "not run: resnet34_long")
    assert all(np.isnan(untested[key]) for key in ("run", "mean", "relation", "outcome"))
    assert len(table[(table["claim"] == "E") & (table["compared"] == "controlled")]) == 4
    assert len(verdicts_table(list(all_verdicts({}).values()))) == 10
