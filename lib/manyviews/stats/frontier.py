"""What a fixed budget buys: accuracy against the MACs of training, over all runs."""

from dataclasses import asdict

import pandas as pd

from manyviews.runs.store import Runs
from manyviews.stats.compare import final_accuracy, obstacle
from manyviews.stats.dose import draws
from manyviews.stats.intervals import FIELDS, MIN_SEEDS


def recipes(runs: Runs, measure: str, like: str) -> pd.DataFrame:
    """Cost and accuracy of every contrastive run that can be compared with another.

    Args:
        runs: see runs.store.load_results; of two names of one run the first counts.
        measure: of probes.predictions.MEASURES.
        like: a run; those of another precision or device are left out, as are those of fewer than MIN_SEEDS
            seeds, on which nothing is decided.
    Returns:
        Columns run, macs (forward and backward, of one seed), views (of each image that it trains on), the
        fields of an Estimate, frontier (no cheaper run is as accurate); cheapest first,
        of equal cost the most accurate.
    """
    rows = []
    for name, seeds in runs.items():
        config = seeds[0].config
        if seeds[0].name != name or config.objective == "supervised" or len(seeds) < MIN_SEEDS:
            continue
        if name != like and obstacle(runs, [name, like]):
            continue
        row = {"run": name, "macs": seeds[0].summary["macs"], "views": draws(seeds[0])}
        rows.append(row | asdict(final_accuracy(seeds, measure)))
    table = pd.DataFrame(rows, columns=["run", "macs", "views", *FIELDS])
    table = table.sort_values(["macs", "mean"], ascending=[True, False], ignore_index=True)
    table["frontier"] = table["mean"] > table["mean"].cummax().shift(fill_value=-1.0)
    return table


def cheapest_reaching(table: pd.DataFrame, accuracy: float) -> pd.Series | None:
    """The cheapest, so the first, of recipes whose mean accuracy (a fraction) is at least so high, if any."""
    good = table[table["mean"] >= accuracy]
    return None if good.empty else good.iloc[0]
