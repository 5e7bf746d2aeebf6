"""Figures show every run, label their axes with units, and read without colour."""

import re

import matplotlib.pyplot as plt
import nbconvert.filters
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from made_up import made_up_runs

from manyviews.config.runs import run_specs
from manyviews.data.dataset import Split
from manyviews.report import figures, sliders
from manyviews.report.tables import in_markdown
from manyviews.runs.store import CURVES
from manyviews.simclr.views import ViewStrengths
from manyviews.stats import frontier
from manyviews.stats.compare import compare, factorial_effects
from manyviews.stats.dose import dose_curve
from manyviews.stats.scaling import error_curve

KNN, SPECS = "id_knn_accuracy", run_specs()
FACTORIAL, LENGTHS = SPECS.members("factorial"), SPECS.members("length")
FINALS = {"baseline": [0.20, 0.22, 0.24], "resnet34": [0.25, 0.27, 0.32], "views8": [0.40, 0.45, 0.47]}
RUNS = made_up_runs(FINALS)
MANY = made_up_runs(
    {
        name: [0.3 + 0.017 * i, 0.33 + 0.017 * i, 0.34 + 0.017 * i]
        for i, name in enumerate(dict.fromkeys([*FACTORIAL, *LENGTHS, "distinct2", "distinct4"]))
    }
)
UNIT = re.compile(r"\(%\)|\(points\)|points above|Epoch|steps|thousands|10\^|no unit|Distinct views")
FIGURES = {
    "curves": lambda: figures.learning_curves(MANY, FACTORIAL, [KNN], list(figures.COSTS)),
    "grid": lambda: figures.learning_curves(RUNS, FINALS, CURVES, ["epoch", "views_forwarded"]),
    "differences": lambda: figures.intervals(compare(MANY, "factorial", [KNN], 0.02), 0.02),
    "effects": lambda: effects_figure(),
    "doses": lambda: figures.doses({"Dose": dose_curve(MANY, "dose", KNN, 0.02)}, 0.02),
    "recipes": lambda: figures.recipes(frontier.recipes(MANY, KNN, "baseline")),
    "forecasts": lambda: figures.forecasts(error_curve(MANY, LENGTHS, KNN), KNN),
}


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def effects_figure():
    table = factorial_effects(MANY, "factorial", KNN, 0.02)
    return figures.intervals(table, 0.02, table["effect"], "Effect (points)")


@pytest.mark.parametrize("name", FIGURES)
def test_axes_are_labelled_with_their_unit(name):
    for ax in FIGURES[name]().axes:
        assert UNIT.search(ax.get_xlabel()), ax.get_xlabel()
        assert UNIT.search(ax.get_ylabel()) or all(tick.get_text() for tick in ax.get_yticklabels())


def test_a_curve_is_the_mean_over_the_seeds_in_percent_in_a_band_of_their_range():
    """From 10 to 22 %, 0.4, 0.7 and 0.9 of the way after each quarter."""
    figure = figures.learning_curves(RUNS, ["baseline"], CURVES, ["epoch", "views_forwarded"])
    of_knn, of_linear = (ax.get_lines()[0] for ax in figure.axes[:2])
    assert list(of_knn.get_xdata()) == [0, 1, 2, 3, 4]
    assert list(of_knn.get_ydata()) == pytest.approx([10, 14.8, 18.4, 20.8, 22])
    assert of_linear.get_ydata()[-1] == pytest.approx(28)
    ends = figure.axes[0].collections[0].get_paths()[0].vertices
    assert sorted(set(ends[ends[:, 0] == 4][:, 1].round(6))) == [20, 24]
    assert list(figure.axes[4].get_lines()[0].get_xdata()) == pytest.approx([0, 0.4, 0.8, 1.2, 1.6])


def test_each_run_is_drawn_once_in_a_style_of_its_own():
    """Without colour too; a run under a second name is the same run."""
    runs = MANY | {"temperature_05": MANY["baseline"]}
    figure = figures.learning_curves(runs, [*FACTORIAL, "temperature_05"], [KNN])
    lines = [line for line in figure.axes[0].lines if "n = 3" in line.get_label()]
    assert [line.get_label() for line in lines] == [f"{SPECS.title(name)} (n = 3)" for name in FACTORIAL]
    styles = {
        (line.get_linestyle(), line.get_marker(), line.get_markerfacecolor() == "white") for line in lines
    }
    assert len(styles) == len(FACTORIAL)


def test_chance_and_baselines_are_those_of_the_classes():
    """Ten training and eight unseen classes; raw pixels in the measure that they are of."""
    figure = figures.learning_curves(RUNS, FINALS, CURVES, baselines={"raw pixels": {KNN: 0.315}})
    texts = [[words.get_text() for words in ax.texts] for ax in figure.axes]
    assert texts[0] == ["chance, 10 classes", "raw pixels"]
    assert texts[1:] == [["chance, 10 classes"]] + [["chance, 8 classes"]] * 2
    assert 31.5 in [line.get_ydata()[0] for line in figure.axes[0].lines]


