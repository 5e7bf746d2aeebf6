"""Training on images that are mapped into memory, as a built dataset is, beside images that lie in it."""

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
from benchmarks.training import BATCH, RECIPE, Network, make_model, random_images, steps_of
from manyviews.data.dataset import map_images
from manyviews.simclr.numerics import resolve_precision
from manyviews.simclr.train import Trainer

DEVICE = torch.device("cpu")
N_IMAGES = 1_000_000  # 12 GB at 64 pixels
NETWORK = Network(18, "conv7", 16, 64, 8)  # a fast one for its size: reading matters the most


def measure(repeats: int) -> list[dict[str, Any]]:
    """Views per second from a map of a million images, of which no batch was read before, and from memory."""
    with tempfile.TemporaryDirectory() as folder:
        mapped = map_images(made_file(Path(folder) / "images.npy"))
        images = torch.from_numpy(mapped).permute(0, 3, 1, 2)
        contenders = [
            Contender("from the disk", training(images, lambda: forget(mapped)), f"a map of {N_IMAGES:,}"),
            Contender("from memory", training(random_images(NETWORK._replace(steps=100)))),
        ]
        return interleaved(f"maps: {NETWORK}", "views/s", contenders, repeats)


def made_file(path: Path) -> Path:
    """Images of random pixels, as a dataset that is built stores them."""
    shape = (N_IMAGES, NETWORK.size, NETWORK.size, 3)
    images = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    generator = np.random.default_rng(0)
    for piece in np.array_split(np.arange(N_IMAGES), 100):
        images[piece[0] : piece[-1] + 1] = generator.integers(0, 256, (len(piece), *shape[1:]), np.uint8)
    images.flush()
    return path


def training(images: Tensor, before: Callable[[], None] = lambda: None) -> Callable[[], float]:
    """A measure of a training's next steps; `before` is not timed."""
    trainer = Trainer(make_model(NETWORK, DEVICE), images, RECIPE, precision=resolve_precision("auto"))
    steps = rate(steps_of(trainer, NETWORK.steps), NETWORK.steps * 2 * BATCH)

    def measured() -> float:
        before()
        return steps()

    return measured


def forget(mapped: np.memmap) -> None:
    """Have the system drop what it keeps of a file in memory; all of it is on the disk."""
    mapped._mmap.madvise(mmap.MADV_DONTNEED)  # the pages of this process
    with Path(mapped.filename).open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
