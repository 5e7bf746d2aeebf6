"""Verdicts on the report's claims, and sentences that read the figures; all computed from results."""

import numpy as np
import pandas as pd

from manyviews.claims import DECIDES, Comparison, Finding, Judgement, Verdict
from manyviews.config import ClaimsConfig
from manyviews.feature_space import map_purity
from manyviews.intervals import MIN_SEEDS
from manyviews.report import NOT_RUN, difference_text, percent, table
from manyviews.results import (
    ACCURACIES,
    FURTHER,
    TITLES,
    Run,
    class_accuracies,
    confusion_matrix,
)
from manyviews.rows import ROWS

# What a difference may be taken of.
SIDES = {
    "raw_pixels": "raw pixels",
    "initial": "its initial weights",
    "power law": "the power law's forecast",
    **{name: row.title for name, row in ROWS.items()},
}
EXPECTED = {
    "gain": "{run} ends more than {margin:.1f} points above {against}",
    "no gain": "{run} ends less than {margin:.1f} points above {against}, or below",
    "foretold": "{run} ends within {margin:.1f} points of {against}, fitted to the shorter runs",
    "level": "{run} moves by less than {tolerance:.1f} points over the last {window:.0%} of its epochs",
}


def verdicts_table(verdicts: list[Verdict]) -> str:
    """The outcome on each claim, as the report compared and with the confound removed."""
    return table(
        [
            {
                "": verdict.claim.key,
                "The report's claim": verdict.claim.claimed,
                "As the report compared": verdict.as_reported.outcome,
                "What stands in the way": verdict.claim.confound,
                "Without that: the verdict": f"**{verdict.outcome}**",
            }
            for verdict in verdicts
        ]
    )


def verdicts_markdown(verdicts: list[Verdict], config: ClaimsConfig, runs: dict[str, list[Run]]) -> str:
    """The table of outcomes, a sentence on each, the numbers behind them, and how they are decided."""
    lines = [verdicts_table(verdicts), ""]
    for verdict in verdicts:
        claim = verdict.claim
        lines.append(
            f"- **{claim.key}, {claim.claimed}: {verdict.outcome}.** As the report compared, "
            f"{judgement_text(verdict.as_reported, claim.as_reported, config)} Without the confound, that is "
            f"with {claim.control}, {judgement_text(verdict.controlled, claim.controlled, config)}"
        )
    return "\n".join([*lines, "", findings_markdown(verdicts), "", rules_text(config, runs)])


def judgement_text(judgement: Judgement, comparison: Comparison | None, config: ClaimsConfig) -> str:
    """The outcome of a comparison, and why, as the end of a sentence."""
    if comparison is None:
        return f"{judgement.outcome}, for no two runs could."
    if judgement.missing:
        names = ", ".join(
            f"`{name}`" if "_" in name or name in TITLES else name for name in judgement.missing
        )
        return f"{judgement.outcome}: there are no results of {names}."
    asked = EXPECTED[comparison.expects].format(
        run=SIDES.get(comparison.run, comparison.run),
        against=" and ".join(SIDES.get(name, name) for name in comparison.against),
        margin=100 * config.margin,
        tolerance=100 * config.plateau_tolerance,
        window=config.plateau_window,
    )
    n = min(finding.estimate.n for finding in judgement.findings)
    few = f" (n = {n}, too few seeds to tell)" if n < MIN_SEEDS else ""
    return f"{judgement.outcome}{few}: asked was whether {asked}."


def findings_markdown(verdicts: list[Verdict]) -> str:
    """Each number that an outcome rests on."""
    rows = [
        {
            "": verdict.claim.key,
            "Compared": kind,
            "Points": finding_text(finding),
            "Accuracy": (ACCURACIES | FURTHER)[finding.measure],
            "Difference": difference_text(finding.estimate),
            "Outcome": finding.outcome,
        }
        for verdict in verdicts
        for kind, judgement in (
            ("as reported", verdict.as_reported),
            ("without the confound", verdict.controlled),
        )
        for finding in judgement.findings
    ]
    return table(rows) if rows else f"Numbers behind the verdicts: {NOT_RUN}."


