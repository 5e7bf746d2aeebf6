"""Regression check of a run against numbers that were committed with the notebooks."""

import math

from manyviews import paths
from manyviews.files import read_json
from manyviews.results import ACCURACIES, Run

REFERENCE = paths.NOTEBOOKS / "reference.json"
VALUES = ("loss_nats", *ACCURACIES)
# Relative. In float64, as the smoke profile computes, another processor or number of threads changes none
# of the digits shown; a regression of 5 % must not pass.
TOLERANCE = 0.02


class ReferenceMismatch(AssertionError):
    """A run gives other numbers than it used to."""


def check_reference(run: Run, reference: dict | None = None) -> str:
    """Compare a run's final numbers with the committed ones.

    Args:
        run: finished run.
        reference: {run name: {"recipe": ..., "values": ...}}; default: notebooks/reference.json.
    Returns:
        A line that is the same wherever the check passes.
    Raises:
        ReferenceMismatch: names each value that is off, and by how much.
    """
    reference = read_json(REFERENCE) if reference is None else reference
    expected = reference.get(run.name, {})
    recipe = {key: value for key, value in run.config.items() if key not in ("seeds", "device")}
    if expected.get("recipe") != recipe:
        return f"{run.name}: no reference for this configuration, nothing compared"
    off = [
        f"{name} is {run.summary[name]:.4f}, was {value:.4f} ({run.summary[name] / value - 1:+.1%})"
        for name, value in expected["values"].items()
        if not math.isclose(run.summary[name], value, rel_tol=TOLERANCE)
    ]
    if off:
        raise ReferenceMismatch(
            f"{run.name} differs from {REFERENCE.name} by more than {TOLERANCE:.0%}: {'; '.join(off)}"
        )
    return f"{run.name}: {len(expected['values'])} values within {TOLERANCE:.0%} of the reference"


def make_reference(runs: list[Run]) -> dict:
    """What check_reference compares with."""
    return {
        run.name: {
            "recipe": {key: value for key, value in run.config.items() if key not in ("seeds", "device")},
            "values": {name: run.summary[name] for name in VALUES},
        }
        for run in runs
    }
