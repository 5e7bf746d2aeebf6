"""The original's five claims as data, and the verdicts that results allow.

Each claim is tested twice. First as the original compared: do its observations appear here? Then with the
confound removed: does its explanation hold? The second is the verdict, but for what is true by construction:
eight fresh views an epoch are two views for four times as long, so that a gain from them is one of longer
training.
"""

from dataclasses import astuple, dataclass, replace
from typing import Literal

import pandas as pd

from manyviews.config.runs import run_specs
from manyviews.config.schema import ClaimsConfig
from manyviews.runs.store import RAW_PIXELS, Run, Runs
from manyviews.stats.compare import Relation, difference, no_gain, obstacle, relate
from manyviews.stats.intervals import FIELDS, Estimate, estimate_without_images
from manyviews.stats.scaling import error_curve, forecast

Outcome = Literal["supported", "not supported", "mixed", "inconclusive", "did not train", "not tested"]
Expectation = Literal["gain", "no gain", "level", "forecast"]
# The relation that supports an expectation. Of the others, "undecided" leaves it open, the rest refute it.
SUPPORTING: dict[Expectation, Relation] = {"gain": "higher", "level": "equivalent", "forecast": "equivalent"}
INITIAL = "initial"  # the run's own random weights, a baseline as RAW_PIXELS is
LENGTHS = "length"  # the comparison whose longest run is forecast
ABOUT = ["claim", "compared", "judgement", "note"]
FINDING = ["run", "reference", "measure", *FIELDS, "relation", "outcome"]


@dataclass(frozen=True)
class Criterion:
    """What decides a question: differences of some pairs of runs, in each of some measures.

    gain, no gain: of a run from another, or from a baseline. level: of the end of a run's training from where
    its last part begins. forecast: of the longest run from what a law, fitted to the shorter ones, says.
    """

    expects: Expectation
    measures: tuple[str, ...]
    pairs: tuple[
        tuple[str, str], ...
    ]  # run and reference: a run, RAW_PIXELS, INITIAL, or one of scaling.LAWS
    trained: bool = False  # judged only if all runs end above raw pixels and their own initial weights
    split: Outcome = "not supported"  # where some findings support the expectation and others refute it


@dataclass(frozen=True)
class Claim:
    """What the original said, what stands in its way, and what tests it."""

    key: str
    claimed: str
    confound: str  # of the original's own comparison
    as_reported: Criterion | None  # None: the original compared nothing that could test it
    controlled: Criterion  # the same without the confound
    # What an observation like the original's shows by construction; it is the outcome then.
    by_construction: str = ""


