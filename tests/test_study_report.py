"""Tables, sentences and figures of the studies say what the runs say, and no more."""

import re

import matplotlib.pyplot as plt
import pytest
from made_up import made_up_runs

from manyviews import study_plots, study_text
from manyviews.claims import verdicts
from manyviews.config import ClaimsConfig
from manyviews.controls import contrasts, factorial_effects
from manyviews.intervals import Estimate
from manyviews.rows import PARTS, ROWS, STUDIES, members, rows_of
from manyviews.scaling import error_curve

CONFIG = ClaimsConfig(margin=0.02, plateau_window=0.25, plateau_tolerance=0.01)
KNN = study_text.MEASURE
ALL = made_up_runs({name: [0.4 + 0.01 * i, 0.41 + 0.01 * i, 0.42 + 0.01 * i] for i, name in enumerate(ROWS)})
C1 = made_up_runs(
    {"views8": [0.5] * 3, "resnet34_long": [0.5] * 3, "resnet34_long_epochs": [0.6, 0.61, 0.62]}
)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def test_a_part_says_what_is_equivalent_and_what_is_higher():
    text = study_text.part_markdown("C1", C1, CONFIG)
    assert "Beside ResNet-34, 8 views, in points (n = 3)" in text
    assert "higher: ResNet-34, 2 views, 4 x epochs, rate moved per epoch (+11.0)" in text
    assert "equivalent: ResNet-34, 2 views, 4 x epochs (+0.0)" in text


def test_a_part_is_shown_with_what_it_cost():
    """Four times the epochs of a quarter of the views: as many steps and multiply-adds."""
    rows = [
        line.split("|") for line in study_text.part_markdown("C1", C1, CONFIG).splitlines() if "|" in line
    ]
    header = [cell.strip() for cell in rows[0]]
    by_title = {row[1].strip(): dict(zip(header, map(str.strip, row), strict=True)) for row in rows[2:]}
    eight, two = by_title["ResNet-34, 8 views"], by_title["ResNet-34, 2 views, 4 x epochs"]
    for cost in ("steps", "views forwarded", "multiply-adds (G)"):
        assert eight[cost] == two[cost] != ""
    assert (eight["epochs"], two["epochs"]) == ("4", "16")
    assert eight["relation"] == "compared with"
    assert two["equivalence, p"] == "0.000"


def test_a_row_that_is_the_run_it_is_compared_with_is_no_comparison():
    runs = made_up_runs({"baseline": [0.5] * 3, "sgd": [0.6] * 3})
    runs["adamw"] = runs["baseline"]
    text = study_text.part_markdown("C7", runs, CONFIG)
    assert "equivalent" not in text.split("\n")[0]
    row = next(line for line in text.splitlines() if line.startswith("| AdamW 0.002"))
    assert "the same run" in row


def test_what_was_not_run_is_said_and_no_number_given():
    text = study_text.part_markdown("C1", {}, CONFIG)
    assert text.count("not run") == 1 + len(members("C1"))
    for said in (
        study_text.effects_markdown({}, "C2"),
        study_text.law_markdown(None, CONFIG),
        study_text.cost_markdown({}, ["baseline"], ["baseline"]),
        study_text.scale_text({}, "width"),
        study_text.found_text("controls", {}),
    ):
        assert "not run" in said


def test_few_seeds_decide_nothing_and_say_so():
    one = made_up_runs({"views8": [0.5], "resnet34_long": [0.9]})
    assert "not decided: ResNet-34, 2 views, 4 x epochs (+40.0)" in study_text.part_markdown(
        "C1", one, CONFIG
    )
    assert "n = 1 for some" in study_text.found_text("controls", one)


def test_synthetic_images_are_called_so():
    assert "**Synthetic**" in study_text.found_text("controls", C1)
    real = made_up_runs({"views8": [0.5]}, synthetic=False)
    assert "Photographs" in study_text.found_text("controls", real)


def test_the_largest_effect_is_named():
    cells = {name: [0.3 + 0.2 * (ROWS[name].n_views == 8)] * 3 for name in members("C2")}
    text = study_text.effects_markdown(made_up_runs(cells), "C2")
    assert "The largest is that of 4 x passes, +20.0 points." in text


