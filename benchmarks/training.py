"""Training from images in memory to updated weights: ours, lightly's recipe, and the report's with PIL."""

import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
import torchvision.transforms as transforms
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.timing import Contender, interleaved, is_installed, missing, rate
from manyviews import train
from manyviews.config import RunConfig
from manyviews.losses import nt_xent
from manyviews.train import Trainer, make_model, make_optimizer, repeatable, resolve_device, resolve_precision

BATCH = 64  # images; each gives two views
TEMPERATURE = 0.2


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
    """Views per second, end to end, and of our network alone."""
    return [row for network in NETWORKS for row in rows(network, repeats)]


def rows(network: Network, repeats: int) -> list[dict[str, Any]]:
    """One case: the same network, batch and temperature for all."""
    case, unit = f"training: {network}", "views/s"
    device = resolve_device("auto")
    # Other recipes wait for the first batch of their workers. The steps of a GPU are short beside that.
    per_worker = 4 if device.type == "cuda" else 1
    network = network._replace(steps=max(network.steps, per_worker * torch.get_num_threads()))
    images = random_images(network)
    contenders, absent = ours(network, images), []
    if device.type == "cuda":
        contenders.append(captured(network, images))
    if is_installed("lightly"):
        contenders.append(lightly_recipe(network, images, device))
    else:
        absent.append(missing(case, "lightly's recipe", unit))
    contenders += pil_recipes(network, images, device)
    if not native_bfloat16(device):
        absent.append(missing(case, "PIL recipe, bfloat16", unit, "this processor only emulates bfloat16"))
    return interleaved(case, unit, contenders, repeats) + absent


def random_images(network: Network) -> Tensor:
    """Images for one measurement, (N, 3, H, W) uint8; their content has no influence on the time."""
    shape = (network.steps * BATCH, 3, network.size, network.size)
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def make_config(network: Network) -> RunConfig:
    """A run on such images; whatever is not named is the report's."""
    return RunConfig(
        run="benchmark",
        profile="benchmark",
        depth=network.depth,
        stem=network.stem,
        n_views=2,
        data={"path": ".", "image_size": network.size},
        network={"width": network.width, "projection_norm": True},
        training={"batch_size": BATCH, "temperature": TEMPERATURE, "learning_rate": 1e-3},
    )


def make_trainer(config: RunConfig, images: Tensor) -> Trainer:
    """Our trainer, with nothing to evaluate."""
    labels = torch.zeros(len(images), dtype=torch.int64)
    with tempfile.TemporaryDirectory() as folder:  # only looked into, for a checkpoint
        return Trainer(config, images, labels, Path(folder), lambda _: {})


def ours(network: Network, images: Tensor) -> list[Contender]:
    """Our trainer, and its step on views that are made already: the limit that views cannot pass."""
    trainer = make_trainer(make_config(network), images)
    batches = endless(trainer)
    numbers = torch.arange(2 * BATCH) % BATCH
    ready = train.make_views(
        trainer.images, numbers, torch.zeros_like(numbers), 0,
        seed=0, size=network.size, config=trainer.config.views,
    ).contiguous(memory_format=torch.channels_last)  # fmt: skip

    def steps() -> None:
        with repeatable():
            for _ in range(network.steps):
                trainer._step(*next(batches), 0, 1e-3)

    def steps_alone() -> None:
        with mock.patch.object(train, "make_views", return_value=ready):
            steps()

    n_views = network.steps * 2 * BATCH
    return [
        Contender("ours", rate(steps, n_views)),
        Contender("ours, network alone", rate(steps_alone, n_views), "the same step on one ready batch"),
    ]


