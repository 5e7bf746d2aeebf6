"""The original's five claims as data, and the verdicts that results allow.

Each claim is tested twice. First as the original compared: do its observations appear here? Then with the
confound removed: does its explanation hold? The second is the verdict.
"""

from dataclasses import astuple, dataclass, replace
from itertools import product
from typing import Literal

import pandas as pd

from manyviews.config.runs import RunSpecs
from manyviews.config.schema import ClaimsConfig
from manyviews.runs.store import RAW_PIXELS, Run, Runs
from manyviews.stats.compare import Relation, difference, obstacle, relate
from manyviews.stats.intervals import FIELDS, Estimate, estimate_without_images
from manyviews.stats.scaling import error_curve, forecast

Outcome = Literal["supported", "not supported", "inconclusive", "not tested"]
Expectation = Literal["gain", "no gain", "level", "forecast"]
# The relations that support an expectation. Of the others, "undecided" leaves it open, the rest refute it.
SUPPORTING: dict[Expectation, tuple[Relation, ...]] = {
    "gain": ("higher",),
    "no gain": ("equivalent", "lower"),
    "level": ("equivalent",),
    "forecast": ("equivalent",),
}
INITIAL = "initial"  # the run's own random weights, a baseline as RAW_PIXELS is
LENGTHS = "length"  # the comparison whose longest run is forecast
ABOUT = ["claim", "compared", "judgement", "note"]
FINDING = ["run", "reference", "measure", *FIELDS, "relation", "outcome"]


@dataclass(frozen=True)
class Criterion:
    """What decides a question: a difference, in each of some measures and from each of some references.

    gain, no gain: of `run` from other runs or baselines. level: of the end of its training from where its
    last part begins. forecast: of the longest run from what a law, fitted to the shorter ones, says.
    """

    run: str
    expects: Expectation
    measures: tuple[str, ...]
    references: tuple[str, ...] = ()  # runs, RAW_PIXELS, INITIAL, or one of scaling.LAWS


@dataclass(frozen=True)
class Claim:
    """What the original said, what stands in its way, and what tests it."""

    key: str
    claimed: str
    confound: str  # of the original's own comparison
    as_reported: Criterion | None  # None: the original compared nothing that could test it
    controlled: Criterion
    control: str  # in words, what the comparison without the confound is


KNN = ("id_knn_accuracy",)
CLAIMS = (
    Claim(
        "A",
        "the size of the model was not the bottleneck",
        "depth and first layer changed together",
        Criterion("resnet34", "no gain", KNN, ("baseline",)),
        Criterion("resnet34_conv3", "no gain", KNN, ("baseline",)),
        "depth 34 against depth 18, with the same first layer",
    ),
    Claim(
        "B",
        "accuracy levels off by the end of training, so the data are used up",
        "the learning rate is annealed towards zero, which flattens any curve",
        Criterion("views8", "level", KNN),
        Criterion("length_8", "no gain", KNN, ("length_4",)),
        "a run of twice the steps of the eight-view run and one of as many, each annealed over its length",
    ),
    Claim(
        "C",
        "more views of an image let a network use more of the signal",
        "eight views at equal epochs are four times the optimiser steps",
        Criterion("views8", "gain", KNN, ("resnet34",)),
        Criterion("views8", "gain", KNN, ("resnet34_long",)),
        "two views for as many optimiser steps",
    ),
    Claim(
        "D",
        "some kind of scaling law applies",
        "two points that differ in depth, first layer and steps lie on any law",
        None,
        Criterion("length_8", "forecast", KNN, ("power law",)),
        "runs of six lengths, each annealed over its whole length, the longest forecast from the others",
    ),
    Claim(
        "E",
        "the representations carry over to unseen classes",
        "few labels and few scored images, from one draw",
        Criterion("views8", "gain", ("ood_knn_accuracy", "ood_linear_accuracy"), (RAW_PIXELS, INITIAL)),
        Criterion(
            "views8", "gain", ("ood_knn_folds_accuracy", "ood_linear_folds_accuracy"), (RAW_PIXELS, INITIAL)
        ),
        "every image of the unseen classes scored once, in stratified folds",
    ),
)


@dataclass(frozen=True, eq=False)
class Judgement:
    """The outcome of a criterion with the differences that it rests on, or with why there are none."""

    outcome: Outcome
    findings: pd.DataFrame  # see judge
    note: str = ""


@dataclass(frozen=True, eq=False)
class Verdict:
    """Both judgements of a claim; the verdict is the controlled one."""

    claim: Claim
    as_reported: Judgement
    controlled: Judgement


