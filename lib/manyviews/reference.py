"""Regression check of a run against numbers that were committed with the notebooks."""

import math

from manyviews import paths
from manyviews.config import RunConfig
from manyviews.files import read_json
from manyviews.results import ACCURACIES, Run

REFERENCE = paths.NOTEBOOKS / "reference.json"
VALUES = ("loss_nats", *ACCURACIES)
# Relative. In float64, as the smoke profile computes, neither one thread instead of two nor AVX2 instead of
# AVX-512 changed a digit shown; in float32 some accuracies moved by 15 %. A regression of 5 % must not pass.
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
    expected = reference.get(run.name)
    if expected is None or RunConfig(**expected["recipe"]).recipe() != RunConfig(**run.config).recipe():
        return f"{run.name}: no reference for this configuration, nothing compared"
    if run.environment["data_sha256"] != expected["data_sha256"]:
        raise ReferenceMismatch(
            f"{run.name} saw other images than the reference: the dataset's SHA-256 differs"
        )
    off = [
        f"{name} is {run.summary[name]:.4f}, was {value:.4f}"
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
            "recipe": RunConfig(**run.config).recipe(),
            "data_sha256": run.environment["data_sha256"],
            "values": {name: run.summary[name] for name in VALUES},
        }
        for run in runs
    }
