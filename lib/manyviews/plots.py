"""Figures. Each tells its lines apart by dash and marker too, so that it reads in grey."""

from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from manyviews.files import replacing
from manyviews.results import ACCURACIES, RUNS, Run, seed_curves

# Colours of Okabe and Ito, told apart by most colour-blind readers, from dark to light.
METRIC_STYLES = {
    "id_knn_accuracy": {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    "id_linear_accuracy": {"color": "#000000", "linestyle": "--", "marker": "s"},
    "ood_knn_accuracy": {"color": "#E69F00", "linestyle": "-", "marker": "^"},
    "ood_linear_accuracy": {"color": "#D55E00", "linestyle": "--", "marker": "v"},
}
RUN_STYLES = {
    "baseline": {"color": "#000000", "linestyle": ":", "marker": "o"},
    "resnet34": {"color": "#0072B2", "linestyle": "--", "marker": "s"},
    "views8": {"color": "#D55E00", "linestyle": "-", "marker": "^"},
}
X_LABELS = {"epoch": "Epoch", "images_forwarded": "Views forwarded in training (thousands)"}
PERCENT = 100


def save_figure(figure: Figure, folder: Path, name: str) -> None:
    """Write <folder>/<name>.png and .svg and close the figure; the same figure gives the same bytes."""
    with plt.rc_context({"svg.hashsalt": name}):
        for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            with replacing(folder / f"{name}.{suffix}") as new:
                figure.savefig(new, format=suffix, dpi=120, bbox_inches="tight", metadata=metadata)
    plt.close(figure)


def show(figure: Figure, alt: str, name: str = "figure") -> None:
    """Display a figure in a notebook, with a text for those who do not see it and a file name for exports."""
    display(figure, metadata={"image/png": {"alt": alt}, "filename": name})
    plt.close(figure)


def accuracy_plateau(runs: list[Run]) -> Figure:
    """The four accuracies of one run against epochs and against views forwarded, a band over its seeds."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for ax, x in zip(axes, X_LABELS, strict=True):
        for metric, style in METRIC_STYLES.items():
            _draw_curve(ax, runs, metric, x, ACCURACIES[metric], style)
        _draw_chance(ax, runs[0], METRIC_STYLES)
        ax.set_xlabel(X_LABELS[x])
    axes[0].set_ylabel("Accuracy (%)")
    axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.suptitle(f"{RUNS.get(runs[0].name, runs[0].name)}{_seeds_text(runs)}")
    return figure


def compare_plateaus(runs: dict[str, list[Run]], floor: dict[str, float]) -> Figure:
    """Each accuracy in a column, a line for each run; against epochs above, against views forwarded below.

    Args:
        runs: see results.load_runs.
        floor: see results.load_floor; a level line where there is one.
    """
    figure, axes = plt.subplots(2, 4, figsize=(14, 6.5), sharey="col", sharex="row", layout="constrained")
    for row, x in zip(axes, X_LABELS, strict=True):
        for ax, (metric, title) in zip(row, ACCURACIES.items(), strict=True):
            for name, seeds in runs.items():
                _draw_curve(ax, seeds, metric, x, f"{RUNS[name]}{_seeds_text(seeds)}", RUN_STYLES[name])
            if runs:
                _draw_chance(ax, next(iter(runs.values()))[0], [metric])
            if metric in floor:
                _draw_level(ax, floor[metric], "raw pixels", linestyle="-.")
            ax.set_title(title if x == "epoch" else "")
            ax.set_xlabel(X_LABELS[x])
        row[0].set_ylabel("Accuracy (%)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def compare_reported(table: pd.DataFrame) -> Figure:
    """Final accuracies beside the reported ones, from results.accuracy_table."""
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.4), sharey=True, layout="constrained")
    for ax, (metric, title) in zip(axes, ACCURACIES.items(), strict=True):
        rows = table[table["metric"] == metric].set_index("run").loc[list(RUNS)]
        places = np.arange(len(rows))
        ax.bar(
            places - 0.2,
            PERCENT * rows["reported"],
            0.4,
            color="white",
            edgecolor="black",
            hatch="///",
            label="reported (ImageNet, 200 classes)",
        )
        ax.bar(
            places + 0.2, PERCENT * rows["mean"], 0.4, color="0.55", edgecolor="black", label="measured here"
        )
        ax.errorbar(
            places + 0.2,
            PERCENT * rows["mean"],
            PERCENT * rows["half_width"],
            fmt="none",
            ecolor="black",
            capsize=4,
        )
        ax.set_xticks(places, [RUNS[name].replace(", ", ",\n") for name in RUNS], fontsize=8)
        ax.set_title(title)
    axes[0].set_ylabel("Accuracy (%)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def training_loss(runs: list[Run]) -> Figure:
    """Mean NT-Xent loss of each epoch, a line for each seed, with the learning rate."""
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(6, 4.5), sharex=True, layout="constrained")
    for run in runs:
        epochs = run.metrics[run.metrics["epoch"] > 0]
        top.plot(epochs["epoch"], epochs["loss_nats"], marker=".", label=f"seed {run.config['seed']}")
        bottom.plot(epochs["epoch"], epochs["learning_rate"], color="black", marker=".")
    top.set_ylabel("NT-Xent loss (nats)")
    top.legend(frameon=False)
    bottom.set(xlabel="Epoch", ylabel="Learning rate")
    return figure


def image_grid(images: np.ndarray, row_labels: list[str] | None = None, title: str = "") -> Figure:
    """Images in rows and columns.

    Args:
        images: (rows, columns, H, W, 3), uint8 or float in [0, 1].
        row_labels: text at the left of each row.
        title: above the figure.
    """
    rows, columns = images.shape[:2]
    figure, axes = plt.subplots(rows, columns, figsize=(columns + 1.5, rows + 0.4), squeeze=False)
    for row, line in enumerate(axes):
        for column, ax in enumerate(line):
            ax.imshow(images[row, column], interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        if row_labels:
            line[0].set_ylabel(row_labels[row], rotation=0, ha="right", va="center", fontsize=9)
    figure.suptitle(title, fontsize=11)
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    return figure


def _draw_curve(ax: Axes, runs: list[Run], metric: str, x: str, label: str, style: dict[str, str]) -> None:
    curve = seed_curves(runs, metric, x)
    places = curve[x] / (1000 if x == "images_forwarded" else 1)
    ax.plot(places, PERCENT * curve["mean"], label=label, markersize=4, **style)
    if len(runs) > 1:
        ax.fill_between(
            places, PERCENT * curve["low"], PERCENT * curve["high"], color=style["color"], alpha=0.15, lw=0
        )


def _draw_chance(ax: Axes, run: Run, metrics: Iterable[str]) -> None:
    """A line at the accuracy of guessing; two, where the metrics are of different numbers of classes."""
    ax.grid(axis="y", color="0.9")
    ax.spines[["top", "right"]].set_visible(False)
    numbers = {"ood_classes" if metric.startswith("ood") else "classes" for metric in metrics}
    for classes in {run.summary[number] for number in numbers}:
        _draw_level(ax, 1 / classes, f"chance, {classes} classes")


def _draw_level(ax: Axes, share: float, label: str, linestyle: str = "-") -> None:
    ax.axhline(PERCENT * share, color="0.6", lw=1, linestyle=linestyle, zorder=0)
    ax.annotate(
        label,
        (1, PERCENT * share),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 2),
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color="0.4",
    )


def _seeds_text(runs: list[Run]) -> str:
    """How many seeds a curve stands for."""
    return " (n = 1)" if len(runs) == 1 else f" (mean and range of {len(runs)} seeds)"
