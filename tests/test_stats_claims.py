"""Verdicts on the original's claims, from made-up results whose outcome is known."""

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pandas as pd
import pytest
from made_up import ABOVE, around, made_up_predictions, made_up_run, made_up_runs

from manyviews.config.runs import run_specs
from manyviews.config.schema import ClaimsConfig
from manyviews.stats import claims
from manyviews.stats.claims import CLAIMS, combine, judge, outcome_of, verdicts, verdicts_table
from manyviews.stats.intervals import Estimate
from manyviews.stats.scaling import MIN_BUDGETS

SPECS = run_specs()
CONFIG = ClaimsConfig(margin=0.02, plateau_window=0.5)
CONTROLS = {claim.key: claim.controlled for claim in CLAIMS}
REPORTED = {claim.key: claim.as_reported for claim in CLAIMS}
KNN = "id_knn_accuracy"
YES, NO, OPEN, MIXED, UNTESTED = "supported", "not supported", "inconclusive", "mixed", "not tested"
UNTRAINED, LONGER = "did not train", "longer training, not more views"

# Final accuracies under which each claim is answered; errors of the lengths are 0.2 + 0.5 / sqrt(length).
LENGTHS = ("length_quarter", "length_half", "baseline", "length_2", "length_4", "length_8")
FINALS = dict(zip(LENGTHS, (0.30, 0.45, 0.55, 0.62, 0.67, 0.71), strict=True))
FINALS |= {"resnet34": 0.553, "views8": 0.75, "joint": 0.50, "k4_outside": 0.60, "k8_outside": 0.505}
FINALS |= {"resnet34_conv3": 0.65, "resnet34_conv3_4": 0.674, "width_2": 0.547, "width_2_4": 0.668}
# Lengths and larger networks of which none gains anything.
FLAT = {"baseline": 0.550, "length_2": 0.553, "length_4": 0.549, "length_8": 0.556}
FLAT |= {"resnet34_conv3": 0.555, "resnet34_conv3_4": 0.543, "width_2": 0.546, "width_2_4": 0.550}
PIXELS = made_up_predictions(0.25)


def made_up(finals, **kind):
    return made_up_runs({name: around(final) for name, final in finals.items()}, **kind)


RUNS, LEVEL_RUNS = made_up(FINALS, curve=(0, 0.4, 1, 1, 1)), made_up(FLAT)


def controlled(key, runs, raw_pixels=PIXELS):
    return judge(CONTROLS[key], runs, raw_pixels, CONFIG)


def all_verdicts(runs, raw_pixels=PIXELS):
    return {one.claim.key: one for one in verdicts(runs, raw_pixels, CONFIG)}


def needed(key):
    """The runs that a claim's control rests on."""
    named = {name for pair in CONTROLS[key].pairs for name in pair}
    return sorted(named & SPECS.runs.keys()) if key != "D" else LENGTHS


def test_the_claims_are_the_originals_five_and_name_what_there_is():
    assert [claim.key for claim in CLAIMS] == ["A", "B", "C", "D", "E"]
    known = {*SPECS.runs, "raw_pixels", "initial", "power law", ""}
    for criterion in (*CONTROLS.values(), *filter(None, REPORTED.values())):
        assert {name for pair in criterion.pairs for name in pair} <= known
    assert len(SPECS.members("length")) >= MIN_BUDGETS


@pytest.mark.parametrize(
    ("expects", "outcomes"),
    [
        ("gain", (YES, NO, NO, OPEN, OPEN)),
        ("no gain", (NO, YES, YES, YES, OPEN)),
        ("level", (NO, YES, NO, OPEN, OPEN)),
        ("forecast", (NO, YES, NO, OPEN, OPEN)),
    ],
)
def test_an_outcome_follows_from_where_the_intervals_lie(expects, outcomes):
    """The whole truth table, at a margin of 2 points. Two seeds decide nothing."""
    places = {"higher": (0.03, 0.05), "equivalent": (-0.01, 0.01), "lower": (-0.05, -0.03)}
    places |= {"no gain of 2": (-0.03, 0.01), "no loss of 2": (-0.01, 0.03)}
    for (low, high), outcome in zip(places.values(), outcomes, strict=True):
        mean = (low + high) / 2
        for ends in ((low, high, mean, mean), (mean, mean, low, high)):  # the wider is of seeds, of images
            assert outcome_of(expects, Estimate(mean, 3, *ends), 0.02) == outcome
            assert outcome_of(expects, Estimate(mean, 2, *ends), 0.02) == OPEN


