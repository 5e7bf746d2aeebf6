"""Figures. Each tells its lines apart by dash and marker too, so that it reads in grey."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import shorten

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Image, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from manyviews.data import Dataset
from manyviews.files import replacing
from manyviews.results import (
    ACCURACIES,
    TITLES,
    Run,
    class_accuracies,
    confusion_matrix,
    ladder_table,
    most_confused,
    seed_curves,
)

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
    "supervised": {"color": "#999999", "linestyle": "-.", "marker": "D"},
}
CLASS_STYLES = list(
    zip(("#000000", "#0072B2", "#D55E00", "#E69F00", "#009E73", "#CC79A7"), "os^vDX", strict=True)
)
X_LABELS = {"epoch": "Epoch", "images_forwarded": "Views forwarded in training (thousands)"}
PERCENT = 100


def save_figure(figure: Figure, folder: Path, name: str, suffixes: Sequence[str] = ("png", "svg")) -> None:
    """Write <folder>/<name>.<suffix> for each and close the figure; the same figure gives the same bytes."""
    with plt.rc_context({"svg.hashsalt": name}):
        for suffix in suffixes:
            metadata = {"png": {"Software": None}, "svg": {"Date": None}}[suffix]
            with replacing(folder / f"{name}.{suffix}") as new:
                figure.savefig(new, format=suffix, dpi=120, bbox_inches="tight", metadata=metadata)
    plt.close(figure)


def show(figure: Figure, alt: str, name: str = "figure") -> None:
    """Display a figure in a notebook, with a text for those who do not see it and a file name for exports."""
    display(figure, metadata={"image/png": {"alt": alt}, "filename": name})
    plt.close(figure)


def show_file(path: Path, alt: str, name: str) -> None:
    """Display a figure that a run has drawn, as show does; says so where there is none."""
    if not path.exists():
        print(f"{alt}: not drawn")
        return
    picture = Image(data=path.read_bytes(), format="png")
    display(picture, metadata={"image/png": {"alt": alt}, "filename": name})


def tidy(ax: Axes) -> None:
    """Only what helps to read values: light lines across, no frame above and to the right."""
    ax.grid(axis="y", color="0.9")
    ax.spines[["top", "right"]].set_visible(False)


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
    figure.suptitle(f"{TITLES.get(runs[0].name, runs[0].name)}{_seeds_text(runs)}")
    return figure


def compare_plateaus(runs: dict[str, list[Run]], floor: dict[str, float]) -> Figure:
    """Each accuracy in a column, a line for each run; against epochs above, against views forwarded below.

    Args:
        runs: see results.load_runs.
        floor: what raw pixels reach, by measure; a level line where there is one.
    """
    figure, axes = plt.subplots(2, 4, figsize=(14, 6.5), sharey="col", sharex="row", layout="constrained")
    for row, x in zip(axes, X_LABELS, strict=True):
        for ax, (metric, title) in zip(row, ACCURACIES.items(), strict=True):
            for name, seeds in runs.items():
                _draw_curve(ax, seeds, metric, x, f"{TITLES[name]}{_seeds_text(seeds)}", RUN_STYLES[name])
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
        rows = table[table["measure"] == metric].set_index("run").loc[list(TITLES)]
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
        for shift, kind, cap in ((0.15, "seed", 4), (0.27, "image", 0)):
            below, above = rows["mean"] - rows[f"{kind}_low"], rows[f"{kind}_high"] - rows["mean"]
            ax.errorbar(
                places + shift,
                PERCENT * rows["mean"],
                PERCENT * np.vstack([below, above]),
                fmt="none",
                ecolor="black",
                capsize=cap,
            )
        ax.set_xticks(places, [TITLES[name].replace(", ", ",\n") for name in TITLES], fontsize=8)
        ax.set_title(title)
    axes[0].set_ylabel("Accuracy (%)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def training_loss(runs: list[Run]) -> Figure:
    """Mean loss of each epoch, a line for each seed, with the learning rate."""
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(6, 4.5), sharex=True, layout="constrained")
    for run in runs:
        epochs = run.metrics[run.metrics["epoch"] > 0]
        top.plot(epochs["epoch"], epochs["loss_nats"], marker=".", label=f"seed {run.config['seed']}")
        bottom.plot(epochs["epoch"], epochs["learning_rate"], color="black", marker=".")
    supervised = runs[0].config["objective"] == "supervised"
    top.set_ylabel(f"{'Cross-entropy' if supervised else 'NT-Xent'} loss (nats)")
    top.legend(frameon=False)
    bottom.set(xlabel="Epoch", ylabel="Learning rate")
    return figure


def ladder(runs: dict[str, list[Run]]) -> Figure:
    """Accuracies of all rungs of the ladder of probes, for training and for unseen classes."""
    tables = {"Training classes": ladder_table(runs, "id"), "Unseen classes": ladder_table(runs, "ood")}
    rungs = tables["Training classes"].index
    size = (12, 1.5 + 0.24 * len(rungs))
    figure, axes = plt.subplots(1, 2, figsize=size, sharey=True, layout="constrained")
    places = np.arange(len(rungs))
    styles = {TITLES[name]: style for name, style in RUN_STYLES.items()}
    random_weights = {"color": "0.6", "marker": "x"}
    for ax, (title, table) in zip(axes, tables.items(), strict=True):
        for run in table:
            style = styles.get(run, random_weights) | {"linestyle": ""}
            ax.plot(PERCENT * table[run], places, **style, markersize=5, label=run)
        tidy(ax)
        ax.set(title=title, xlabel="Accuracy (%)", yticks=places, yticklabels=rungs)
        ax.tick_params(axis="y", labelsize=8)
    axes[0].set_ylabel("Probe (layer, features: probe)")
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return figure


def neighbours(table: pd.DataFrame, dataset: Dataset) -> Figure:
    """Each query with its nearest images; a right one has a tick and a solid frame, a wrong one a cross.

    Args:
        table: see feature_space.example_neighbours.
        dataset: whose images they are.
    """
    queries = list(table.groupby(["split", "query"], sort=False))
    columns = 1 + int(table["rank"].max())
    figure, axes = plt.subplots(
        len(queries),
        columns,
        figsize=(1.4 * columns, 1.75 * len(queries)),
        squeeze=False,
        layout="constrained",
    )
    for line, ((split, query), rows) in zip(axes, queries, strict=True):
        sought, fitted = (dataset.val, dataset.train) if split == "id" else (dataset.ood, dataset.ood)
        names = dataset.class_names if split == "id" else dataset.ood_class_names
        kind = "training class" if split == "id" else "unseen class"
        _draw_image(
            line[0], sought.images[query], f"{kind}:\n{_short(names[sought.labels[query]])}", "black", ":"
        )
        for ax, row in zip(line[1:], rows.itertuples(), strict=True):
            mark, style = ("\u2713", "-") if row.right else ("\u2717", "--")
            title = f"{mark} {_short(names[fitted.labels[row.neighbour]])}"
            _draw_image(ax, fitted.images[row.neighbour], title, "#0072B2" if row.right else "#D55E00", style)
    return figure


def feature_map(table: pd.DataFrame, names: dict[str, Sequence[str]]) -> Figure:
    """The map of features, training classes at the left and unseen ones at the right, in the same plane.

    Args:
        table: see feature_space.feature_map.
        names: of the classes, by split.
    """
    figure, axes = plt.subplots(1, 2, figsize=(11, 5), sharex=True, sharey=True, layout="constrained")
    for ax, (split, title) in zip(
        axes, {"id": "Training classes", "ood": "Unseen classes"}.items(), strict=True
    ):
        ax.scatter(table["x"], table["y"], s=4, color="0.85")
        of_split = table[table["split"] == split]
        for (label, rows), (color, marker) in zip(of_split.groupby("label"), CLASS_STYLES, strict=False):
            style = {"color": color, "marker": marker, "s": 22, "linewidths": 0}
            ax.scatter(rows["x"], rows["y"], label=_short(names[split][label], 24), **style)
        ax.set(title=title, xlabel="t-SNE 1 (no unit)", xticks=[], yticks=[])
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3, frameon=False, fontsize=8)
    axes[0].set_ylabel("t-SNE 2 (no unit)")
    return figure


def compare_classes(runs: dict[str, list[Run]], a: str, b: str) -> Figure:
    """k-NN accuracy of each class under run a against that under run b; above the line, a is ahead."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 5), sharex=True, sharey=True, layout="constrained")
    for ax, measure in zip(axes, ("id_knn_accuracy", "ood_knn_folds_accuracy"), strict=True):
        of_a, of_b = (class_accuracies(runs[name], measure) for name in (a, b))
        ax.plot([0, PERCENT], [0, PERCENT], color="0.6", lw=1, zorder=0)
        ax.plot(PERCENT * of_b, PERCENT * of_a, "o", color="black", mfc="0.7", markersize=7)
        names = runs[a][0].class_names(measure)
        ranked = (of_a - of_b).sort_values().index
        for label, shift, align in ((ranked[0], (7, -9), "left"), (ranked[-1], (-7, 4), "right")):
            place = (PERCENT * of_b[label], PERCENT * of_a[label])
            options = {"xytext": shift, "textcoords": "offset points", "ha": align, "fontsize": 8}
            ax.annotate(names[label], place, **options)
        ax.set(title="Unseen classes, in folds" if "folds" in measure else "Training classes")
        ax.set(xlabel=f"{TITLES[b]}: k-NN accuracy of a class (%)", aspect="equal")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(f"{TITLES[a]}: k-NN accuracy of a class (%)")
    return figure


