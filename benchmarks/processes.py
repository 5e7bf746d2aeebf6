"""One training on two processes, beside one process with all threads and beside two trainings at once."""

from contextlib import nullcontext
from functools import partial
from typing import Any

from benchmarks.timing import Contender, interleaved
from benchmarks.training import NETWORKS, Network, ours, random_images
from manyviews.simclr.processes import joined, launch

DEVICE = "cpu"
STEPS = 60  # of one measurement


def measure(repeats: int) -> list[dict[str, Any]]:
    """Views per second of each way to use two cores, on the processor; batch and network are the same."""
    rows = []
    for network in (NETWORKS[0]._replace(steps=STEPS), NETWORKS[2]._replace(steps=STEPS)):
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
    with joined(DEVICE) if together else nullcontext():
        rates = [ours(n, random_images(n), DEVICE)[0].measure() for n in (network._replace(steps=5), network)]
        return rates[-1]  # the first few steps warm up
