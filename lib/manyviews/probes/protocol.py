"""How a network is judged: which images the probes are fitted on, and which they are scored on.

Training classes (ID): fitted on the training images, scored on the validation images. Unseen classes (OOD):
fitted on some of their images, scored on the others. Features are not changed and images not augmented.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from manyviews.config.schema import ConfigError, EvaluationConfig
from manyviews.data.dataset import SPLITS, Dataset
from manyviews.probes.features import Features
from manyviews.probes.knn import knn_predict, nearest
from manyviews.probes.linear import LinearProbe, fit_linear
from manyviews.probes.predictions import COLUMNS

OOD_SEED = 42  # of the permutation that chooses the OOD images to fit on, as in the original
HELD_OUT = 0.2  # of the fitted images, on which the probe sweep chooses C
RAW_PIXELS_SIDE = 32  # to which larger images are averaged, so that a linear probe of them is affordable

Labels = dict[str, Tensor]  # (N,) int64 for each of SPLITS


class Task(NamedTuple):
    """What probes are fitted on and what they are scored on."""

    fit: Tensor  # (N, D) features
    fit_labels: Tensor  # (N,)
    test: Tensor  # (M, D) features
    test_labels: Tensor  # (M,)
    fit_rows: Tensor  # (N,) indices of the images in their split
    test_rows: Tensor  # (M,)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What the probes predict, and how their linear fits ended."""

    predictions: pd.DataFrame  # see predictions.py
    converged: bool  # all linear fits
    gradient_norm: float  # the largest, see linear.LinearProbe


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Fraction of images whose predicted class (M,) is the right one (M,)."""
    return (predicted == labels).double().mean().item()


def ood_split(n: int, fit_fraction: float) -> tuple[Tensor, Tensor]:
    """Indices of the OOD images to fit the probes on and to score, as the original draws them."""
    order = torch.from_numpy(np.random.RandomState(OOD_SEED).permutation(n))
    held_out = int(round(1 - fit_fraction, 9) * n)  # rounded, for 1 - 0.8 is a little less than 0.2
    return (order >= held_out).nonzero()[:, 0], (order < held_out).nonzero()[:, 0]


def ood_folds(labels: Tensor, folds: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices of the OOD images to fit on and to score, so that each is scored once; stratified by class."""
    from sklearn.model_selection import StratifiedKFold

    splitter = StratifiedKFold(folds, shuffle=True, random_state=OOD_SEED)
    for fit, test in splitter.split(np.zeros(len(labels)), labels.cpu().numpy()):
        yield torch.from_numpy(fit), torch.from_numpy(test)


def ood_task(features: Features, labels: Labels, fit: Tensor, test: Tensor) -> Task:
    """Unseen classes, with the indices of the images to fit on and to score."""
    x, y = features["ood"], labels["ood"]
    return Task(x[fit], y[fit], x[test], y[test], fit, test)


def tasks(features: Features, labels: Labels, ood_fit_fraction: float) -> dict[str, Task]:
    """What is fitted and scored of training ("id") and of unseen ("ood") classes."""
    parts = [part[name] for name in ("train", "val") for part in (features, labels)]
    rows = (torch.arange(len(labels[name])) for name in ("train", "val"))
    ood_rows = ood_split(len(labels["ood"]), ood_fit_fraction)
    return {"id": Task(*parts, *rows), "ood": ood_task(features, labels, *ood_rows)}


def predict_both(task: Task, config: EvaluationConfig) -> tuple[Tensor, Tensor, LinearProbe]:
    """Classes (M,) by k-NN and by the linear probe, and the latter."""
    _, indices = nearest(task.fit, task.test, config.neighbours)
    knn = knn_predict(task.fit_labels, indices, int(task.fit_labels.max()) + 1)
    linear = fit_linear(task.fit, task.fit_labels, config.linear_c, config.linear_max_iter)
    return knn, linear.predict(task.test), linear


def evaluate(features: Features, labels: Labels, config: EvaluationConfig, folds: bool) -> Evaluation:
    """Fit both probes to the features of training and of unseen classes, and apply them to the scored images.

    Args:
        features, labels: by split.
        config: neighbours, penalty, and how the unseen classes are divided.
        folds: also score each image of the unseen classes once, in stratified folds.
    Returns:
        Predictions with a row for each image that is scored, see predictions.py; and how the fits ended.
    """
    parts = [(split, "", task) for split, task in tasks(features, labels, config.ood_fit_fraction).items()]
    for rows in ood_folds(labels["ood"], config.ood_folds) if folds else ():
        parts.append(("ood", "_folds", ood_task(features, labels, *rows)))
    tables, probes = {}, []
    for split, of in (("id", labels["val"]), ("ood", labels["ood"])):
        table = pd.DataFrame({"split": split, "image": range(len(of)), "label": of.cpu()}, columns=COLUMNS)
        tables[split] = table.astype(dict.fromkeys(COLUMNS[1:], "Int64"))
    for split, suffix, task in parts:
        knn, linear, probe = predict_both(task, config)
        tables[split].loc[task.test_rows.numpy(), f"knn{suffix}"] = knn.cpu().numpy()
        tables[split].loc[task.test_rows.numpy(), f"linear{suffix}"] = linear.cpu().numpy()
        probes.append(probe)
    return Evaluation(
        pd.concat(tables.values(), ignore_index=True),
        all(probe.converged for probe in probes),
        max(probe.gradient_norm for probe in probes),
    )


# -------------------------------------------------------------------------------------------- few labels


