"""Verdicts on the report's claims, from made-up results whose outcome is known."""

import math
import re

import pytest
from made_up import made_up_predictions, made_up_runs

from manyviews import claims, readings
from manyviews.claims import CLAIMS, Comparison, decide, judge, verdicts
from manyviews.config import ClaimsConfig, RunConfig
from manyviews.intervals import Estimate
from manyviews.rows import members

CONFIG = ClaimsConfig(margin=0.02, plateau_window=0.25, plateau_tolerance=0.01)
KNN = ("id_knn_accuracy",)
GAIN = Comparison("views8", "gain", KNN, ("resnet34",))
NO_GAIN = Comparison("views8", "no gain", KNN, ("resnet34",))


def runs(two_views: list[float], eight_views: list[float], **kind):
    return made_up_runs({"resnet34": two_views, "views8": eight_views}, **kind)


def outcome(comparison: Comparison, made_up, raw_pixels=None) -> str:
    return judge(comparison, made_up, raw_pixels, CONFIG).outcome


FAR = runs([0.30, 0.31, 0.32], [0.50, 0.51, 0.52])
SAME = runs([0.300, 0.301, 0.302], [0.301, 0.300, 0.302])
NEAR = runs([0.30, 0.30, 0.30], [0.28, 0.33, 0.36])


@pytest.mark.parametrize(
    ("made_up", "gain", "no_gain"),
    [
        (FAR, "supported", "not supported"),
        (SAME, "not supported", "supported"),
        (NEAR, "inconclusive", "inconclusive"),
    ],
)
def test_a_gain_is_there_or_not_or_cannot_be_told(made_up, gain, no_gain):
    """20 points apart; within half a point on all seeds; 2 points on average but -2 to +6 by seed."""
    assert outcome(GAIN, made_up) == gain
    assert outcome(NO_GAIN, made_up) == no_gain


def test_a_gain_smaller_than_the_margin_is_none():
    """One point on every seed, without any scatter; the margin is two."""
    small = runs([0.30, 0.40, 0.50], [0.31, 0.41, 0.51])
    assert outcome(GAIN, small) == "not supported"
    assert outcome(NO_GAIN, small) == "supported"


@pytest.mark.parametrize("n", [1, 2])
def test_fewer_than_three_seeds_never_decide(n):
    """However large the difference, and whatever is expected."""
    few = runs([0.1] * n, [0.9] * n)
    for comparison in (GAIN, NO_GAIN, Comparison("views8", "level", KNN)):
        assert outcome(comparison, few) == "inconclusive"
    for verdict in verdicts(few, made_up_predictions(0.1), CONFIG):
        assert verdict.as_reported.outcome in ("inconclusive", "not tested")
        assert verdict.outcome in ("inconclusive", "not tested")


def test_a_comparison_that_was_not_run_is_not_tested():
    alone = made_up_runs({"views8": [0.5, 0.5, 0.5]})
    judgement = judge(GAIN, alone, None, CONFIG)
    assert judgement.outcome == "not tested"
    assert judgement.missing == ("resnet34",)
    assert judge(GAIN, {}, None, CONFIG).missing == ("views8", "resnet34")
    assert {v.outcome for v in verdicts({}, None, CONFIG)} == {"not tested"}
    assert {v.as_reported.outcome for v in verdicts({}, None, CONFIG)} == {"not tested"}


def test_runs_without_a_common_seed_are_not_compared():
    apart = runs([0.3] * 6, [0.5] * 6)
    apart["resnet34"], apart["views8"] = apart["resnet34"][:3], apart["views8"][3:]
    assert outcome(GAIN, apart) == "not tested"
    common = runs([0.3] * 4, [0.5] * 4)
    common["resnet34"] = common["resnet34"][:2]
    assert outcome(GAIN, common) == "inconclusive"  # two seeds in common


def test_the_images_can_leave_open_what_the_seeds_decide():
    """Every seed gains 3.0 points; 1,000 images leave 30 +- 10 of them, so the interval reaches below 2."""
    assert outcome(GAIN, runs([0.3, 0.3, 0.3], [0.33, 0.33, 0.33])) == "inconclusive"
    assert decide(Estimate(0.03, 3, 0.03, 0.03, 0.025, 0.035), 0.02, math.inf) == "supported"
    assert decide(Estimate(0.03, 3, 0.03, 0.03, 0.015, 0.045), 0.02, math.inf) == "inconclusive"


