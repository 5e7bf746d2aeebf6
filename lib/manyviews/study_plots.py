"""Figures of the controls and of the scaling study; see plots for how they are made and shown."""

from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from manyviews.claims import Verdict, limits
from manyviews.config import ClaimsConfig
from manyviews.controls import Contrast, contrasts, cost_curve, same_run
from manyviews.intervals import CONFIDENCE, Estimate
from manyviews.plots import CLASS_STYLES, PERCENT, show, tidy
from manyviews.readings import finding_text
from manyviews.results import ACCURACIES, FURTHER, Run, seed_curves
from manyviews.rows import PARTS, ROWS, members
from manyviews.scaling import FITS, Curve
from manyviews.study_text import MEASURE, part_markdown

COSTS = {  # column of controls.cost_curve: axis label, divisor
    "epoch": ("Epoch", 1),
    "images_forwarded": ("Views forwarded (thousands)", 1e3),
    "multiply_adds": ("Multiply-adds ($10^{12}$)", 1e12),
    "seconds": ("Wall time (s)", 1),
}
WHISKERS = {  # of an interval: how far below its dot, and how it is drawn
    "over seeds": (-0.1, {"color": "black", "lw": 1, "marker": "|"}),
    "over images": (0.1, {"color": "0.5", "lw": 3}),
}
DASHES = ("-", "--", "-.", ":")
FIT_STYLES = {"power law": "-", "log-linear": ":"}


def show_part(part: str, runs: dict[str, list[Run]], config: ClaimsConfig) -> None:
    """Display in a notebook what a part's runs show: question, sentence, table; figures of two or more."""
    found = contrasts(runs, part, MEASURE, config.margin)
    display(Markdown(f"*{PARTS[part].question}*\n\n{part_markdown(part, runs, config)}"))
    if found:
        show(draw_contrasts(found, config.margin), f"Differences of {part}", f"{part}_differences")
    # A row that is the run it is compared with has that one's curve.
    against, *others = members(part)
    names = [against, *(name for name in others if not same_run(runs, name, against))]
    if several(runs, names):
        curves = learning_curves(runs, names, MEASURE)
        show(curves, f"Learning curves of {part} against epochs and three kinds of cost", f"{part}_curves")


def several(runs: dict[str, list[Run]], names: list[str]) -> bool:
    """Whether two or more of these runs are there: one alone has nothing beside it."""
    return sum(name in runs for name in names) > 1


def learning_curves(runs: dict[str, list[Run]], names: list[str], measure: str) -> Figure:
    """An accuracy of several runs, means over their seeds, against epochs and against three kinds of cost."""
    figure, axes = plt.subplots(1, len(COSTS), figsize=(15, 3.6), sharey=True, layout="constrained")
    for ax, (column, (label, divisor)) in zip(axes, COSTS.items(), strict=True):
        for name, style in zip(names, _styles(), strict=False):
            if name in runs:
                curve = cost_curve(runs[name])
                n = f" (n = {len(runs[name])})"
                ax.plot(
                    curve[column] / divisor, PERCENT * curve[measure], label=ROWS[name].title + n, **style
                )
        ax.set_xlabel(label)
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=column == "epoch"))
        tidy(ax)
    axes[0].set_ylabel(f"{ACCURACIES[measure]} (%)")
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def draw_contrasts(found: list[Contrast], margin: float) -> Figure:
    """By how much each run of a part ends above the one that it is compared with; grey: within the margin."""
    labels = [ROWS[one.run].title for one in found]
    against = ROWS[found[0].against].title
    figure, ax = plt.subplots(figsize=(8, 1.6 + 0.4 * len(found)), layout="constrained")
    _draw_margin(ax, margin)
    _draw_estimates(ax, labels, [one.estimate for one in found])
    ax.set_xlabel(f"{ACCURACIES[found[0].measure]}: points above\n{against}")
    return figure


def effects(found: dict[str, Estimate], margin: float, measure: str) -> Figure:
    """Main effects and interactions of the factorial part; grey: within the margin."""
    figure, ax = plt.subplots(figsize=(8, 1.6 + 0.4 * len(found)), layout="constrained")
    _draw_margin(ax, margin)
    _draw_estimates(ax, list(found), list(found.values()))
    ax.set_xlabel(f"Effect on {ACCURACIES[measure]} (points)")
    return figure


def claims(verdicts: list[Verdict], config: ClaimsConfig) -> Figure:
    """What each verdict rests on: the differences without the confound, and where the claim expects them."""
    rows = [(verdict, finding) for verdict in verdicts for finding in verdict.controlled.findings]
    figure, ax = plt.subplots(figsize=(11, 1.8 + 0.5 * len(rows)), layout="constrained")
    labels = [
        f"{verdict.claim.key}: {finding_text(finding)}\n{(ACCURACIES | FURTHER)[finding.measure]}"
        for verdict, finding in rows
    ]
    _draw_estimates(ax, labels, [finding.estimate for _, finding in rows])
    left, right = ax.get_xlim()
    for place, (verdict, finding) in enumerate(rows):
        low, high = (PERCENT * limit for limit in limits(verdict.claim.controlled.expects, config))
        low, high = max(low, left), min(high, right)
        ax.barh(place, high - low, 0.8, left=low, color="0.88", zorder=0)
        ax.annotate(
            finding.outcome, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=9
        )
    ax.set_xlim(left, right)
    ax.set_xlabel("Difference of accuracy (points); grey: where the claim expects it")
    return figure


