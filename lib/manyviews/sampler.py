"""Which images, and which two views of each, form a batch."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


class PairSampler:
    """Pairs of views in batches that never hold an image twice.

    An epoch is n_views / 2 passes. Each pass walks all images in an order of its own, with one pair of
    views for each image; over the epoch a random pairing uses each of an image's views once.
    A batch never reaches from one pass into the next, because an image could then meet itself in it. So
    each pass ends in a partial batch where batch_size does not divide n_images. It is kept, as in the
    report: dropped, it would leave out images and the epoch would no longer show every view. NT-Xent
    sees fewer negatives there.

    Args:
        n_images: images in the dataset, N.
        n_views: views of each image, V; even.
        batch_size: images in a batch, B; each brings two views.
        seed: the order depends on (seed, epoch) only.
    Raises:
        ValueError: n_views odd or below 2; batch_size below 1 or above n_images.
    """

    def __init__(self, n_images: int, n_views: int, batch_size: int, seed: int):
        if n_views < 2 or n_views % 2:
            raise ValueError(f"n_views must be even and at least 2, to form pairs, not {n_views}")
        if not 1 <= batch_size <= n_images:
            raise ValueError(
                f"batch_size must lie between 1 and the number of images, {n_images}, not {batch_size}: "
                "a batch may not hold an image twice"
            )
        self.n_images = n_images
        self.n_views = n_views
        self.batch_size = batch_size
        self.seed = seed

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.n_views // 2 * -(-self.n_images // self.batch_size)

    def epoch(self, epoch: int, device: torch.device | str = "cpu") -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of one epoch, on the device, to which they go once a pass and not at each step.

        Yields:
            images: image numbers, (B,) int64, no two equal.
            views: the two view numbers of each, (B, 2) int64.
        """
        generator = np.random.default_rng((self.seed, epoch))
        # A random order of each image's view numbers; pass p pairs those at places 2p and 2p + 1.
        views = np.tile(np.arange(self.n_views), (self.n_images, 1))  # (N, V)
        views = torch.from_numpy(generator.permuted(views, axis=1)).to(device)
        for first in range(0, self.n_views, 2):
            order = torch.from_numpy(generator.permutation(self.n_images)).to(device)  # (N,)
            for images in order.split(self.batch_size):
                yield images, views[images, first : first + 2]
