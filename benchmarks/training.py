"""Training from images in memory to updated weights: ours, lightly's recipe, and the original's with PIL."""

import time
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
import torchvision.transforms as transforms
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.timing import Contender, interleaved, rate
from manyviews.simclr import train
from manyviews.simclr.losses import nt_xent
from manyviews.simclr.models import SimCLR, make_simclr
from manyviews.simclr.numerics import has_bfloat16, repeatable, resolve_device, resolve_precision
from manyviews.simclr.train import Recipe, Trainer, make_optimizer, read_ahead
from manyviews.simclr.views import make_views

BATCH = 64  # images; each gives two views
TEMPERATURE = 0.2
RECIPE = Recipe(batch_size=BATCH, temperature=TEMPERATURE, learning_rate=1e-3)


class Network(NamedTuple):
    """A network and the images it is fed."""

    depth: int
    stem: str
    width: int
    size: int  # pixels
    steps: int  # of one measurement

    def __str__(self) -> str:
        return f"ResNet-{self.depth} {self.stem}, width {self.width}, {self.size} px"


NETWORKS = (
    Network(18, "conv3", 16, 16, 16),  # of the profile demo, as the next
    Network(34, "conv7", 16, 16, 16),
    Network(18, "conv3", 16, 32, 12),
    Network(34, "conv7", 16, 64, 4),
    Network(18, "conv3", 64, 64, 2),
)


def measure(repeats: int) -> list[dict[str, Any]]:
    """Views per second, end to end, and of our network alone; network, batch and temperature are the same."""
    device, rows = resolve_device("auto"), []
    for network in NETWORKS:
        # Other recipes wait for the first batch of their workers: each has several.
        network = network._replace(steps=max(network.steps, torch.get_num_threads()))
        images = random_images(network)
        others = [recipe(network, images, device) for recipe in (compiled, lightly_recipe, pil_recipe)]
        rows += interleaved(f"training: {network}", "views/s", ours(network, images) + others, repeats)
    return rows


def random_images(network: Network) -> Tensor:
    """Images for one measurement, (N, 3, H, W) uint8; their content has no influence on the time."""
    shape = (network.steps * BATCH, 3, network.size, network.size)
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def make_model(network: Network, device: torch.device) -> SimCLR:
    """A network of the demo's kind."""
    model = make_simclr(depth=network.depth, stem=network.stem, width=network.width, projection_norm=True)
    return model.to(device)


def ours(
    network: Network, images: Tensor, device_name: str = "auto", precision: str = "auto"
) -> list[Contender]:
    """Our trainer, and its step on views that are made already: the limit that views cannot pass."""
    device = resolve_device(device_name)
    trainer = Trainer(make_model(network, device), images, RECIPE, precision=resolve_precision(precision))
    steps = steps_of(trainer, network.steps)
    indices = torch.arange(2 * BATCH) % BATCH
    ready = make_views(
        trainer.images, indices, torch.arange(2 * BATCH) // BATCH,
        seed=0, size=network.size, strengths=RECIPE.strengths,
    ).contiguous(memory_format=trainer.layout)  # fmt: skip

    def steps_alone() -> None:
        with mock.patch.object(train, "make_views", return_value=ready):
            steps()

    n_views = network.steps * 2 * BATCH
    return [
        Contender("ours", rate(steps, n_views)),
        Contender("ours, network alone", rate(steps_alone, n_views), "the same step on one ready batch"),
    ]


def steps_of(trainer: Trainer, n: int) -> Callable[[], None]:
    """What makes the next n steps of a training."""
    every = (batch for g in count() for batch in trainer.sampler.batches(g, trainer.device))
    batches = read_ahead(every, trainer.images)

    def steps() -> None:
        with repeatable():
            for _ in range(n):
                trainer._step(*next(batches), 1e-3)

    return steps


def compiled(network: Network, images: Tensor, device: torch.device) -> Contender:
    """Our step with the network's operations fused, which are compiled before anything is measured."""
    model = make_model(network, device)
    model.compile(dynamic=False)
    trainer = Trainer(model, images, RECIPE, precision=resolve_precision("auto"))
    trainer.graphed = False
    steps = steps_of(trainer, network.steps)
    started = time.perf_counter()
    steps()
    note = f"torch.compile, {time.perf_counter() - started:.0f} s at first"
    return Contender("ours, compiled", rate(steps, network.steps * 2 * BATCH), note)


def data_loader(images: Tensor, transform: Callable[[Image.Image], list[Tensor]]) -> DataLoader:
    """Batches of two views of each image. The workers, one a core, live on: their start is not counted."""
    opened = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    settings = {"num_workers": torch.get_num_threads(), "persistent_workers": True, "shuffle": True}

    def views(batch: list[Image.Image]) -> list[Tensor]:
        return [torch.stack(view) for view in zip(*map(transform, batch), strict=True)]

    return DataLoader(opened, BATCH, collate_fn=views, pin_memory=torch.cuda.is_available(), **settings)


def lightly_recipe(network: Network, images: Tensor, device: torch.device) -> Contender:
    """The SimCLR example of lightly's documentation, with our network and temperature."""
    from lightly.loss import NTXentLoss
    from lightly.transforms import SimCLRTransform

    model = make_model(network, device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.06)
    criterion = NTXentLoss(temperature=TEMPERATURE)
    loader = data_loader(images, SimCLRTransform(input_size=network.size))

    def epoch() -> None:
        for x0, x1 in loader:
            loss = criterion(model(x0.to(device)), model(x1.to(device)))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return Contender("lightly's recipe", rate(epoch, 2 * len(images)), "float32, DataLoader")


def pil_transform(size: int) -> Callable[[Image.Image], Tensor]:
    """The original's transform of one image to one view."""
    jitter = transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)
    blur = transforms.GaussianBlur(3 if size <= 32 else 5, (0.1, 2.0))
    crop, flip = transforms.RandomResizedCrop(size, (0.2, 1.0)), transforms.RandomHorizontalFlip()
    colour = [transforms.RandomApply([jitter], 0.8), transforms.RandomGrayscale(0.2)]
    return transforms.Compose(
        [crop, flip, *colour, transforms.RandomApply([blur], 0.5), transforms.ToTensor()]
    )


def pil_recipe(network: Network, images: Tensor, device: torch.device) -> Contender:
    """The original's recipe, in bfloat16 where the device has it."""
    view = pil_transform(network.size)
    loader = data_loader(images, lambda image: [view(image), view(image)])
    model, bfloat16 = make_model(network, device), has_bfloat16(device)
    optimizer = make_optimizer(RECIPE, model)

    def epoch() -> None:
        for x0, x1 in loader:
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                z = torch.cat([model(x0.to(device)), model(x1.to(device))])
            optimizer.zero_grad()
            nt_xent(z, TEMPERATURE).backward()
            optimizer.step()

    name = "PIL recipe, bfloat16" if bfloat16 else "PIL recipe"
    return Contender(name, rate(epoch, 2 * len(images)), "as in the original, DataLoader")
