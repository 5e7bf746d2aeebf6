"""One training on two processes, beside one process with all threads and beside two trainings at once."""

import time
from contextlib import nullcontext
from functools import partial
from itertools import count
from typing import Any

import torch

from benchmarks.timing import Contender, interleaved
from benchmarks.training import BATCH, NETWORKS, RECIPE, Network, make_model, random_images
from manyviews.simclr.processes import joined, launch
from manyviews.simclr.train import Trainer, repeatable, resolve_precision

STEPS = 60  # after 5 that warm up


def measure(repeats: int) -> list[dict[str, Any]]:
    """Views per second of each way to use two cores, on the processor; batch and network are the same."""
    rows = []
    for network in (NETWORKS[0], NETWORKS[2]):
        contenders = [
            Contender("one run, 2 processes", partial(views_per_second, 2, network, True), "gloo"),
            Contender("one run, 1 process", partial(views_per_second, 1, network, True), "all threads"),
            Contender("two runs at once", partial(views_per_second, 2, network, False), "both together"),
        ]
        rows += interleaved(f"processes: {network}", "views/s", contenders, repeats, warm_up=False)
    return rows


def views_per_second(n: int, network: Network, together: bool) -> float:
    """Rate of n new processes that share the threads of this one and train together, or each for itself."""
    rates = launch(n, train, network, together)
    for rate in rates:
        if isinstance(rate, Exception):
            raise rate
    return rates[0] if together else sum(rates)


def train(network: Network, together: bool) -> float:
    """Views that a training forwards in a second, those of all its processes; their start is not counted."""
    with joined("cpu") if together else nullcontext(), repeatable():
        cpu = torch.device("cpu")
        precision = resolve_precision("auto", cpu)
        trainer = Trainer(make_model(network, cpu), random_images(network), RECIPE, precision=precision)
        batches = (batch for g in count() for batch in trainer.sampler.batches(g, cpu))
        for step in range(5 + STEPS):
            if step == 5:
                started = time.perf_counter()
            trainer._step(*next(batches), 1e-3)
        return STEPS * 2 * BATCH / (time.perf_counter() - started)
