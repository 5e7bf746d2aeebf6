"""Made-up runs, for tests of what is computed from results.

No two columns, classes or seeds are alike, so that one taken for another shows: each measure has its own
accuracy, training and unseen classes differ in number, classes in size and accuracy, errors in direction, and
each seed is right on other images.
"""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd

from manyviews.config.runs import configure, run_specs
from manyviews.config.schema import Profile
from manyviews.probes.predictions import MEASURES
from manyviews.runs.store import CURVES, Run, Runs

SPLITS = {"id": (1000, 10), "ood": (800, 8)}  # images, classes; k-NN and linear score every second OOD image
# By how much each measure lies above the k-NN accuracy on training classes, which a test gives.
ABOVE = dict(zip(MEASURES, (0, 0.06, -0.05, 0.035, -0.04, 0.02), strict=True))
FEW_LABELS = {"id_few_labels_knn_accuracy": -0.02, "id_few_labels_linear_accuracy": 0.045}
SIZES = {"classes": 10, "ood_classes": 8, "train_images": 200, "val_images": 1000}
SIZES |= {"ood_fit_images": 400, "ood_test_images": 400, "few_labels_per_class": 15}
SHIFTS = (-0.05, 0.01, 0.04)  # of seeds; so far apart that little is decided but on pairs of one seed
CURVE = (0, 0.4, 0.7, 0.9, 1)  # of the way from the first to the final accuracy, after each quarter


def made_up_labels(split: str) -> np.ndarray:
    """Labels of a split's images; each class is larger than the one before."""
    n_images, n_classes = SPLITS[split]
    ends = np.cumsum(np.arange(n_classes) + n_classes)
    return np.searchsorted(ends / ends[-1], np.arange(n_images) / n_images, side="right")


def made_up_predictions(knn: float, seed: int = 0, **accuracies: float) -> pd.DataFrame:
    """Predictions with exact accuracies, to one in the number of scored images.

    Two of one seed are right on the same images, as far as both are right; the wrong ones are taken for the
    next class or, those with an odd label, for the third after it. The first classes are right more often.

    Args:
        knn: accuracy of k-NN on training classes; the others lie beside it, see ABOVE.
        seed: which images are right first.
        accuracies: of other measures, in place of those.
    """
    tables = {
        split: pd.DataFrame({"split": split, "image": range(n), "label": made_up_labels(split)})
        for split, (n, _) in SPLITS.items()
    }
    for place, (measure, (split, column)) in enumerate(MEASURES.items()):
        table, n_classes = tables[split], SPLITS[split][1]
        labels, images = table["label"], table["image"]
        scored = (images % 2 == 1) | (split == "id") | ("folds" in column)
        drawn = np.random.default_rng([seed, place]).random(len(images))
        order = np.argsort(np.where(scored, drawn * (1 + labels / n_classes), np.inf))
        accuracy = np.clip(accuracies.get(measure, knn + ABOVE[measure]), 0, 1)
        right = images.isin(order[: round(accuracy * scored.sum())])
        wrong = (labels + 1 + 2 * (labels % 2)) % n_classes
        table[column] = labels.where(right, wrong).where(scored).astype("Int64")
    return pd.concat(tables.values(), ignore_index=True)


def made_up_profile() -> Profile:
    """A profile of four epochs."""
    sizes = {
        "classes": 10,
        "ood_classes": 8,
        "train_per_class": 20,
        "val_per_class": 100,
        "ood_per_class": 100,
    }
    return Profile(
        profile="made-up",
        seeds=(0, 1, 2),
        data={"name": "fractals", "image_size": 16, **sizes},
        training={"epochs": 4, "warmup_epochs": 1, "batch_size": 64, "learning_rate": 0.1},
    )