KNN = ("id_knn_accuracy",)
UNSEEN = ("ood_knn_accuracy", "ood_linear_accuracy")
UNSEEN_IN_FOLDS = ("ood_knn_folds_accuracy", "ood_linear_folds_accuracy")
CARRIED_OVER = (("views8", RAW_PIXELS), ("views8", INITIAL))
CLAIMS = (
    Claim(
        "A",
        "the size of the model was not the bottleneck",
        "depth and first layer changed together",
        Criterion("no gain", KNN, (("resnet34", "baseline"),)),
        # Depth and width one at a time, at this length and at four times it, on networks that trained.
        Criterion(
            "no gain",
            KNN,
            (
                ("resnet34_conv3", "baseline"),
                ("resnet34_conv3_4", "length_4"),
                ("width_2", "baseline"),
                ("width_2_4", "length_4"),
            ),
            trained=True,
        ),
    ),
    Claim(
        "B",
        "accuracy levels off by the end of training, so the data are used up",
        "the learning rate is annealed towards zero, which flattens any curve",
        Criterion("level", KNN, (("views8", ""),)),
        # One network at two, four and eight times the length, each annealed over its own.
        Criterion(
            "no gain", KNN, (("length_2", "baseline"), ("length_4", "length_2"), ("length_8", "length_4"))
        ),
    ),
    Claim(
        "C",
        "more views of an image let a network use more of the signal",
        "eight views at equal epochs are four times the optimiser steps",
        Criterion("gain", KNN, (("views8", "resnet34"),)),
        # Views that meet in one loss, for as many views forwarded.
        Criterion("gain", KNN, (("k4_outside", "joint"), ("k8_outside", "joint")), split="mixed"),
        by_construction="longer training, not more views",
    ),
    Claim(
        "D",
        "some kind of scaling law applies",
        "two points that differ in depth, first layer and steps lie on any law",
        None,
        # Runs of six lengths, each annealed over its whole length, the longest forecast from the others.
        Criterion("forecast", KNN, (("length_8", "power law"),)),
    ),
    Claim(
        "E",
        "the representations carry over to unseen classes",
        "few labels and few scored images, from one draw",
        Criterion("gain", UNSEEN, CARRIED_OVER, split="mixed"),
        # Every image of the unseen classes scored once, in stratified folds.
        Criterion("gain", UNSEEN_IN_FOLDS, CARRIED_OVER, split="mixed"),
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
    """Both judgements of a claim."""

    claim: Claim
    as_reported: Judgement
    controlled: Judgement

    @property
    def outcome(self) -> str:
        """The verdict: the controlled judgement, but for what is so by construction."""
        if not self.claim.by_construction:
            return self.controlled.outcome
        seen = self.as_reported.outcome
        return self.claim.by_construction if seen == "supported" else seen

    @property
    def deciding(self) -> Judgement:
        """The judgement whose findings decide the verdict."""
        return self.as_reported if self.claim.by_construction else self.controlled


def outcome_of(expects: Expectation, estimate: Estimate, margin: float) -> Outcome:
    """What a difference says of an expectation. That there is no gain needs no lower bound."""
    relation = relate(estimate, margin)
    if expects == "no gain" and no_gain(vars(estimate), margin):
        return "supported"
    if relation == "undecided":
        return "inconclusive"
    return "supported" if relation == SUPPORTING.get(expects) else "not supported"


def combine(outcomes: list[Outcome], split: Outcome = "not supported") -> Outcome:
    """Of findings that must all hold: one that fails decides, as all that hold do.

    Args:
        outcomes: of each.
        split: where some hold and some fail.
    """
    kinds = set(outcomes)
    if {"supported", "not supported"} <= kinds:
        return split
    if "not supported" in kinds and (split == "not supported" or kinds == {"not supported"}):
        return "not supported"
    return "supported" if kinds == {"supported"} else "inconclusive"


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
) -> Judgement:
    """Put a criterion to results; see verdicts.

    Its findings are a row for each reference (a run, a baseline, a law, or the epoch from which a curve
    should be level) and measure: run, reference, measure, the fields of an Estimate, relation, outcome.
    """
    empty = pd.DataFrame(columns=FINDING)
    if criterion is None:
        return Judgement("not tested", empty, "no two of the original's runs could")
    expects, margin, rows = criterion.expects, config.margin, []
    specs = run_specs()
    lengths = specs.members(LENGTHS)
    for run, reference in criterion.pairs:
        pair = runs | _baselines(runs.get(run, []), raw_pixels)
        needed = {"level": [run], "forecast": lengths}.get(expects, [run, reference])
        needed = [*needed, *((RAW_PIXELS, INITIAL) if criterion.trained else ())]
        if run not in runs:  # of which there are no baselines then
            needed = [name for name in needed if name not in (RAW_PIXELS, INITIAL)]
        if note := obstacle(pair, needed):
            return Judgement("not tested", empty, note)
        if criterion.trained and not _trained(pair, [run, reference], raw_pixels, margin):
            return Judgement("did not train", empty, f"{specs.title(run)} or {specs.title(reference)}")
        if expects == "level":
            reference = f"epoch {window_start(runs[run][0], config.plateau_window)}"
            margin = config.plateau_tolerance
        for measure in criterion.measures:
            if expects == "level":
                estimate = late_change(runs[run], measure, config.plateau_window)
            elif expects == "forecast":
                estimate = forecast(error_curve(runs, lengths, measure), reference)
            else:
                estimate = difference(pair, run, reference, measure)
            judged = relate(estimate, margin), outcome_of(expects, estimate, margin)
            rows.append((run, reference, measure, *astuple(estimate), *judged))
    findings = pd.DataFrame(rows, columns=FINDING)
    return Judgement(combine(list(findings["outcome"]), criterion.split), findings)


def _trained(runs: Runs, names: list[str], raw_pixels: pd.DataFrame | None, margin: float) -> bool:
    """Whether each run ends above its own initial weights and above raw pixels by the margin, on average."""
    for name in names:
        floors = _baselines(runs[name], raw_pixels)
        if min(difference(runs | floors, name, floor, KNN[0]).mean for floor in floors) <= margin:
            return False
    return True


def _baselines(seeds: list[Run], raw_pixels: pd.DataFrame | None) -> Runs:
    """The baselines of a run, as if they were runs with its seeds; one without predictions is missing."""
    runs: Runs = {}
    for run in seeds:
        for name, predictions in ((RAW_PIXELS, raw_pixels), (INITIAL, run.initial_predictions)):
            if predictions is not None:
                runs.setdefault(name, []).append(replace(run, name=name, predictions=predictions))
    return runs


def verdicts(runs: Runs, raw_pixels: pd.DataFrame | None, config: ClaimsConfig) -> list[Verdict]:
    """The verdict on each claim, as far as there are runs to give it; see runs.store.load_results."""
    results = (runs, raw_pixels, config)
    return [Verdict(one, judge(one.as_reported, *results), judge(one.controlled, *results)) for one in CLAIMS]


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
