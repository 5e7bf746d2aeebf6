"""The network's step against what the processor can do, and where its time goes."""

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.timing import Contender, interleaved, rate, row
from benchmarks.training import NETWORKS, Network, make_config, ours, random_images
from manyviews.environment import dtype_name
from manyviews.experiment import PASSES_OF_A_TRAINING_STEP
from manyviews.models import count_multiply_adds
from manyviews.train import make_model, resolve_device, resolve_precision

SIDES = {"cpu": 2048, "cuda": 8192}  # of the matrices whose product gives the peak
KINDS = {  # of operations, by the names that torch gives them
    "convolutions and matrix products": ("conv", "mm", "bmm", "linear"),
    "BatchNorm": ("batch_norm",),
    "ReLU": ("clamp_min", "threshold", "relu"),
}


def measure(repeats: int) -> list[dict[str, Any]]:
    """Peaks of matrix products, the rate of each network, and the share of each kind of operation."""
    device = resolve_device("auto")
    precision = resolve_precision("auto", device)  # of the networks
    measured = interleaved("peak of matrix products", "GFLOP/s", peaks(device, precision), repeats)
    peak = measured[0]["median"]
    for network in NETWORKS:
        contender, work = network_alone(network)
        rows = interleaved(f"network: {network}", "GFLOP/s", [contender], repeats)
        rows[0]["note"] = f"{100 * rows[0]['median'] / peak:.0f} % of the peak in {dtype_name(precision)}"
        measured += rows + (shares(network, work, repeats) if device.type == "cpu" else [])
    return measured


def peaks(device: torch.device, precision: torch.dtype) -> list[Contender]:
    """The networks' precision first, and float32. An emulated bfloat16 would be no peak."""

    def product(dtype: torch.dtype) -> Contender:
        side = SIDES[device.type]
        a = torch.ones(side, side, dtype=dtype, device=device)
        return Contender(dtype_name(dtype), rate(lambda: [a @ a for _ in range(10)], 10 * 2 * side**3 / 1e9))

    return [product(dtype) for dtype in dict.fromkeys((precision, torch.float32))]


def network_alone(network: Network) -> tuple[Contender, Callable[[], float]]:
    """The training step on a ready batch, in GFLOP/s of forward, backward and weight gradients."""
    _, alone = ours(network, random_images(network))
    model = make_model(make_config(network))
    flops = 2 * PASSES_OF_A_TRAINING_STEP * count_multiply_adds(model, network.size)
    return Contender("ours, network alone", lambda: alone.measure() * flops / 1e9), alone.measure


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
