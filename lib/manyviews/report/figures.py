"""Figures of runs and tables. Colour, marker and dash tell lines apart, so that they read in grey."""

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle, islice
from textwrap import shorten
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from manyviews.config.runs import run_specs
from manyviews.data.dataset import Dataset
from manyviews.report import tables
from manyviews.report.tables import MEASURE_TITLES, NOT_RUN, PERCENT, in_figure, title
from manyviews.runs.store import Runs
from manyviews.stats.compare import learning_curve
from manyviews.stats.intervals import CONFIDENCE, outer_ends
from manyviews.stats.scaling import LAWS, ErrorCurve, fit

# Colours of Okabe and Ito, told apart by most colour-blind readers, from dark to light.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#E69F00", "#009E73", "#CC79A7")
MARKERS = ("o", "s", "^", "v", "D", "X")
DASHES = ("-", "--", "-.", ":")
RIGHT, WRONG, QUERY = "#0072B2", "#D55E00", "#000000"  # frames of neighbours
LEVEL = "0.6"  # what is no run: chance, baselines without training, the diagonal
FIELD = "0.9"  # of the margin
MOST_BANDS = 4  # curves with a band over the seeds; of more, bands would hide the curves

COSTS = {  # column of stats.compare.learning_curve: axis label, divisor
    "epoch": ("Epoch", 1),
    "steps": ("Optimiser steps", 1),
    "views_forwarded": ("Views forwarded (thousands)", 1e3),
    "macs": ("MACs of training ($10^{12}$)", 1e12),
}
WHISKERS = {  # interval of an estimate: how far below its dot, and how it is drawn
    "seed": (-0.12, {"color": "black", "lw": 1, "marker": "|", "label": "over seeds"}),
    "image": (0.12, {"color": "0.5", "lw": 3, "label": "over images"}),
}


def styles(n: int) -> list[dict[str, Any]]:
    """Styles that differ in colour, marker and dash; from the seventh on, the markers are open ones."""
    looks = zip(cycle(COLOURS), cycle(MARKERS), cycle(DASHES), strict=False)
    return [
        {"color": c, "marker": m, "linestyle": dash, "mfc": c if i < len(COLOURS) else "white", "ms": 5}
        for i, (c, m, dash) in enumerate(islice(looks, n))
    ]


def show(figure: Figure | None, alt: str, name: str = "figure") -> None:
    """Display a figure in a notebook, or say that there is none.

    Args:
        figure: None where nothing was run that it could show.
        alt: a text for those who do not see it.
        name: of its file in exports.
    """
    if figure is None:
        print(f"{alt}: {NOT_RUN}")
        return
    display(figure, metadata={"image/png": {"alt": alt}, "filename": name})
    plt.close(figure)


def show_comparison(runs: Runs, compared: pd.DataFrame, margin: float) -> None:
    """Display a comparison: its table, its differences as intervals, and its learning curves at equal cost.

    Args:
        runs: see runs.store.load_results.
        compared: of one measure, see stats.compare.compare and holm.
        margin: fraction of images, see stats.compare.relate.
    """
    name, words = compared["comparison"][0], run_specs().comparisons[compared["comparison"][0]].title
    display(tables.comparison(runs, compared))
    show(intervals(compared, margin), f"Differences: {words}", f"{name}_differences")
    members, measures = run_specs().members(name), [compared["measure"][0]]
    curves = learning_curves(runs, members, measures, ["steps", "macs"])
    show(curves, f"Learning curves: {words}", f"{name}_curves")


