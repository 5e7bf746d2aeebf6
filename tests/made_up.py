"""Made-up runs, for tests of what is computed from results."""

from pathlib import Path

import numpy as np
import pandas as pd

from manyviews.evaluation import MEASURES
from manyviews.results import ACCURACIES, FURTHER, Run
from manyviews.rows import ROWS, configure

N_IMAGES = 1000  # scored in each split
N_CLASSES = 10
COLUMNS = ("knn", "linear", "knn_folds", "linear_folds")


def made_up_predictions(share: float, **others: float) -> pd.DataFrame:
    """Probes that are right for the first images of each class, up to a share, and else one class off.

    Args:
        share: of all columns but those of `others`.
        others: shares by column: knn, linear, knn_folds or linear_folds.
    """
    label = np.arange(N_IMAGES) % N_CLASSES
    place = np.arange(N_IMAGES) // N_CLASSES  # of an image in its class
    columns = {
        name: (label + (place >= round(of_column * N_IMAGES / N_CLASSES))) % N_CLASSES
        for name, of_column in (dict.fromkeys(COLUMNS, share) | others).items()
    }
    both = [
        pd.DataFrame({"split": s, "image": range(N_IMAGES), "label": label} | columns) for s in ("id", "ood")
    ]
    return pd.concat(both, ignore_index=True)


def made_up_ladder(share: float) -> pd.DataFrame:
    """Two rungs, of trained and of random weights, for training and for unseen classes."""
    knn = {"layer": "fc", "normalised": False, "probe": "knn", "neighbours": 5, "accuracy": share}
    linear = {"layer": "fc", "normalised": False, "probe": "linear_swept", "c": 10.0, "accuracy": share}
    return pd.DataFrame(
        [
            rung | {"task": task, "weights": weights, "converged": True if "c" in rung else None}
            for rung in (knn, linear)
            for task in ("id", "ood")
            for weights in ("trained", "initial")
        ]
    )


def made_up_run(name: str, seed: int, final: float, start: float = 0.1, synthetic: bool = True) -> Run:
    """A run whose four accuracies rise evenly from `start` to `final`, measured at five times.

    It has four epochs, or as many times that as its row says.
    """
    sizes = dict.fromkeys(("classes", "ood_classes", "train_per_class", "val_per_class", "ood_per_class"), 10)
    shared = {
        "profile": "made-up",
        "seed": seed,
        "data": {"name": "fractals" if synthetic else "tiny-imagenet", "image_size": 16, **sizes},
        "training": {"epochs": 4, "warmup_epochs": 1, "learning_rate": 0.1},
    }
    config = configure(name, shared)
    epochs, n_views = config.training.epochs, config.n_views
    every = epochs // 4 if epochs % 4 == 0 else epochs / 4
    metrics = pd.DataFrame(
        [
            {
                "epoch": epoch * every,
                "steps": epoch * every * 5 * n_views,
                "images_forwarded": epoch * every * 100 * n_views,
                "learning_rate": 0.1,
                "loss_nats": 5.0 - epoch,
                **dict.fromkeys(ACCURACIES, start + (final - start) * epoch / 4),
                "linear_converged": True,
            }
            for epoch in range(5)
        ]
    )
    per_view = 1_000_000 * config.depth
    summary = metrics.drop(columns="learning_rate").iloc[-1].to_dict() | {
        "parameters": 1_000_000 * config.depth,
        "multiply_adds_per_view": per_view,
        "multiply_adds": 3 * per_view * 400 * every * n_views,
        "synthetic": synthetic,
        "classes": 10,
        "ood_classes": 10,
        "train_images": 100,
        "val_images": 50,
        "ood_fit_images": 80,
        "ood_test_images": 20,
        "few_labels_per_class": 8,
        **dict.fromkeys(FURTHER, final),
        "initial": dict.fromkeys(MEASURES, start),
    }
    environment = {
        "dataset": "made-up",
        "data_sha256": "abc",
        "git_commit": "def",
        "precision": "float32",
        "wall_time_s": 60.0,
        "cpu_time_s": 120.0,
        "class_names": [f"class {label}" for label in range(N_CLASSES)],
        "ood_class_names": [f"unseen {label}" for label in range(N_CLASSES)],
    }
    return Run(
        folder=Path("nowhere") / name / f"seed{seed}",
        config=config.model_dump(mode="json"),
        summary=summary,
        environment=environment,
        metrics=metrics,
        predictions=made_up_predictions(final),
        initial_predictions=made_up_predictions(start),
        ladder=made_up_ladder(final),
        neighbours=pd.DataFrame({"split": ["id", "ood"], "right": [True, False]}),
        feature_map=pd.DataFrame(
            {"split": ["id"] * 4, "label": [0, 0, 1, 1], "x": [0, 1, 9, 8], "y": [0.0] * 4}
        ),
    )


def made_up_runs(finals: dict[str, list[float]], **kind) -> dict[str, list[Run]]:
    """Runs by name, a seed for each final accuracy."""
    return {
        name: [made_up_run(name, seed, final, **kind) for seed, final in enumerate(finals[name])]
        for name in ROWS
        if name in finals
    }
