"""The probes against scikit-learn, on features of photographs.

The first call trains a network for some minutes and keeps its features (see probe_features.py). Both sides
get the same float32 features and the same number of threads.
"""

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.neighbors import KNeighborsClassifier

from benchmarks import probe_features
from benchmarks.timing import row, times_as_fast
from manyviews.data import limit
from manyviews.probes import LinearProbe, fit_linear, knn_predict, nearest

DEVICE = "cpu"
SIZES = ((40, 100), (100, 500), (200, 500))  # classes, images of each
NEIGHBOURS = 5
MAX_ITER = 100_000  # more than any of our fits needs
# Of scikit-learn's solver: as in the report, and at the largest size, where that would take an hour, fewer.
REPORT_STEPS, FEW_STEPS = 1000, 50
LARGE = 10_000  # fitted images, from which on a linear fit is timed once


class Sample(NamedTuple):
    """Features (N, 1000) float32 and labels (N,) to fit on; queries (M, 1000) and labels (M,) to score."""

    fit: np.ndarray
    fit_labels: np.ndarray
    queries: np.ndarray
    query_labels: np.ndarray

    @property
    def tensors(self) -> list[torch.Tensor]:
        return [torch.from_numpy(array) for array in self]


def measure(repeats: int) -> list[dict[str, Any]]:
    """Seconds of k-NN and linear probes, ours first in each case.

    Args:
        repeats: of each measurement but the linear fits to many images, which are done once.
    """
    rows = []
    for backbone, sizes in (("trained", SIZES), ("random", SIZES[:1])):
        features = probe_features.load(backbone)
        for size in sizes:
            sample = take(features, *size)
            case = f"{len(sample.fit):,} x {size[0]} classes, {backbone} backbone"
            rows += knn_rows(case, sample, repeats)
            rows += linear_rows(case, sample, repeats if len(sample.fit) < LARGE else 1)
    return rows


def take(features: dict[str, np.ndarray], classes: int, per_class: int) -> Sample:
    """The first images of the first classes to fit on, and all queries of these classes."""
    fit, fit_labels = limit(features["fit"], features["fit_labels"], classes, per_class, Path("fit"))
    scored = features["query_labels"] < classes
    return Sample(fit, fit_labels, features["queries"][scored], features["query_labels"][scored])


def knn_rows(case: str, sample: Sample, repeats: int) -> list[dict[str, Any]]:
    """k-NN, from features to predicted classes."""
    fit, fit_labels, queries, query_labels = sample.tensors
    n_classes = int(fit_labels.max()) + 1

    def ours() -> torch.Tensor:
        return knn_predict(fit_labels, nearest(fit, queries, NEIGHBOURS)[1], n_classes)

    def theirs() -> np.ndarray:
        return KNeighborsClassifier(NEIGHBOURS).fit(sample.fit, sample.fit_labels).predict(sample.queries)

    seconds, (predicted, expected) = in_turn((ours, theirs), repeats)
    same = int((predicted.numpy() == expected).sum())
    accuracy = (predicted == query_labels).double().mean().item()
    notes = (f"accuracy {accuracy:.4f}", f"{same:,} of {len(expected):,} predictions equal to ours")
    case = f"k-NN, k = {NEIGHBOURS}: {case}"
    rows = as_rows(case, ("ours", "scikit-learn"), seconds, notes)
    rows[1] |= times_as_fast(*seconds, "s")
    return rows


def linear_rows(case: str, sample: Sample, repeats: int) -> list[dict[str, Any]]:
    """Linear probes with C = 1, from features to weights."""
    fit, fit_labels, queries, query_labels = sample.tensors
    steps = REPORT_STEPS if len(fit) < 100_000 else FEW_STEPS
    settings = {"max_iter": steps} | ({} if steps == REPORT_STEPS else {"tol": 0})
    functions = (lambda: fit_linear(fit, fit_labels, 1.0, MAX_ITER), lambda: fit_sklearn(sample, settings))
    seconds, (ours, theirs) = in_turn(functions, repeats)
    accuracy = (ours.predict(queries) == query_labels).double().mean().item()
    about = f"{'' if ours.converged else 'not '}converged, {ours.iterations} steps, accuracy {accuracy:.4f}"
    end = "as in the report" if steps == REPORT_STEPS else f"stopped after {steps} steps"
    names = ("ours", f"scikit-learn, {end}")
    rows = as_rows(f"linear: {case}", names, seconds, (about, compare(theirs, ours, sample)))
    if steps == REPORT_STEPS:  # else it was stopped long before its end
        rows[1] |= times_as_fast(*seconds, "s")
    return rows


def in_turn(functions: tuple[Callable[[], Any], ...], repeats: int) -> tuple[list[list[float]], list[Any]]:
    """Seconds of each function's calls, which take turns, and its last result.

    A round that does not count comes first, unless there is but one.
    """
    seconds, results = [[] for _ in functions], [None] * len(functions)
    for _ in range(repeats + 1 if repeats > 1 else 1):
        for place, function in enumerate(functions):
            started = time.perf_counter()
            results[place] = function()
            seconds[place].append(time.perf_counter() - started)
    return [of_one[-repeats:] for of_one in seconds], results


def as_rows(
    case: str, names: tuple[str, ...], seconds: list[list[float]], notes: tuple[str, ...]
) -> list[dict[str, Any]]:
    """A row for each name; a single measurement is told as such."""
    return [
        row(case, name, "s", of_one, note if len(of_one) > 1 else f"{note}; once")
        for name, of_one, note in zip(names, seconds, notes, strict=True)
    ]


def fit_sklearn(sample: Sample, settings: dict[str, Any]) -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the note tells
        return LogisticRegression(C=1.0, **settings).fit(sample.fit, sample.fit_labels)


def compare(theirs: LogisticRegression, ours: LinearProbe, sample: Sample) -> str:
    """Where scikit-learn's fit ended: steps, objective against ours, accuracy."""
    weights, n = theirs.coef_.astype(np.float64), len(sample.fit)
    loss = log_loss(sample.fit_labels, theirs.predict_proba(sample.fit.astype(np.float64)))
    excess = (loss + (weights**2).sum() / (2 * n)) / ours.objective - 1
    steps = int(theirs.n_iter_[0])
    end = "its limit" if steps >= theirs.max_iter else f"tol {theirs.tol:.0e}"
    accuracy = theirs.score(sample.queries, sample.query_labels)
    return f"{steps} steps to {end}, objective {100 * excess:.2g} % above ours, accuracy {accuracy:.4f}"