def few_labels(labels: Labels, config: EvaluationConfig) -> int:
    """Labels a class that the OOD probes are fitted on, or as many as the training images have."""
    n_fit = len(ood_split(len(labels["ood"]), config.ood_fit_fraction)[0])
    ood_classes, classes = (int(labels[name].max()) + 1 for name in ("ood", "train"))
    return min(n_fit // ood_classes, len(labels["train"]) // classes)


def few_label_draws(labels: Labels, config: EvaluationConfig) -> Iterator[Tensor]:
    """Indices of training images, with as many labels a class as the OOD probes are fitted on."""
    from sklearn.model_selection import StratifiedShuffleSplit

    train = labels["train"].cpu().numpy()
    n_classes = int(train.max()) + 1
    n_fit = few_labels(labels, config) * n_classes
    if len(train) - n_fit < n_classes:  # nothing to draw: that many labels are all there are
        yield torch.arange(len(train))
        return
    draws = StratifiedShuffleSplit(config.few_label_draws, train_size=n_fit, random_state=OOD_SEED)
    for fit, _ in draws.split(np.zeros(len(train)), train):
        yield torch.from_numpy(fit)


def few_label_accuracies(features: Features, labels: Labels, config: EvaluationConfig) -> dict[str, float]:
    """ID accuracies of probes that see no more labels a class than the OOD probes; means over some draws."""
    of_draws, whole = [], tasks(features, labels, config.ood_fit_fraction)["id"]
    for rows in few_label_draws(labels, config):
        few = whole._replace(fit=whole.fit[rows], fit_labels=whole.fit_labels[rows], fit_rows=rows)
        of_draws.append([accuracy(predicted, few.test_labels) for predicted in predict_both(few, config)[:2]])
    knn, linear = np.mean(of_draws, axis=0).tolist()
    return {"id_few_labels_knn_accuracy": knn, "id_few_labels_linear_accuracy": linear}


# --------------------------------------------------------------------------------- raw pixels, and checks


def raw_pixel_features(images: dict[str, Tensor]) -> Features:
    """Pixels as features, a baseline that a representation must exceed: (N, 3 x side x side) in [0, 1].

    Args:
        images: (N, 3, H, W) uint8, by split; averaged to RAW_PIXELS_SIDE where they are larger.
    """
    pixels = {}
    for name, of_split in images.items():
        side = min(of_split.shape[-1], RAW_PIXELS_SIDE)
        parts = [
            F.adaptive_avg_pool2d(x.contiguous().float() / 255, side).flatten(1) for x in of_split.split(4096)
        ]
        pixels[name] = torch.cat(parts)
    return pixels


def held_out(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the fitted images to fit on and of those to choose C on.

    Raises:
        ValueError: a class has too few images to hold out a fifth of.
    """
    from sklearn.model_selection import StratifiedShuffleSplit

    splitter = StratifiedShuffleSplit(1, test_size=HELD_OUT, random_state=OOD_SEED)
    fit, chosen_on = next(splitter.split(np.zeros(len(labels)), labels.cpu().numpy()))
    return torch.from_numpy(fit), torch.from_numpy(chosen_on)


def check_probes(dataset: Dataset, config: EvaluationConfig) -> None:
    """See that the probes have images enough, before anything is trained: all splits are tried on the labels.

    Raises:
        ConfigError: they have not; names the key to change.
    """

    def refuse(key: str, what: str) -> None:
        raise ConfigError(f"evaluation.{key} {getattr(config, key)} {what}")

    labels = {name: torch.from_numpy(getattr(dataset, name).labels) for name in SPLITS}
    fit, test = ood_split(len(labels["ood"]), config.ood_fit_fraction)
    if len(test) == 0:
        refuse("ood_fit_fraction", "leaves no OOD image to score; lower it")
    smallest = int(torch.bincount(labels["ood"]).min())
    if config.ood_folds > smallest:
        refuse("ood_folds", f"exceeds the {smallest} images of the smallest unseen class; lower it")
    if few_labels(labels, config) == 0 or len(labels["ood"][fit].unique()) < 2:
        few = "leaves less than one image of each unseen class to fit the probes on; raise it"
        refuse("ood_fit_fraction", few)
    folds = [rows for rows, _ in ood_folds(labels["ood"], config.ood_folds)]
    try:
        draws = list(few_label_draws(labels, config))
    except ValueError:
        name = dataset.class_names[int(torch.bincount(labels["train"]).argmin())]
        raise ConfigError(
            f"class '{name}' has one training image, too few to draw as many labels of each class; add "
            "images of it, or leave the class out"
        ) from None
    fewest = min(map(len, (fit, *folds, *draws)))
    if config.neighbours > fewest:
        refuse("neighbours", f"exceeds the {fewest} fitted images; lower it")
    if config.sweep:
        _check_sweep(labels, fit, fewest, config)


def _check_sweep(labels: Labels, fit: Tensor, fewest: int, config: EvaluationConfig) -> None:
    if min(config.sweep_neighbours) > fewest:
        raise ConfigError(
            f"evaluation.sweep_neighbours: none of {config.sweep_neighbours} is at most {fewest}, the "
            "number of fitted images; add a smaller one"
        )
    for name, fitted in (("training", labels["train"]), ("OOD", labels["ood"][fit])):
        try:
            held_out(fitted)
        except ValueError as error:
            raise ConfigError(
                f"evaluation.sweep: no fifth of the {name} images can be held out to choose C ({error}); "
                "use more images a class, or set it to false"
            ) from None
