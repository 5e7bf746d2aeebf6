"""One training on several processes, which torchrun or `launch` starts: each has a part of every batch.

A batch, its loss and its gradient are those of one process. Where there is one process, nothing here does
anything. With gloo, on processors, it is tested. What is for GPUs, NCCL and synchronised
BatchNorm, is written to PyTorch's documentation and was not run.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")
PATIENCE = timedelta(days=2)  # others wait while the first process puts the network to the probes
LOST = (
    "another process of this run has ended, by an error, which it tells, or killed; the same command goes on "
    "after the last whole epoch"
)


class NoDevice(ValueError):
    """A process finds no GPU of its own."""


class ProcessLost(RuntimeError):
    """Another process of this training has ended before its time."""


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Be one of the processes that torchrun has started; on GPUs, each takes one of its machine.

    Args:
        device: cpu, cuda or auto, see numerics.resolve_device.
    Raises:
        NoDevice: more processes than GPUs, or one GPU for all.
        ProcessLost: another process has ended while this one waited for it.
    """
    if not dist.is_available() or not dist.is_torchelastic_launched():
        yield
        return
    if device != "cpu" and torch.cuda.is_available():
        here, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if here > gpus or ":" in device:
            raise NoDevice(
                f"{here} processes, a machine with {gpus} GPUs and device '{device}': each takes a GPU of "
                "its own; have device: auto in the profile, and --nproc-per-node no more than there are"
            )
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(timeout=PATIENCE)  # gloo for tensors on processors, NCCL for those on GPUs
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise ProcessLost(LOST) from error
        raise
    dist.destroy_process_group()  # after a failure, it could wait for those that are gone


def launch(n: int, work: Callable[..., T], *arguments: Any) -> list[T | Exception]:
    """What a function gives, or raises, in each of n new processes here, by PyTorch's elastic launcher.

    Args:
        n: processes; they share the threads of this one.
        work: of a module, so that the others find it; calls `joined`.
        arguments: picklable.
    Raises:
        ProcessLost: one was killed; the others are ended.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    here = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "max_restarts": 0, "shutdown_timeout": 2}
    here["signals_to_handle"] = "SIGUSR2"  # it would keep those of Ctrl-C and of a kernel's end for good
    threads = max(1, torch.get_num_threads() // n)
    try:
        given = elastic_launch(LaunchConfig(1, 1, n, **here), _launched)(threads, work, arguments)
    except ChildFailedError as error:
        raise ProcessLost(LOST) from error
    return [given[rank] for rank in range(n)]


def _launched(threads: int, work: Callable[..., T], arguments: tuple) -> T | Exception:
    """Do the work of one of the processes of launch, which ends where that one ends."""

    def end_with_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        return work(*arguments)
    except Exception as error:
        return error


def n_processes() -> int:
    """Processes that train together, P; 1 if torchrun has not started this one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this is the process that writes."""
    return n_processes() == 1 or dist.get_rank() == 0


def from_first(work: Callable[[], T]) -> T:
    """What a function gives in the first process, in all of them; it is called in that one alone."""
    if n_processes() == 1:
        return work()
    given = [work() if is_first() else None]
    dist.broadcast_object_list(given, src=0)
    return given[0]


def total(value: float, device: torch.device) -> float:
    """Sum of a number over all processes."""
    if n_processes() == 1:
        return value
    summed = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(summed)
    return summed.item()


def share(batch: Tensor) -> Tensor:
    """This process's rows of a batch: parts in order, of which no two differ by more than one row."""
    return batch if n_processes() == 1 else batch.tensor_split(n_processes())[dist.get_rank()]


def gather(z: Tensor, n_images: int) -> Tensor:
    """The network's outputs for a whole batch, from all processes, with the gradient of the batch's loss.

    Every process forms the loss of the whole batch. To it, the rows of others are constants: its own rows
    have their whole gradient here, as anchors and as others' negatives, and no gradient need travel back.
    DistributedDataParallel will take the mean over P processes of what is to be summed: hence the factor.

    Args:
        z: outputs for share(images), (K b, D): all first views, all second, ...
        n_images: of the whole batch, B.
    Returns:
        (K B, D): all first views of the B images in order, all second, ...
    Source: objective.py of google-research/simclr, where the views of all replicas are negatives; the own
        rows among constant ones as in gather_features of open_clip.
    """
    if n_processes() == 1:
        return z
    sizes = [len(part) for part in torch.arange(n_images).tensor_split(n_processes())]
    rank, most = dist.get_rank(), max(sizes)
    own = z.view(-1, sizes[rank], z.shape[1])  # (K, b, D)
    padded = F.pad(own, (0, 0, 0, most - sizes[rank]))  # (K, most, D): what is sent has one shape
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded.detach())
    if z.requires_grad:
        z.register_hook(lambda gradient: gradient * n_processes())
    parts[rank] = padded
    return torch.cat([part[:, :size] for part, size in zip(parts, sizes, strict=True)], dim=1).flatten(0, 1)


def synchronise_batch_norm(model: nn.Module) -> nn.Module:
    """Have BatchNorm see the batch of all processes, where they are several, each with a GPU.

    PyTorch has it for GPUs alone: on processors BatchNorm sees each process's part, as if the batch were that
    small, and the probes read the running statistics of the first process.
    """
    if n_processes() > 1 and next(model.parameters()).is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model


def side_by_side(module: nn.Module) -> nn.Module:
    """A module whose parameters have, after each backward pass, the gradients of all processes."""
    if n_processes() == 1:
        return module
    return DistributedDataParallel(module, forward_sync_buffers=False)  # see synchronise_batch_norm
