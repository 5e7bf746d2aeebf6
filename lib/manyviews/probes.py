"""k-NN and linear probes of features."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

KNN_BLOCK = 2048  # queries, and fitted rows, at a time
LINEAR_GRADIENT = 1e-5  # largest entry of the scaled gradient at which a linear probe counts as fitted


def principal_axes(fit: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sets of features in the axes of the first, without the directions it does not vary in.

    Rotations and shifts change neither distances nor the optimum of an L2-penalised linear probe with
    a free intercept, and in a direction without variance its weight is 0. What is left is smaller: a
    ResNet's 1000 features come from 8 x width channels, so they have that rank at most.

    Args:
        fit, test: (N, D) and (M, D).
    Returns:
        (N, R) and (M, R) float64, R <= min(N, D).
    """
    centre = fit.mean(axis=0, dtype=np.float64)
    centred = fit - centre  # (N, D)
    variances, axes = np.linalg.eigh(centred.T @ centred)
    # Rounding in float32 features leaves variances near 1e-14 of the largest where there should be none.
    axes = axes[:, variances > variances[-1] * 1e-12]  # (D, R)
    return centred @ axes, (test - centre) @ axes


def knn_accuracy(
    fit: np.ndarray, fit_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray, neighbours: int
) -> float:
    """Share of test images whose nearest fitted neighbours vote for the right class.

    Euclidean distance, uniform votes, on raw features: the report's probe.
    """
    votes = torch.zeros(len(test), int(fit_labels.max()) + 1)  # (M, C)
    for rows in torch.arange(len(test)).split(KNN_BLOCK):
        labels = torch.from_numpy(fit_labels)[nearest(fit, test[rows], neighbours)]  # (rows, k)
        votes[rows] = votes[rows].scatter_add(1, labels, torch.ones(labels.shape))
    predicted = votes.argmax(dim=1).numpy()  # of equally many votes, the smallest label wins
    return float((predicted == test_labels).mean())


def nearest(fit: np.ndarray, queries: np.ndarray, neighbours: int) -> Tensor:
    """Numbers of the rows of `fit` nearest to each query, (M, k), nearest first.

    Memory grows with neither the number of rows nor their type: blocks are converted to float64 in turn.
    """
    x = torch.from_numpy(queries).double()  # (M, D)
    distances, numbers = x.new_empty(len(x), 0), torch.empty(len(x), 0, dtype=torch.int64)
    for start in range(0, len(fit), KNN_BLOCK):
        y = torch.from_numpy(fit[start : start + KNN_BLOCK]).double()  # (block, D)
        # Squared, and without the query's own length, which all its neighbours share.
        block = y.square().sum(dim=1) - 2 * x @ y.T  # (M, block)
        distances = torch.cat([distances, block], dim=1)
        numbers = torch.cat([numbers, torch.arange(start, start + len(y)).expand(len(x), -1)], dim=1)
        distances, best = distances.topk(min(neighbours, distances.shape[1]), largest=False)
        numbers = numbers.gather(1, best)
    return numbers


@dataclass(frozen=True)
class LinearProbe:
    """A fitted multinomial logistic regression on centred, rotated features."""

    weights: Tensor  # (R, C) float64
    intercepts: Tensor  # (C,) float64
    converged: bool

    def predict(self, features: Tensor) -> Tensor:
        """Classes (M,) of features (M, R)."""
        return (features @ self.weights + self.intercepts).argmax(dim=1)


def fit_linear(features: Tensor, labels: Tensor, c: float, max_iter: int) -> LinearProbe:
    """Minimise the mean cross-entropy + ||W||^2 / (2 c N), as scikit-learn's LogisticRegression does.

    The features must lie along their principal axes. Then the Hessian at W = 0 is diagonal but for the
    coupling of the classes, and dividing it out leaves a problem that L-BFGS solves in tens of steps; on
    features of networks it takes hundreds to thousands as they are.

    Args:
        features: (N, R) float64, as principal_axes gives them.
        labels: (N,) int64, 0 to C - 1.
        c: inverse strength of the penalty, which spares the intercepts.
        max_iter: most L-BFGS steps; if they do not suffice, `converged` is false.
    """
    n, n_classes = len(labels), int(labels.max()) + 1
    # Of two classes scikit-learn fits only the difference: the same model as ours at half the c.
    penalty = (2 if n_classes == 2 else 1) / (c * n)
    curvature = features.square().mean(dim=0) / n_classes + penalty  # (R,)
    scale = torch.cat([curvature.rsqrt(), curvature.new_full((1,), n_classes**0.5)])[:, None]  # (R + 1, 1)
    inputs = torch.cat([features, features.new_ones(n, 1)], dim=1)  # (N, R + 1), the last for the intercept
    targets = torch.nn.functional.one_hot(labels, n_classes).double()

    def loss_and_gradient(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights = scale * torch.from_numpy(parameters).view(-1, n_classes)  # (R + 1, C)
        log_p = torch.log_softmax(inputs @ weights, dim=1)  # (N, C)
        loss = -(log_p * targets).sum() / n + penalty / 2 * weights[:-1].square().sum()
        gradient = inputs.T @ (log_p.exp() - targets) / n  # (R + 1, C)
        gradient[:-1] += penalty * weights[:-1]
        return loss.item(), (scale * gradient).flatten().numpy()

    start = np.zeros(inputs.shape[1] * n_classes)
    options = {
        "maxiter": max_iter,
        "maxfun": 2 * max_iter,
        "gtol": LINEAR_GRADIENT,
        "ftol": 0.0,
        "maxcor": 20,
    }
    found = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", options=options)
    weights = scale * torch.from_numpy(found.x).view(-1, n_classes)
    # Where rounding stops the line search, the gradient may be small enough all the same.
    converged = bool(np.abs(found.jac).max() <= 10 * LINEAR_GRADIENT)
    return LinearProbe(weights[:-1], weights[-1], converged)


def linear_accuracy(
    fit: np.ndarray,
    fit_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    c: float,
    max_iter: int,
) -> tuple[float, bool]:
    """Share of test images that a linear probe classifies right, and whether its fit converged.

    Multinomial logistic regression with an L2 penalty of inverse strength c: the report's probe.
    """
    fit, test = principal_axes(fit, test)
    probe = fit_linear(torch.from_numpy(fit), torch.from_numpy(fit_labels), c, max_iter)
    right = probe.predict(torch.from_numpy(test)).numpy() == test_labels
    return float(right.mean()), probe.converged
