"""Tables, sentences and figures follow from results, whatever these are."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from made_up import made_up_runs

from manyviews import plots, readings, report, results
from manyviews.config import ClaimsConfig
from manyviews.evaluation import MEASURES

CLAIMS = ClaimsConfig()
FINALS = {"baseline": [0.20, 0.22, 0.24], "resnet34": [0.25, 0.25, 0.31], "views8": [0.40, 0.44, 0.48]}


def test_one_seed_has_no_interval_over_seeds():
    """20 % of 1,000 images: standard error 1.26 points, half width of the bootstrap interval 2.5."""
    text = report.accuracy_markdown(made_up_runs({"baseline": [0.2]}), {})
    assert "| 20.0 (± 2.5, n = 1)" in text
    assert "With n = 1 there is only the latter" in text


def test_accuracies_stand_beside_the_reported_ones():
    text = report.accuracy_markdown(made_up_runs(FINALS), {})
    lines = text.splitlines()
    assert lines[2].split("|")[3:7] == [
        f" {x:<{len(c) - 1}}"
        for x, c in zip(("18.0", "20.0", "12.0", "19.0"), lines[0].split("|")[3:7], strict=True)
    ]
    assert "22.0 ± 5.0 (± 2.5, n = 3)" in lines[3]  # t interval of 20, 22, 24: 4.303 * 2 / sqrt(3)
    assert "no number" in lines[4]
    assert "44.0 ± 9.9 (± 3.0, n = 3)" in lines[7]


def test_floors_and_ceiling_stand_below_the_runs():
    floor = dict.fromkeys(MEASURES, 0.3)
    lines = report.accuracy_markdown(made_up_runs(FINALS | {"supervised": [0.9]}), floor).splitlines()
    cells = {line.split("|")[1].strip(): line.split("|")[3].strip() for line in lines[8:12]}
    assert cells == {
        "ResNet-18, supervised": "90.0 (± 1.9, n = 1)",
        "Raw pixels": "30.0",
        "Random weights: depth 18, stem conv3": "10.0",
        "Random weights: depth 34, stem conv7": "10.0",
    }


def test_what_was_not_run_is_called_so():
    runs = made_up_runs({"baseline": [0.2]})
    for text in (
        report.accuracy_markdown(runs, {}),
        report.comparison_markdown(runs),
        report.plateau_markdown(runs, CLAIMS),
        report.ood_markdown(runs),
        report.cost_markdown(runs),
    ):
        assert "not run" in text
        assert "nan" not in text.lower()


def test_a_report_of_nothing_says_so():
    for text in (
        report.methods_text({}),
        report.accuracy_markdown({}, {}),
        report.comparison_markdown({}),
        report.plateau_markdown({}, CLAIMS),
        report.ood_markdown({}),
        report.ladder_markdown({}, "id"),
        report.cost_markdown({}),
        report.limits_markdown({}, []),
        report.environment_markdown({}),
    ):
        assert "not run" in text


def test_differences_are_paired_by_seed():
    """Seeds differ more than runs: unpaired, the interval would hide the difference."""
    text = report.comparison_markdown(
        made_up_runs({"baseline": [0.2, 0.3, 0.4], "views8": [0.25, 0.35, 0.45]})
    )
    assert "+5.0 (seeds +5.0 to +5.0; images +" in text


def test_differences_are_paired_by_image():
    """Right on the same 200 of 1,000 images and on 50 more: the interval is that of those 50 alone."""
    runs = made_up_runs({"baseline": [0.2], "views8": [0.25]})
    found = report.comparison_table(runs).set_index(["run", "against", "measure"])
    row = found.loc["views8", "baseline", "id_knn_accuracy"]
    assert row["mean"] == pytest.approx(0.05)
    error = (0.05 * 0.95 / 1000) ** 0.5  # unpaired, it would be 0.0187
    assert row["image_high"] - row["image_low"] == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_only_seeds_that_both_runs_have_are_compared():
    runs = made_up_runs(FINALS)
    runs["views8"] = runs["views8"][2:]
    assert "n = 1)" in report.comparison_markdown(runs).splitlines()[3]
    runs["baseline"] = runs["baseline"][:2]
    assert "no seed in common" in report.comparison_markdown(runs)


def test_a_difference_comes_with_its_cost():
    """Eight views take four times the steps; the made-up ResNet-34 takes 34/18 of the work for a view."""
    text = report.comparison_markdown(made_up_runs(FINALS))
    assert "4.0 times the optimiser steps and 4.0 times the multiply-adds of ResNet-34, 2 views" in text
    assert f"4.0 times the optimiser steps and {4 * 34 / 18:.1f} times the multiply-adds of ResNet-18" in text


def test_plateau_is_read_over_the_last_quarter():
    """From 10 at the start to 22 in four even epochs: the last one adds 3 points."""
    lines = report.plateau_markdown(made_up_runs(FINALS), CLAIMS).splitlines()
    assert "after epoch 3" in lines[0]
    assert [cell.strip() for cell in lines[2].split("|")[3:7]] == ["10.0", "19.0", "22.0", "+3.0"]


def test_synthetic_images_are_called_so():
    assert "synthetic" in report.methods_text(made_up_runs(FINALS))
    assert "synthetic" in report.limits_markdown(made_up_runs(FINALS), [])
    real = made_up_runs(FINALS, synthetic=False)
    assert "synthetic" not in report.methods_text(real) + report.limits_markdown(real, [])
    assert "photographs" in report.methods_text(real)


def test_runs_below_raw_pixels_are_named():
    """Means 22, 27 and 44 % against a floor of 25 % in one measure and 10 % in the others."""
    floor = dict.fromkeys(MEASURES, 0.1) | {"id_knn_accuracy": 0.25}
    text = report.floor_text(floor, made_up_runs(FINALS), 16)
    assert "k-NN, training classes 25.0 %" in text
    assert "Below that end, on average: ResNet-18, 2 views (k-NN, training classes)." in text
    assert "on average: no runs" in report.floor_text(dict.fromkeys(MEASURES, 0.1), made_up_runs(FINALS), 16)
    assert "not run" in report.floor_text({}, made_up_runs(FINALS), 16)
    assert "averaged to 32 x 32" in report.floor_text(floor, {}, 64)
    assert "averaged" not in text


def test_the_ladder_shows_every_rung_and_what_did_not_converge():
    runs = made_up_runs(FINALS)
    text = report.ladder_markdown(runs, "id")
    assert "fc, raw: k-NN, k = 5" in text
    assert "linear, C chosen" in text
    assert "ResNet-18, 2 views, random weights" in text
    assert "ResNet-34, 8 views is ahead of ResNet-18, 2 views in 2 of 2 rungs" in text
    assert "All linear fits converged" in text
    runs["views8"][1].ladder.loc[5, "converged"] = False
    assert "did not converge in: `views8` seed 1" in report.ladder_markdown(runs, "ood")


def test_a_run_without_errors_has_none_to_read():
    """No class is drawn twice, and no class is said to be taken for itself."""
    perfect = made_up_runs({"baseline": [1.0]})["baseline"]
    matrix = results.confusion_matrix(perfect, "id_knn_accuracy")
    assert sorted(results.most_confused(matrix)) == list(range(8))
    assert readings.confusion_text(perfect) == "ResNet-18, 2 views takes no image for one of another class."


def test_the_most_confused_classes_are_shown_beside_each_other():
    matrix = np.eye(12)
    matrix[3, 7] = matrix[7, 3] = 0.5
    matrix[10, 2] = 0.4
    assert results.most_confused(matrix)[:4] == [3, 7, 2, 10]


def test_few_labels_are_told_for_what_they_are():
    """Eight of ten labels a class are drawn; where all are no more than OOD has, nothing is."""
    runs = made_up_runs(FINALS)
    assert "fitted again on 8 labels a class" in report.ood_markdown(runs)
    runs["baseline"][0].summary["few_labels_per_class"] = 10
    assert "fitted on all 10 labels a class" in report.ood_markdown(runs)


def test_a_flat_end_is_read_together_with_the_learning_rate():
    runs = made_up_runs(FINALS)
    for run in runs["baseline"]:
        run.metrics["learning_rate"] = [float("nan"), 0.1, 0.2, 0.1, 0.05]
    assert "The last learning rate was 25% of the peak" in report.plateau_markdown(runs, CLAIMS)


def test_a_run_is_read_in_a_sentence():
    text = report.reading(made_up_runs({"baseline": [0.2]})["baseline"][0], 0.25)
    assert (
        "rose from 10.0 % at the initial weights to 20.0 %, of which +2.5 points came after epoch 3" in text
    )
    assert "fell from 10.0 %" in report.reading(made_up_runs({"baseline": [0.05]})["baseline"][0], 0.25)


def test_the_methods_say_how_views_of_an_image_meet_in_a_batch():
    runs = made_up_runs({"views8": [0.2]})
    assert "8 views of each image per epoch, paired two by two, in 4 passes" in report.methods_text(runs)
    runs["views8"][0].config["training"] |= {"views_per_batch": 8, "multi_view_loss": "inside"}
    text = report.methods_text(runs)
    assert "8 of them together in a batch, with the loss of many views in the definition `inside`" in text
    assert "in 1 pass over the images" in text
    assert "two by two" not in text


def test_departures_from_the_report_are_listed_with_its_values():
    text = report.methods_text(made_up_runs(FINALS))
    assert "`training.epochs` 4 (50)" in text
    assert "`training.learning_rate` 0.1 (0.6)" in text
    assert "temperature` " not in text  # as in the report


def test_a_failed_run_is_told_with_its_reason():
    assert "- `views8` seed1 failed: nan" in report.limits_markdown({}, ["`views8` seed1 failed: nan"])
    assert "- `views8` seed1 failed: nan" in report.limits_markdown(
        made_up_runs(FINALS), ["`views8` seed1 failed: nan"]
    )


def test_chance_on_unseen_classes_is_theirs():
    runs = made_up_runs({"baseline": [0.2]})
    runs["baseline"][0].summary["ood_classes"] = 4
    figure = plots.compare_plateaus(runs, {})
    texts = [[text.get_text() for text in ax.texts] for ax in figure.axes[:4]]
    assert texts == [["chance, 10 classes"]] * 2 + [["chance, 4 classes"]] * 2
    plt.close(figure)


def test_a_probe_that_did_not_converge_is_named():
    runs = made_up_runs(FINALS)
    assert "converged" in report.convergence_note(runs)
    runs["views8"][1].summary["linear_converged"] = False
    assert "did not converge in: `views8` seed 1" in report.convergence_note(runs)


@pytest.mark.parametrize("finals", [FINALS, {"baseline": [0.2]}, {}])
def test_figures_are_drawn_from_whatever_there_is(finals, tmp_path):
    runs = made_up_runs(finals)
    figures = [
        plots.compare_plateaus(runs, {"id_knn_accuracy": 0.3}),
        plots.compare_reported(results.accuracy_table(runs)),
        plots.ladder(runs),
    ]
    if {"views8", "baseline"} <= runs.keys():
        figures.append(plots.compare_classes(runs, "views8", "baseline"))
    figures += [plots.confusion(seeds) for seeds in runs.values()]
    figures += [plots.accuracy_plateau(seeds) for seeds in runs.values()]
    figures += [plots.training_loss(seeds) for seeds in runs.values()]
    for number, figure in enumerate(figures):
        plots.save_figure(figure, tmp_path, f"figure{number}")
        assert "(" in figure.axes[0].get_ylabel() + figure.axes[0].get_title()  # with its unit
        plt.close(figure)
    assert len(list(tmp_path.glob("*.png"))) == len(list(tmp_path.glob("*.svg"))) == len(figures)


def test_a_figure_shows_the_results(tmp_path):
    """The drawn line holds the mean over the seeds, in percent."""
    figure = plots.compare_plateaus(made_up_runs(FINALS), {})
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