@pytest.mark.parametrize(
    ("starts", "finals", "expected"),
    [
        ([0.299, 0.300, 0.301], [0.300, 0.301, 0.302], "supported"),  # a quarter of 0.1 points
        ([0.1, 0.1, 0.1], [0.50, 0.51, 0.52], "not supported"),  # 10 points in the last quarter
        ([0.9, 0.9, 0.9], [0.50, 0.51, 0.52], "not supported"),  # falling is not level
        ([0.30, 0.30, 0.30], [0.30, 0.32, 0.40], "inconclusive"),
    ],
)
def test_a_curve_is_level_if_it_hardly_moves_over_its_last_part(starts, finals, expected):
    made_up = {}
    for start, final, seed in zip(starts, finals, range(3), strict=True):
        of_seed = made_up_runs({"views8": [final] * 3}, start=start)["views8"][seed]
        made_up.setdefault("views8", []).append(of_seed)
    judgement = judge(Comparison("views8", "level", KNN), made_up, None, CONFIG)
    assert judgement.outcome == expected
    assert judgement.findings[0].against == "epoch 3"  # of four, a window of a quarter


def test_carrying_over_asks_for_both_probes_and_both_floors():
    claim = next(claim for claim in CLAIMS if claim.key == "E")
    made_up = made_up_runs({"views8": [0.50, 0.51, 0.52]})
    for comparison in (claim.as_reported, claim.controlled):
        assert outcome(comparison, made_up, made_up_predictions(0.2)) == "supported"
        assert outcome(comparison, made_up, made_up_predictions(0.7)) == "not supported"  # above one floor
        assert outcome(comparison, made_up, None) == "not tested"
    # A floor that is high in one column only: whichever it is, one of the two comparisons looks at it.
    for column in ("knn", "linear"):
        high = made_up_predictions(0.2, **{column: 0.7})
        assert outcome(claim.as_reported, made_up, high) == "not supported"
        assert outcome(claim.controlled, made_up, high) == "supported"
        high = made_up_predictions(0.2, **{f"{column}_folds": 0.7})
        assert outcome(claim.as_reported, made_up, high) == "supported"
        assert outcome(claim.controlled, made_up, high) == "not supported"
    below = made_up_runs({"views8": [0.10, 0.11, 0.12]}, start=0.5)
    assert outcome(claim.controlled, below, made_up_predictions(0.5)) == "not supported"


def test_the_claims_are_the_reports_five():
    assert [claim.key for claim in CLAIMS] == ["A", "B", "C", "D", "E"]
    for claim in CLAIMS:
        assert claim.confound
        assert claim.control


def test_what_the_report_compared_decides_nothing_while_the_control_is_missing():
    """Eight views far ahead at equal epochs, the claim's own evidence, is no verdict on the claim."""
    by_key = {verdict.claim.key: verdict for verdict in verdicts(FAR, None, CONFIG)}
    assert by_key["C"].as_reported.outcome == "supported"
    assert by_key["C"].outcome == "not tested"


def test_with_the_control_the_verdict_is_the_controls():
    """At equal steps two views do as well: not supported, whatever the report's comparison says."""
    made_up = FAR | {"resnet34_long": FAR["views8"]}
    verdict = next(v for v in verdicts(made_up, None, CONFIG) if v.claim.key == "C")
    assert verdict.as_reported.outcome == "supported"
    assert verdict.outcome == "not supported"
    assert "minus ResNet-34, 2 views, 4 x epochs" in readings.findings_markdown([verdict])


def test_every_control_can_be_told():
    """Runs of all names that the claims compare: no verdict is left untested but D's, nothing is unnamed."""
    made_up = made_up_runs({name: [0.5, 0.5, 0.5] for name in ("baseline", "resnet34", "views8")})
    for claim in CLAIMS:
        for comparison in filter(None, (claim.as_reported, claim.controlled)):
            for name in {comparison.run, *comparison.against} - {*made_up, *claims.FLOORS}:
                made_up[name] = made_up["views8"]
    found = verdicts(made_up, made_up_predictions(0.2), CONFIG)
    assert {v.claim.key: v.outcome for v in found} == {
        "A": "supported",
        "B": "supported",
        "C": "not supported",
        "D": "not tested",
        "E": "supported",
    }
    text = readings.verdicts_markdown(found, CONFIG, made_up)
    assert "ResNet-34, 3 x 3, 2 views ends less than 2.0 points above ResNet-18, 2 views, or below" in text
    assert "8 x epochs ends less than 2.0 points above ResNet-18, 2 views, 4 x epochs, or below" in text


def test_limits_are_the_profiles_and_no_part_of_a_run():
    """A wider margin, and what was a gain is none. Recipes do not hold the limits, so runs stay valid."""
    assert judge(GAIN, FAR, None, ClaimsConfig(margin=0.5)).outcome == "not supported"
    config = RunConfig(**FAR["views8"][0].config)
    assert config.recipe() == config.model_copy(update={"claims": ClaimsConfig(margin=0.5)}).recipe()