def confusion(seeds: list[Run]) -> Figure:
    """How often images of the most confused training classes are taken for each other (k-NN)."""
    matrix, names = confusion_matrix(seeds, "id_knn_accuracy"), seeds[0].class_names("id_knn_accuracy")
    labels = most_confused(matrix)
    shown = PERCENT * matrix[np.ix_(labels, labels)]
    figure, ax = plt.subplots(
        figsize=(1.6 + 0.62 * len(labels), 1.2 + 0.55 * len(labels)), layout="constrained"
    )
    ax.imshow(shown, cmap="Greys", vmin=0, vmax=PERCENT)
    for (row, column), value in np.ndenumerate(shown):
        color = "white" if value > PERCENT / 2 else "black"
        ax.text(column, row, f"{value:.0f}", ha="center", va="center", color=color, fontsize=9)
    ticks = [_short(names[label]) for label in labels]
    ax.set_xticks(range(len(labels)), ticks, rotation=45, ha="right", fontsize=9)
    ax.set_yticks(range(len(labels)), ticks, fontsize=9)
    ax.set(xlabel="Taken for", ylabel="Class", title="Share of a class's validation images (%)")
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


def _draw_image(ax: Axes, image: np.ndarray, title: str, color: str, style: str) -> None:
    ax.imshow(image, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=8, color=color)
    ax.spines[:].set(color=color, linestyle=style, linewidth=2)


def _short(name: str, width: int = 16) -> str:
    return shorten(name, width, placeholder="…")


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
    tidy(ax)
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
