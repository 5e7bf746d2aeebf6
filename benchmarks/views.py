"""The random view transform alone, from images in memory to one batch of float32 tensors."""

from collections.abc import Callable
from importlib.util import find_spec
from itertools import count
from typing import Any

import numpy as np
import torch
from lightly.transforms.simclr_transform import SimCLRViewTransform
from PIL import Image
from torch import Tensor

from benchmarks.timing import Contender, interleaved, rate
from benchmarks.training import pil_transform
from manyviews.simclr.views import ViewStrengths, make_views

DEVICE, THREADS = "cpu", 1
N = 256  # images of a batch, each of which gives a view
LEAST = 0.5  # seconds of one measurement


def measure(repeats: int) -> list[dict[str, Any]]:
    """Views per second of the original's transform at three sizes, all on one core."""
    rows, rng = [], np.random.default_rng(0)
    for size in (16, 32, 64):
        images = torch.from_numpy(rng.integers(0, 256, (N, 3, size, size), dtype=np.uint8))
        lightly = SimCLRViewTransform(size, cj_strength=0.5, min_scale=0.2)
        contenders = [ours(images, size), one_by_one("torchvision, PIL", pil_transform(size), images)]
        contenders.append(one_by_one("lightly", lightly, images))
        contenders += [kornia_batch(images, size)] if find_spec("kornia") else []
        rows += interleaved(f"views: {size} px, one core", "views/s", contenders, repeats)
    return rows


def ours(images: Tensor, size: int) -> Contender:
    indices, draws, strengths = torch.arange(N), count(), ViewStrengths()

    def batch() -> Tensor:
        draw = torch.full_like(indices, next(draws))
        return make_views(images, indices, draw, seed=0, size=size, strengths=strengths)

    return Contender("ours", rate(batch, N, LEAST), "as a batch")


def one_by_one(name: str, view: Callable[[Any], Tensor], images: Tensor) -> Contender:
    """A transform of single PIL images, as in the workers of a DataLoader."""
    opened = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    work = rate(lambda: torch.stack([view(image) for image in opened]), N, LEAST)
    return Contender(name, work, "image by image")


def kornia_batch(images: Tensor, size: int) -> Contender:
    import kornia.augmentation as K

    kernel = 3 if size <= 32 else 5
    views = K.AugmentationSequential(
        K.RandomResizedCrop((size, size), (0.2, 1.0)),
        K.RandomHorizontalFlip(),
        K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        K.RandomGrayscale(p=0.2),
        K.RandomGaussianBlur((kernel, kernel), (0.1, 2.0), p=0.5),
        same_on_batch=False,
    )
    return Contender("kornia", rate(lambda: views(images.float() / 255), N, LEAST), "as a batch")