def outcome_of(expects: Expectation, relation: Relation) -> Outcome:
    """What a relation says of an expectation."""
    if relation == "undecided":
        return "inconclusive"
    return "supported" if relation in SUPPORTING[expects] else "not supported"


def combine(outcomes: list[Outcome]) -> Outcome:
    """Of criteria that must all hold: one that fails decides, as all that hold do."""
    if "not supported" in outcomes:
        return "not supported"
    return "supported" if set(outcomes) == {"supported"} else "inconclusive"


def window_start(run: Run, window: float) -> int:
    """The last evaluated epoch before the last part, a fraction, of a training."""
    epochs = run.evaluated["epoch"]
    return int(epochs[epochs <= epochs.max() * (1 - window)].max())


def late_change(seeds: list[Run], measure: str, window: float) -> Estimate:
    """By how much an accuracy moved over the last part of the training; images cannot be resampled there."""
    curves = [run.evaluated.set_index("epoch")[measure] for run in seeds]
    starts = [window_start(run, window) for run in seeds]
    return estimate_without_images([c.iloc[-1] - c[start] for c, start in zip(curves, starts, strict=True)])


def judge(
    criterion: Criterion | None,
    runs: Runs,
    raw_pixels: pd.DataFrame | None,
    config: ClaimsConfig,
    specs: RunSpecs,
) -> Judgement:
    """Put a criterion to results; see verdicts.

    Its findings are a row for each reference (a run, a baseline, a law, or the epoch from which a curve
    should be level) and measure: run, reference, measure, the fields of an Estimate, relation, outcome.
    """
    if criterion is None:
        return Judgement("not tested", pd.DataFrame(columns=FINDING), "no two of the original's runs could")
    run, expects, references, margin = criterion.run, criterion.expects, criterion.references, config.margin
    runs, lengths = runs | _baselines(runs.get(run, []), raw_pixels), specs.members(LENGTHS)
    note = obstacle(runs, lengths if expects == "forecast" else [run, *references])
    if note:
        return Judgement("not tested", pd.DataFrame(columns=FINDING), note)
    if expects == "level":
        start = window_start(runs[run][0], config.plateau_window)
        references, margin = (f"epoch {start}",), config.plateau_tolerance
    rows = []
    for reference, measure in product(references, criterion.measures):
        if expects == "level":
            estimate = late_change(runs[run], measure, config.plateau_window)
        elif expects == "forecast":
            estimate = forecast(error_curve(runs, lengths, measure), reference)
        else:
            estimate = difference(runs, run, reference, measure)
        relation = relate(estimate, margin)
        rows.append((run, reference, measure, *astuple(estimate), relation, outcome_of(expects, relation)))
    findings = pd.DataFrame(rows, columns=FINDING)
    return Judgement(combine(list(findings["outcome"])), findings)


def _baselines(seeds: list[Run], raw_pixels: pd.DataFrame | None) -> Runs:
    """The baselines of a run, as if they were runs with its seeds; one without predictions is missing."""
    runs: Runs = {}
    for run in seeds:
        for name, predictions in ((RAW_PIXELS, raw_pixels), (INITIAL, run.initial_predictions)):
            if predictions is not None:
                runs.setdefault(name, []).append(replace(run, name=name, predictions=predictions))
    return runs


def verdicts(
    runs: Runs, raw_pixels: pd.DataFrame | None, config: ClaimsConfig, specs: RunSpecs
) -> list[Verdict]:
    """The verdict on each claim, as far as there are runs to give it; see runs.store.load_results."""
    return [
        Verdict(
            claim,
            judge(claim.as_reported, runs, raw_pixels, config, specs),
            judge(claim.controlled, runs, raw_pixels, config, specs),
        )
        for claim in CLAIMS
    ]


def verdicts_table(verdicts: list[Verdict]) -> pd.DataFrame:
    """Verdicts with all numbers behind them.

    Returns:
        The findings of all judgements, behind columns claim, compared ("as reported" or "controlled"),
        judgement (its outcome) and note; a judgement without findings has one row of missing numbers.
    """
    rows = []
    for verdict in verdicts:
        for compared, judged in (("as reported", verdict.as_reported), ("controlled", verdict.controlled)):
            about = dict(zip(ABOUT, (verdict.claim.key, compared, judged.outcome, judged.note), strict=True))
            rows += [about | finding for finding in judged.findings.to_dict("records") or [{}]]
    return pd.DataFrame(rows, columns=[*ABOUT, *FINDING])
