"""Tables, sentences and figures follow from results, whatever these are."""

import math

import matplotlib.pyplot as plt
import pytest
from made_up import made_up_runs
from scipy import stats

from manyviews import plots, report, results

FINALS = {"baseline": [0.20, 0.22, 0.24], "resnet34": [0.25, 0.25, 0.31], "views8": [0.40, 0.44, 0.48]}


def test_interval_is_students():
    """Oracle: scipy's t interval."""
    values = [0.2, 0.24, 0.31, 0.28]
    mean, half = results.mean_interval(values)
    low, high = stats.t.interval(0.95, 3, loc=sum(values) / 4, scale=stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high))


def test_one_seed_has_no_interval():
    assert math.isnan(results.mean_interval([0.2])[1])
    text = report.accuracy_markdown(made_up_runs({"baseline": [0.2]}))
    assert "20.0 (n = 1)" in text
    assert "±" not in text.splitlines()[3]


def test_accuracies_stand_beside_the_reported_ones():
    text = report.accuracy_markdown(made_up_runs(FINALS))
    lines = text.splitlines()
    assert lines[2].split("|")[3:7] == [
        f" {x:<{len(c) - 1}}"
        for x, c in zip(("18.0", "20.0", "12.0", "19.0"), lines[0].split("|")[3:7], strict=True)
    ]
    assert "22.0 ± 5.0 (n = 3)" in lines[3]  # t interval of 20, 22, 24: 4.303 * 2 / sqrt(3)
    assert "no number" in lines[4]
    assert "44.0 ± 9.9 (n = 3)" in lines[7]


def test_what_was_not_run_is_called_so():
    runs = made_up_runs({"baseline": [0.2]})
    for text in (
        report.accuracy_markdown(runs),
        report.comparison_markdown(runs),
        report.plateau_markdown(runs),
        report.cost_markdown(runs),
    ):
        assert "not run" in text
        assert "nan" not in text.lower()


def test_a_report_of_nothing_says_so():
    for text in (
        report.methods_text({}),
        report.accuracy_markdown({}),
        report.comparison_markdown({}),
        report.plateau_markdown({}),
        report.cost_markdown({}),
        report.limits_markdown({}),
        report.environment_markdown({}),
    ):
        assert "not run" in text


def test_differences_are_paired_by_seed():
    """Seeds differ more than runs: unpaired, the interval would hide the difference."""
    runs = made_up_runs({"baseline": [0.2, 0.3, 0.4], "views8": [0.25, 0.35, 0.45]})
    assert results.paired_differences(runs, "views8", "baseline", "id_knn_accuracy") == pytest.approx(
        [0.05] * 3
    )
    assert "+5.0 (+5.0 to +5.0, n = 3)" in report.comparison_markdown(runs)


def test_only_seeds_that_both_runs_have_are_compared():
    runs = made_up_runs(FINALS)
    runs["views8"] = runs["views8"][2:]
    assert len(results.paired_differences(runs, "views8", "baseline", "id_knn_accuracy")) == 1
    runs["baseline"] = runs["baseline"][:2]
    assert "no seed in common" in report.comparison_markdown(runs)


def test_a_difference_comes_with_its_cost():
    """Eight views take four times the steps; the made-up ResNet-34 takes 34/18 of the work for a view."""
    text = report.comparison_markdown(made_up_runs(FINALS))
    assert "4.0 times the optimiser steps and 4.0 times the multiply-adds of ResNet-34, 2 views" in text
    assert f"4.0 times the optimiser steps and {4 * 34 / 18:.1f} times the multiply-adds of ResNet-18" in text


def test_plateau_is_read_over_the_last_quarter():
    """From 10 at the start to 22 in four even epochs: the last one adds 3 points."""
    lines = report.plateau_markdown(made_up_runs(FINALS)).splitlines()
    assert "after epoch 3" in lines[0]
    assert [cell.strip() for cell in lines[2].split("|")[3:7]] == ["10.0", "19.0", "22.0", "+3.0"]


def test_synthetic_images_are_called_so():
    assert "synthetic" in report.methods_text(made_up_runs(FINALS))
    assert "synthetic" in report.limits_markdown(made_up_runs(FINALS))
    real = made_up_runs(FINALS, synthetic=False)
    assert "synthetic" not in report.methods_text(real) + report.limits_markdown(real)
    assert "photographs" in report.methods_text(real)


def test_a_probe_that_did_not_converge_is_named():
    runs = made_up_runs(FINALS)
    assert "converged" in report.convergence_note(runs)
    runs["views8"][1].summary["linear_converged"] = False
    assert "did not converge in: `views8` seed 1" in report.convergence_note(runs)


@pytest.mark.parametrize("finals", [FINALS, {"baseline": [0.2]}, {}])
def test_figures_are_drawn_from_whatever_there_is(finals, tmp_path):
    runs = made_up_runs(finals)
    figures = [plots.compare_plateaus(runs), plots.compare_reported(results.accuracy_table(runs))]
    figures += [plots.accuracy_plateau(seeds) for seeds in runs.values()]
    figures += [plots.training_loss(seeds) for seeds in runs.values()]
    for number, figure in enumerate(figures):
        plots.save_figure(figure, tmp_path, f"figure{number}")
        assert "(" in figure.axes[0].get_ylabel()  # with its unit
        plt.close(figure)
    assert len(list(tmp_path.glob("*.png"))) == len(list(tmp_path.glob("*.svg"))) == len(figures)


def test_a_figure_shows_the_results(tmp_path):
    """The drawn line holds the mean over the seeds, in percent."""
    figure = plots.compare_plateaus(made_up_runs(FINALS))
    baseline = figure.axes[0].get_lines()[0]
    assert list(baseline.get_xdata()) == [0, 1, 2, 3, 4]
    assert list(baseline.get_ydata()) == pytest.approx([10, 13, 16, 19, 22])
    plt.close(figure)


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    runs = made_up_runs(FINALS)
    for folder in ("a", "b"):
        figure = plots.accuracy_plateau(runs["baseline"])
        plots.save_figure(figure, tmp_path / folder, "figure")
        plt.close(figure)
    for name in ("figure.png", "figure.svg"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
