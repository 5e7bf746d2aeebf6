"""Real features for the benchmark of the probes: Tiny-ImageNet through a trained and an untrained network."""

import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from manyviews.config import DataConfig, NetworkConfig, RunConfig, TrainingConfig, ViewConfig
from manyviews.data import load_dataset
from manyviews.evaluation import extract_features
from manyviews.files import replacing
from manyviews.train import Trainer, make_model

CONFIG = RunConfig(
    run="baseline",
    profile="benchmark",
    depth=18,
    stem="imagenet",
    n_views=2,
    data=DataConfig(name="tiny-imagenet", image_size=32),
    network=NetworkConfig(width=64, projection_norm=True),
    views=ViewConfig(blur_p=0.0),
    training=TrainingConfig(
        epochs=2, warmup_epochs=1, schedule_per="step", batch_size=256, temperature=0.2, learning_rate=2e-3
    ),
)
BATCH = 512  # images


def cache() -> Path:
    """Where features of this configuration are kept: $MANYVIEWS_BENCHMARK_CACHE, or the temporary files."""
    default = Path(tempfile.gettempdir()) / "manyviews-benchmarks"
    recipe = hashlib.sha256(CONFIG.model_dump_json().encode()).hexdigest()
    return Path(os.environ.get("MANYVIEWS_BENCHMARK_CACHE") or default) / recipe[:12]


def load(backbone: str) -> dict[str, np.ndarray]:
    """Features (N, 1000) float32 and labels (N,) of photographs, upright and turned; made on the first call.

    The network is a ResNet-18 of full width at 32 x 32 pixels. The 50,000 training and 5,000 validation
    photographs come first, then the same turned by 90 degrees, as classes 100 to 199: that is how 100
    classes become 200.

    Args:
        backbone: "trained", by 392 steps of SimCLR, or "random", as initialised.
    Returns:
        fit, fit_labels, queries, query_labels.
    """
    path = cache() / f"features-{backbone}.npz"
    if not path.exists():
        features = _make(backbone)
        with replacing(path) as new, new.open("wb") as file:
            np.savez(file, **features)
    with np.load(path) as file:
        return dict(file)


def _make(backbone: str) -> dict[str, np.ndarray]:
    dataset = load_dataset(CONFIG.data)
    images, queries = dataset.train.as_tensor(), dataset.val.as_tensor()
    if backbone == "trained":
        trainer = Trainer(CONFIG, images, torch.from_numpy(dataset.train.labels), cache(), lambda _: {})
        trainer.run()
        network = trainer.model.backbone
    else:
        network = make_model(CONFIG).backbone
    return {
        "fit": _both_ways_up(network, images),
        "fit_labels": np.concatenate([dataset.train.labels, dataset.train.labels + dataset.train.n_classes]),
        "queries": _both_ways_up(network, queries),
        "query_labels": np.concatenate([dataset.val.labels, dataset.val.labels + dataset.train.n_classes]),
    }


def _both_ways_up(network: torch.nn.Sequential, images: Tensor) -> np.ndarray:
    turned = images.rot90(dims=(2, 3))
    return np.concatenate([extract_features(network, x, BATCH)["fc"].numpy() for x in (images, turned)])