def test_runs_of_different_precision_are_told(monkeypatch):
    assert "computed in" not in study_text.found_text("controls", C1)
    for run, precision in zip(C1["views8"], ("bfloat16", "float32", "float32"), strict=True):
        monkeypatch.setitem(run.environment, "precision", precision)
    assert "computed in bfloat16 and float32" in study_text.found_text("controls", C1)


@pytest.mark.parametrize(
    ("best", "other", "said"),
    [
        (Estimate(0.001, 3, -0.002, 0.004, -0.002, 0.004), 0.05, "It is within the margin of 2.0 points."),
        (Estimate(0.04, 3, 0.03, 0.05, 0.03, 0.05), -0.09, "neither foretells it"),
        (Estimate(0.01, 3, -0.05, 0.07, 0.0, 0.02), 0.05, "a trend, not a law"),
        (Estimate(0.001, 1, float("nan"), float("nan"), 0.0, 0.002), 0.05, "a trend, not a law"),
    ],
)
def test_a_law_is_claimed_only_where_the_data_can_tell(best, other, said):
    missed = {"power law": best, "log-linear": Estimate(other, best.n, other, other, other, other)}
    assert said in study_text.winner_text(missed, CONFIG)


def test_cost_to_accuracy_says_what_is_not_reached():
    runs = made_up_runs({"baseline": [0.5], "efficient": [0.9], "views8": [0.95]})
    text = study_text.cost_markdown(runs, ["baseline", "efficient"], ["baseline", "views8"])
    assert "not reached, ends at 90.0 %" in text
    baseline, efficient = (
        line for line in text.splitlines() if line.startswith("| ResNet-18, 2 views: 50.0")
    )
    assert baseline.rstrip("| ").endswith("1.00")
    assert 0 < float(efficient.rstrip("| ").split("|")[-1]) < 1


def test_every_claim_is_answered_with_each_part_that_bears_on_it():
    text = study_text.answers_markdown(verdicts(ALL, None, CONFIG), ALL, CONFIG)
    for key in "ABCDE":
        assert f"- **{key}, " in text
    for name, part in PARTS.items():
        assert (f"({name})" in text) == (part.claim is not None)


def test_all_contrasts_are_stored():
    for study in STUDIES:
        found = study_text.contrasts_of(study, ALL, CONFIG)
        pairs = {(one.part, one.run) for one in found}
        expected = {(p, name) for p in PARTS if PARTS[p].study == study for name in members(p)[1:]}
        assert pairs == expected
        assert {run for _, run in pairs} <= set(rows_of(study))


def test_time_counts_a_run_once_that_stands_for_two():
    twice = {"baseline": C1["views8"], "adamw": C1["views8"]}
    assert study_text.time_text(twice).startswith("3 runs, each seed counted: 0.1 hours")


FIGURES = {
    "curves": lambda: study_plots.learning_curves(ALL, members("C2"), KNN),
    "contrasts": lambda: study_plots.draw_contrasts(contrasts(ALL, "C3", KNN, 0.02), 0.02),
    "effects": lambda: study_plots.effects(factorial_effects(ALL, "C2", KNN), 0.02, KNN),
    "claims": lambda: study_plots.claims(verdicts(ALL, None, CONFIG), CONFIG),
    "law": lambda: study_plots.law(error_curve(ALL, members("length"), KNN), KNN),
    "scale": lambda: study_plots.axes_of_scale(ALL, {"length": members("length")}, KNN),
    "annealing": lambda: study_plots.annealing(ALL, "constant", ["decayed_1"], ["baseline"], KNN),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_label_their_axes(name):
    """In words with a unit; a row of panels that share an axis names it once."""
    figure = FIGURES[name]()
    assert all(re.search(r"\(|Epoch|points", ax.get_xlabel()) for ax in figure.axes)
    first = figure.axes[0]
    assert "(%)" in first.get_ylabel() or all(tick.get_text() for tick in first.get_yticklabels())


def test_curves_differ_in_more_than_colour():
    figure = study_plots.learning_curves(ALL, members("C2"), KNN)
    styles = {(line.get_linestyle(), line.get_marker()) for line in figure.axes[0].lines}
    assert len(styles) == len(members("C2"))


def test_nothing_is_drawn_of_what_is_not_there():
    figure = study_plots.learning_curves({}, members("C2"), KNN)
    assert all(not ax.lines for ax in figure.axes)
