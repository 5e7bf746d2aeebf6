"""The report's five claims as data, and the verdicts that results allow.

Each claim is tested twice. First as the report compared: do its observations appear here? Then with the
confound removed: does its explanation hold? The second is the verdict.
"""

from dataclasses import dataclass
from typing import Literal

import pandas as pd

from manyviews.config import ClaimsConfig
from manyviews.intervals import MIN_SEEDS, Estimate, estimate_without_images
from manyviews.results import Run, difference, predictions_of
from manyviews.rows import members
from manyviews.scaling import MIN_BUDGETS, error_curve, foretell

Outcome = Literal["supported", "not supported", "inconclusive", "not tested"]
Expectation = Literal["gain", "no gain", "level", "foretold"]
FLOORS = ("raw_pixels", "initial")
DECIDES = "The verdict on a claim is the outcome of the comparison without the confound."


@dataclass(frozen=True)
class Comparison:
    """What decides a question.

    gain: `run` ends above each of `against` by more than the margin, in each measure. no gain: it does not,
    so that it may also end below. level: over the last part of its training, each measure of `run` moves by
    less than the tolerance. foretold: `run` ends within the margin of where the law `against`, fitted to the
    shorter runs of the part "length", says.
    """

    run: str
    expects: Expectation
    measures: tuple[str, ...]
    against: tuple[str, ...] = ()  # other runs, FLOORS, or a law of scaling.FITS


@dataclass(frozen=True)
class Claim:
    """What the report said, what stands in its way, and the comparisons that test it."""

    key: str
    claimed: str
    confound: str  # of the report's own comparison
    as_reported: Comparison | None  # None: the report compared nothing that could test it
    controlled: Comparison | None  # None: no pair of runs can test it, see `control`
    control: str  # in words, what the comparison without the confound is


KNN = ("id_knn_accuracy",)
CLAIMS = (
    Claim(
        "A",
        "the size of the model was not the bottleneck",
        "depth and first layer changed together",
        Comparison("resnet34", "no gain", KNN, ("baseline",)),
        Comparison("resnet34_conv3", "no gain", KNN, ("baseline",)),
        "depth 34 against depth 18, with the same first layer",
    ),
    Claim(
        "B",
        "accuracy levels off by the end of training, so the data are used up",
        "the learning rate is annealed towards zero, which flattens any curve",
        Comparison("views8", "level", KNN),
        Comparison("length_8", "no gain", KNN, ("length_4",)),
        "a run of twice the steps of the eight-view run and one of as many, each annealed over its length",
    ),
    Claim(
        "C",
        "more views of an image let a network use more of the signal",
        "eight views at equal epochs are four times the optimiser steps",
        Comparison("views8", "gain", KNN, ("resnet34",)),
        Comparison("views8", "gain", KNN, ("resnet34_long",)),
        "two views for as many optimiser steps",
    ),
    Claim(
        "D",
        "some kind of scaling law applies",
        "two points that differ in depth, first layer and steps lie on any law",
        None,
        Comparison("length_8", "foretold", KNN, ("power law",)),
        "runs of six lengths, each annealed over its whole length, the longest foretold from the others",
    ),
    Claim(
        "E",
        "the representations carry over to unseen classes",
        "few labels and few scored images, from one draw",
        Comparison("views8", "gain", ("ood_knn_accuracy", "ood_linear_accuracy"), FLOORS),
        Comparison("views8", "gain", ("ood_knn_folds_accuracy", "ood_linear_folds_accuracy"), FLOORS),
        "every image of the unseen classes scored once, in stratified folds",
    ),
)


@dataclass(frozen=True)
class Finding:
    """One estimate that an outcome rests on."""

    run: str
    against: str  # a run, a floor, a law, or the epoch from which a curve should be level
    measure: str
    estimate: Estimate
    outcome: Outcome


@dataclass(frozen=True)
class Judgement:
    """The outcome of a comparison with the numbers behind it, or with why there are none."""

    outcome: Outcome
    findings: tuple[Finding, ...] = ()
    missing: tuple[str, ...] = ()  # what would have had to be run


@dataclass(frozen=True)
class Verdict:
    """Both judgements of a claim."""

    claim: Claim
    as_reported: Judgement
    controlled: Judgement

    @property
    def outcome(self) -> Outcome:
        return self.controlled.outcome


def decide(estimate: Estimate, low: float, high: float) -> Outcome:
    """Whether a number lies between two limits, as far as both its intervals tell.

    Supported needs both intervals between the limits; not supported, both beyond the same limit. With fewer
    than MIN_SEEDS seeds nothing is decided.
    """
    if estimate.n < MIN_SEEDS:
        return "inconclusive"
    if low < estimate.low and estimate.high < high:
        return "supported"
    if estimate.high <= low or high <= estimate.low:
        return "not supported"
    return "inconclusive"


