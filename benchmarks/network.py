"""The network's training step against what the processor can do."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import Contender, interleaved, rate
from benchmarks.training import BATCH, NETWORKS, Network, ours, random_images
from manyviews.runs.environment import dtype_name
from manyviews.simclr.numerics import has_bfloat16, resolve_device

SIDES = {"cpu": 2048, "cuda": 8192}  # of the matrices whose product gives the peak


def measure(repeats: int) -> list[dict[str, Any]]:
    """Rates of each network and, in turn, of matrix products."""
    device = resolve_device("auto")
    native, rows = has_bfloat16(device), []
    for network in NETWORKS:
        # Beside a device without bfloat16: the same step in float32, which tells what rounding costs.
        beside = product(torch.bfloat16, device) if native else network_alone(network, "float32")
        contenders = [network_alone(network), beside, product(torch.float32, device)]
        rows += interleaved(f"network: {network}", "GFLOP/s", contenders, repeats)
    return rows


def product(dtype: torch.dtype, device: torch.device) -> Contender:
    """The peak: a product of two large square matrices."""
    side = SIDES[device.type]
    a = torch.ones(side, side, dtype=dtype, device=device)
    return Contender(f"matrix product, {dtype_name(dtype)}", rate(lambda: a @ a, 2 * side**3 / 1e9, least=1))


def network_alone(network: Network, precision: str = "auto") -> Contender:
    """The training step on a ready batch, in GFLOP/s of its products and convolutions."""
    _, alone = ours(network, random_images(network), precision=precision)
    of_a_view = operations(alone.measure) / (network.steps * 2 * BATCH)
    name = "ours, network alone" if precision == "auto" else f"ours, network alone, {precision}"
    return Contender(name, lambda: alone.measure() * of_a_view / 1e9)


def operations(work: Callable[[], Any]) -> int:
    """Additions and multiplications of products and convolutions, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()
