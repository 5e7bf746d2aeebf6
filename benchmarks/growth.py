"""Time and memory of training against the numbers of images, passes and images in a batch."""

import multiprocessing
import resource
import sys
import time
from typing import Any

import torch

from benchmarks.timing import row
from benchmarks.training import NETWORKS, make_config, make_trainer
from manyviews.config import RunConfig

DEVICE = "cpu"  # whose memory is measured
BASE = {"images": 500, "passes": 1, "batch": 64}
STEPS = {"images": (500, 2000, 8000), "passes": (1, 4, 16), "batch": (32, 64, 128)}


def measure(repeats: int) -> list[dict[str, Any]]:
    """Seconds and peak memory of an epoch of the demo's first network, each size in a process of its own."""
    rows = []
    for name, values in STEPS.items():
        for value in values:
            # A spawned process would count the memory of the one that spawned it to its own peak.
            with multiprocessing.get_context("forkserver").Pool(1) as fresh:
                seconds, peak = fresh.apply(epochs, (BASE | {name: value}, repeats))
            rows += [row(f"growth with {name}, time", f"{name}: {value}", "s", seconds)]
            rows += [row(f"growth with {name}, peak memory", f"{name}: {value}", "MB", [peak])]
    return sorted(rows, key=lambda one: one["case"])  # stable: sizes stay in order


def epochs(size: dict[str, int], repeats: int) -> tuple[list[float], float]:
    """Seconds of each of some epochs after a first, and the process's peak memory in MB."""
    network = NETWORKS[0]
    config = make_config(network).model_dump()
    config |= {"n_views": 2 * size["passes"], "device": DEVICE}
    config["training"] |= {"batch_size": size["batch"]}
    images = torch.zeros(size["images"], 3, network.size, network.size, dtype=torch.uint8)
    images += torch.arange(len(images))[:, None, None, None].to(torch.uint8)
    trainer = make_trainer(RunConfig(**config), images)
    seconds = []
    for epoch in range(repeats + 1):
        started = time.perf_counter()
        for batch in trainer.sampler.epoch(epoch):
            trainer._step(*batch, epoch, 1e-3)
        seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, KiB elsewhere
    return seconds[1:], peak / (1e6 if sys.platform == "darwin" else 1e6 / 1024)