def law(curve: Curve, measure: str) -> Figure:
    """Errors against views forwarded, with fits to all but the largest budget drawn on to it."""
    figure, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
    by_seed = PERCENT * curve.scores.mean(axis=2)  # (B, S)
    places = curve.x / 1e3
    n_seeds = by_seed.shape[1]
    ax.plot(np.repeat(places, n_seeds), by_seed.ravel(), "x", color="0.6", label=f"each of {n_seeds} seed(s)")
    ax.plot(places[:-1], PERCENT * curve.error[:-1], "o", color="black", label="mean, fitted to")
    ax.plot(
        places[-1:], PERCENT * curve.error[-1:], "s", color="#D55E00", label="mean, held out", markersize=8
    )
    dense = np.geomspace(curve.x[0], curve.x[-1], 100)
    for name, fit in FITS.items():
        fitted = fit(curve.x[:-1], curve.error[:-1], curve.spread)
        ax.plot(dense / 1e3, PERCENT * fitted(dense), color="black", linestyle=FIT_STYLES[name], label=name)
    ax.set(xscale="log", xlabel=COSTS["images_forwarded"][0], ylabel=f"Error, {ACCURACIES[measure]} (%)")
    ax.set_xticks(places, [f"{place:g}" for place in places])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.legend(frameon=False, fontsize=9)
    tidy(ax)
    return figure


def axes_of_scale(runs: dict[str, list[Run]], parts: dict[str, list[str]], measure: str) -> Figure:
    """An accuracy against multiply-adds, a line for each thing that is scaled."""
    figure, ax = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for (title, names), style in zip(parts.items(), _styles(), strict=False):
        points = sorted(
            (
                runs[name][0].summary["multiply_adds"] / 1e12,
                final_mean(runs[name], measure),
            )
            for name in names
            if name in runs
        )
        if several(runs, names):
            ax.plot(*zip(*points, strict=True), label=title, **style)
    ax.set(xscale="log", xlabel=COSTS["multiply_adds"][0], ylabel=f"{ACCURACIES[measure]} (%)")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.legend(frameon=False)
    tidy(ax)
    return figure


def annealing(
    runs: dict[str, list[Run]], constant: str, decayed: list[str], annealed: list[str], measure: str
) -> Figure:
    """A run at a constant rate with those that leave it, beside the ends of runs annealed by a cosine.

    Args:
        runs: see results.load_runs.
        constant, decayed, annealed: names of the runs.
        measure: one of results.ACCURACIES.
    """
    figure, ax = plt.subplots(figsize=(8, 4.5), layout="constrained")
    styles = {constant: {"color": "black", "linestyle": "-", "marker": "o"}}
    styles |= dict(zip(decayed, _branch_styles(), strict=False))
    for name, style in styles.items():
        if name in runs:
            curve = seed_curves(runs[name], measure, "images_forwarded")
            places = curve["images_forwarded"] / 1e3
            ax.plot(places, PERCENT * curve["mean"], markersize=5, label=ROWS[name].title, **style)
    ends = [
        (runs[n][0].summary["images_forwarded"] / 1e3, final_mean(runs[n], measure))
        for n in annealed
        if n in runs
    ]
    if ends:
        ax.plot(
            *zip(*sorted(ends), strict=True), "^", color="#D55E00", label="ends of runs annealed by a cosine"
        )
    ax.set(xlabel=COSTS["images_forwarded"][0], ylabel=f"{ACCURACIES[measure]} (%)")
    ax.legend(frameon=False)
    tidy(ax)
    return figure


def final_mean(seeds: list[Run], measure: str) -> float:
    """Final accuracy in percent, the mean over the seeds."""
    return PERCENT * float(np.mean([run.summary[measure] for run in seeds]))


def _styles():
    """Styles that differ in colour, marker and dash; when they begin anew, the markers are open ones."""
    for place, (color, marker) in enumerate(cycle(CLASS_STYLES)):
        inside = color if place < len(CLASS_STYLES) else "white"
        dash = DASHES[place % len(DASHES)]
        yield {"color": color, "marker": marker, "markersize": 5, "mfc": inside, "linestyle": dash}


def _branch_styles():
    """Blue, and as open a marker as lets the lines below be seen."""
    for marker, dash in zip("svD", DASHES[1:], strict=True):
        yield {"color": "#0072B2", "marker": marker, "mfc": "none", "linestyle": dash}


def _draw_margin(ax: Axes, margin: float) -> None:
    points = PERCENT * margin
    ax.axvspan(-points, points, color="0.9", lw=0, label=f"within {points:g} points")


def _draw_estimates(ax: Axes, labels: list[str], found: list[Estimate]) -> None:
    """Each estimate as a dot with two whiskers, over seeds and over images; a legend tells them apart."""
    for place, one in enumerate(found):
        for kind, low, high in (
            ("over seeds", one.seed_low, one.seed_high),
            ("over images", one.image_low, one.image_high),
        ):
            if not np.isnan(low):
                shift, style = WHISKERS[kind]
                ax.plot([PERCENT * low, PERCENT * high], [place + shift] * 2, label=kind, **style)
        ax.plot(PERCENT * one.mean, place, "o", color="black")
    ax.axvline(0, color="0.4", lw=1)
    ax.set_yticks(range(len(labels)), labels, fontsize=9)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.spines[["top", "right"]].set_visible(False)
    handles, texts = ax.get_legend_handles_labels()
    once = dict(zip(texts, handles, strict=True))
    numbers = [one.n for one in found]
    n = f"{min(numbers)}" if min(numbers) == max(numbers) else f"{min(numbers)} to {max(numbers)}"
    ax.figure.legend(
        once.values(),
        once.keys(),
        title=f"{CONFIDENCE:.0%} intervals, n = {n} seed(s)",
        loc="outside lower center",
        ncols=len(once),
        frameon=False,
        fontsize=9,
        title_fontsize=9,
    )
