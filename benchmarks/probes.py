"""The probes against scikit-learn, on features of photographs: `python -m benchmarks.probes [--full]`.

The first call trains a network for some minutes and keeps its features (see probe_features.py). Both sides
get the same float32 features and the same number of threads.
"""

import argparse
import statistics
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
from manyviews.data import limit
from manyviews.probes import LinearProbe, fit_linear, knn_predict, nearest

SIZES = ((40, 100), (100, 500), (200, 500))  # classes, images of each; the last only with --full
STEPS = 50  # of scikit-learn's solver at the last size, where the thousand of the report would take long
MAX_ITER = 100_000  # more than any fit needs


class Sample(NamedTuple):
    """Features (N, 1000) float32 and labels (N,) to fit on; queries (M, 1000) and labels (M,) to score."""

    fit: np.ndarray
    fit_labels: np.ndarray
    queries: np.ndarray
    query_labels: np.ndarray

    @property
    def tensors(self) -> list[torch.Tensor]:
        return [torch.from_numpy(array) for array in self]


def measure(repeats: int, full: bool = False) -> list[dict[str, Any]]:
    """Seconds of k-NN and linear probes, ours first in each case.

    Args:
        repeats: of each measurement; scikit-learn's linear fits are run once.
        full: also 100,000 images of 200 classes, the untrained backbone at 50,000, and scikit-learn's linear
            fit to our precision at 4,000. Without it, about ten minutes on two cores; with it, an hour.
    """
    rows = []
    for backbone in ("trained", "random"):
        features = probe_features.load(backbone)
        for size in SIZES if full else SIZES[: 2 if backbone == "trained" else 1]:
            sample = take(features, *size)
            case = f"{len(sample.fit):,} x {size[0]} classes, {backbone} backbone"
            rows += knn_rows(case, sample, repeats)
            rows += linear_rows(case, sample, repeats, full)
    return rows


def take(features: dict[str, np.ndarray], classes: int, per_class: int) -> Sample:
    """The first images of the first classes to fit on, and all queries of these classes."""
    fit, fit_labels = limit(features["fit"], features["fit_labels"], classes, per_class, Path("fit"))
    scored = features["query_labels"] < classes
    return Sample(fit, fit_labels, features["queries"][scored], features["query_labels"][scored])


def knn_rows(case: str, sample: Sample, repeats: int, k: int = 5) -> list[dict[str, Any]]:
    """k-NN of `k` neighbours, from features to predicted classes."""
    fit, fit_labels, queries, query_labels = sample.tensors
    n_classes = int(fit_labels.max()) + 1
    ours, predicted = timed(lambda: knn_predict(fit_labels, nearest(fit, queries, k)[1], n_classes), repeats)
    theirs, expected = timed(
        lambda: KNeighborsClassifier(k).fit(sample.fit, sample.fit_labels).predict(sample.queries), repeats
    )
    same = int((predicted.numpy() == expected).sum())
    accuracy = (predicted == query_labels).double().mean().item()
    case = f"k-NN, k = {k}: {case}"
    return [
        row(case, "manyviews", ours, f"accuracy {accuracy:.4f}"),
        row(case, "scikit-learn", theirs, f"{same:,} of {len(expected):,} predictions equal to ours"),
    ]


def linear_rows(case: str, sample: Sample, repeats: int, full: bool) -> list[dict[str, Any]]:
    """Linear probes with C = 1, from features to weights."""
    fit, fit_labels, queries, query_labels = sample.tensors
    case = f"linear: {case}"
    seconds, ours = timed(lambda: fit_linear(fit, fit_labels, 1.0, MAX_ITER), repeats)
    accuracy = (ours.predict(queries) == query_labels).double().mean().item()
    about = f"{ours.iterations} steps, gradient {ours.gradient_norm:.0e}, accuracy {accuracy:.4f}"
    rows = [row(case, "manyviews", seconds, about if ours.converged else f"{about}, not converged")]
    if len(fit) > 50_000:
        contenders = {f"scikit-learn, stopped after {STEPS} steps": {"max_iter": STEPS}}
    else:
        contenders = {"scikit-learn, as the report ran it": {"max_iter": 1000}}
        if full and len(fit) <= 4000:
            settings = {"max_iter": MAX_ITER, "tol": ours.gradient_norm}
            contenders["scikit-learn, to our gradient"] = settings
    for name, settings in contenders.items():
        seconds, theirs = timed(lambda settings=settings: fit_sklearn(sample, settings), 1)
        rows.append(row(case, name, seconds, compare(theirs, ours, sample)))
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
    return f"{steps} steps to {end}, objective {excess:+.1e} of ours, accuracy {accuracy:.4f}"


def timed(function: Callable[[], Any], repeats: int) -> tuple[list[float], Any]:
    """Seconds of each call, and the last result."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - start)
    return seconds, result


def row(case: str, contender: str, seconds: list[float], note: str) -> dict[str, Any]:
    return {
        "case": case,
        "contender": contender,
        "unit": "s",
        "median": statistics.median(seconds),
        "low": min(seconds),
        "high": max(seconds),
        "note": note,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="also 100,000 x 200 classes; an hour")
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads")
    for r in measure(options.repeats, options.full):
        print(
            f"{r['case']:60} {r['contender']:40} {r['median']:8.2f} {r['unit']} "
            f"({r['low']:.2f} to {r['high']:.2f})  {r['note']}",
            flush=True,
        )


if __name__ == "__main__":
    main()