def captured(network: Network, images: Tensor) -> Contender:
    """Our step as one CUDA graph, which is told the batch, the epoch and the rate by tensors."""
    trainer = make_trainer(make_config(network), images)
    batches = endless(trainer)
    inputs = [tensor.clone() for tensor in next(batches)]
    scalars = [torch.zeros((), dtype=dtype, device=trainer.device) for dtype in (torch.int64, torch.float32)]
    for group in trainer.optimizer.param_groups:
        group["capturable"] = True
    graph, beside = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with repeatable():
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):  # what is done once only must not be captured
            for _ in range(3):
                trainer._step(*inputs, *scalars)
        torch.cuda.current_stream().wait_stream(beside)
        with torch.cuda.graph(graph):
            trainer._step(*inputs, *scalars)
    scalars[1].fill_(1e-3)

    def steps() -> None:
        for _ in range(network.steps):
            for mine, new in zip(inputs, next(batches), strict=True):
                mine.copy_(new)
            graph.replay()

    return Contender("ours, as a CUDA graph", rate(steps, network.steps * 2 * BATCH))


def endless(trainer: Trainer) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of all epochs there could be."""
    for epoch in count():
        yield from trainer.sampler.epoch(epoch, trainer.device)


class Pairs(Dataset):
    """Two views of each image, made by a transform of a PIL image to two tensors."""

    def __init__(self, images: Tensor, transform: Callable[[Image.Image], list[Tensor]]):
        self.images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[Tensor]:
        return self.transform(self.images[index])


def data_loader(images: Tensor, transform: Callable[[Image.Image], list[Tensor]]) -> DataLoader:
    """As many workers as cores. They live on between measurements, so their start is not counted."""
    return DataLoader(
        Pairs(images, transform),
        BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=torch.get_num_threads(),
        persistent_workers=True,
        pin_memory=torch.cuda.is_available(),
    )


def lightly_recipe(network: Network, images: Tensor, device: torch.device) -> Contender:
    """The SimCLR example of lightly's documentation, with our network and temperature."""
    from lightly.loss import NTXentLoss
    from lightly.transforms import SimCLRTransform

    model = make_model(make_config(network)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.06)
    criterion = NTXentLoss(temperature=TEMPERATURE)
    loader = data_loader(images, SimCLRTransform(input_size=network.size))

    def epoch() -> None:
        for x0, x1 in loader:
            loss = criterion(model(x0.to(device)), model(x1.to(device)))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return Contender("lightly's recipe", rate(epoch, 2 * len(images)), plain(device))


def native_bfloat16(device: torch.device) -> bool:
    return resolve_precision("auto", device) == torch.bfloat16


def plain(device: torch.device) -> str:
    """What a recipe that sets nothing computes in."""
    return "float32, DataLoader" if device.type == "cpu" else "float32 and TF32, DataLoader"


def pil_transform(size: int) -> Callable[[Image.Image], Tensor]:
    """The report's transform of one image to one view."""
    blur = transforms.GaussianBlur(3 if size <= 32 else 5, (0.1, 2.0))
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(size, (0.2, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8),
            transforms.RandomGrayscale(0.2),
            transforms.RandomApply([blur], 0.5),
            transforms.ToTensor(),
        ]
    )


def pil_recipes(network: Network, images: Tensor, device: torch.device) -> list[Contender]:
    """The report's recipe, plain and, where the device has it, with its bfloat16."""
    view = pil_transform(network.size)
    loader = data_loader(images, lambda image: [view(image), view(image)])

    def contender(name: str, note: str, bfloat16: bool) -> Contender:
        config = make_config(network)
        model = make_model(config).to(device)
        optimizer = make_optimizer(config.training, model)

        def epoch() -> None:
            for x0, x1 in loader:
                with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                    z = torch.cat([model(x0.to(device)), model(x1.to(device))])
                optimizer.zero_grad()
                nt_xent(z, TEMPERATURE).backward()
                optimizer.step()

        return Contender(name, rate(epoch, 2 * len(images)), note)

    contenders = [contender("PIL recipe", plain(device), bfloat16=False)]
    if native_bfloat16(device):
        contenders.append(contender("PIL recipe, bfloat16", "as in the report, DataLoader", bfloat16=True))
    return contenders