def made_up_run(
    name: str,
    seed: int,
    final: float,
    start: float = 0.1,
    curve: Sequence[float] = CURVE,
    synthetic: bool = True,
    **environment: str,
) -> Run:
    """A run whose accuracies go from `start` to `final`, measured at five times, and its tables.

    Args:
        name: of a run of notebooks/runs.yaml, whose length, views and depth it has.
        seed: of the run.
        final, start: of k-NN on training classes with the final and the initial weights; the others lie
            beside it, see ABOVE.
        curve: of the way between, at each of the five times.
        synthetic: whether the images are.
        environment: entries to replace, such as precision="bfloat16".
    """
    config = configure(name, made_up_profile(), seed)
    n_views, n_epochs = config.n_views, config.training.epochs
    epochs = np.arange(5) * n_epochs / 4
    metrics = pd.DataFrame({"epoch": epochs.astype(int) if n_epochs % 4 == 0 else epochs})
    metrics["steps"] = metrics["epoch"] * 2 * n_views
    metrics["views_forwarded"] = metrics["epoch"] * 200 * n_views
    metrics["learning_rate"] = [np.nan, 0.1, 0.075, 0.03, 0.002]
    metrics["loss_nats"] = [np.nan, 4.5, 3.75, 3.5 + seed / 100, 3.25 - final]
    for measure in CURVES:
        metrics[measure] = np.clip(start + (final - start) * np.array(curve) + ABOVE[measure], 0, 1)
    metrics = metrics.assign(linear_converged=True, linear_gradient_norm=1e-5)
    per_view = 1_000_000 * config.depth * config.network.width
    last = metrics.drop(columns="learning_rate").iloc[-1].to_dict()
    return Run(
        name=name,
        seed=seed,
        config=config,
        summary=last
        | {
            "parameters": 300_000 * config.depth,
            "macs_per_view": per_view,
            "macs": 3 * per_view * last["views_forwarded"],
            "synthetic": synthetic,
            **SIZES,
            **{measure: final + above for measure, above in (ABOVE | FEW_LABELS).items()},
            "initial": {measure: start + above for measure, above in ABOVE.items()},
        },
        environment={
            "dataset": "fractals" if synthetic else "tiny-imagenet",
            "data_sha256": "abc",
            "git_commit": "def",
            "device_type": "cpu",
            "device": "a processor",
            "precision": "float32",
            "wall_time_s": 60.0 + 10 * seed + config.depth,
            "cpu_time_s": 120.0 + 7 * seed,
            "final_evaluation_time_s": 5.0 + seed,
            "class_names": [f"class {label}" for label in range(10)],
            "ood_class_names": [f"unseen {label}" for label in range(8)],
        }
        | environment,
        metrics=metrics,
        predictions=made_up_predictions(final, seed),
        initial_predictions=made_up_predictions(start, seed),
        sweep=made_up_sweep(final, start),
    )


def around(mean: float) -> list[float]:
    """Final accuracies of three seeds."""
    return [mean + shift for shift in SHIFTS]


def made_up_runs(finals: dict[str, Sequence[float]], **kind) -> Runs:
    """Runs by name, in the order of notebooks/runs.yaml, a seed for each final accuracy."""
    return {
        name: [made_up_run(name, seed, final, **kind) for seed, final in enumerate(finals[name])]
        for name in run_specs().runs
        if name in finals
    }


def made_up_sweep(final: float, start: float) -> pd.DataFrame:
    """Two probes, with trained and initial weights, of training and unseen classes."""
    knn, linear = {"probe": "knn", "neighbours": 5}, {"probe": "linear_swept", "c": 10.0, "converged": True}
    rows = [
        {"layer": layer, "normalised": layer == "pooled", "task": task, "weights": weights, **probe}
        | {"accuracy": accuracy + (0.07 if probe == linear else 0) + (0.05 if task == "id" else 0)}
        for layer, probe, task in product(("fc", "pooled"), (knn, linear), ("id", "ood"))
        for weights, accuracy in (("trained", final), ("initial", start))
    ]
    return pd.DataFrame(rows)
