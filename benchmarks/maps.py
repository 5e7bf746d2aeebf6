"""Views of images that are mapped into memory, as a built dataset is, beside images that lie in it."""

import mmap
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.timing import Contender, interleaved, rate
from benchmarks.training import BATCH, NETWORKS, RECIPE, Network, ours, random_images
from manyviews.simclr.views import make_views

DEVICE = "cpu"
N_IMAGES = 1_000_000  # 12 GB at 64 pixels
BATCHES = 40  # of one measurement
NETWORK = NETWORKS[3]._replace(steps=4)  # the fastest at 64 pixels


def measure(repeats: int) -> list[dict[str, Any]]:
    """Views per second from a map of a million images, read before or not, from memory, and of a training."""
    case = f"maps: two views of {BATCH} images, {NETWORK.size} px"
    with tempfile.TemporaryDirectory() as folder:
        mapped = np.load(made_file(Path(folder) / "images.npy", NETWORK), mmap_mode="c")
        images = torch.from_numpy(mapped).permute(0, 3, 1, 2)
        contenders = [
            Contender("from a map", views_of(images), f"of {N_IMAGES:,} images, read before"),
            Contender("from memory", views_of(random_images(NETWORK._replace(steps=100)))),
            Contender("from a map, not read", views_of(images, lambda: forget(mapped)), "all from the disk"),
        ]
        training = ours(NETWORK, random_images(NETWORK), DEVICE)[0]
        contenders.append(Contender("a training", training.measure, f"views, and the steps of {NETWORK}"))
        return interleaved(case, "views/s", contenders, repeats)


def made_file(path: Path, network: Network) -> Path:
    """Images of random pixels, as a dataset that is built stores them."""
    shape = (N_IMAGES, network.size, network.size, 3)
    images = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    generator = np.random.default_rng(0)
    for piece in np.array_split(np.arange(N_IMAGES), 100):
        images[piece[0] : piece[-1] + 1] = generator.integers(0, 256, (len(piece), *shape[1:]), np.uint8)
    images.flush()
    return path


def views_of(images: Tensor, before: Callable[[], None] = lambda: None) -> Callable[[], float]:
    """A measure: views of images drawn from all; `before` is not timed."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.arange(2).repeat_interleave(BATCH)

    def work() -> None:
        for _ in range(BATCHES):
            drawn = torch.randint(len(images), (BATCH,), generator=generator).repeat(2)
            make_views(images, drawn, draws, seed=0, size=NETWORK.size, strengths=RECIPE.strengths)

    measured = rate(work, BATCHES * 2 * BATCH)

    def measured_afterwards() -> float:
        before()
        return measured()

    return measured_afterwards


def forget(mapped: np.memmap) -> None:
    """Have the system drop what it keeps of a file in memory; all of it is on the disk."""
    mapped._mmap.madvise(mmap.MADV_DONTNEED)  # the pages of this process
    with Path(mapped.filename).open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
