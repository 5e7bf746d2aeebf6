"""Accuracies under other choices of the probe: how much of a result is the measure's doing?"""

import sys
from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from manyviews.config.schema import EvaluationConfig
from manyviews.probes.features import Features
from manyviews.probes.knn import knn_predict, nearest, weighted_knn_predict
from manyviews.probes.linear import fit_linear_path
from manyviews.probes.protocol import Labels, Task, accuracy, held_out, tasks


def probe_sweep(
    layers: dict[str, Features], labels: Labels, config: EvaluationConfig, name: str
) -> pd.DataFrame:
    """All probes of features as they are and scaled to length 1.

    Args:
        layers: features by the layer they are of.
        labels: by split.
        config: numbers of neighbours, penalties.
        name: of the progress bar.
    Returns:
        Columns: layer; normalised (to length 1); probe: "knn", "weighted_knn" (by cosine, so only where
        normalised), "linear" (C as configured) or "linear_swept" (C chosen on a held-out part of the fitted
        images); neighbours or c; task ("id" or "ood"); accuracy; converged (linear probes).
    """
    rows = []
    stages = [(layer, normalised) for layer in layers for normalised in (False, True)]
    for layer, normalised in tqdm(stages, desc=name, unit="stage", file=sys.stdout):
        x = layers[layer]
        if normalised:
            x = {split: F.normalize(of_split, dim=1) for split, of_split in x.items()}
        for split, task in tasks(x, labels, config.ood_fit_fraction).items():
            probes = [*_knn_probes(task, normalised, config), *_linear_probes(task, config)]
            rows += [{"layer": layer, "normalised": normalised, "task": split, **probe} for probe in probes]
    return pd.DataFrame(rows).astype({"neighbours": "Int64", "converged": "boolean"})


def _knn_probes(task: Task, normalised: bool, config: EvaluationConfig) -> Iterator[dict[str, Any]]:
    """k-NN with each number of neighbours that there are images for."""
    fit, fit_labels, test, labels = task[:4]
    possible = [k for k in config.sweep_neighbours if k <= len(fit)]
    n_classes = int(fit_labels.max()) + 1
    distances, indices = nearest(fit, test, max(possible))
    for k in possible:
        predicted = knn_predict(fit_labels, indices[:, :k], n_classes)
        yield {"probe": "knn", "neighbours": k, "accuracy": accuracy(predicted, labels)}
        if normalised:
            weighted = weighted_knn_predict(fit_labels, distances[:, :k], indices[:, :k], n_classes)
            yield {"probe": "weighted_knn", "neighbours": k, "accuracy": accuracy(weighted, labels)}


def _linear_probes(task: Task, config: EvaluationConfig) -> Iterator[dict[str, Any]]:
    """The linear probe at the configured C, and at one that suits the fitted images best."""
    fit, fit_labels, test, labels = task[:4]
    cs = {"linear": config.linear_c, "linear_swept": choose_c(fit, fit_labels, config)}
    fitted = fit_linear_path(fit, fit_labels, list(cs.values()), config.linear_max_iter)
    for probe, linear in zip(cs, fitted, strict=True):
        result = accuracy(linear.predict(test), labels)
        yield {"probe": probe, "c": linear.c, "accuracy": result, "converged": linear.converged}


def choose_c(features: Tensor, labels: Tensor, config: EvaluationConfig) -> float:
    """The C with the best accuracy on a held-out part of the fitted images; of equals the smallest."""
    fit, chosen_on = held_out(labels)
    path = fit_linear_path(features[fit], labels[fit], sorted(config.sweep_c), config.linear_max_iter)
    by_c = {linear.c: accuracy(linear.predict(features[chosen_on]), labels[chosen_on]) for linear in path}
    return max(by_c, key=by_c.get)
