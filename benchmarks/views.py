"""The random view transform alone, from images in memory to one batch of float32 tensors."""

from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import torch
import torchvision.transforms.v2 as transforms
from PIL import Image
from torch import Tensor

from benchmarks.timing import Contender, interleaved, is_installed, missing, rate
from benchmarks.training import pil_transform
from manyviews.augment import make_views
from manyviews.config import ViewConfig

DEVICE, THREADS = "cpu", 1
N = 256  # images of a batch, each of which gives a view
AS_BATCH, ONE_BY_ONE = "as a batch", "image by image"
LEAST = 0.5  # seconds of one measurement


def measure(repeats: int) -> list[dict[str, Any]]:
    """Views per second of the report's transform at three sizes, all on one core."""
    return [row for size in (16, 32, 64) for row in rows(size, repeats)]


def rows(size: int, repeats: int) -> list[dict[str, Any]]:
    case, unit = f"views: {size} px, one core", "views/s"
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (N, 3, size, size), dtype=np.uint8))
    contenders = [ours(images, size), torchvision_v2(images, size), pil(images, size)]
    others = {"kornia": kornia_batch, "lightly": lightly_one_by_one}
    contenders += [make(images, size) for package, make in others.items() if is_installed(package)]
    absent = [missing(case, package, unit) for package in others if not is_installed(package)]
    return interleaved(case, unit, contenders, repeats) + absent


def ours(images: Tensor, size: int) -> Contender:
    numbers, epochs = torch.arange(N), count()

    def batch() -> Tensor:
        return make_views(images, numbers, numbers % 2, next(epochs), seed=0, size=size, config=ViewConfig())

    return Contender("ours", rate(batch, N, LEAST), AS_BATCH)


def one_by_one(name: str, view: Callable[[Any], Tensor], images: list[Any]) -> Contender:
    """A transform of single images, as in the workers of a DataLoader."""
    return Contender(name, rate(lambda: torch.stack([view(image) for image in images]), N, LEAST), ONE_BY_ONE)


def as_pil(images: Tensor) -> list[Image.Image]:
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]


def torchvision_v2(images: Tensor, size: int) -> Contender:
    view = transforms.Compose(
        [
            transforms.RandomResizedCrop(size, (0.2, 1.0), antialias=True),
            transforms.RandomHorizontalFlip(),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8),
            transforms.RandomGrayscale(0.2),
            transforms.RandomApply([transforms.GaussianBlur(3 if size <= 32 else 5, (0.1, 2.0))], 0.5),
            transforms.ToDtype(torch.float32, scale=True),
        ]
    )
    return one_by_one("torchvision v2, uint8 tensors", view, list(images))


def pil(images: Tensor, size: int) -> Contender:
    return one_by_one("torchvision, PIL", pil_transform(size), as_pil(images))


def lightly_one_by_one(images: Tensor, size: int) -> Contender:
    from lightly.transforms.simclr_transform import SimCLRViewTransform

    view = SimCLRViewTransform(size, cj_strength=0.5, min_scale=0.2)
    return one_by_one("lightly", view, as_pil(images))


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
    return Contender("kornia", rate(lambda: views(images.float() / 255), N, LEAST), AS_BATCH)
