"""k-NN and linear probes of features."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor

KNN_BLOCK = 2048  # queries, and fitted rows, at a time
LINEAR_GRADIENT = 1e-5  # largest entry of the scaled gradient at which a linear probe counts as fitted


def principal_axes(fit: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """See later."""
    centre = fit.double().mean(dim=0)
    centred = fit.double() - centre  # (N, D)
    variances, axes = torch.linalg.eigh(centred.T @ centred)
    axes = axes[:, variances > variances[-1] * 1e-12]  # (D, R)
    return centred @ axes, (test.double() - centre) @ axes


def knn_predict(fit_labels: Tensor, numbers: Tensor) -> Tensor:
    labels = fit_labels[numbers]
    votes = torch.zeros(len(numbers), int(fit_labels.max()) + 1)
    return votes.scatter_add(1, labels, torch.ones(labels.shape)).argmax(dim=1)


def weighted_knn_predict(fit, fit_labels, test, numbers, temperature=0.1):
    labels = fit_labels[numbers]
    cos = (F.normalize(fit, dim=1)[numbers] * F.normalize(test, dim=1)[:, None]).sum(-1)
    votes = torch.zeros(len(numbers), int(fit_labels.max()) + 1, dtype=cos.dtype)
    return votes.scatter_add(1, labels, (cos / temperature).exp()).argmax(dim=1)


def nearest(fit: Tensor, queries: Tensor, neighbours: int) -> Tensor:
    return torch.cdist(queries.double(), fit.double()).topk(neighbours, largest=False)[1]


@dataclass(frozen=True)
class LinearProbe:
    """A fitted multinomial logistic regression on centred, rotated features."""

    weights: Tensor  # (R, C) float64
    intercepts: Tensor  # (C,) float64
    converged: bool
    gradient_norm: float

    def predict(self, features: Tensor) -> Tensor:
        """Classes (M,) of features (M, R)."""
        return (features @ self.weights + self.intercepts).argmax(dim=1)


def fit_linear(
    features: Tensor, labels: Tensor, c: float, max_iter: int, start: LinearProbe | None = None
) -> LinearProbe:
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
    return LinearProbe(weights[:-1], weights[-1], converged, float(np.linalg.norm(found.jac)))
