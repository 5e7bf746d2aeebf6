"""The network's step against what the processor can do, and where its time goes."""

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.table import PRODUCTS
from benchmarks.timing import Contender, interleaved, rate, row
from benchmarks.training import BATCH, NETWORKS, Network, ours, random_images
from manyviews.environment import dtype_name
from manyviews.train import resolve_device, resolve_precision

SIDES = {"cpu": 2048, "cuda": 8192}  # of the matrices whose product gives the peak
KINDS = {  # of operations, by the names that torch gives them
    PRODUCTS: ("conv", "mm", "bmm", "linear"),
    "BatchNorm": ("batch_norm",),
    "ReLU": ("clamp_min", "threshold", "relu"),
}


def measure(repeats: int) -> list[dict[str, Any]]:
    """Rates of each network and, in turn, of matrix products; and the share of each kind of operation."""
    device = resolve_device("auto")
    precision = resolve_precision("auto", device)  # of the networks
    products = [product(dtype, device) for dtype in dict.fromkeys((precision, torch.float32))]
    measured = []
    for network in NETWORKS:
        contender, work = network_alone(network)
        measured += interleaved(f"network: {network}", "GFLOP/s", [contender, *products], repeats)
        measured += shares(network, work, repeats) if device.type == "cpu" else []
    return measured


def product(dtype: torch.dtype, device: torch.device) -> Contender:
    """The peak: a product of two large square matrices. Emulated bfloat16 would be none and is not asked."""
    side = SIDES[device.type]
    a = torch.ones(side, side, dtype=dtype, device=device)
    return Contender(f"matrix product, {dtype_name(dtype)}", rate(lambda: a @ a, 2 * side**3 / 1e9, least=1))


def network_alone(network: Network) -> tuple[Contender, Callable[[], float]]:
    """The training step on a ready batch, in GFLOP/s of its products and convolutions."""
    _, alone = ours(network, random_images(network))
    of_a_view = operations(alone.measure) / (network.steps * 2 * BATCH)
    return Contender("ours, network alone", lambda: alone.measure() * of_a_view / 1e9), alone.measure


def operations(work: Callable[[], Any]) -> int:
    """Additions and multiplications of products and convolutions, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def shares(network: Network, work: Callable[[], float], repeats: int) -> list[dict[str, Any]]:
    """Per cent of a step's processor time in each kind of operation; the rest is what remains."""
    measured: dict[str, list[float]] = {kind: [] for kind in (*KINDS, "all else")}
    for _ in range(repeats):
        for kind, share in profiled(work).items():
            measured[kind].append(share)
    return [row(f"time of: {network}", kind, "%", values) for kind, values in measured.items()]


def profiled(work: Callable[[], float]) -> dict[str, float]:
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    times = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    total = sum(times.values())
    found = {
        kind: 100 * sum(time for key, time in times.items() if any(name in key for name in names)) / total
        for kind, names in KINDS.items()
    }
    return found | {"all else": 100 - sum(found.values())}
