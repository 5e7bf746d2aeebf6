"""What a GPU makes of the study: rates of the step, share of the peak, memory, first losses."""

import time
from collections.abc import Callable
from itertools import count, islice
from typing import Any

import torch

from benchmarks.network import product
from benchmarks.timing import row
from benchmarks.training import Network, make_model, random_images
from manyviews.config.schema import DataConfig
from manyviews.data.dataset import load_dataset
from manyviews.runs.environment import dtype_name
from manyviews.runs.run import FORWARDS_OF_A_TRAINING_STEP
from manyviews.simclr.models import count_macs, make_simclr
from manyviews.simclr.numerics import has_bfloat16, repeatable, resolve_precision
from manyviews.simclr.train import Recipe, Trainer

BATCHES = {32: 64, 64: 256}  # images, by their pixels: of the profiles tiny-imagenet-tenth and tiny-imagenet
NETWORKS = (
    Network(18, "conv3", 16, 32, 30),
    Network(34, "conv7", 16, 32, 30),
    Network(18, "conv3", 64, 64, 6),
    Network(34, "conv7", 64, 64, 6),
)
STEPS = 200  # of the original's recipe, whose losses are shown


def measure(minutes: float) -> list[dict[str, Any]]:
    """Rows for a table; cases for which no time is left are not there.

    Args:
        minutes: after which no further case is begun.
    """
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks gpu: PyTorch finds no GPU here")
    end = time.perf_counter() + 60 * minutes
    device, precision = torch.device("cuda"), resolve_precision("auto")
    print(f"{torch.cuda.get_device_name()}, {dtype_name(precision)}, torch {torch.__version__}", flush=True)
    peak = product(precision if has_bfloat16(device) else torch.float32, device)
    rows = [row("peak", peak.name, "TFLOP/s", [peak.measure() / 1e3 for _ in range(3)])]
    for kind, prepare in STEPS_OF.items():  # the last one takes a minute to compile each network
        for network in NETWORKS:
            if time.perf_counter() < end:
                rows += case(network, kind, prepare, device, precision, rows[0]["median"])
                print("\n".join(str(row) for row in rows[-3:]), flush=True)
    if time.perf_counter() < end:
        print(
            "losses of the original's recipe, synthetic images:", first_losses(device, precision), flush=True
        )
    return rows


def one_by_one(trainer: Trainer) -> None:
    """The kernels of a step are launched one by one."""
    trainer.graphed = False


def as_graph(trainer: Trainer) -> None:
    """What the library does: two launches for loss and gradient."""
    trainer.graphed = True


def compiled(trainer: Trainer) -> None:
    """One by one, but fused by torch.compile."""
    trainer.graphed = False
    trainer._batch_loss = torch.compile(trainer._batch_loss, dynamic=False)


STEPS_OF: dict[str, Callable[[Trainer], None]] = {
    "kernels one by one": one_by_one,
    "CUDA graph": as_graph,
    "torch.compile": compiled,
}


def case(
    network: Network,
    kind: str,
    prepare: Callable[[Trainer], None],
    device: torch.device,
    precision: torch.dtype,
    peak: float,
) -> list[dict[str, Any]]:
    """Views per second, share of the peak, and memory of one network's step, done in one way."""
    batch = BATCHES[network.size]
    trainer = Trainer(
        make_model(network, device),
        random_images(network._replace(steps=4 * batch // 64)),
        Recipe(batch_size=batch, temperature=0.2, learning_rate=1e-3),
        precision=precision,
    )
    prepare(trainer)
    batches = (b for g in count() for b in trainer.sampler.batches(g, device) if len(b[0]) == batch)

    def steps(n: int) -> None:
        with repeatable():
            for step in islice(batches, n):
                trainer._step(*step, 1e-3)
        torch.cuda.synchronize()

    flops = 2 * FORWARDS_OF_A_TRAINING_STEP * count_macs(trainer.model, network.size)  # of a view
    started = time.perf_counter()
    steps(1)
    first, rates = time.perf_counter() - started, []
    torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        started = time.perf_counter()
        steps(network.steps)
        rates.append(network.steps * 2 * batch / (time.perf_counter() - started))
    shares = [r * flops / 1e12 / peak for r in rates]
    memory = [torch.cuda.max_memory_allocated() / 2**30]
    name, note = f"training: {network}, {batch} pairs", f"first step after {first:.0f} s"
    return [
        row(name, kind, "views/s", rates, note),
        row(name, kind, "of the peak", shares),
        row(name, kind, "GiB", memory),
    ]


def first_losses(device: torch.device, precision: torch.dtype) -> list[float]:
    """Every tenth of the first losses of the original's recipe, on synthetic images."""
    sizes = {"classes": 20, "ood_classes": 2, "train_per_class": 128, "val_per_class": 1, "ood_per_class": 2}
    images = load_dataset(DataConfig(name="fractals", image_size=64, **sizes)).train.as_tensor()
    losses = []
    trainer = Trainer(make_simclr(0).to(device), images, Recipe(), precision=precision)
    batches = (batch for g in count() for batch in trainer.sampler.batches(g, device))
    with repeatable():
        for step, batch in enumerate(islice(batches, STEPS)):
            losses.append(trainer._step(*batch, trainer.recipe.learning_rate * min(1, (step + 1) / STEPS)))
    return [round(loss.item(), 3) for loss in losses[::10]]