def test_limits_that_were_changed_after_the_runs_are_told():
    """The runs say with which limits they began."""
    began = ClaimsConfig(**FAR["views8"][0].config["claims"])
    assert "stood in the profile when the runs were begun" in readings.rules_text(began, FAR)
    text = readings.rules_text(ClaimsConfig(margin=0.5), FAR)
    assert "were changed after the runs" in text
    assert "`views8` seed 2" in text


def test_verdicts_are_told_with_their_numbers_and_rules():
    found = verdicts(FAR, made_up_predictions(0.2), CONFIG)
    text = readings.verdicts_markdown(found, CONFIG, FAR)
    assert "**C, more views of an image let a network use more of the signal: not tested.**" in text
    assert "ResNet-34, 8 views ends more than 2.0 points above ResNet-34, 2 views" in text
    assert "there are no results of `resnet34_long`" in text
    assert re.search(r"\+20\.0 \(seeds \+20\.0 to \+20\.0; images \+1\d\.\d to \+2\d\.\d; n = 3\)", text)
    assert "less than 1.0 points over the last 25% of its epochs" in text
    assert "learning rate is annealed towards zero" in text
    assert "too few seeds" not in text
    few = readings.verdicts_markdown(verdicts(runs([0.1], [0.9]), None, CONFIG), CONFIG, FAR)
    assert "inconclusive (n = 1, too few seeds to tell)" in few
    assert "not run" in readings.verdicts_markdown(verdicts({}, None, CONFIG), CONFIG, {})


def test_every_number_behind_a_verdict_is_stored():
    stored = claims.verdicts_table(verdicts(FAR, made_up_predictions(0.2), CONFIG))
    row = stored[(stored["claim"] == "C") & (stored["comparison"] == "as reported")].iloc[0]
    assert row["mean"] == pytest.approx(0.2)
    assert row["outcome"] == row["finding_outcome"] == "supported"
    untested = stored[(stored["claim"] == "C") & (stored["comparison"] == "controlled")].iloc[0]
    assert untested["outcome"] == "not tested"
    assert untested[["run", "mean", "n"]].isna().all()
    assert len(claims.verdicts_table(verdicts({}, None, CONFIG))) == 2 * len(CLAIMS)


def lengths(finals: list[float]):
    """Runs of the part "length", three seeds of equal accuracies each, from the shortest to the longest."""
    names = ["length_quarter", "length_half", "baseline", "length_2", "length_4", "length_8"]
    assert set(names) == set(members("length"))
    return made_up_runs({name: [final] * 3 for name, final in zip(names, finals, strict=True)})


LAW = next(claim for claim in CLAIMS if claim.key == "D").controlled


@pytest.mark.parametrize(
    ("finals", "expected"),
    [
        # Error 0.2 + 0.5 / sqrt(x): 0.70, 0.55, 0.45, 0.38, 0.33, 0.29.
        ([0.30, 0.45, 0.55, 0.62, 0.67, 0.71], "supported"),
        ([0.30, 0.45, 0.55, 0.62, 0.67, 0.90], "not supported"),  # 19 points above the law
        ([0.30, 0.45, 0.55, 0.62, 0.67, 0.50], "not supported"),
    ],
)
def test_a_law_applies_if_it_foretells_the_longest_run(finals, expected):
    judgement = judge(LAW, lengths(finals), None, ClaimsConfig(margin=0.05))
    assert judgement.outcome == expected
    assert judgement.findings[0].against == "power law"
    assert judgement.findings[0].estimate.n == 3


def test_a_law_is_not_tested_without_all_lengths():
    some = lengths([0.30, 0.45, 0.55, 0.62, 0.67, 0.71])
    del some["length_8"]
    assert judge(LAW, some, None, CONFIG).missing == ("length_8",)
    one_seed = {name: seeds[:1] for name, seeds in lengths([0.3, 0.45, 0.55, 0.62, 0.67, 0.71]).items()}
    assert judge(LAW, one_seed, None, ClaimsConfig(margin=0.9)).outcome == "inconclusive"


def test_the_controls_give_the_other_verdicts():
    """Deeper with the same first layer, twice as long, and two views for as many steps."""
    names = ("baseline", "resnet34_conv3", "length_4", "length_8", "views8", "resnet34_long")
    same = made_up_runs({name: [0.5] * 3 for name in names})
    outcomes = {v.claim.key: v.outcome for v in verdicts(same, None, CONFIG)}
    assert outcomes == {
        "A": "supported",
        "B": "supported",
        "C": "not supported",
        "D": "not tested",
        "E": "not tested",
    }