def rules_text(config: ClaimsConfig, runs: dict[str, list[Run]]) -> str:
    """How outcomes are decided, and whether the limits are those that stood when the runs were begun."""
    changed = [
        f"`{name}` seed {run.seed}"
        for name, seeds in runs.items()
        for run in seeds
        if ClaimsConfig(**run.config.get("claims", {})) != config
    ]
    return (
        f"{DECIDES} The measure is k-NN on the training classes, for E both probes on the unseen ones. A "
        f"difference counts from {100 * config.margin:.1f} points; a curve is level if it moves by less than "
        f"{100 * config.plateau_tolerance:.1f} points over the last {config.plateau_window:.0%} of its "
        "epochs, counted from the last measurement before them. "
        + (
            f"**These limits were changed after the runs**: {', '.join(changed)} began with others. "
            if changed
            else "These limits stood in the profile when the runs were begun. "
        )
        + "Supported needs the whole interval over seeds and the whole one over images within the limits (a "
        "curve has only the former), not supported both beyond one limit, and either at least "
        f"{MIN_SEEDS} seeds; otherwise it is inconclusive. Where a claim asks for several comparisons, one "
        "that is not supported decides, and all must be supported. What was not run is not tested."
    )


def finding_text(finding: Finding) -> str:
    """What an estimate is the difference of."""
    against = finding.against
    start = f"since {against}" if against.startswith("epoch ") else f"minus {SIDES.get(against, against)}"
    return f"{SIDES.get(finding.run, finding.run)} {start}"


# ------------------------------------------------------------------------------------------- of the figures


def classes_text(runs: dict[str, list[Run]], a: str, b: str) -> str:
    """In how many classes run a is ahead of run b, and where most and least."""
    parts = []
    for measure, kind in (("id_knn_accuracy", "training"), ("ood_knn_folds_accuracy", "unseen")):
        gain = (class_accuracies(runs[a], measure) - class_accuracies(runs[b], measure)).sort_values()
        names = runs[a][0].class_names(measure)
        parts.append(
            f"{TITLES[a]} is ahead of {TITLES[b]} in {int((gain > 0).sum())} of {len(gain)} {kind} classes, "
            f"from {100 * gain.iloc[0]:+.1f} points ({names[gain.index[0]]}) to {100 * gain.iloc[-1]:+.1f} "
            f"({names[gain.index[-1]]})"
        )
    return f"{'; '.join(parts)}."


def confusion_text(seeds: list[Run]) -> str:
    """Which class is most often taken for another, and how often the shown errors stay among the shown."""
    measure = "id_knn_accuracy"
    matrix, names = confusion_matrix(seeds, measure), seeds[0].class_names(measure)
    errors = matrix - np.diag(np.diag(matrix))
    if not errors.any():
        return f"{TITLES[seeds[0].name]} takes no image for one of another class."
    row, column = np.unravel_index(errors.argmax(), errors.shape)
    return (
        f"The most frequent error of {TITLES[seeds[0].name]}: {names[row]} is taken for {names[column]} in "
        f"{percent(errors[row, column])} % of its images; {percent(matrix[row, row])} % are right. Shown are "
        "the classes of the most confused pairs, no sample of all classes."
    )


def neighbours_text(neighbours: pd.DataFrame) -> str:
    """How many of the shown neighbours are of their query's class."""
    parts = [
        f"{int(rows['right'].sum())} of {len(rows)} for {kind}"
        for kind, rows in (
            ("training classes", neighbours[neighbours["split"] == "id"]),
            ("unseen classes", neighbours[neighbours["split"] == "ood"]),
        )
    ]
    return (
        f"Of the neighbours shown, these are of their query's class: {' and '.join(parts)}. The queries are "
        "the first images of classes at even spaces, not chosen ones."
    )


def map_text(places: pd.DataFrame) -> str:
    """How far the classes on a map of features lie together."""
    n_classes = places.groupby(["split", "label"]).ngroups
    return (
        f"On the map, the nearest point is of the same class for {percent(map_purity(places))} % of the "
        f"points; chance would give about {percent(1 / n_classes)} % for {n_classes} classes of equal size. "
        "A map keeps neighbours, not distances: gaps and sizes of groups mean nothing."
    )