def learning_curves(
    runs: Runs,
    names: Iterable[str],
    measures: Sequence[str],
    costs: Sequence[str] = ("epoch",),
    baselines: Mapping[str, Mapping[str, float]] | None = None,
    yours: Runs | None = None,
) -> Figure | None:
    """Accuracies of some runs along their training: means over the seeds, of few runs with their range.

    Args:
        runs: see runs.store.load_results; what is not there is left out.
        names: of the runs. Of two that are one run under two names, the first is drawn.
        measures: columns of the metrics, a panel for each.
        costs: of COSTS; a row of panels for each, or a column where there is one measure.
        baselines: accuracy by measure, by name; level lines, such as of raw pixels.
        yours: further results of the same runs, drawn beside them as dots.
    """
    by_recipe: dict[str, str] = {}
    for name in (name for name in names if name in runs):
        by_recipe.setdefault(runs[name][0].name, name)
    drawn = {name: runs[name] for name in by_recipe.values()}
    if not drawn:
        return None
    rows, columns = (len(costs), len(measures)) if len(measures) > 1 else (1, len(costs))
    size = (max(6.0, 3.7 * columns), 3.3 * rows + 0.6)
    look = {"squeeze": False, "layout": "constrained", "sharey": len(measures) == 1}
    figure, axes = plt.subplots(rows, columns, figsize=size, **look)
    panels = [(cost, measure) for cost in costs for measure in measures]
    for ax, (cost, measure) in zip(axes.flat, panels, strict=True):
        for (name, seeds), style in zip(drawn.items(), styles(len(drawn)), strict=True):
            curve = learning_curve(seeds, measure)
            x = curve[cost] / COSTS[cost][1]
            ax.plot(x, PERCENT * curve["mean"], label=f"{title(name)} (n = {len(seeds)})", **style)
            if len(seeds) > 1 and len(drawn) <= MOST_BANDS:
                band = {"color": style["color"], "alpha": 0.12, "lw": 0}
                ax.fill_between(x, PERCENT * curve["low"], PERCENT * curve["high"], **band)
            if mine := (yours or {}).get(name):
                curve, label = learning_curve(mine, measure), f"{title(name)}, yours (n = {len(mine)})"
                dots = {"color": style["color"], "ls": "", "marker": ".", "ms": 4, "label": label}
                ax.plot(curve[cost] / COSTS[cost][1], PERCENT * curve["mean"], **dots)
        for level, accuracy in _levels(drawn, measure, baselines or {}).items():
            _draw_level(ax, accuracy, level)
        ax.set(xlabel=COSTS[cost][0], ylabel=f"{MEASURE_TITLES[measure]} (%)")
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=cost in ("epoch", "steps")))
        _tidy(ax)
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=min(3, columns + 1), frameon=False, fontsize=9)
    return figure


def live_curve(epochs: int, seconds: float = 3) -> Callable[[pd.DataFrame], None]:
    """A picture in a notebook that grows while a run trains: its loss and its k-NN accuracies, by epoch.

    Args:
        epochs: of the whole training, after which it goes: the cells below show the finished curve.
        seconds: between two drawings at least, so that drawing takes no time from training.
    Returns:
        The `watch` of runs.run.run.
    """
    shown, last = display({}, raw=True, display_id=True), -np.inf

    def draw(metrics: pd.DataFrame) -> None:
        nonlocal last
        if metrics["epoch"].iloc[-1] == epochs:
            shown.update({}, raw=True)
        elif time.monotonic() - last > seconds:
            last = time.monotonic()
            figure = _growing(metrics, epochs)
            shown.update(figure, metadata={"image/png": {"alt": "Loss and accuracies until now"}})
            plt.close(figure)

    return draw


def _growing(metrics: pd.DataFrame, epochs: int) -> Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.4, 2.8), layout="constrained", sharex=True)
    left.plot(metrics["epoch"], metrics["loss_nats"], **styles(1)[0])
    left.set(ylabel="Training loss (nats)", xlim=(0, epochs))
    probed = metrics.dropna(subset="id_knn_accuracy")
    for measure, style in zip(("id_knn_accuracy", "ood_knn_accuracy"), styles(2), strict=True):
        right.plot(probed["epoch"], PERCENT * probed[measure], label=MEASURE_TITLES[measure], **style)
    right.set(ylabel="Accuracy (%)")
    right.legend(frameon=False, fontsize=9)
    for ax in (left, right):
        ax.set_xlabel(f"Epoch, of {epochs}")
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        _tidy(ax)
    return figure


