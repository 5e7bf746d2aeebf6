"""Made-up runs, for tests of what is computed from results."""

from pathlib import Path

import pandas as pd

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
    config = {
        "run": name,
        "depth": depth,
        "stem": stem,
        "n_views": n_views,
        "profile": "made-up",
        "seed": seed,
        "data": {"name": "fractals", "image_size": 16},
        "network": {"width": 8, "feature_dim": 1000, "projection_norm": True},
        "views": {
            "crop_scale": [0.2, 1.0],
            "flip_p": 0.5,
            "jitter_p": 0.8,
            "brightness": 0.4,
            "contrast": 0.4,
            "saturation": 0.4,
            "hue": 0.1,
            "grayscale_p": 0.2,
            "blur_p": 0.5,
        },
        "training": {
            "epochs": 4,
            "warmup_epochs": 1,
            "schedule_per": "epoch",
            "batch_size": 64,
            "temperature": 0.5,
            "optimizer": "adamw",
            "learning_rate": 0.1,
            "weight_decay": 0.0,
            "joint_forward": False,
        },
        "evaluation": {"neighbours": 5, "linear_c": 1.0},
    }
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
    environment = {"dataset": "made-up", "git_commit": "abc", "wall_time_s": 60.0, "cpu_time_s": 120.0}
    return Run(Path("nowhere"), config, summary, environment, metrics)


def made_up_runs(finals: dict[str, list[float]], **kind) -> dict[str, list[Run]]:
    """Runs by name, a seed for each final accuracy."""
    return {
        name: [made_up_run(name, seed, final, **kind) for seed, final in enumerate(finals[name])]
        for name in RUNS
        if name in finals
    }