def test_an_interval_figure_shows_each_number_with_both_intervals():
    table = compare(RUNS, "original", [KNN], 0.02)
    ax = figures.intervals(table, 0.02).axes[0]
    labels = [tick.get_text() for tick in ax.get_yticklabels()]
    assert labels == [SPECS.title(name) for name in table["run"]]
    dots = {int(line.get_ydata()[0]): line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"}
    assert [dots[row] for row in range(2)] == pytest.approx(list(100 * table["mean"][:2]))
    for kind, word in (("seed", "over seeds"), ("image", "over images")):
        drawn = [list(line.get_xdata()) for line in ax.lines if line.get_label() == word]
        assert drawn == [
            pytest.approx(list(100 * row)) for row in table[[f"{kind}_low", f"{kind}_high"]].to_numpy()[:2]
        ]
    assert [words.get_text() for words in ax.texts] == [*table["relation"][:2], "not run"]


def test_a_legend_tells_the_intervals_apart_and_counts_the_seeds():
    (legend,) = figures.intervals(compare(RUNS, "original", [KNN], 0.02), 0.02).legends
    assert {words.get_text() for words in legend.get_texts()} == {
        "within 2 points",
        "over seeds",
        "over images",
    }
    assert legend.get_title().get_text() == "95% intervals, n = 3"
    one = made_up_runs({"baseline": [0.5], "joint": [0.6]})
    (legend,) = figures.intervals(compare(one, "batchnorm", [KNN], 0.02), 0.02).legends
    assert {words.get_text() for words in legend.get_texts()} == {"within 2 points", "over images"}
    assert legend.get_title().get_text() == "95% intervals, n = 1"


def test_doses_stand_beside_a_band_around_fresh_views():
    """Two and four distinct views, and as many fresh ones as four epochs of two draw."""
    curve = dose_curve(MANY, "dose", KNN, 0.02)
    ax = FIGURES["doses"]().axes[0]
    dots = next(line for line in ax.lines if line.get_marker() == "o")
    assert list(dots.get_xdata()) == list(curve["distinct"].dropna()[curve["mean"].notna()]) == [2, 4, 8]
    assert list(dots.get_ydata()) == pytest.approx(list(100 * curve["mean"].dropna()))
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["2", "4", "8\nfresh"]
    (band,) = ax.patches
    level = 100 * curve["mean"].iloc[-1]
    assert (band.get_y(), band.get_height()) == (pytest.approx(level - 2), pytest.approx(4))


def test_the_frontier_is_a_line_through_the_best_at_each_cost():
    table = frontier.recipes(MANY, KNN, "baseline")
    ax = FIGURES["recipes"]().axes[0]
    line = next(line for line in ax.lines if line.get_label() == "the best at each cost")
    best = table[table["frontier"]]
    assert list(line.get_ydata()) == pytest.approx(list(100 * best["mean"]))
    named = {words.get_text() for words in ax.texts}
    assert named == {SPECS.title(name) for name in (*best["run"], "baseline", "views8")}


def test_the_held_out_length_is_set_apart():
    ax = FIGURES["forecasts"]().axes[0]
    by_label = {line.get_label(): line for line in ax.lines}
    longest = MANY["length_8"]
    held_out = by_label[f"held out (n = {len(longest)})"]
    assert held_out.get_xdata()[0] == pytest.approx(longest[0].summary["views_forwarded"] / 1000)
    error = 100 - 100 * np.mean([run.summary[KNN] for run in longest])
    assert held_out.get_ydata()[0] == pytest.approx(error, abs=0.1)
    assert len(by_label[f"fitted to (n = {len(longest)})"].get_xdata()) == len(LENGTHS) - 1
    assert {"power law", "log-linear"} <= by_label.keys()


def test_of_nothing_there_is_no_figure_and_the_page_says_so(capsys):
    nothing = compare({}, "dose", [KNN], 0.02)
    assert figures.learning_curves({}, FINALS, [KNN]) is None
    assert figures.intervals(nothing, 0.02) is None
    assert figures.forecasts(None, KNN) is None
    for runs in ({}, {"baseline": MANY["baseline"]}):  # fresh views alone answer nothing
        assert figures.doses({"Dose": dose_curve(runs, "dose", KNN, 0.02)}, 0.02) is None
    assert figures.recipes(frontier.recipes({}, KNN, "baseline")) is None
    figures.show(None, "Differences: views drawn once")
    assert capsys.readouterr().out == "Differences: views drawn once: not run\n"


def test_neighbours_are_marked_right_or_wrong_in_more_than_colour():
    class Split:
        images, labels = np.zeros((3, 8, 8, 3), np.uint8), np.array([0, 1, 2])

    class Images:
        train = val = ood = Split
        class_names, ood_class_names = ("apple", "bear", "cup"), ("dam", "elk", "fox")

    table = pd.DataFrame(
        [("id", 1, 1, 2, False), ("id", 1, 2, 1, True), ("ood", 2, 1, 0, False), ("ood", 2, 2, 2, True)],
        columns=["split", "query", "rank", "neighbour", "right"],
    )
    titles = [ax.get_title() for ax in figures.neighbours(table, Images).axes]
    assert titles == ["training class:\nbear", "✗ cup", "✓ bear", "unseen class:\nfox", "✗ dam", "✓ fox"]


ODD = (
    "$x^2$",
    "$5 or $6",
    "a|b",
    "_é_",
    "<b>*bold*</b>",
    "^",
    "\\frac",
    "`[a](b)`",
    "a_very_long_name_without_spaces",
)


@pytest.mark.parametrize("name", ODD)
def test_names_of_classes_are_shown_as_they_are(name):
    """In figures no formula, and no error of one; in Markdown, and the page made of it, the same letters."""
    figure = figures.image_grid(np.zeros((1, 1, 8, 8, 3), np.uint8), [name], name)
    figure.draw_without_rendering()
    for text in (figure.axes[0].yaxis.label, figure._suptitle):
        shown, is_formula = text._preprocess_math(text.get_text())
        assert (shown, is_formula) == (name, False)
    page = nbconvert.filters.markdown2html(
        f"| of **{in_markdown(name)}** |\n| --- |\n| {in_markdown(name)} |"
    )
    assert re.sub(r"\s+", " ", BeautifulSoup(page, "html.parser").get_text()).strip() == f"of {name} {name}"


def test_a_long_name_is_cut():
    assert figures._short("golden retriever, dog", 16) == "golden…"
    assert figures._short("golden_retriever_dog", 16) == "golden_retrieve…"


def test_live_curve_grows_and_goes_when_the_training_is_done(monkeypatch):
    shown = []
    handle = type("Handle", (), {"update": lambda self, what, **_: shown.append(what)})()
    monkeypatch.setattr(figures, "display", lambda *_, **__: handle)
    metrics = RUNS["baseline"][0].metrics
    draw = figures.live_curve(int(metrics["epoch"].max()), seconds=0)
    for rows in range(2, len(metrics) + 1):
        draw(metrics[:rows])
    *growing, end = shown
    assert end == {}
    for rows, figure in enumerate(growing, start=2):
        loss, accuracy = figure.axes
        assert loss.lines[0].get_ydata() == pytest.approx(metrics["loss_nats"][:rows], nan_ok=True)
        assert accuracy.lines[0].get_ydata() == pytest.approx(100 * metrics[KNN][:rows].dropna())
    draw = figures.live_curve(100, seconds=60)
    shown.clear()
    draw(metrics[:2]), draw(metrics[:3])
    assert len(shown) == 1  # drawing does not hold up a fast training


def test_with_all_strengths_at_zero_the_sliders_show_the_image_itself(monkeypatch):
    """The first picture is the image; a slider for every strength that is one number."""
    split = Split(np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8), np.array([0, 1, 0]))
    drawn, grid = [], figures.image_grid
    monkeypatch.setattr(sliders, "image_grid", lambda *of: (drawn.append(of), grid(*of))[1])
    *moved, picture = sliders.view_sliders(split, ["ant", "<bee>"], ViewStrengths(), 8, seed=3).children
    numbers = {name: value for name, value in vars(ViewStrengths()).items() if isinstance(value, float)}
    begin = {slider.description: slider.value for slider in moved}
    assert begin == {"image": 0, "min_crop": 0.2} | numbers
    assert 'alt="An image: ant, ' in picture.value
    for slider in moved:
        off = {"image": 1, "min_crop": 1.0, "hue": 0.5}
        slider.value = off.get(slider.description, 0.0 if slider.description.endswith("_p") else slider.value)
    images, (label,) = drawn[-1]
    assert label.startswith("<bee>")
    assert 'alt="An image: &lt;bee&gt;, ' in picture.value
    assert images == pytest.approx(np.tile(split.images[1] / 255, (1, 8, 1, 1, 1)), abs=1e-5)
    next(slider for slider in moved if slider.description == "flip_p").value = 1.0
    mirrored = np.tile(split.images[1][:, ::-1] / 255, (7, 1, 1, 1))
    assert drawn[-1][0][0, 1:] == pytest.approx(mirrored, abs=1e-5)