def intervals(table: pd.DataFrame, margin: float, labels: Sequence[str] = (), x: str = "") -> Figure | None:
    """Differences as dots with two whiskers, over seeds and over images, a line for each row of a table.

    Args:
        table: the fields of stats.intervals.Estimate, fractions of images; relation, which stands at the
            right, or where there is none `note`.
        margin: fraction of images; a grey field from -margin to margin, and a line at zero.
        labels, x: of the rows and of the numbers, with their unit; default: those of stats.compare.compare.
    """
    table = table.reset_index(drop=True)
    if table["mean"].isna().all():
        return None
    labels = list(labels) or list(map(title, table["run"]))
    x = x or f"{MEASURE_TITLES[table['measure'][0]]}: points above\n{title(table['reference'][0])}"
    figure, ax = plt.subplots(figsize=(9, 1.8 + 0.36 * len(table)), layout="constrained")
    field = {"color": FIELD, "lw": 0, "zorder": 0, "label": f"within {PERCENT * margin:g} points"}
    ax.axvspan(-PERCENT * margin, PERCENT * margin, **field)
    ax.axvline(0, color="0.4", lw=1)
    for row, values in table.iterrows():
        _draw_estimate(ax, row, values)
    ax.set(xlabel=x, yticks=range(len(labels)), ylim=(len(labels) - 0.5, -0.5))
    ax.set_yticklabels(labels, fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    by_label = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    numbers = sorted(set(table.loc[table["n"] > 0, "n"].astype(int)))
    heading = f"{CONFIDENCE:.0%} intervals, n = {' or '.join(map(str, numbers))}"
    look = {"loc": "outside lower center", "ncols": len(by_label), "frameon": False, "fontsize": 9}
    figure.legend(by_label.values(), by_label.keys(), title=heading, title_fontsize=9, **look)
    return figure


def doses(curves: Mapping[str, pd.DataFrame], margin: float) -> Figure | None:
    """Accuracy against distinct views of each image, beside a band of the margin around fresh views.

    Args:
        curves: by title, see stats.dose.dose_curve; a panel for each that has doses, with one vertical axis.
        margin: fraction of images.
    """
    there = {title: curve[curve["mean"].notna()] for title, curve in curves.items()}
    drawn = {title: curve for title, curve in there.items() if (curve["note"] != "fresh").any()}
    if not drawn:
        return None
    size = (max(6, 4.2 * len(drawn)), 3.8)
    figure, axes = plt.subplots(1, len(drawn), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for ax, (words, curve) in zip(axes[0], drawn.items(), strict=True):
        x, fresh = curve["distinct"], curve[curve["note"] == "fresh"]
        low, high = outer_ends(curve)
        error = PERCENT * np.vstack([curve["mean"] - low, high - curve["mean"]])
        look = {"color": COLOURS[1], "marker": "o", "capsize": 3, "label": "views drawn once, paired anew"}
        ax.errorbar(x, PERCENT * curve["mean"], np.nan_to_num(error), **look)
        for level in fresh["mean"]:
            ax.axhline(PERCENT * level, color=LEVEL, lw=1, ls="--", label="fresh views")
            field = {
                "color": FIELD,
                "lw": 0,
                "zorder": 0,
                "label": f"within {PERCENT * margin:g} points of fresh",
            }
            ax.axhspan(PERCENT * (level - margin), PERCENT * (level + margin), **field)
        ax.set(xscale="log", xlabel="Distinct views of each image", title=words)
        ax.set_xticks(
            x,
            [
                f"{n:.0f}" + ("\nfresh" if note == "fresh" else "")
                for n, note in zip(x, curve["note"], strict=True)
            ],
        )
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.tick_params(axis="x", which="minor", length=0)
        _tidy(ax)
    axes[0, 0].set_ylabel(f"{MEASURE_TITLES[tables.MAIN]} (%)")
    figure.legend(
        *axes[0, -1].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=9,
    )
    return figure


def recipes(table: pd.DataFrame) -> Figure | None:
    """Accuracy against MACs of all recipes, the frontier as a line; by name its recipes and the original's.

    Args:
        table: see stats.frontier.recipes.
    """
    if table.empty:
        return None
    figure, ax = plt.subplots(figsize=(8, 5), layout="constrained")
    label, divisor = COSTS["macs"]
    table = table.assign(x=table["macs"] / divisor, y=PERCENT * table["mean"])
    best = table[table["frontier"]]
    ax.plot("x", "y", "o", data=table, color="0.55", label="all recipes")
    ax.step("x", "y", "-", where="post", data=best, color=COLOURS[1], label="the best at each cost")
    ax.plot("x", "y", "s", data=best, color=COLOURS[1], label="_")
    ax.margins(x=0.4)
    for row in table[table["frontier"] | table["run"].isin(["baseline", "views8"])].itertuples():
        beside = (-4, 6) if row.frontier else (8, 2)
        ax.annotate(
            title(row.run),
            (row.x, row.y),
            beside,
            textcoords="offset points",
            ha="right" if row.frontier else "left",
            fontsize=8,
        )
    ax.set(xscale="log", xlabel=label, ylabel=f"{MEASURE_TITLES[tables.MAIN]} (%)")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.legend(frameon=False, fontsize=9, loc="lower right")
    _tidy(ax)
    return figure


def forecasts(curve: ErrorCurve | None, measure: str) -> Figure | None:
    """Errors against views forwarded, and what laws fitted to all but the largest budget forecast.

    Args:
        curve: of the measure, see stats.scaling.error_curve.
        measure: one of probes.predictions.MEASURES.
    """
    if curve is None:
        return None
    figure, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
    label, divisor = COSTS["views_forwarded"]
    ax.set(xscale="log", xlabel=label, ylabel=f"Error, {MEASURE_TITLES[measure]} (%)")
    _tidy(ax)
    x, error, n_seeds = curve.views / divisor, PERCENT * curve.error, curve.scores.shape[1]
    ax.plot(x[:-1], error[:-1], "o", color=COLOURS[0], label=f"fitted to (n = {n_seeds})")
    ax.plot(x[-1:], error[-1:], "s", color=COLOURS[2], label=f"held out (n = {n_seeds})")
    dense = np.geomspace(1, curve.x[-1], 100)
    for law, dash in zip(LAWS, DASHES[::3], strict=True):
        fitted = LAWS[law](dense, *fit(law, curve.x[:-1], curve.error[:-1], curve.spread))
        ax.plot(dense * x[0], PERCENT * fitted, dash, color="black", label=law)
    ax.set_xticks(x, [f"{budget:g}" for budget in x])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.legend(frameon=False, fontsize=9)
    return figure


def neighbours(table: pd.DataFrame, dataset: Dataset) -> Figure:
    """Each query with its nearest images; a right one has a tick and a solid frame, a wrong one a cross.

    Args:
        table: see probes.feature_space.example_neighbours.
        dataset: whose images they are.
    """
    queries = list(table.groupby(["split", "query"], sort=False))
    columns = 1 + int(table["rank"].max())
    size = (1.4 * columns, 1.75 * len(queries))
    figure, axes = plt.subplots(len(queries), columns, figsize=size, squeeze=False, layout="constrained")
    for line, ((split, query), rows) in zip(axes, queries, strict=True):
        kind, names, of_query, of_fit = (
            ("training class", dataset.class_names, dataset.val, dataset.train)
            if split == "id"
            else ("unseen class", dataset.ood_class_names, dataset.ood, dataset.ood)
        )
        text = f"{kind}:\n{_short(names[of_query.labels[query]])}"
        _draw_image(line[0], of_query.images[query], text, QUERY, ":")
        for ax, row in zip(line[1:], rows.itertuples(), strict=True):
            mark, colour, dash = ("\u2713", RIGHT, "-") if row.right else ("\u2717", WRONG, "--")
            text = f"{mark} {_short(names[of_fit.labels[row.neighbour]])}"
            _draw_image(ax, of_fit.images[row.neighbour], text, colour, dash)
    return figure


def feature_map(table: pd.DataFrame, names: Mapping[str, Sequence[str]]) -> Figure:
    """The map of features, training classes at the left and unseen ones at the right, in the same plane.

    Args:
        table: see probes.feature_space.feature_map.
        names: of the classes, by split ("id", "ood").
    """
    figure, axes = plt.subplots(1, 2, figsize=(11, 5), sharex=True, sharey=True, layout="constrained")
    titles = {"id": "Training classes", "ood": "Unseen classes"}
    for ax, (split, of_panel) in zip(axes, titles.items(), strict=True):
        ax.scatter(table["x"], table["y"], s=4, color="0.85")
        of_split = table[table["split"] == split]
        for (label, rows), colour, marker in zip(of_split.groupby("label"), COLOURS, MARKERS, strict=False):
            look = {"color": colour, "marker": marker, "s": 22, "linewidths": 0}
            # A name that begins with _ would not be in the legend.
            name = re.sub("^_", "\u200b_", _short(names[split][label], 24))
            ax.scatter(rows["x"], rows["y"], label=name, **look)
        ax.set(title=of_panel, xlabel="t-SNE 1 (no unit)", ylabel="t-SNE 2 (no unit)", xticks=[], yticks=[])
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3, frameon=False, fontsize=8)
    return figure


def image_grid(images: np.ndarray, row_labels: Sequence[str] = (), title: str = "") -> Figure:
    """Images in rows and columns.

    Args:
        images: (rows, columns, H, W, 3), uint8 or float in [0, 1].
        row_labels: text at the left of each row.
        title: above the figure.
    """
    rows, columns = images.shape[:2]
    figure, axes = plt.subplots(rows, columns, figsize=(columns + 1.5, rows + 0.4), squeeze=False)
    for (row, column), ax in np.ndenumerate(axes):
        ax.imshow(images[row, column], interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    for ax, label in zip(axes[:, 0], row_labels, strict=False):
        ax.set_ylabel(_short(label, 40), rotation=0, ha="right", va="center", fontsize=9)
    figure.suptitle(in_figure(title), fontsize=11)
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    return figure


# ------------------------------------------------------------------------------------------------- parts


def _tidy(ax: Axes) -> None:
    """Only what helps to read values: light lines across, no frame above and to the right."""
    ax.grid(axis="y", color="0.9")
    ax.spines[["top", "right"]].set_visible(False)


def _levels(drawn: Runs, measure: str, baselines: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Level lines of a panel: chance, and what baselines reach."""
    key = "classes" if measure.startswith("id") else "ood_classes"
    chance = {run[0].summary[key] for run in drawn.values()}
    levels = {f"chance, {n} classes": 1 / n for n in sorted(chance)}
    return levels | {name: by[measure] for name, by in baselines.items() if measure in by}


def _draw_level(ax: Axes, accuracy: float, text: str) -> None:
    ax.axhline(PERCENT * accuracy, color=LEVEL, lw=1, zorder=0)
    place = {"xycoords": ("axes fraction", "data"), "xytext": (-2, 2), "textcoords": "offset points"}
    ax.annotate(text, (1, PERCENT * accuracy), **place, ha="right", fontsize=8, color="0.4")


def _draw_estimate(ax: Axes, row: int, values: pd.Series) -> None:
    """A dot, its two whiskers, and at the right what it is judged to be, or why there is none."""
    for kind, (shift, look) in WHISKERS.items():
        low, high = values[f"{kind}_low"], values[f"{kind}_high"]
        if not np.isnan(low):
            ax.plot([PERCENT * low, PERCENT * high], [row + shift] * 2, **look)
    ax.plot(PERCENT * values["mean"], row, "o", color="black")
    why = values.get("note", "").partition(":")[0]  # "not run", without the name that stands at the left
    judged = why if pd.isna(values["relation"]) else values["relation"]
    ax.annotate(judged, (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=9)


def _draw_image(ax: Axes, image: np.ndarray, text: str, colour: str, dash: str) -> None:
    ax.imshow(image, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.set_title(text, fontsize=8, color=colour)
    ax.spines[:].set(color=colour, linestyle=dash, linewidth=2)


def _short(name: str, width: int = 16) -> str:
    """A class's name as a figure shows it, at whole words where it has any."""
    short = shorten(name, width, placeholder="…")
    return in_figure(f"{name[: width - 1]}…" if short == "…" else short)
