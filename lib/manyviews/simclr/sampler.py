"""Which images, and which views of each, form a batch."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


class ViewSampler:
    """Batches that hold K views of each of their images, and no image twice beyond these.

    Training is a sequence of passes. Each walks all images in an order of its own, with K views of each:
    pass g has the draws gK to gK + K - 1 of every image (see views.make_views). An epoch of V views is V / K
    passes and nothing more: V views for E epochs and two views for V / 2 times as many are one training.

    With `distinct` views an image has only the draws 0 to distinct - 1, used again and again. Each round of
    distinct / K passes uses each of them once: the first in order, so that as many distinct views as training
    draws are the same as fresh ones, later rounds in a random order for each image, so that all pairs meet.

    A batch never reaches from one pass into the next, because an image could then meet itself in it. So
    each pass ends in a partial batch where batch_size does not divide n_images. It is kept, as in the
    original: dropped, it would leave out images. NT-Xent sees fewer negatives there.

    >>> sampler = ViewSampler(n_images=5, batch_size=3, seed=0)
    >>> for images, draws in sampler.batches(1):  # the second pass
    ...     print(images.tolist(), draws.tolist())
    [1, 4, 3] [[2, 3], [2, 3], [2, 3]]
    [0, 2] [[2, 3], [2, 3]]

    Args:
        n_images: images in the dataset, N.
        batch_size: images in a batch, B; each brings K views.
        seed: of the orders.
        views_per_batch: views of an image that are in one batch, K; pairs, as in the original, by default.
        distinct: views of an image over the whole training; None draws fresh ones for ever, as the original.
    Raises:
        ValueError: views_per_batch below 2; batch_size below 1 or above n_images; distinct no multiple of
            views_per_batch.
    """

    def __init__(
        self,
        n_images: int,
        batch_size: int = 256,
        seed: int = 0,
        views_per_batch: int = 2,
        distinct: int | None = None,
    ):
        if views_per_batch < 2:
            raise ValueError(f"views_per_batch must be at least 2, not {views_per_batch}")
        if not 1 <= batch_size <= n_images:
            raise ValueError(
                f"batch_size must lie between 1 and the number of images, {n_images}, not {batch_size}: "
                "a batch may not hold an image twice"
            )
        if distinct is not None and (distinct < 1 or distinct % views_per_batch):
            raise ValueError(
                f"distinct must be a multiple of views_per_batch, {views_per_batch}, not {distinct}"
            )
        self.n_images, self.batch_size, self.seed = n_images, batch_size, seed
        self.views_per_batch, self.distinct = views_per_batch, distinct

    def __len__(self) -> int:
        """Batches in a pass."""
        return -(-self.n_images // self.batch_size)

    def batches(self, g: int, device: torch.device | str = "cpu") -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of pass g, counted from the start of training; they go to the device once a pass.

        Yields:
            images: image indices, (B,) int64, no two equal.
            draws: which views of each, (B, K) int64, see views.make_views.
        """
        order = torch.from_numpy(np.random.default_rng((self.seed, g)).permutation(self.n_images))  # (N,)
        draws = torch.from_numpy(self._draws(g)).to(device)  # (N, K)
        for images in order.to(device).split(self.batch_size):
            yield images, draws[images]

    def _draws(self, g: int) -> np.ndarray:
        """Which views of each image pass g has: (N, K) int64."""
        per_batch = self.views_per_batch
        passes = None if self.distinct is None else self.distinct // per_batch  # of a round
        if passes is None or g < passes:
            return np.tile(np.arange(g * per_batch, (g + 1) * per_batch), (self.n_images, 1))
        generator = np.random.default_rng((self.seed, g // passes, 1))  # 1: another stream than the orders
        views = generator.permuted(np.tile(np.arange(self.distinct), (self.n_images, 1)), axis=1)
        first = g % passes * per_batch
        return views[:, first : first + per_batch]
