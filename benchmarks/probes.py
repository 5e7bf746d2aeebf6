"""The probes against scikit-learn, on features of photographs.

The first call trains a network for some minutes and keeps its features (see probe_features.py). Both sides
get the same float32 features and the same number of threads.
"""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.neighbors import KNeighborsClassifier

from benchmarks import probe_features
from benchmarks.timing import Contender, Timed, interleaved
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

    def find() -> torch.Tensor:
        return knn_predict(fit_labels, nearest(fit, queries, NEIGHBOURS)[1], n_classes)

    def find_sklearn() -> np.ndarray:
        return KNeighborsClassifier(NEIGHBOURS).fit(sample.fit, sample.fit_labels).predict(sample.queries)

    ours, theirs = Timed(find), Timed(find_sklearn)
    contenders = [Contender("ours", ours), Contender("scikit-learn", theirs)]
    rows = interleaved(f"k-NN, k = {NEIGHBOURS}: {case}", "s", contenders, repeats)
    predicted, expected = ours.result, theirs.result
    same = int((predicted.numpy() == expected).sum())
    rows[0]["note"] = f"accuracy {(predicted == query_labels).double().mean().item():.4f}"
    rows[1]["note"] = f"{same:,} of {len(expected):,} predictions equal to ours"
    return rows


def linear_rows(case: str, sample: Sample, repeats: int) -> list[dict[str, Any]]:
    """Linear probes with C = 1, from features to weights."""
    fit, fit_labels, queries, query_labels = sample.tensors
    steps = REPORT_STEPS if len(fit) < 100_000 else FEW_STEPS
    settings = {"max_iter": steps} | ({} if steps == REPORT_STEPS else {"tol": 0})
    end = "as in the report" if steps == REPORT_STEPS else f"stopped after {steps} steps"
    ours = Timed(lambda: fit_linear(fit, fit_labels, 1.0, MAX_ITER))
    theirs = Timed(lambda: fit_sklearn(sample, settings))
    contenders = [Contender("ours", ours), Contender(f"scikit-learn, {end}", theirs)]
    rows = interleaved(f"linear: {case}", "s", contenders, repeats, warm_up=repeats > 1)
    probe = ours.result
    accuracy = (probe.predict(queries) == query_labels).double().mean().item()
    converged = "converged" if probe.converged else "not converged"
    rows[0]["note"] = f"{converged}, {probe.iterations} steps, accuracy {accuracy:.4f}"
    rows[1]["note"] = compare(theirs.result, probe, sample)
    if steps < REPORT_STEPS:  # stopped long before its end
        del rows[1]["times"]
    return rows


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
