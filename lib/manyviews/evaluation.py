"""What the probes are asked: the report's four accuracies, and the controls of how they are measured.

Training classes (ID): fitted on the training images, scored on the validation images. Unseen classes (OOD):
fitted on some of their images, scored on the others. Features are not changed and images not augmented.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit
from torch import Tensor, nn
from tqdm import tqdm

from manyviews.config import ConfigError, EvaluationConfig
from manyviews.data import OOD_SEED, SPLITS, Dataset, ood_split
from manyviews.probes import fit_linear, fit_linear_path, knn_predict, nearest, weighted_knn_predict

# Accuracy: its split, and the column of the predictions that it is computed from.
MEASURES = {
    "id_knn_accuracy": ("id", "knn"),
    "id_linear_accuracy": ("id", "linear"),
    "ood_knn_accuracy": ("ood", "knn"),
    "ood_linear_accuracy": ("ood", "linear"),
    "ood_knn_folds_accuracy": ("ood", "knn_folds"),
    "ood_linear_folds_accuracy": ("ood", "linear_folds"),
}
HELD_OUT = 0.2  # of the fitted images, on which the ladder chooses C
RAW_PIXELS_SIDE = 32  # to which larger images are averaged, so that a linear probe of them is affordable

Features = dict[str, Tensor]  # (N, D) for each of SPLITS
Labels = dict[str, Tensor]  # (N,) int64 for each of SPLITS


def split_tensors(dataset: Dataset, device: torch.device) -> tuple[dict[str, Tensor], Labels]:
    """Images (N, 3, H, W) uint8 and labels (N,) of a dataset, by split, on a device."""
    images = {name: getattr(dataset, name).as_tensor().to(device) for name in SPLITS}
    labels = {name: torch.from_numpy(getattr(dataset, name).labels).to(device) for name in SPLITS}
    return images, labels


@torch.inference_mode()
def extract_features(backbone: nn.Sequential, images: Tensor, batch_size: int) -> dict[str, Tensor]:
    """Features of whole images, without augmentation.

    Args:
        backbone: (B, 3, H, W) -> (B, D), its last layer the `fc`. Used in evaluation mode, and put back.
        images: (N, 3, H, W) uint8.
        batch_size: images at a time; has no effect on the result beyond rounding.
    Returns:
        "fc" (N, D), what the report's probes read, and "pooled" (N, 8 x width), what the fc reads; both on
        the backbone's device and of the type of its weights.
    """
    weight = next(backbone.parameters())
    training = backbone.training
    backbone.eval()
    pooled = []
    for batch in images.split(batch_size):
        x = batch.to(weight.device, weight.dtype).div_(255).contiguous(memory_format=torch.channels_last)
        pooled.append(backbone[:-1](x))
    fc = [backbone[-1](x) for x in pooled]
    backbone.train(training)
    return {"fc": torch.cat(fc), "pooled": torch.cat(pooled)}


def all_features(backbone: nn.Sequential, images: dict[str, Tensor], batch_size: int) -> dict[str, Features]:
    """Features of all splits: {"fc": {split: (N, D)}, "pooled": {split: (N, 8 x width)}}."""
    by_split = {name: extract_features(backbone, of_split, batch_size) for name, of_split in images.items()}
    return {layer: {name: by_split[name][layer] for name in by_split} for layer in ("fc", "pooled")}


@dataclass(frozen=True)
class Prediction:
    """Classes that the two probes give to some images."""

    knn: Tensor  # (M,) int64
    linear: Tensor  # (M,) int64
    converged: bool  # the linear fit
    gradient_norm: float  # where it ended, see probes.LinearProbe


@dataclass
class LinearFits:
    """How the linear fits of an evaluation ended."""

    converged: bool = True  # all of them
    gradient_norm: float = 0.0  # the largest, see probes.LinearProbe

    def note(self, prediction: Prediction) -> Prediction:
        """Take a fit into account; gives it back."""
        self.converged &= prediction.converged
        self.gradient_norm = max(self.gradient_norm, prediction.gradient_norm)
        return prediction

    def columns(self) -> dict[str, Any]:
        """As metrics and summary have them."""
        return {"linear_converged": self.converged, "linear_gradient_norm": self.gradient_norm}


def predict(fit: Tensor, labels: Tensor, test: Tensor, config: EvaluationConfig) -> Prediction:
    """Fit the report's two probes to features (N, D) with labels (N,) and apply them to others (M, D)."""
    n_classes = int(labels.max()) + 1
    _, numbers = nearest(fit, test, config.neighbours)
    linear = fit_linear(fit, labels, config.linear_c, config.linear_max_iter)
    knn = knn_predict(labels, numbers, n_classes)
    return Prediction(knn, linear.predict(test), linear.converged, linear.gradient_norm)


