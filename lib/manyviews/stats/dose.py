"""How many distinct views an image needs: accuracy against dose, and where it saturates."""

from dataclasses import asdict, dataclass

import pandas as pd

from manyviews.config.runs import run_specs
from manyviews.runs.store import Run, Runs
from manyviews.stats.compare import SAME_RUN, compare, final_accuracy
from manyviews.stats.intervals import FIELDS, outer_ends

FRESH = "fresh"  # note of the reference, which draws new views for ever


@dataclass(frozen=True)
class Saturation:
    """Where the dose saturates, or why that is not known."""

    dose: int | None  # distinct views
    note: str  # "" where there is a dose; else "not run", "undecided" or "not reached"


def draws(run: Run) -> int:
    """Views of each image that a training with fresh views draws."""
    return run.config.training.epochs * run.config.n_views


def dose_curve(runs: Runs, comparison: str, measure: str, margin: float) -> pd.DataFrame:
    """Final accuracy by distinct views of an image, last with fresh ones, all for as many steps.

    Args:
        runs: see runs.store.load_results.
        comparison: its runs differ in views.distinct, and its reference has fresh views.
        measure: of probes.predictions.MEASURES.
        margin: fraction of images, see compare.relate.
    Returns:
        A row for each dose below the draws of the whole training, ascending: run, distinct (views of an
        image; of fresh ones, all that training drew), the fields of an Estimate of the accuracy, and of its
        difference from fresh views: difference, low, high, relation, note.
    """
    specs = run_specs()
    reference = specs.comparisons[comparison].reference
    compared = compare(runs, comparison, [measure], margin)
    rows = []
    for row in compared[compared["note"] != SAME_RUN].itertuples():
        values = {"run": row.run, "distinct": specs.runs[row.run].views["distinct"]}
        if not row.note:
            low, high = outer_ends(row._asdict())
            values |= asdict(final_accuracy(runs[row.run], measure))
            values |= {"difference": row.mean, "low": low, "high": high}
        rows.append(values | {"relation": row.relation, "note": row.note})
    rows.sort(key=lambda row: row["distinct"])
    if reference in runs:
        fresh = final_accuracy(runs[reference], measure)
        about = {"run": reference, "distinct": draws(runs[reference][0]), "note": FRESH}
        rows.append(about | asdict(fresh))
    columns = ["run", "distinct", *FIELDS, "difference", "low", "high", "relation", "note"]
    return pd.DataFrame(rows, columns=columns)


def saturation(curve: pd.DataFrame) -> Saturation:
    """The smallest dose from which on every larger one, of those run, is equivalent to fresh views."""
    doses = curve[curve["note"] == ""]  # none where fresh views are not run: every note is filled
    if doses.empty:
        return Saturation(None, "not run")
    relations = list(doses["relation"])
    reached = len(relations)
    while reached and relations[reached - 1] == "equivalent":
        reached -= 1
    if reached < len(relations):
        return Saturation(int(doses["distinct"].iloc[reached]), "")
    return Saturation(None, "undecided" if relations[-1] == "undecided" else "not reached")