@pytest.mark.parametrize(
    ("outcomes", "one_decides", "all_decide"),
    [
        ({YES}, YES, YES),
        ({NO}, NO, NO),
        ({OPEN}, OPEN, OPEN),
        ({YES, OPEN}, OPEN, OPEN),
        ({NO, OPEN}, NO, OPEN),
        ({YES, NO}, NO, MIXED),
        ({YES, NO, OPEN}, NO, MIXED),
    ],
)
def test_findings_must_all_hold_and_the_criterion_says_what_a_split_is(outcomes, one_decides, all_decide):
    """The whole truth table, in each order."""
    for ordered in permutations(outcomes):
        assert combine([*ordered, ordered[0]]) == one_decides
        assert combine([*ordered, ordered[0]], split=MIXED) == all_decide


def test_the_verdict_is_the_controls_whatever_the_original_saw_but_for_what_is_so_by_construction():
    """Depth, with the first layer as it was, and longer training gain; of two ways to meet, one does."""
    expected = {
        "A": (YES, NO, NO),
        "B": (YES, NO, NO),
        "C": (YES, MIXED, LONGER),
        "D": (UNTESTED, YES, YES),
        "E": (YES, YES, YES),
    }
    for key, of in all_verdicts(RUNS).items():
        assert (of.as_reported.outcome, of.controlled.outcome, of.outcome) == expected[key]
        assert of.deciding is (of.as_reported if key == "C" else of.controlled)


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_seeds_answer_nothing(n):
    judged = all_verdicts({name: seeds[:n] for name, seeds in RUNS.items()})
    assert {of.outcome for of in judged.values()} == {OPEN}
    assert {of.controlled.outcome for of in judged.values()} == {OPEN}
    assert [of.as_reported.outcome for of in judged.values()] == [OPEN, OPEN, OPEN, UNTESTED, OPEN]


@pytest.mark.parametrize(("key", "name"), [(key, name) for key in CONTROLS for name in needed(key)])
def test_nothing_is_tested_where_a_run_is_missing(key, name):
    """Whatever the others say; the note names that run alone, and no baseline that is there."""
    judged = controlled(key, {other: seeds for other, seeds in RUNS.items() if other != name})
    assert (judged.outcome, judged.note) == (UNTESTED, f"not run: {SPECS.title(name)}")


@pytest.mark.parametrize("key", CONTROLS)
def test_nothing_is_tested_where_a_run_has_another_precision(key):
    """Only E compares a run with itself, and so with its own precision."""
    name = needed(key)[-1]
    other = [replace(run, environment=run.environment | {"precision": "bfloat16"}) for run in RUNS[name]]
    judged = controlled(key, RUNS | {name: other})
    refused = (UNTESTED, "computed in bfloat16 and float32", 0)
    assert (judged.outcome, judged.note, len(judged.findings)) == ((YES, "", 4) if key == "E" else refused)


@pytest.mark.parametrize("key", "AE")
def test_what_is_set_beside_raw_pixels_needs_them(key):
    judged = controlled(key, RUNS, None)
    assert (judged.outcome, judged.note) == (UNTESTED, "not run: raw_pixels")


# -------------------------------------------------------------------------------------- A and B: no gain


