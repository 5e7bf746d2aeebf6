"""Probes of a backbone, on the training classes (ID) and on unseen ones (OOD)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from manyviews.config import ConfigError, EvaluationConfig
from manyviews.data import Dataset, ood_split
from manyviews.probes import fit_linear, knn_predict, nearest


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


def knn_accuracy(
    fit: np.ndarray, fit_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray, neighbours: int
) -> float:
    """Share of test images whose nearest fitted neighbours vote for the right class."""
    fit, fit_labels, test = (torch.from_numpy(x) for x in (fit, fit_labels, test))
    _, numbers = nearest(fit, test, neighbours)
    predicted = knn_predict(fit_labels, numbers, int(fit_labels.max()) + 1)
    return float((predicted.numpy() == test_labels).mean())


def linear_accuracy(
    fit: np.ndarray,
    fit_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    c: float,
    max_iter: int,
) -> tuple[float, bool]:
    """Share of test images that a linear probe classifies right, and whether its fit converged."""
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
