"""Training on images that are mapped into memory, as a built dataset is, beside images that lie in it."""

import mmap
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.timing import Contender, interleaved, rate
from benchmarks.training import BATCH, NETWORKS, RECIPE, Network, make_model, random_images, steps_of
from manyviews.simclr.train import Trainer, resolve_precision

DEVICE = "cpu"
N_IMAGES = 1_000_000  # 12 GB at 64 pixels
STEPS = 12  # of one measurement


def measure(repeats: int) -> list[dict[str, Any]]:
    """Views per second from a map of a million images, its file read before and not, and from memory."""
    network = NETWORKS[3]._replace(steps=STEPS)
    with tempfile.TemporaryDirectory() as folder:
        mapped = np.load(made_file(Path(folder) / "images.npy", network), mmap_mode="c")
        images = torch.from_numpy(mapped).permute(0, 3, 1, 2)
        contenders = [
            Contender("from a map", measured(network, images), f"of {N_IMAGES:,} images, read before"),
            Contender("from memory", measured(network, random_images(network))),
            Contender(
                "from a map, not read",
                measured(network, images, lambda: forget(mapped)),
                "its file is on the disk alone",
            ),
        ]
        return interleaved(f"maps: {network}", "views/s", contenders, repeats)


def made_file(path: Path, network: Network) -> Path:
    """Images of random pixels, as a dataset that is built stores them."""
    shape = (N_IMAGES, network.size, network.size, 3)
    images = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    generator = np.random.default_rng(0)
    for piece in np.array_split(np.arange(N_IMAGES), 100):
        images[piece[0] : piece[-1] + 1] = generator.integers(0, 256, (len(piece), *shape[1:]), np.uint8)
    images.flush()
    return path


def measured(
    network: Network, images: torch.Tensor, before: Callable[[], None] = lambda: None
) -> Callable[[], float]:
    """A measure of the training's next steps; `before` is not timed."""
    device = torch.device(DEVICE)
    precision = resolve_precision("auto", device)
    trainer = Trainer(make_model(network, device), images, RECIPE, precision=precision)
    steps = rate(steps_of(trainer, network.steps), network.steps * 2 * BATCH)

    def measured_steps() -> float:
        before()
        return steps()

    return measured_steps


def forget(mapped: np.memmap) -> None:
    """Have the system drop what it keeps of a file in memory; all of it is on the disk."""
    mapped._mmap.madvise(mmap.MADV_DONTNEED)  # the pages of this process
    with Path(mapped.filename).open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
