"""The probes against scikit-learn, on features of Tiny-ImageNet photographs.

A network is trained for an epoch first. Both sides get the same float32 features and number of threads.
"""

import warnings
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from benchmarks.timing import Contender, Timed, interleaved
from manyviews.config.schema import DataConfig
from manyviews.data.dataset import load_dataset
from manyviews.probes.features import extract_features
from manyviews.probes.knn import knn_predict, nearest
from manyviews.probes.linear import LinearProbe, fit_linear
from manyviews.simclr.models import make_simclr
from manyviews.simclr.train import Recipe, Trainer

DEVICE = "cpu"
DATA = DataConfig(name="tiny-imagenet", image_size=32)
NETWORK = {"depth": 18, "stem": "conv3", "width": 16, "projection_norm": True}
RECIPE = Recipe(epochs=1, warmup_epochs=0.5, schedule_per="step", temperature=0.2, learning_rate=2e-3)
SIZES = ((40, 100), (100, 500))  # classes, images of each
NEIGHBOURS = 5
MAX_ITER = 100_000  # more than any of our fits needs
ORIGINALS_STEPS = 1000  # of scikit-learn's solver
LARGE = 10_000  # fitted images, from which on a linear fit is timed once
Sample = dict[str, Tensor]  # fit (N, 1000), fit_labels (N,), queries (M, 1000), query_labels (M,)


def measure(repeats: int) -> list[dict[str, Any]]:
    """Seconds of k-NN and linear probes, ours first; linear fits to many images are done once."""
    rows = []
    for backbone, sizes in (("trained", SIZES), ("random", SIZES[:1])):
        features = load(backbone)
        for classes, per_class in sizes:
            sample = take(features, classes, per_class)
            case = f"{len(sample['fit']):,} x {classes} classes, {backbone} backbone"
            rows += knn_rows(case, sample, repeats)
            rows += linear_rows(case, sample, repeats if len(sample["fit"]) < LARGE else 1)
    return rows


def load(backbone: str) -> Sample:
    """Features of the 50,000 training and 5,000 validation photographs; backbone "trained" or "random"."""
    dataset, model = load_dataset(DATA), make_simclr(**NETWORK)
    if backbone == "trained":
        Trainer(model, dataset.train.as_tensor(), RECIPE).run()
    sample = {}
    for name, split in (("fit", dataset.train), ("queries", dataset.val)):
        sample[name] = extract_features(model.backbone, split.as_tensor())["fc"]
        sample["fit_labels" if name == "fit" else "query_labels"] = torch.from_numpy(split.labels)
    return sample


def take(features: Sample, classes: int, per_class: int) -> Sample:
    """The first images of the first classes to fit on, and all queries of these classes."""
    labels, scored = features["fit_labels"], features["query_labels"] < classes
    fitted = torch.cat([(labels == label).nonzero()[:per_class, 0] for label in range(classes)])
    fit = {name: features[name][fitted] for name in ("fit", "fit_labels")}
    return fit | {name: features[name][scored] for name in ("queries", "query_labels")}


def knn_rows(case: str, sample: Sample, repeats: int) -> list[dict[str, Any]]:
    """k-NN, from features to predicted classes."""
    fit, fit_labels, queries, query_labels = sample.values()
    n_classes = int(fit_labels.max()) + 1
    ours = Timed(lambda: knn_predict(fit_labels, nearest(fit, queries, NEIGHBOURS)[1], n_classes))
    theirs = Timed(lambda: KNeighborsClassifier(NEIGHBOURS).fit(fit, fit_labels).predict(queries))
    contenders = [Contender("ours", ours), Contender("scikit-learn", theirs)]
    rows = interleaved(f"k-NN, k = {NEIGHBOURS}: {case}", "s", contenders, repeats)
    same = int((ours.result.numpy() == theirs.result).sum())
    rows[0]["note"] = f"accuracy {(ours.result == query_labels).double().mean().item():.4f}"
    rows[1]["note"] = f"{same:,} of {len(queries):,} predictions equal to ours"
    return rows


def linear_rows(case: str, sample: Sample, repeats: int) -> list[dict[str, Any]]:
    """Linear probes with C = 1, from features to weights."""
    fit, fit_labels, queries, query_labels = sample.values()
    ours = Timed(lambda: fit_linear(fit, fit_labels, 1.0, MAX_ITER))
    theirs = Timed(lambda: fit_sklearn(sample))
    contenders = [Contender("ours", ours), Contender("scikit-learn, as in the original", theirs)]
    rows = interleaved(f"linear: {case}", "s", contenders, repeats, warm_up=repeats > 1)
    accuracy = (ours.result.predict(queries) == query_labels).double().mean().item()
    converged = "converged" if ours.result.converged else "not converged"
    rows[0]["note"] = f"{converged}, accuracy {accuracy:.4f}"
    rows[1]["note"] = compare(theirs.result, ours.result, sample)
    return rows


def fit_sklearn(sample: Sample) -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the note tells
        model = LogisticRegression(C=1.0, max_iter=ORIGINALS_STEPS)
        return model.fit(sample["fit"].numpy(), sample["fit_labels"].numpy())


def compare(theirs: LogisticRegression, ours: LinearProbe, sample: Sample) -> str:
    """Where scikit-learn's fit ended: steps, objective against ours, accuracy."""
    fit, labels, queries, query_labels = (part.numpy() for part in sample.values())
    loss = log_loss(labels, theirs.predict_proba(fit.astype(np.float64)))
    objective = loss + (theirs.coef_.astype(np.float64) ** 2).sum() / (2 * len(fit))
    accuracy = theirs.score(queries, query_labels)
    excess = f"objective {100 * (objective / ours.objective - 1):.2g} % above ours"
    return f"{theirs.n_iter_[0]} of {ORIGINALS_STEPS} steps, {excess}, accuracy {accuracy:.4f}"
