"""The device and the number formats of a network, and what makes it repeat to the bit."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

PRODUCTS = (F.conv2d, F.linear)  # the products of a network's layers


def resolve_device(name: str) -> torch.device:
    """The device of that name; `auto` is a GPU where there is one.

    Raises:
        ValueError: a GPU was asked for that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device '{name}': this machine has {torch.cuda.device_count()} GPUs; use 'auto'")
    return device


def resolve_precision(name: str) -> torch.dtype:
    """The type of the network's products; `auto` is bfloat16, on any device."""
    return torch.bfloat16 if name == "auto" else getattr(torch, name)


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 numbers itself, in a way that PyTorch uses."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has = torch.cpu.get_capabilities()
    return has.get("avx512_bf16", False) or has.get("amx_bf16", False)


def by_rounding(precision: torch.dtype, device: torch.device) -> bool:
    """Whether products of that type are made by RoundedProducts on a device."""
    return precision == torch.bfloat16 and not has_bfloat16(device)


@contextmanager
def mixed_precision(precision: torch.dtype, device: torch.device, rounding: bool) -> Iterator[None]:
    """Within the block, a network of float32 weights has its products in bfloat16, if that is the precision.

    Any other precision is the type of the weights, and nothing changes.

    Args:
        precision: of the products.
        device: of the network.
        rounding: see by_rounding.
    """
    if precision != torch.bfloat16:
        yield
        return
    with torch.autocast(device.type, torch.bfloat16), RoundedProducts(device) if rounding else nullcontext():
        yield


class RoundedProducts(TorchFunctionMode):
    """Products of bfloat16 numbers on a device that has only those of float32, about as fast as these.

    As autocast does, it rounds to bfloat16 what enters a layer's product and what leaves it, and so their
    gradients; a weight once, so that its gradients of several products are added in bfloat16. In between,
    float32 holds the product of two bfloat16 numbers exactly and adds them up, as devices do that have
    bfloat16. Without this, PyTorch's own way was seen to take twelve times as long on a processor.
    """

    def __init__(self, device: torch.device):
        super().__init__()
        self._device = device
        self._weights: dict[Tensor, Tensor] = {}  # rounded

    def __torch_function__(
        self, function: Callable, types: Any, arguments: Sequence = (), options: Mapping | None = None
    ) -> Any:
        options = options or {}
        if function not in PRODUCTS:
            return function(*arguments, **options)
        with torch.autocast(self._device.type, enabled=False):
            arguments = [self._rounded(value) for value in arguments]
            options = {name: self._rounded(value) for name, value in options.items()}
            return function(*arguments, **options).bfloat16()

    def _rounded(self, value: Any) -> Any:
        """A tensor, rounded to bfloat16, as float32; anything else as it is."""
        if not isinstance(value, Tensor):
            return value
        if not (value.is_leaf and value.requires_grad):
            return value.bfloat16().float()
        if value not in self._weights:
            self._weights[value] = value.bfloat16()
        return self._weights[value].float()


def repeatable() -> AbstractContextManager[None]:
    """On a GPU, the algorithms that repeat to the bit, not the fastest, and no shortened float32."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
