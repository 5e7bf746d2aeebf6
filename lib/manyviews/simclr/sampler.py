"""Which images, and which views of each, form a batch."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


class ViewSampler:
    """Views in batches that hold K views of each of their images, and no image twice beyond these.

    An epoch is V / K passes. Each pass walks all images in an order of its own, with one group of K views
    for each image; over the epoch a random grouping uses each of an image's V views once.
    A batch never reaches from one pass into the next, because an image could then meet itself in it. So
    each pass ends in a partial batch where batch_size does not divide n_images. It is kept, as in the
    original: dropped, it would leave out images and the epoch would no longer show every view. NT-Xent
    sees fewer negatives there.

    Args:
        n_images: images in the dataset, N.
        n_views: views of each image, V.
        batch_size: images in a batch, B; each brings K views.
        seed: the order depends on (seed, epoch) and the sizes only.
        views_per_batch: views of an image that are in one batch, K; pairs, as in the original, by default.
    Raises:
        ValueError: views_per_batch below 2 or no divisor of n_views; batch_size below 1 or above n_images.
    """

    def __init__(self, n_images: int, n_views: int, batch_size: int, seed: int, views_per_batch: int = 2):
        if views_per_batch < 2 or n_views < 2 or n_views % views_per_batch:
            raise ValueError(
                f"n_views must be a multiple of views_per_batch, which is at least 2, not {n_views} and "
                f"{views_per_batch}"
            )
        if not 1 <= batch_size <= n_images:
            raise ValueError(
                f"batch_size must lie between 1 and the number of images, {n_images}, not {batch_size}: "
                "a batch may not hold an image twice"
            )
        self.n_images = n_images
        self.n_views = n_views
        self.batch_size = batch_size
        self.seed = seed
        self.views_per_batch = views_per_batch

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.n_views // self.views_per_batch * -(-self.n_images // self.batch_size)

    def epoch(self, epoch: int, device: torch.device | str = "cpu") -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of one epoch, on the device, to which they go once a pass and not at each step.

        Yields:
            images: image indices, (B,) int64, no two equal.
            views: the view indices of each, (B, K) int64.
        """
        generator = np.random.default_rng((self.seed, epoch))
        # A random order of each image's view indices; pass p groups those at places pK to pK + K - 1.
        views = np.tile(np.arange(self.n_views), (self.n_images, 1))  # (N, V)
        views = torch.from_numpy(generator.permuted(views, axis=1)).to(device)
        for group in views.split(self.views_per_batch, dim=1):  # (N, K)
            order = torch.from_numpy(generator.permutation(self.n_images)).to(device)  # (N,)
            for images in order.split(self.batch_size):
                yield images, group[images]