def combine(outcomes: list[Outcome]) -> Outcome:
    """Of comparisons that must all hold: one that fails decides, as all that hold do."""
    if "not supported" in outcomes:
        return "not supported"
    return "supported" if set(outcomes) == {"supported"} else "inconclusive"


def limits(expects: Expectation, config: ClaimsConfig) -> tuple[float, float]:
    """Between which values a difference must lie for an expectation to hold."""
    return {
        "gain": (config.margin, float("inf")),
        "no gain": (-float("inf"), config.margin),
        "level": (-config.plateau_tolerance, config.plateau_tolerance),
        "foretold": (-config.margin, config.margin),
    }[expects]


def window_start(run: Run, window: float) -> int:
    """The last evaluated epoch before the last part of a training."""
    epochs = run.evaluated["epoch"]
    return int(epochs[epochs <= epochs.max() * (1 - window)].max())


def late_change(seeds: list[Run], measure: str, window: float) -> Estimate:
    """By how much an accuracy moved over the last part of the training; images cannot be resampled there."""
    curves = [run.evaluated.set_index("epoch")[measure] for run in seeds]
    return estimate_without_images(
        [curve.iloc[-1] - curve[window_start(run, window)] for run, curve in zip(seeds, curves, strict=True)]
    )


def judge(
    comparison: Comparison | None,
    runs: dict[str, list[Run]],
    raw_pixels: pd.DataFrame | None,
    config: ClaimsConfig,
) -> Judgement:
    """Put a comparison to the results; see results.load_runs and load_raw_pixels."""
    if comparison is None:
        return Judgement("not tested")
    if comparison.expects == "foretold":
        return judge_law(comparison, runs, config)
    names = [comparison.run, *comparison.against]
    tables = {name: predictions_of(name, runs, raw_pixels, comparison.run) for name in names}
    missing = tuple(name for name, of_seeds in tables.items() if not of_seeds)
    if missing:
        return Judgement("not tested", missing=missing)
    seeds, (low, high) = runs[comparison.run], limits(comparison.expects, config)
    estimates = {
        (against, measure): difference(tables[comparison.run], tables[against], measure)
        for against in comparison.against
        for measure in comparison.measures
    }
    if comparison.expects == "level":
        start = f"epoch {window_start(seeds[0], config.plateau_window)}"
        for measure in comparison.measures:
            estimates[start, measure] = late_change(seeds, measure, config.plateau_window)
    if None in estimates.values():
        return Judgement("not tested", missing=("a seed that both runs have",))
    findings = tuple(
        Finding(comparison.run, against, measure, found, decide(found, low, high))
        for (against, measure), found in estimates.items()
    )
    return Judgement(combine([finding.outcome for finding in findings]), findings)


def judge_law(comparison: Comparison, runs: dict[str, list[Run]], config: ClaimsConfig) -> Judgement:
    """Put a comparison that is foretold by a law to the results."""
    names = members("length")
    missing = tuple(name for name in names if name not in runs)
    if missing:
        return Judgement("not tested", missing=missing)
    findings = []
    for measure in comparison.measures:
        curve = error_curve(runs, names, measure)
        if curve is None or len(curve.names) < MIN_BUDGETS:
            return Judgement("not tested", missing=("a seed that all lengths have",))
        for law in comparison.against:
            found = foretell(curve, law)
            outcome = decide(found, *limits("foretold", config))
            findings.append(Finding(curve.names[-1], law, measure, found, outcome))
    return Judgement(combine([finding.outcome for finding in findings]), tuple(findings))


def verdicts(
    runs: dict[str, list[Run]], raw_pixels: pd.DataFrame | None, config: ClaimsConfig
) -> list[Verdict]:
    """The verdict on each claim, as far as there are runs to give it."""
    return [
        Verdict(
            claim,
            judge(claim.as_reported, runs, raw_pixels, config),
            judge(claim.controlled, runs, raw_pixels, config),
        )
        for claim in CLAIMS
    ]


def verdicts_table(found: list[Verdict]) -> pd.DataFrame:
    """Verdicts with all numbers behind them, to be stored beside the report.

    Returns:
        A row for each finding, and one for each comparison that was not tested. Columns: claim, comparison,
        outcome (of the comparison), run, against, measure, the fields of intervals.Estimate, and
        finding_outcome.
    """
    rows = []
    for verdict in found:
        for kind, judgement in (("as reported", verdict.as_reported), ("controlled", verdict.controlled)):
            keys = {"claim": verdict.claim.key, "comparison": kind, "outcome": judgement.outcome}
            rows += [
                keys
                | {"run": finding.run, "against": finding.against, "measure": finding.measure}
                | finding.estimate.as_dict()
                | {"finding_outcome": finding.outcome}
                for finding in judgement.findings
            ] or [keys]
    columns = ["claim", "comparison", "outcome", "run", "against", "measure"]
    return pd.DataFrame(rows, columns=[*columns, *Estimate.__dataclass_fields__, "finding_outcome"])