@pytest.mark.parametrize(
    ("key", "run", "reference"),
    [
        ("A", "resnet34_conv3", "baseline"),
        ("A", "resnet34_conv3_4", "length_4"),
        ("A", "width_2", "baseline"),
        ("A", "width_2_4", "length_4"),
        ("B", "length_2", "baseline"),
        ("B", "length_4", "length_2"),
        ("B", "length_8", "length_4"),
    ],
)
def test_size_and_doublings_gain_nothing_if_no_pair_does(key, run, reference):
    """One pair that gains refutes it, and one whose seeds scatter leaves it open."""
    judged = controlled(key, LEVEL_RUNS)
    assert (judged.outcome, len(judged.findings)) == (YES, 4 if key == "A" else 3)
    gap = judged.findings.set_index(["run", "reference"])["mean"][run, reference]
    assert gap == pytest.approx(FLAT[run] - FLAT[reference])
    assert controlled(key, LEVEL_RUNS | made_up({run: 0.65})).outcome == NO
    scattered = made_up_runs({run: around(0.55)[::-1]})
    assert controlled(key, LEVEL_RUNS | scattered).outcome == OPEN


@pytest.mark.parametrize("name", ["baseline", "width_2_4"])
@pytest.mark.parametrize(("above", "untrained"), [(0.019, True), (0.021, False)])
def test_size_is_judged_on_networks_that_all_end_above_raw_pixels_and_initial_weights(name, above, untrained):
    """One run at a time ends by a little less, or more, than the margin above one of the two."""
    near_pixels = LEVEL_RUNS | made_up({name: 0.25 + above})
    ends = enumerate(around(FLAT[name]))
    near_initial = [made_up_run(name, seed, end, start=end - above) for seed, end in ends]
    for runs in (near_pixels, LEVEL_RUNS | {name: near_initial}):
        judged = controlled("A", runs)
        assert (judged.outcome == UNTRAINED) is judged.findings.empty is untrained
        assert (SPECS.title(name) in judged.note) is untrained


# ------------------------------------------------------------------------------- C: views, and their loss


@pytest.mark.parametrize(
    ("eight", "outcome"),
    [
        (around(0.65), LONGER),
        (around(0.556), NO),
        (around(0.58)[::-1], OPEN),
        ([], UNTESTED),
    ],
)
def test_eight_views_that_gain_at_equal_epochs_gain_by_longer_training(eight, outcome):
    """By construction; else the verdict is what that comparison says. How views meet decides neither."""
    others = {name: RUNS[name] for name in ("resnet34", *needed("C"))}
    judged = all_verdicts(others | (made_up_runs({"views8": eight}) if eight else {}))["C"]
    assert (judged.outcome, judged.controlled.outcome) == (outcome, MIXED)
    assert judged.as_reported.outcome == (YES if outcome == LONGER else outcome)


@pytest.mark.parametrize(
    ("k4", "k8", "outcome"), [(0.6, 0.62, YES), (0.503, 0.4, NO), (0.6, 0.503, MIXED), (0.4, 0.62, MIXED)]
)
def test_views_that_meet_in_one_loss_gain_in_both_ways_in_one_or_in_none(k4, k8, outcome):
    runs = {name: RUNS[name] for name in ("resnet34", "views8", "joint")}
    judged = all_verdicts(runs | made_up({"k4_outside": k4, "k8_outside": k8}))["C"]
    assert (judged.outcome, judged.controlled.outcome) == (LONGER, outcome)


# -------------------------------------------------------------------- B as reported: level; D: a law; E


@pytest.mark.parametrize(
    ("curve", "tolerance", "expected"),
    [
        ((0, 0.5, 1.001, 0.2, 1), 0.01, YES),  # whatever happens within the window
        ((0, 0.5, 0.6, 1, 1), 0.01, NO),  # level over the last step, not over the window
        ((0, 0.5, 1.2, 1, 1), 0.01, NO),  # falling is not level
        ((0, 1.001, 0.6, 1, 1), 0.01, NO),  # level over a longer window
        ((0, 0.5, 0.9625, 1, 1), 0.01, NO),
        ((0, 0.5, 0.9625, 1, 1), 0.02, YES),
    ],
)
def test_a_curve_is_level_from_where_its_last_part_begins_to_its_end(curve, tolerance, expected):
    """40 points in all, of which 0.0375 are 1.5. The margin, of differences of runs, plays no part."""
    config = ClaimsConfig(margin=0.001, plateau_window=0.5, plateau_tolerance=tolerance)
    runs = made_up_runs({"views8": [0.5, 0.51, 0.52]}, curve=curve)
    judged = judge(REPORTED["B"], runs, None, config)
    assert (judged.outcome, judged.findings["reference"][0]) == (expected, "epoch 2")
    assert judged.findings["mean"][0] == pytest.approx((1 - curve[2]) * np.mean([0.4, 0.41, 0.42]))


