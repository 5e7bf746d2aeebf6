"""Made-up runs, for tests of what is computed from results."""

from pathlib import Path

import pandas as pd

from manyviews.config import RunConfig
from manyviews.results import ACCURACIES, RUNS, Run

DEPTHS = {"baseline": (18, "conv3", 2), "resnet34": (34, "conv7", 2), "views8": (34, "conv7", 8)}


def made_up_run(name: str, seed: int, final: float, start: float = 0.1, synthetic: bool = True) -> Run:
    """A run whose four accuracies rise evenly from `start` to `final` over four epochs."""
    depth, stem, n_views = DEPTHS[name]
    metrics = pd.DataFrame(
        [
            {
                "epoch": epoch,
                "steps": epoch * 5 * n_views,
                "images_forwarded": epoch * 100 * n_views,
                "learning_rate": 0.1,
                "loss_nats": 5.0 - epoch,
                **dict.fromkeys(ACCURACIES, start + (final - start) * epoch / 4),
                "linear_converged": True,
            }
            for epoch in range(5)
        ]
    )
    sizes = dict.fromkeys(("classes", "ood_classes", "train_per_class", "val_per_class", "ood_per_class"), 10)
    config = RunConfig(
        run=name,
        depth=depth,
        stem=stem,
        n_views=n_views,
        profile="made-up",
        seed=seed,
        data={"name": "fractals" if synthetic else "tiny-imagenet", "image_size": 16, **sizes},
        training={"epochs": 4, "warmup_epochs": 1, "learning_rate": 0.1},
    ).model_dump(mode="json")
    per_view = 1_000_000 * depth
    summary = metrics.drop(columns="learning_rate").iloc[-1].to_dict() | {
        "parameters": 1_000_000 * depth,
        "multiply_adds_per_view": per_view,
        "multiply_adds": 3 * per_view * 400 * n_views,
        "synthetic": synthetic,
        "classes": 10,
        "ood_classes": 10,
        "train_images": 100,
        "val_images": 50,
        "ood_fit_images": 80,
        "ood_test_images": 20,
    }
    environment = {
        "dataset": "made-up",
        "data_sha256": "abc",
        "git_commit": "def",
        "wall_time_s": 60.0,
        "cpu_time_s": 120.0,
    }
    return Run(Path("nowhere"), config, summary, environment, metrics)


def made_up_runs(finals: dict[str, list[float]], **kind) -> dict[str, list[Run]]:
    """Runs by name, a seed for each final accuracy."""
    return {
        name: [made_up_run(name, seed, final, **kind) for seed, final in enumerate(finals[name])]
        for name in RUNS
        if name in finals
    }
