"""Where and in what number formats a network computes, and that it repeats to the bit."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
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
    """Whether a device multiplies bfloat16 numbers itself."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


@contextmanager
def mixed_precision(precision: torch.dtype, device: torch.device) -> Iterator[None]:
    """Within the block, a network of float32 weights has its products in bfloat16, if that is the precision.

    Any other precision is the type of the weights, and nothing changes.
    """
    if precision != torch.bfloat16:
        yield
    elif has_bfloat16(device):
        with torch.autocast(device.type, torch.bfloat16):
            yield
    else:
        with torch.autocast(device.type, torch.bfloat16), RoundedProducts():
            yield


class RoundedProducts(TorchFunctionMode):
    """Products of bfloat16 numbers on a device that has only those of float32, about as fast as these.

    What enters a layer's product, and what leaves it, is rounded to bfloat16; so are its gradients. In
    between, float32 holds the product of two bfloat16 numbers exactly and adds them up, as devices do that
    have bfloat16. Without this, PyTorch's own way was seen to take twelve times as long on a processor.
    """

    def __torch_function__(
        self, function: Callable, types: Any, arguments: Sequence = (), options: Mapping | None = None
    ) -> Any:
        options = options or {}
        if function not in PRODUCTS:
            return function(*arguments, **options)
        arguments = [_rounded(value) for value in arguments]
        options = {name: _rounded(value) for name, value in options.items()}
        with torch.autocast(arguments[0].device.type, enabled=False):
            return function(*arguments, **options).bfloat16()


def _rounded(value: Any) -> Any:
    return value.bfloat16().float() if isinstance(value, Tensor) else value


def repeatable() -> AbstractContextManager[None]:
    """On a GPU, the algorithms that repeat to the bit, not the fastest, and no shortened float32."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