@pytest.mark.parametrize(("window", "start"), [(0.25, 3), (0.3, 2), (0.5, 2), (0.9, 0)])
def test_the_last_part_begins_at_the_last_measurement_before_it(window, start):
    assert claims.window_start(made_up_run("views8", 0, 0.5), window) == start


@pytest.mark.parametrize(("longest", "expected"), [(0.71, YES), (0.80, NO), (0.60, NO)])
def test_a_law_applies_if_it_forecasts_the_longest_run(longest, expected):
    judged = controlled("D", RUNS | made_up({"length_8": longest}))
    (finding,) = judged.findings.to_dict("records")
    assert (finding["run"], finding["reference"], finding["n"]) == ("length_8", "power law", 3)
    assert finding["mean"] == pytest.approx(longest - 0.705, abs=0.005)
    assert judged.outcome == expected


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ((YES, YES, YES, YES), YES),
        ((NO, YES, YES, YES), MIXED),
        ((YES, NO, YES, YES), MIXED),
        ((YES, YES, NO, YES), MIXED),
        ((YES, YES, YES, NO), MIXED),
        ((YES, OPEN, YES, YES), OPEN),
    ],
)
@pytest.mark.parametrize(
    ("criterion", "measures"), [(REPORTED["E"], claims.UNSEEN), (CONTROLS["E"], claims.UNSEEN_IN_FOLDS)]
)
def test_carrying_over_is_a_gain_over_raw_pixels_and_random_weights_under_both_probes(
    criterion, measures, outcomes, expected
):
    """Baselines lie far below the run, far above, or amid its seeds; those of other measures far below."""
    levels = [
        {YES: 0.2, NO: 0.95, OPEN: FINALS["views8"] + ABOVE[measure]}[outcome]
        for outcome, measure in zip(outcomes, measures * 2, strict=True)
    ]
    pixels, initial = (dict(zip(measures, part, strict=True)) for part in (levels[:2], levels[2:]))
    own = {run.seed: made_up_predictions(0.1, run.seed, **initial) for run in RUNS["views8"]}
    seeds = [replace(run, initial_predictions=own[run.seed]) for run in RUNS["views8"]]
    judged = judge(criterion, {"views8": seeds}, made_up_predictions(0.15, **pixels), CONFIG)
    of = judged.findings.set_index(["reference", "measure"])["outcome"]
    assert of.to_dict() == dict(zip(product(("raw_pixels", "initial"), measures), outcomes, strict=True))
    assert judged.outcome == expected


def test_every_number_behind_a_verdict_is_in_the_table_and_why_there_is_none():
    runs = {name: seeds for name, seeds in RUNS.items() if name != "k8_outside"}
    table = verdicts_table(list(all_verdicts(runs).values()))
    assert list(table.groupby(["claim", "compared"], sort=False).size()) == [1, 4, 1, 3, 1, 1, 1, 1, 4, 4]
    reported, untested = table[table["claim"] == "C"].to_dict("records")
    expected = {"compared": "as reported", "judgement": YES, "note": "", "run": "views8", "n": 3}
    expected |= {"reference": "resnet34", "measure": KNN, "relation": "higher", "outcome": YES}
    assert reported | expected | {"mean": pytest.approx(0.197)} == reported
    there = {key: value for key, value in untested.items() if pd.notna(value)}
    about = {"claim": "C", "compared": "controlled", "judgement": UNTESTED}
    assert there == about | {"note": "not run: 8 in a batch, SupCon L_out"}
