"""A study so small that whole runs of it can be made in tests, and a disk too small for its files."""

import resource
from contextlib import contextmanager
from typing import Any

from manyviews.config.runs import configure
from manyviews.config.schema import Profile, RunConfig

SIZES = dict.fromkeys(("classes", "ood_classes"), 3) | dict.fromkeys(
    ("train_per_class", "val_per_class", "ood_per_class"), 10
)
TRAINING = {"epochs": 2, "warmup_epochs": 1, "batch_size": 10, "learning_rate": 1e-3, "precision": "float64"}


def small_profile(**changes: Any) -> Profile:
    """The profile; `changes` replace whole sections, but for keys of `training`, which are replaced alone."""
    values = {
        "profile": "small",
        "device": "cpu",
        "data": {"name": "fractals", "image_size": 8, **SIZES},
        "network": {"width": 4, "feature_dim": 16, "projection_hidden": 16, "projection_dim": 8},
        "training": TRAINING | changes.pop("training", {}),
    }
    return Profile(**values | changes)


def small_run(run: str = "baseline", seed: int = 0, **changes: Any) -> RunConfig:
    """A run of it."""
    return configure(run, small_profile(**changes), seed)


@contextmanager
def full_disk(largest: int):
    """As if there were room for no file of more bytes: the system itself refuses what is beyond."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