def share(predicted: Tensor, labels: Tensor) -> float:
    """Share of images whose predicted class is the right one."""
    return (predicted == labels).double().mean().item()


def report_accuracies(features: Features, labels: Labels, config: EvaluationConfig) -> dict[str, Any]:
    """The report's four accuracies, and how the linear fits ended: the columns of a run's metrics."""
    fit, test = (torch.from_numpy(rows) for rows in ood_split(len(labels["ood"]), config.ood_fit_share))
    ood, ood_labels = features["ood"], labels["ood"]
    fits = LinearFits()
    of_id = fits.note(predict(features["train"], labels["train"], features["val"], config))
    of_ood = fits.note(predict(ood[fit], ood_labels[fit], ood[test], config))
    return {
        "id_knn_accuracy": share(of_id.knn, labels["val"]),
        "id_linear_accuracy": share(of_id.linear, labels["val"]),
        "ood_knn_accuracy": share(of_ood.knn, ood_labels[test]),
        "ood_linear_accuracy": share(of_ood.linear, ood_labels[test]),
    } | fits.columns()


# ------------------------------------------------------------------------------------- final evaluation


def ood_folds(labels: Tensor, folds: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Numbers of the OOD images to fit on and to score, so that each is scored once; stratified by class."""
    splitter = StratifiedKFold(folds, shuffle=True, random_state=OOD_SEED)
    for fit, test in splitter.split(np.zeros(len(labels)), labels.cpu().numpy()):
        yield torch.from_numpy(fit), torch.from_numpy(test)


def few_labels(labels: Labels, config: EvaluationConfig) -> int:
    """Labels a class that the OOD probes are fitted on, or as many as the training images have."""
    n_fit = len(ood_split(len(labels["ood"]), config.ood_fit_share)[0])
    ood_classes, classes = (int(labels[name].max()) + 1 for name in ("ood", "train"))
    return min(n_fit // ood_classes, len(labels["train"]) // classes)


def few_label_draws(labels: Labels, config: EvaluationConfig) -> Iterator[Tensor]:
    """Numbers of training images, with as many labels a class as the OOD probes are fitted on."""
    train = labels["train"].cpu().numpy()
    n_classes = int(train.max()) + 1
    n_fit = few_labels(labels, config) * n_classes
    if len(train) - n_fit < n_classes:  # nothing to draw: that many labels are all there are
        yield torch.arange(len(train))
        return
    draws = StratifiedShuffleSplit(config.few_label_draws, train_size=n_fit, random_state=OOD_SEED)
    for fit, _ in draws.split(np.zeros(len(train)), train):
        yield torch.from_numpy(fit)


def final_predictions(
    features: Features, labels: Labels, config: EvaluationConfig, fits: LinearFits
) -> pd.DataFrame:
    """What the probes say of each scored image.

    Args:
        features, labels, config: as for all evaluations.
        fits: is told how the linear fits ended.
    Returns:
        A row for each validation image (split "id") and each image of unseen classes ("ood"). Columns: split,
        image (its number in the split), label, knn, linear, and for OOD knn_folds and linear_folds, where
        each image is scored once. What was not scored is missing.
    """
    of_id = fits.note(predict(features["train"], labels["train"], features["val"], config))
    ood, ood_labels = features["ood"], labels["ood"]
    columns = {name: np.full(len(ood), -1) for name in ("knn", "linear", "knn_folds", "linear_folds")}
    parts = [("", *map(torch.from_numpy, ood_split(len(ood), config.ood_fit_share)))]
    parts += [("_folds", fit, test) for fit, test in ood_folds(ood_labels, config.ood_folds)]
    for suffix, fit, test in parts:
        of_ood = fits.note(predict(ood[fit], ood_labels[fit], ood[test], config))
        columns[f"knn{suffix}"][test] = of_ood.knn.cpu()
        columns[f"linear{suffix}"][test] = of_ood.linear.cpu()
    tables = [
        {"split": "id", "label": labels["val"].cpu(), "knn": of_id.knn.cpu(), "linear": of_id.linear.cpu()},
        {"split": "ood", "label": ood_labels.cpu(), **columns},
    ]
    frames = [pd.DataFrame(table).rename_axis("image").reset_index() for table in tables]
    frame = pd.concat(frames, ignore_index=True)
    order = ["split", "image", "label", "knn", "linear", "knn_folds", "linear_folds"]
    whole = frame[order].astype(dict.fromkeys(order[1:], "Int64"))
    return whole.where(whole != -1)


def correct(predictions: pd.DataFrame, measure: str) -> pd.Series:
    """Whether each scored image was classified right, by its number; see MEASURES."""
    split, column = MEASURES[measure]
    rows = predictions[(predictions["split"] == split) & predictions[column].notna()].set_index("image")
    return (rows[column] == rows["label"]).astype(bool)


def accuracies(predictions: pd.DataFrame) -> dict[str, float]:
    """The share of images classified right, for each of MEASURES."""
    return {measure: float(correct(predictions, measure).mean()) for measure in MEASURES}


def few_label_accuracies(
    features: Features, labels: Labels, config: EvaluationConfig, fits: LinearFits
) -> dict[str, float]:
    """ID accuracies of probes that see no more labels a class than the OOD probes; means over some draws."""
    train, train_labels = features["train"], labels["train"]
    shares = []
    for rows in few_label_draws(labels, config):
        of_draw = fits.note(predict(train[rows], train_labels[rows], features["val"], config))
        shares.append((share(of_draw.knn, labels["val"]), share(of_draw.linear, labels["val"])))
    knn, linear = np.mean(shares, axis=0).tolist()
    return {"id_few_labels_knn_accuracy": knn, "id_few_labels_linear_accuracy": linear}


# --------------------------------------------------------------------------------------------- the ladder


def ladder(layers: dict[str, Features], labels: Labels, config: EvaluationConfig, name: str) -> pd.DataFrame:
    """Accuracies under other choices of the probe: how much of a result is the measure's doing?

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
    fit, test = map(torch.from_numpy, ood_split(len(labels["ood"]), config.ood_fit_share))
    rows = []
    stages = [(layer, normalised) for layer in layers for normalised in (False, True)]
    for layer, normalised in tqdm(stages, desc=name, unit="rung"):
        x = layers[layer]
        if normalised:
            x = {split: F.normalize(of_split, dim=1) for split, of_split in x.items()}
        tasks = {
            "id": (x["train"], labels["train"], x["val"], labels["val"]),
            "ood": (x["ood"][fit], labels["ood"][fit], x["ood"][test], labels["ood"][test]),
        }
        for task, sets in tasks.items():
            rungs = [*_knn_rungs(*sets, normalised, config), *_linear_rungs(*sets, config)]
            rows += [{"layer": layer, "normalised": normalised, "task": task, **rung} for rung in rungs]
    return pd.DataFrame(rows).astype({"neighbours": "Int64", "converged": "boolean"})


def _knn_rungs(
    fit: Tensor, fit_labels: Tensor, test: Tensor, labels: Tensor, normalised: bool, config: EvaluationConfig
) -> Iterator[dict[str, Any]]:
    """k-NN with each number of neighbours that there are images for."""
    possible = [k for k in config.ladder_neighbours if k <= len(fit)]
    n_classes = int(fit_labels.max()) + 1
    distances, numbers = nearest(fit, test, max(possible))
    for k in possible:
        predicted = knn_predict(fit_labels, numbers[:, :k], n_classes)
        yield {"probe": "knn", "neighbours": k, "accuracy": share(predicted, labels)}
        if normalised:
            weighted = weighted_knn_predict(fit_labels, distances[:, :k], numbers[:, :k], n_classes)
            yield {"probe": "weighted_knn", "neighbours": k, "accuracy": share(weighted, labels)}


def _linear_rungs(
    fit: Tensor, fit_labels: Tensor, test: Tensor, labels: Tensor, config: EvaluationConfig
) -> Iterator[dict[str, Any]]:
    """The linear probe at the configured C, and at one that suits the fitted images best."""
    cs = {"linear": config.linear_c, "linear_swept": choose_c(fit, fit_labels, config)}
    fitted = fit_linear_path(fit, fit_labels, list(cs.values()), config.linear_max_iter)
    for probe, linear in zip(cs, fitted, strict=True):
        accuracy = share(linear.predict(test), labels)
        yield {"probe": probe, "c": linear.c, "accuracy": accuracy, "converged": linear.converged}


def choose_c(features: Tensor, labels: Tensor, config: EvaluationConfig) -> float:
    """The C with the best accuracy on a held-out part of the fitted images; of equals the smallest."""
    fit, held_out = _held_out(labels)
    path = fit_linear_path(features[fit], labels[fit], sorted(config.ladder_c), config.linear_max_iter)
    shares = {linear.c: share(linear.predict(features[held_out]), labels[held_out]) for linear in path}
    return max(shares, key=shares.get)


# ------------------------------------------------------------------------------------------------- floors


def raw_pixel_predictions(
    images: dict[str, Tensor], labels: Labels, config: EvaluationConfig, fits: LinearFits
) -> pd.DataFrame:
    """What the probes say from the pixels themselves: the floor that a representation must rise above.

    Args:
        images: (N, 3, H, W) uint8, by split, on the device that is to do the work.
        labels, config, fits: see final_predictions.
    """
    pixels = {}
    for name, of_split in images.items():
        side = min(of_split.shape[-1], RAW_PIXELS_SIDE)
        parts = [F.adaptive_avg_pool2d(part.float() / 255, side).flatten(1) for part in of_split.split(4096)]
        pixels[name] = torch.cat(parts)  # (N, 3 x side x side) in [0, 1]
    return final_predictions(pixels, labels, config, fits)


def check_probes(dataset: Dataset, config: EvaluationConfig) -> None:
    """See that the probes have images enough, before anything is trained: all splits are tried on the labels.

    Raises:
        ConfigError: they have not; names the key to change.
    """
    labels = {name: torch.from_numpy(getattr(dataset, name).labels) for name in SPLITS}
    fit, test = ood_split(len(labels["ood"]), config.ood_fit_share)
    if len(test) == 0:
        raise ConfigError(
            f"evaluation.ood_fit_share {config.ood_fit_share} leaves no OOD image to score; lower it"
        )
    smallest = int(torch.bincount(labels["ood"]).min())
    if config.ood_folds > smallest:
        raise ConfigError(
            f"evaluation.ood_folds {config.ood_folds} exceeds the {smallest} images of the smallest unseen "
            "class; lower it"
        )
    if few_labels(labels, config) == 0:
        raise ConfigError(
            f"evaluation.ood_fit_share {config.ood_fit_share} leaves less than one image of each unseen "
            "class to fit the probes on; raise it"
        )
    folds = [rows for rows, _ in ood_folds(labels["ood"], config.ood_folds)]
    fewest = min(len(rows) for rows in (fit, *folds, *few_label_draws(labels, config)))
    if config.neighbours > fewest:
        raise ConfigError(
            f"evaluation.neighbours {config.neighbours} exceeds the {fewest} fitted images; lower it"
        )
    if config.ladder:
        _check_ladder(labels, fit, fewest, config)


def _check_ladder(labels: Labels, fit: np.ndarray, fewest: int, config: EvaluationConfig) -> None:
    if min(config.ladder_neighbours) > fewest:
        raise ConfigError(
            f"evaluation.ladder_neighbours: none of {config.ladder_neighbours} is at most {fewest}, the "
            "number of fitted images; add a smaller one"
        )
    for name, fitted in (("training", labels["train"]), ("OOD", labels["ood"][fit])):
        try:
            _held_out(fitted)
        except ValueError as error:
            raise ConfigError(
                f"evaluation.ladder: no fifth of the {name} images can be held out to choose C ({error}); "
                "use more images a class, or set it to false"
            ) from None


def _held_out(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of the images to fit on and of those to choose C on."""
    splitter = StratifiedShuffleSplit(1, test_size=HELD_OUT, random_state=OOD_SEED)
    fit, held_out = next(splitter.split(np.zeros(len(labels)), labels.cpu().numpy()))
    return torch.from_numpy(fit), torch.from_numpy(held_out)
