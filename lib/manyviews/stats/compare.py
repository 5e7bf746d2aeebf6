"""Finished runs compared, paired by seed and by image, and the one judgement of a difference."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations, product
from typing import Any, Literal

import numpy as np
import pandas as pd

from manyviews.config.runs import run_specs
from manyviews.config.schema import ConfigError
from manyviews.probes.predictions import MEASURES, correct
from manyviews.runs.store import CURVES, Run, Runs
from manyviews.stats.intervals import (
    CONFIDENCE,
    ENDS,
    FIELDS,
    MIN_SEEDS,
    Estimate,
    estimate,
    estimate_without_images,
    outer_ends,
)

Relation = Literal["higher", "lower", "equivalent", "undecided"]

# What the original says of its runs, fractions of images. It calls ResNet-34 with 2 views "very similar to
# the baseline", without numbers.
REPORTED = {
    "baseline": dict(zip(CURVES, (0.18, 0.20, 0.12, 0.19), strict=True)),
    "views8": dict(zip(CURVES, (0.30, 0.32, 0.19, 0.24), strict=True)),
}
SAME_RUN = "the same run"  # under several names, see config.runs.deduplicate
ALIKE = {"precision": "computed in", "device_type": "made on"}  # of the environments of runs compared
# Of the factorial comparison, by what an effect is called: a field of the runs, its low and its high level.
FACTORS = {
    "depth 34": ("depth", 18, 34),
    "7 x 7 first layer": ("stem", "conv3", "conv7"),
    "4 x length": ("passes", 1, 4),
}


def relate(estimate: Estimate, margin: float) -> Relation:
    """What a difference is, as far as seeds and images both tell: the one judgement of the study.

    Higher or lower: both intervals lie beyond the margin. Equivalent: both lie within it. Where there is only
    one interval, it decides. Fewer than MIN_SEEDS seeds decide nothing.

    Args:
        estimate: of the difference, a fraction of images.
        margin: above 0, in the same unit.
    """
    if estimate.n < MIN_SEEDS:
        return "undecided"
    if estimate.low > margin:
        return "higher"
    if estimate.high < -margin:
        return "lower"
    return "equivalent" if -margin < estimate.low and estimate.high < margin else "undecided"


def no_gain(difference: Mapping[str, Any], margin: float) -> bool:
    """Whether a gain of the margin or more is ruled out, be the difference equivalent, lower or undecided.

    Args:
        difference: the fields of an Estimate; of fewer than MIN_SEEDS seeds nothing is ruled out.
        margin: see relate.
    """
    return bool(difference["n"] >= MIN_SEEDS and outer_ends(difference)[1] < margin)


def shared_seeds(runs: Runs, names: Iterable[str]) -> Runs:
    """The named runs with the seeds that all of them have, in order; empty where there is none."""
    by_seed = {name: {run.seed: run for run in runs.get(name, [])} for name in names}
    seeds = sorted(set.intersection(*map(set, by_seed.values()))) if by_seed else []
    return {name: [of_run[seed] for seed in seeds] for name, of_run in by_seed.items()} if seeds else {}


def obstacle(runs: Runs, names: Sequence[str]) -> str:
    """Why runs cannot be compared: "not run: SGD", "no seed in common", ...; empty where they can."""
    missing = [name for name in names if name not in runs]
    if missing:
        return f"not run: {'; '.join(map(run_specs().title, missing))}"
    if len({runs[name][0].name for name in names}) < len(names):
        return SAME_RUN
    shared = shared_seeds(runs, names)
    for key, words in ALIKE.items():
        kinds = sorted({run.environment[key] for seeds in shared.values() for run in seeds})
        if len(kinds) > 1:
            return f"{words} {' and '.join(kinds)}"
    return "" if shared else "no seed in common"


def scores(predictions: Iterable[pd.DataFrame], measure: str) -> np.ndarray:
    """Whether each scored image was classified right: (tables, images) of 0 and 1, images in ascending order.

    Raises:
        ValueError: the tables score different images, so that they cannot be paired.
    """
    columns = [correct(table, measure).sort_index() for table in predictions]
    if not all(column.index.equals(columns[0].index) for column in columns):
        raise ValueError(f"{measure}: runs scored different images, so they cannot be paired")
    return np.stack(columns).astype(float)


def common_scores(runs: Runs, names: Sequence[str], measure: str) -> dict[str, np.ndarray]:
    """By name (seeds, images) of 0 and 1, of the seeds that all named runs have; empty if there is none."""
    shared = shared_seeds(runs, names)
    tables = [run.predictions for seeds in shared.values() for run in seeds]
    return dict(zip(shared, np.split(scores(tables, measure), len(shared)), strict=True)) if shared else {}


def difference(runs: Runs, run: str, reference: str, measure: str) -> Estimate | None:
    """By how much an accuracy of a run exceeds that of another, paired by seed and by image.

    Returns:
        A fraction of images, over the seeds that both have; None where there is none.
    """
    right = common_scores(runs, (run, reference), measure)
    return estimate(right[run] - right[reference]) if right else None


def compare(
    runs: Runs, comparison: str, measures: Sequence[str], margin: float, reference: str = ""
) -> pd.DataFrame:
    """By how much each run of a comparison exceeds its reference.

    Args:
        runs: see runs.store.load_results.
        comparison: one of notebooks/runs.yaml.
        measures: of probes.predictions.MEASURES.
        margin: fraction of images, see relate.
        reference: another of its runs, in place of its own reference.
    Returns:
        A row for each other run and measure: comparison, run, reference, measure, the fields of an Estimate,
        relation, note. Where two runs cannot be compared, note says why, and there are no numbers.
    """
    specs = run_specs()
    reference = reference or specs.comparisons[comparison].reference
    rows, others = [], (run for run in specs.members(comparison) if run != reference)
    for run, measure in product(others, measures):
        row = {"run": run, "measure": measure, "note": obstacle(runs, (run, reference))}
        if not row["note"]:
            gap = difference(runs, run, reference, measure)
            row |= asdict(gap) | {"relation": relate(gap, margin)}
        rows.append({"comparison": comparison, "reference": reference} | row)
    columns = ["comparison", "run", "reference", "measure", *FIELDS, "relation", "note"]
    return pd.DataFrame(rows, columns=columns)


def holm(compared: pd.DataFrame) -> pd.DataFrame:
    """Judge the rows of one comparison as a family, so that one of many is not found different by chance.

    A row stays higher or lower only if Holm's adjusted p value over the seeds is below 5 % too. Rows without
    numbers count as members of the family.

    Args:
        compared: of one measure, see compare.
    Returns:
        The same with a column p_holm (NaN for fewer than two seeds), and `relation` judged anew.
    Source: Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure.
    """
    from scipy import stats

    table = compared.copy()
    degrees = table["n"].astype(float) - 1
    error = (table["seed_high"] - table["seed_low"]) / 2 / stats.t.ppf(ENDS[1], degrees)  # of the mean
    p = 2 * stats.t.sf((table["mean"] / error).abs(), degrees)
    order = np.argsort(p)  # NaN last
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    table.loc[table.index[order], "p_holm"] = np.minimum(adjusted, 1)
    by_chance = table["relation"].isin(["higher", "lower"]) & ~(table["p_holm"] < 1 - CONFIDENCE)
    table["relation"] = table["relation"].mask(by_chance, "undecided")
    return table


def final_accuracy(seeds: list[Run], measure: str) -> Estimate:
    """Final accuracy of a run over its seeds: one of predictions.MEASURES, or another of the summary."""
    if measure not in MEASURES:
        return estimate_without_images([run.summary[measure] for run in seeds])
    return estimate(scores([run.predictions for run in seeds], measure))


def accuracy_table(runs: Runs, names: Iterable[str], measures: Sequence[str]) -> pd.DataFrame:
    """Final accuracies: run, measure, reported (by the original), and the fields of an Estimate.

    What was not reported or not run is NaN.
    """
    rows = []
    for name, measure in product(names, measures):
        row = {"run": name, "measure": measure, "reported": REPORTED.get(name, {}).get(measure, np.nan)}
        rows.append(row | (asdict(final_accuracy(runs[name], measure)) if name in runs else {}))
    return pd.DataFrame(rows, columns=["run", "measure", "reported", *FIELDS])


def factorial_effects(runs: Runs, comparison: str, measure: str, margin: float) -> pd.DataFrame:
    """Main effects and interactions of depth, first layer and length, from the eight runs of a comparison.

    A main effect is the mean of the four runs at the factor's high level minus that of the four at its low
    one. An interaction is half the difference of one factor's effect between the levels of another; of three
    factors, likewise.

    Returns:
        Columns effect (such as "depth 34 x 4 x length"), the fields of an Estimate, relation; no rows where
        the runs cannot be compared, see obstacle.
    Raises:
        ConfigError: the comparison does not have one run in each of its eight cells.
    """
    specs = run_specs()
    names = specs.members(comparison)
    codes = pd.DataFrame(index=names)
    for title, (field, low, high) in FACTORS.items():
        codes[title] = [{low: -1, high: 1}.get(getattr(specs.runs[name], field)) for name in names]
    if len(codes) != 2 ** len(FACTORS) or codes.isna().any(axis=None) or codes.duplicated().any():
        raise ConfigError(f"comparison '{comparison}' needs one run for each of {FACTORS}, but has\n{codes}")
    rows, right = [], {} if obstacle(runs, names) else common_scores(runs, names, measure)
    for chosen in (c for order in (1, 2, 3) for c in combinations(FACTORS, order) if right):
        signs = codes[list(chosen)].prod(axis=1)
        effect = estimate(sum(signs[name] * right[name] for name in names) / (len(names) / 2))
        rows.append({"effect": " x ".join(chosen), **asdict(effect), "relation": relate(effect, margin)})
    return pd.DataFrame(rows, columns=["effect", *FIELDS, "relation"])


def learning_curve(seeds: list[Run], measure: str) -> pd.DataFrame:
    """An accuracy along a run, over its seeds, against each kind of cost.

    Returns:
        A row for each evaluated epoch: epoch, steps, views_forwarded, macs (forward and backward), and of the
        accuracy mean, low and high (the smallest and largest of the seeds).
    """
    tables = []
    for run in seeds:
        table = run.evaluated[["epoch", "steps", "views_forwarded"]].assign(accuracy=run.evaluated[measure])
        done = table["views_forwarded"] / run.summary["views_forwarded"]
        tables.append(table.assign(macs=done * run.summary["macs"]))
    costs = {key: (key, "mean") for key in ("steps", "views_forwarded", "macs")}
    accuracy = {kind: ("accuracy", of) for kind, of in (("mean", "mean"), ("low", "min"), ("high", "max"))}
    return pd.concat(tables).groupby("epoch").agg(**costs, **accuracy).reset_index()
