"""k-NN and linear probes of frozen features, on the training classes (ID) and on unseen ones (OOD)."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from manyviews.config import ConfigError, EvaluationConfig
from manyviews.data import Dataset, ood_split

KNN_BLOCK = 2048  # queries, and fitted rows, at a time
LINEAR_GRADIENT = 1e-5  # largest entry of the scaled gradient at which a linear probe counts as fitted


@dataclass(frozen=True)
class ProbeResult:
    """Accuracies are shares of images, 0 to 1; `linear_converged` is false if any fit hit its limit."""

    id_knn_accuracy: float
    id_linear_accuracy: float
    ood_knn_accuracy: float
    ood_linear_accuracy: float
    linear_converged: bool


@torch.inference_mode()
def extract_features(backbone: nn.Module, images: Tensor, batch_size: int) -> np.ndarray:
    """Features of whole images, without augmentation.

    Args:
        backbone: (B, 3, H, W) -> (B, D). Used in evaluation mode; its mode is restored.
        images: (N, 3, H, W) uint8.
        batch_size: images at a time; has no effect on the result beyond rounding.
    Returns:
        (N, D), of the type of the backbone's weights.
    """
    weight = next(backbone.parameters())
    training = backbone.training
    backbone.eval()
    batches = []
    for batch in images.split(batch_size):
        x = batch.to(weight.device, weight.dtype).div_(255).contiguous(memory_format=torch.channels_last)
        batches.append(backbone(x).cpu())
    backbone.train(training)
    return torch.cat(batches).numpy()


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


def check_probes(dataset: Dataset, config: EvaluationConfig) -> None:
    """See that the probes have images enough, before anything is trained.

    Raises:
        ConfigError: they have not; names the key to change.
    """
    fit, test = ood_split(len(dataset.ood.labels), config.ood_fit_share)
    if len(test) == 0:
        raise ConfigError(
            f"evaluation.ood_fit_share {config.ood_fit_share} leaves no OOD image to score; lower it"
        )
    fewest = min(len(dataset.train.labels), len(fit))
    if config.neighbours > fewest:
        raise ConfigError(
            f"evaluation.neighbours {config.neighbours} exceeds the {fewest} fitted images; lower it"
        )


def raw_pixel_accuracy(dataset: Dataset, config: EvaluationConfig) -> dict[str, float]:
    """k-NN on the pixels themselves, ID and OOD: what a representation must beat to be worth its training."""
    train, val, ood = (
        (split.images.reshape(len(split.labels), -1), split.labels) for split in dataset.splits
    )
    fit, test = ood_split(len(ood[1]), config.ood_fit_share)
    return {
        "id_knn_accuracy": knn_accuracy(*train, *val, config.neighbours),
        "ood_knn_accuracy": knn_accuracy(
            ood[0][fit], ood[1][fit], ood[0][test], ood[1][test], config.neighbours
        ),
    }


def probe(
    backbone: nn.Module, dataset: Dataset, images: dict[str, Tensor], config: EvaluationConfig
) -> ProbeResult:
    """The report's four accuracies of a backbone.

    ID: fitted on the training images, scored on the validation images of the same classes. OOD: fitted
    on 80 % of the images of unseen classes, scored on the rest.

    Args:
        backbone: (B, 3, H, W) -> (B, D).
        dataset: labels.
        images: its images by split ("train", "val", "ood"), (N, 3, H, W) uint8.
        config: neighbours, penalty and limits.
    """
    features = {name: extract_features(backbone, batch, config.batch_size) for name, batch in images.items()}
    fit, test = ood_split(len(dataset.ood.labels), config.ood_fit_share)
    ood, labels = features["ood"], dataset.ood.labels
    id_sets = (features["train"], dataset.train.labels, features["val"], dataset.val.labels)
    ood_sets = (ood[fit], labels[fit], ood[test], labels[test])
    id_linear, id_converged = linear_accuracy(*id_sets, config.linear_c, config.linear_max_iter)
    ood_linear, ood_converged = linear_accuracy(*ood_sets, config.linear_c, config.linear_max_iter)
    return ProbeResult(
        id_knn_accuracy=knn_accuracy(*id_sets, config.neighbours),
        id_linear_accuracy=id_linear,
        ood_knn_accuracy=knn_accuracy(*ood_sets, config.neighbours),
        ood_linear_accuracy=ood_linear,
        linear_converged=id_converged and ood_converged,
    )
