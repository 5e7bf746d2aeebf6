"""Tables, sentences and figures of the studies say what the runs say, and no more."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from made_up import made_up_predictions, made_up_runs

from manyviews import study_plots, study_text
from manyviews.claims import verdicts
from manyviews.config import ClaimsConfig
from manyviews.controls import contrasts, factorial_effects
from manyviews.rows import PARTS, ROWS, STUDIES, members, rows_of
from manyviews.scaling import Curve, error_curve

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


def length_curve(errors: list[float], noise: float = 0.0) -> Curve:
    """Six lengths, of three seeds that differ by the noise."""
    rank = np.arange(2000) / 2000
    seeds = [[(rank < error + shift) * 1.0 for shift in (-noise, 0, noise)] for error in errors]
    return Curve(tuple("abcdef"), 1000 * 2.0 ** np.arange(6), np.array(seeds))


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        (
            [0.3 + 0.5 * 2.0**-i for i in range(6)],
            "nearer one is within 2.0 points of what was measured is shown.",
        ),
        ([0.8 - 0.08 * i for i in range(6)], "What can be claimed is a trend, not a power law."),
        ([0.8, 0.72, 0.66, 0.6, 0.55, 0.1], "of what was measured is refuted."),
    ],
)
def test_a_law_is_claimed_only_where_the_data_can_tell(errors, said):
    text = study_text.law_markdown(length_curve(errors), CONFIG)
    assert said in text
    assert "by least squares" in text


def test_one_seed_shows_no_law():
    curve = length_curve([0.3 + 0.5 * 2.0**-i for i in range(6)])
    alone = Curve(curve.names, curve.x, curve.scores[:, :1])
    assert "what can be claimed is a trend, not a law" in study_text.law_markdown(alone, CONFIG)


def test_a_floor_at_its_bound_is_no_finding():
    falling = study_text.law_markdown(length_curve([0.8, 0.78, 0.74, 0.66, 0.5, 0.2], 0.01), CONFIG)
    assert "The floor lies at its bound" in falling
    level = study_text.law_markdown(length_curve([0.3 + 0.5 * 2.0**-i for i in range(6)]), CONFIG)
    assert "at its bound" not in level


def test_leaving_a_constant_rate_is_compared_at_the_same_step():
    """The constant run's curve rises evenly to its end: a run of half its length is set beside its middle."""
    runs = made_up_runs({"constant": [0.5] * 3, "decayed_1": [0.40, 0.41, 0.42], "decayed_2": [0.5] * 3})
    text = study_text.annealing_markdown(runs, "constant", ["decayed_1", "decayed_2"], 0.02)
    assert "| left at 1 x epochs | +11.0" in re.sub(" +", " ", text)
    assert "Yes at 1 of 2 lengths, no at 1, not decided at 0." in text


def test_slopes_come_with_their_interval():
    runs = made_up_runs(
        {"baseline": [0.4, 0.5, 0.6], "length_2": [0.5, 0.6, 0.7], "length_4": [0.6, 0.7, 0.8]}
    )
    text = study_text.scale_text(runs, "length")
    assert "+10.0 (seeds +10.0 to +10.0; n = 3) points for each doubling" in text
    assert "3 sizes, the largest 4 times the smallest" in text


def test_runs_below_their_initial_weights_are_named():
    runs = made_up_runs({"baseline": [0.5], "sgd": [0.05]})  # made up to begin at 0.1
    text = study_text.part_markdown("C7", runs, CONFIG)
    assert "**Below their own initial weights end: SGD 0.15.**" in text
    assert "Below" not in study_text.part_markdown("C1", C1, CONFIG)


def test_runs_below_raw_pixels_are_counted():
    text = study_text.pixels_text(made_up_runs({"baseline": [0.5], "sgd": [0.3]}), made_up_predictions(0.4))
    assert text.endswith("is 40.0 %; 1 of 2 runs end below that.")
    assert "not run" in study_text.pixels_text({}, None)


def test_a_recipe_lists_what_it_changes_in_this_profile():
    text = study_text.recipe_text(ALL, "efficient", "baseline")
    assert "`training.temperature` 0.1 (0.5)" in text
    assert "batch_size" not in text


def test_cost_to_accuracy_says_what_is_not_reached():
    runs = made_up_runs({"baseline": [0.5], "efficient": [0.9], "views8": [0.95]})
    lines = study_text.cost_markdown(runs, ["baseline", "efficient"], ["baseline", "views8"]).splitlines()
    assert sum("not reached" in line and "90.0" in line for line in lines) == 1
    baseline, efficient = (line for line in lines if line.startswith("| ResNet-18, 2 views: 50.0"))
    assert baseline.rstrip("| ").endswith("0.75 to 1.00")
    low, high = map(float, efficient.rstrip("| ").split("|")[-1].split("to"))
    assert 0 < low < high < 1


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


@pytest.mark.parametrize("name", ["contrasts", "effects", "claims"])
def test_figures_of_differences_tell_their_intervals_apart(name):
    """Without the page's text: what the two lines are, and of how many seeds."""
    (legend,) = FIGURES[name]().legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert {"over seeds", "over images"} <= set(texts)
    assert len(texts) == len(set(texts))
    assert legend.get_title().get_text() == "95% intervals, n = 3 seed(s)"


def test_of_one_seed_there_is_an_interval_over_images_alone():
    found = contrasts(made_up_runs({"baseline": [0.5], "baseline_joint": [0.6]}), "C11", KNN, 0.02)
    (legend,) = study_plots.draw_contrasts(found, 0.02).legends
    assert [text.get_text() for text in legend.get_texts()] == ["within 2 points", "over images"]
    assert legend.get_title().get_text() == "95% intervals, n = 1 seed(s)"


def test_curves_differ_in_more_than_colour():
    figure = study_plots.learning_curves(ALL, members("C2"), KNN)
    styles = {(line.get_linestyle(), line.get_marker()) for line in figure.axes[0].lines}
    assert len(styles) == len(members("C2"))


def test_nothing_is_drawn_of_what_is_not_there():
    figure = study_plots.learning_curves({}, members("C2"), KNN)
    assert all(not ax.lines for ax in figure.axes)


@pytest.mark.parametrize(("names", "drawn"), [([], 0), (["baseline"], 0), (["resnet34", "views8"], 1)])
def test_curves_are_drawn_of_two_runs_or_more(monkeypatch, names, drawn):
    """Of one there is nothing to compare, and differences need the run that others are compared with."""
    figures = []
    monkeypatch.setattr(study_plots, "show", lambda figure, alt, name: figures.append(name))
    study_plots.show_part("C2", {name: ALL[name] for name in names}, CONFIG)
    assert figures == ["C2_curves"] * drawn
