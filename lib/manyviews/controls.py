"""What runs that differ in one thing say about it: differences, equivalence, factors, and cost."""

from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from manyviews.config import ConfigError
from manyviews.intervals import CONFIDENCE, MIN_SEEDS, Estimate, estimate
from manyviews.results import Run, common_scores, predictions_of, score_differences
from manyviews.rows import FILE, ROWS, members

Relation = Literal["equivalent", "higher", "lower", "inconclusive"]

# The factors of the factorial part, and their low and high levels.
FACTORS = {"depth": (18, 34), "stem": ("conv3", "conv7"), "n_views": (2, 8)}
FACTOR_TITLES = {"depth": "depth 34", "stem": "7 x 7 first layer", "n_views": "4 x passes"}


@dataclass(frozen=True)
class Contrast:
    """By how much one run ends above another, and whether that is a difference."""

    part: str
    run: str
    against: str
    measure: str
    estimate: Estimate
    p_equivalence: float  # NaN for one seed
    relation: Relation


def equivalence_p(values: np.ndarray, margin: float) -> float:
    """p of two one-sided t tests that a mean lies between -margin and margin.

    Args:
        values: (S,), one for each seed.
        margin: above 0.
    Returns:
        The larger of the two p; NaN for fewer than two values.
    Source: Schuirmann 1987, doi:10.1007/BF01068419.
    """
    if len(values) < 2:
        return float("nan")
    if np.ptp(values) == 0:  # no spread: SciPy's t would divide by zero
        return float(abs(values[0]) >= margin)
    above = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(values, margin, alternative="less").pvalue
    return float(max(above, below))


def relate(found: Estimate, p_equivalence: float, margin: float) -> Relation:
    """What a difference is, as far as seeds and images both tell.

    Equivalent: two one-sided tests over the seeds, and the interval over images within the margin. Higher or
    lower: both intervals beyond 0. With fewer than MIN_SEEDS seeds nothing is decided.
    """
    if found.n < MIN_SEEDS:
        return "inconclusive"
    if p_equivalence < 1 - CONFIDENCE and -margin < found.image_low and found.image_high < margin:
        return "equivalent"
    if found.low > 0:
        return "higher"
    return "lower" if found.high < 0 else "inconclusive"


def contrast(
    runs: dict[str, list[Run]], part: str, run: str, against: str, measure: str, margin: float
) -> Contrast | None:
    """Two runs compared seed by seed and image by image; None where no seed is in both."""
    of_run, of_other = (predictions_of(name, runs, None) for name in (run, against))
    scores = score_differences(of_run, of_other, measure)
    if scores is None:
        return None
    found, p = estimate(scores), equivalence_p(scores.mean(axis=1), margin)
    return Contrast(part, run, against, measure, found, p, relate(found, p, margin))


def contrasts(runs: dict[str, list[Run]], part: str, measure: str, margin: float) -> list[Contrast]:
    """Each run of a part that is there, compared with the one that the part compares with.

    A row that comes out like that one in this profile is the same run, and no comparison.
    """
    against, *others = members(part)
    others = [name for name in others if not same_run(runs, name, against)]
    found = (contrast(runs, part, name, against, measure, margin) for name in others)
    return [one for one in found if one is not None]


def same_run(runs: dict[str, list[Run]], a: str, b: str) -> bool:
    """Whether one run stands for both rows; see rows.same_runs."""
    return a in runs and b in runs and runs[a][0].folder == runs[b][0].folder


def contrasts_table(found: list[Contrast]) -> pd.DataFrame:
    """Contrasts as numbers: part, run, against, measure, the fields of intervals.Estimate, p, relation."""
    rows = [
        {"part": one.part, "run": one.run, "against": one.against, "measure": one.measure}
        | one.estimate.as_dict()
        | {"p_equivalence": one.p_equivalence, "relation": one.relation}
        for one in found
    ]
    columns = [
        "part",
        "run",
        "against",
        "measure",
        *Estimate.__dataclass_fields__,
        "p_equivalence",
        "relation",
    ]
    return pd.DataFrame(rows, columns=columns)


def factorial_effects(runs: dict[str, list[Run]], part: str, measure: str) -> dict[str, Estimate]:
    """Main effects and interactions of the 2 x 2 x 2 factors depth, first layer and passes.

    A main effect is the mean of the four runs at the factor's high level minus that of the four at its low
    one. An interaction is half the difference of one factor's effect between the levels of another; of three
    factors, likewise.

    Args:
        runs: see results.load_runs.
        part: whose runs are the eight cells.
        measure: one of evaluation.MEASURES.
    Returns:
        By name, such as "depth 34" or "depth 34 x 4 x passes"; empty where a cell has no seed in common.
    Raises:
        ConfigError: a row of the part is none of the eight cells, or one that there is already.
    """
    cells = _cells(part)
    of_runs = common_scores(runs, cells.values(), measure)
    if len(of_runs) < 2 ** len(FACTORS):
        return {}
    scores = {levels: of_runs[name] for levels, name in cells.items()}
    effects = {}
    for order in range(1, len(FACTORS) + 1):
        for places in combinations(range(len(FACTORS)), order):
            signs = {levels: np.prod([2 * levels[place] - 1 for place in places]) for levels in scores}
            total = sum(sign * scores[levels] for levels, sign in signs.items())
            name = " x ".join(list(FACTOR_TITLES.values())[place] for place in places)
            effects[name] = estimate(total / (len(scores) / 2))
    return effects


def _cells(part: str) -> dict[tuple[int, ...], str]:
    """Names of the runs of a factorial part by their levels, 0 or 1, of each factor."""
    cells: dict[tuple[int, ...], str] = {}
    for name in members(part):
        values = {factor: getattr(ROWS[name], factor) for factor in FACTORS}
        of_run = ", ".join(f"{factor} {value}" for factor, value in values.items())
        if any(value not in FACTORS[factor] for factor, value in values.items()):
            raise ConfigError(f"{FILE.name}: run '{name}' of part '{part}' has {of_run}: not of {FACTORS}")
        levels = tuple(FACTORS[factor].index(value) for factor, value in values.items())
        if levels in cells:
            raise ConfigError(
                f"{FILE.name}: runs '{cells[levels]}' and '{name}' of part '{part}' both have {of_run}; "
                f"take one out of the part"
            )
        cells[levels] = name
    return cells


def cost_curve(seeds: list[Run]) -> pd.DataFrame:
    """Accuracies along a run against each kind of cost, as means over its seeds.

    Columns: those of the metrics, multiply_adds (forward and backward, as in the summary) and seconds, the
    run's wall time shared out evenly over its views.
    """
    tables = []
    for run in seeds:
        table = run.evaluated.copy()
        done = table["images_forwarded"] / run.summary["images_forwarded"]
        table["multiply_adds"] = done * run.summary["multiply_adds"]
        table["seconds"] = done * run.environment["wall_time_s"]
        tables.append(table.select_dtypes("number"))
    return pd.concat(tables).groupby("epoch").mean().reset_index()


def cost_to_reach(seeds: list[Run], measure: str, target: float) -> pd.DataFrame | None:
    """Between which measured points of a run's mean curve an accuracy is first reached; None if it never is.

    Returns:
        The rows of cost_curve before it and at or above it, which are the same if the run begins there.
    """
    curve = cost_curve(seeds)
    reached = np.flatnonzero(curve[measure] >= target)
    return None if len(reached) == 0 else curve.iloc[[max(0, reached[0] - 1), reached[0]]]
