"""Training that can be stopped at any instant and resumed to the same bits."""

import copy
import io
import math
import os
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from manyviews.simclr.losses import MultiViewLoss, multi_view_nt_xent, nt_xent
from manyviews.simclr.models import SimCLR, layout_of
from manyviews.simclr.numerics import by_rounding, mixed_precision, repeatable
from manyviews.simclr.processes import (
    from_first,
    gather,
    is_first,
    n_processes,
    share,
    side_by_side,
    synchronise_batch_norm,
    total,
)
from manyviews.simclr.sampler import ViewSampler
from manyviews.simclr.views import ViewStrengths, make_views

STEPS_BETWEEN_CHECKS = 10  # reading the loss makes a GPU wait, so it is not read at each step


class TrainingFailed(RuntimeError):
    """The training cannot go on: its loss is no longer a number, or its checkpoint is damaged."""


@dataclass(frozen=True)
class Recipe:
    """How to train; the defaults are the original's. See config.schema for the limits of each value."""

    n_views: int = 2  # of each image, an epoch
    views_per_batch: int = 2  # of each image in a batch: those that meet in the loss
    multi_view_loss: MultiViewLoss = "outside"  # all are NT-Xent for two views in a batch
    temperature: float = 0.5
    batch_size: int = 256  # pairs of views: a batch holds 2 * batch_size views
    joint_forward: bool = False  # all views of a batch in one forward pass, and so in one BatchNorm batch
    epochs: int = 50
    warmup_epochs: float = 10
    schedule: Literal["cosine", "constant"] = "cosine"
    decay_fraction: float = 0.2  # of a constant schedule: its last part, a straight line towards 0
    schedule_per: Literal["epoch", "step"] = "epoch"  # how often the learning rate moves
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 0.6
    weight_decay: float = 0.0
    momentum: float = 0.9  # of sgd
    view_size: int | None = None  # pixels, height and width of a view; None: the images'
    distinct: int | None = None  # views of each image over the training; None: fresh ones for ever
    strengths: ViewStrengths = field(default_factory=ViewStrengths)

    @property
    def images_per_batch(self) -> int:
        """Images in a full batch, each with views_per_batch views."""
        return 2 * self.batch_size // self.views_per_batch

    @property
    def passes_per_epoch(self) -> int:
        """Walks over all images in an epoch, each with views_per_batch views of every one."""
        return self.n_views // self.views_per_batch


@dataclass
class Progress:
    """What a training has done so far; kept in each checkpoint."""

    epoch: int = 0  # epochs done
    steps: int = 0
    views_forwarded: int = 0  # views through the network in training
    wall_time_s: float = 0.0  # training and evaluation, interruptions left out
    cpu_time_s: float = 0.0
    metrics: list[dict[str, Any]] = field(default_factory=list)  # a row for each epoch, from 0


def read_ahead(batches: Iterator[tuple[Tensor, ...]], images: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The batches; while one is worked on, a thread reads the images of the next.

    Images that are mapped from a file, and more than memory holds, would else be waited for at each step.

    Args:
        batches: the first of each are indices of images.
        images: (N, C, H, W); those on a GPU are not waited for.
    """
    if images.device.type != "cpu":
        yield from batches
        return
    pixels, batch = images.numpy(), next(batches, None)
    with ThreadPoolExecutor(1) as reader:
        while batch is not None:
            following = next(batches, None)
            if following is not None:
                ours = share(following[0])
                reader.submit(pixels.__getitem__, ours.numpy())  # the system keeps what was read
            yield batch
            batch = following


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Linear warm-up, then the schedule, moved once per epoch or once per step.

    Args:
        recipe: peak rate, epochs, warm-up, schedule and how often the rate moves.
        step: steps done before this one.
        steps_per_epoch: batches in an epoch.
    """
    unit = steps_per_epoch if recipe.schedule_per == "epoch" else 1  # steps between two moves
    done = step // unit
    warm_up = round(recipe.warmup_epochs * steps_per_epoch / unit)
    moves = recipe.epochs * steps_per_epoch // unit
    if done < warm_up:
        return recipe.learning_rate * (done + 1) / warm_up
    if recipe.schedule == "constant":
        decay = round(recipe.decay_fraction * moves)  # moves before the end at which the descent begins
        return recipe.learning_rate * min(1, (moves - done) / decay if decay else 1)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (moves - warm_up)))


def make_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW or SGD with momentum; the learning rate is set before each step."""
    options = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay, "fused": True}
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), momentum=recipe.momentum, **options)
    return torch.optim.AdamW(model.parameters(), **options)


def check_batches(n_images: int, recipe: Recipe) -> None:
    """See that the loss finds a negative in each batch, and each process two images of it.

    Raises:
        ValueError: not so; where it can, it names the next smaller batch size that works, else a larger one.
    """
    size, views, per_batch = recipe.batch_size, recipe.views_per_batch, recipe.images_per_batch
    if per_batch > n_images:
        raise ValueError(
            f"training.batch_size {size} puts {per_batch} images into a batch, more than the {n_images} "
            "training images; lower it"
        )
    if n_images % per_batch == 1:
        sizes = [*range(size - 1, views - 1, -1), *range(size + 1, n_images * views // 2 + 1)]
        good = (s for s in sizes if 2 * s % views == 0 and n_images % (2 * s // views) != 1)
        raise ValueError(
            f"training.batch_size {size} leaves a last batch of one of the {n_images} training images, "
            f"which has no negatives; use {next(good, 'another training.views_per_batch')}"
        )
    smallest = n_images % per_batch or per_batch
    if n_processes() > 1 and smallest < 2 * n_processes():  # for BatchNorm, which needs two
        raise ValueError(
            f"training.batch_size {size} leaves a batch of {smallest} images, too few for {n_processes()} "
            f"processes with two of them each; use {smallest // 2} at most, or another batch size"
        )


class _BatchLoss(nn.Module):
    """A loss as a module that has the model's parameters, as CUDA graphs and several processes want it."""

    def __init__(self, model: SimCLR, loss: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, images: Tensor, draws: Tensor) -> Tensor:
        return self.loss(images, draws)


class Trainer:
    """A training between its first and its last step.

    On several processes (see processes.joined) each makes the same trainer, which trains on its part of every
    batch. The first alone evaluates, writes and reads the checkpoint, which is that of one process.

    Args:
        model: with its initial weights, on the device and in the type that training shall have; on several
            GPUs its BatchNorm layers are replaced by synchronised ones.
        images: training images, (N, 3, H, W) uint8.
        recipe: how to train.
        seed: of the order of images and of the views.
        labels: classes of the images, (N,) int64, for supervised training with a head that is a classifier;
            None for the contrastive loss.
        precision: of the network's products; see numerics.mixed_precision.
        checkpoint: a file that is written after each epoch, and resumed from if it is there.
        evaluate: called with the model and the epoch before the first epoch, after each `every_epochs` and
            after the last; gives columns of the metrics.
        every_epochs: how often it is called.
        name: of the progress bar; without one there is no bar.
    Raises:
        ValueError: batch size and number of images leave a batch of one image, or of less than two for each
            process, or exceed each other.
        TrainingFailed: the checkpoint is damaged.
    """

    def __init__(
        self,
        model: SimCLR,
        images: Tensor,
        recipe: Recipe,
        seed: int = 0,
        *,
        labels: Tensor | None = None,
        precision: torch.dtype = torch.float32,
        checkpoint: Path | None = None,
        evaluate: Callable[[SimCLR, int], dict[str, Any]] | None = None,
        every_epochs: int = 1,
        name: str = "training",
    ):
        check_batches(len(images), recipe)
        weight = next(model.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        self.layout = layout_of(model)
        self.model = synchronise_batch_norm(model.to(memory_format=self.layout))
        self.images = images.to(self.device)
        self.labels = None if labels is None else labels.to(self.device)
        self.recipe, self.seed, self.precision, self.name = recipe, seed, precision, name
        self.rounding = by_rounding(precision, self.device)
        self.checkpoint, self.evaluate, self.every_epochs = checkpoint, evaluate, every_epochs
        self.sampler = ViewSampler(
            len(images), recipe.images_per_batch, seed, recipe.views_per_batch, recipe.distinct
        )
        self.steps_per_epoch = recipe.passes_per_epoch * len(self.sampler)
        self.optimizer = make_optimizer(recipe, model)
        # No graphs on several processes: what they send each other is ordered by the host, step by step.
        self.graphed, self._graph = self.device.type == "cuda" and n_processes() == 1, None
        self.progress = Progress()
        self._load_checkpoint()
        self._shared = side_by_side(_BatchLoss(self.model, lambda *batch: self._batch_loss(*batch)))

    def run(self, after_epoch: Callable[[Progress], None] = lambda progress: None) -> Progress:
        """Train to the last epoch, from wherever the training stands.

        Args:
            after_epoch: called when an epoch and its checkpoint are done; in the first process alone.
        Raises:
            TrainingFailed: the loss is not finite. The last good checkpoint stays.
        """
        steps = self.recipe.epochs * self.steps_per_epoch
        quiet = {} if self.name and is_first() else {"disable": True}  # else $TQDM_DISABLE decides
        bar = tqdm(
            total=steps,
            initial=self.progress.steps,
            desc=self.name,
            unit="step",
            mininterval=0.5,
            smoothing=0,  # the time left is that of the mean step, probes and all: it does not jump
            file=sys.stdout,  # on stderr, notebooks show it as an error
            **quiet,
        )
        with repeatable(), bar:
            if not self.progress.metrics:
                self._timed(self._record, bar)
                bar.unpause()
            while self.progress.epoch < self.recipe.epochs:
                self._timed(self._epoch, bar)
                if is_first():
                    self._save_checkpoint()
                    after_epoch(self.progress)
        if is_first():
            after_epoch(self.progress)  # if that of the last epoch was interrupted
        return self.progress

    def _timed(self, work: Callable[..., None], *arguments: Any) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        work(*arguments)
        self.progress.wall_time_s += time.perf_counter() - wall
        self.progress.cpu_time_s += total(time.process_time() - cpu, self.device)

    def _epoch(self, bar: tqdm) -> None:
        losses: list[Tensor] = []
        of_all = f"epoch {self.progress.epoch + 1} of {self.recipe.epochs}"
        first = self.progress.epoch * self.recipe.passes_per_epoch
        passes = range(first, first + self.recipe.passes_per_epoch)
        batches = chain.from_iterable(self.sampler.batches(g, self.device) for g in passes)
        for step, (images, draws) in enumerate(read_ahead(batches, self.images)):
            rate = learning_rate(self.recipe, self.progress.steps, self.steps_per_epoch)
            losses.append(self._step(images, draws, rate))
            self.progress.steps += 1
            self.progress.views_forwarded += draws.numel()
            if step % STEPS_BETWEEN_CHECKS == 0:
                self._check_finite(losses)
                bar.set_postfix_str(f"{of_all}, loss {losses[-1].item():.3f}", refresh=False)
            bar.update()
        self._check_finite(losses)
        if not all(value.isfinite().all() for value in self.model.state_dict().values()):
            raise self._failure(f"the weights are no longer finite after {of_all}", rate)
        self.progress.epoch += 1
        self._record(bar, loss=torch.stack(losses).double().mean().item(), rate=rate)

    def _step(self, images: Tensor, draws: Tensor, rate: float) -> Tensor:
        """One optimiser step on images (B,) and the draws (B, K) of their views; gives the loss."""
        full = len(images) == self.recipe.images_per_batch
        if full and self.graphed and self._graph is None:
            self._graph = self._capture(images, draws)
        loss = self._graph(images, draws) if full and self._graph else self._shared(images, draws)
        self.optimizer.zero_grad()
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        return loss.detach().clone()  # a graph writes each loss to the same place

    def _capture(self, images: Tensor, draws: Tensor) -> nn.Module:
        """The loss of a full batch, and its gradient, as CUDA graphs: the same kernels, launched as one.

        A step is a thousand kernels. To launch them one by one takes longer than to compute a small network.
        """
        # Gradients meet the graph's on another stream than that of its trial runs, as they may.
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
        before = copy.deepcopy(self.model.state_dict())
        graph = torch.cuda.make_graphed_callables(_BatchLoss(self.model, self._batch_loss), (images, draws))
        self.model.load_state_dict(before)  # the trial runs have moved the statistics of BatchNorm
        return graph

    def _batch_loss(self, images: Tensor, draws: Tensor) -> Tensor:
        """Loss of one view for each of draws (B, K) of images (B,): the batch of all processes."""
        n_views = draws.shape[1]
        x = make_views(
            self.images,
            share(images).repeat(n_views),
            share(draws).T.flatten(),
            seed=self.seed,
            size=self.recipe.view_size,
            strengths=self.recipe.strengths,
            dtype=self.dtype,
        ).contiguous(memory_format=self.layout)  # (Kb, 3, H, W), b = B / P: all first views, ...
        with mixed_precision(self.precision, self.device, self.rounding):
            # Apart, BatchNorm sees one view of each image at a time, as in the original.
            together = x.chunk(1 if self.recipe.joint_forward else n_views)
            z = torch.cat([self.model(part) for part in together])
        return self._loss(gather(z, len(images)), images)

    def _loss(self, z: Tensor, images: Tensor) -> Tensor:
        """Loss of the head's outputs z (KB, .) for images (B,): all first views, all second, ..."""
        n_views = len(z) // len(images)
        if self.labels is not None:
            labels = self.labels[images].repeat(n_views)
            return F.cross_entropy(z.to(torch.promote_types(z.dtype, torch.float32)), labels)
        if n_views == 2:
            return nt_xent(z, self.recipe.temperature)
        return multi_view_nt_xent(z, n_views, self.recipe.temperature, self.recipe.multi_view_loss)

    def _check_finite(self, losses: list[Tensor]) -> None:
        """Stop at the first loss of this epoch that is not a number."""
        bad = (~torch.stack(losses).isfinite()).nonzero()
        if len(bad):
            step, epoch = int(bad[0]), self.progress.epoch
            rate = learning_rate(self.recipe, epoch * self.steps_per_epoch + step, self.steps_per_epoch)
            where = f"epoch {epoch + 1}, step {step + 1}"
            raise self._failure(f"the loss is {losses[step].item()} in {where}", rate)

    def _failure(self, what: str, rate: float) -> TrainingFailed:
        return TrainingFailed(
            f"{what}, at learning rate {rate:.3g}. Lower training.learning_rate, now "
            f"{self.recipe.learning_rate} with {self.recipe.optimizer}, or lengthen training.warmup_epochs."
        )

    def _record(self, bar: tqdm, loss: float = math.nan, rate: float = math.nan) -> None:
        """Append the epoch's row to the metrics, with accuracies where they are due."""
        epoch = self.progress.epoch
        due = epoch in (0, self.recipe.epochs) or epoch % self.every_epochs == 0
        done = {name: getattr(self.progress, name) for name in ("epoch", "steps", "views_forwarded")}
        due = due and self.evaluate is not None and is_first()
        if due:
            bar.set_postfix_str(f"probes after epoch {epoch} of {self.recipe.epochs}")
        measured = self.evaluate(self.model, epoch) if due else {}
        self.progress.metrics.append(done | {"learning_rate": rate, "loss_nats": loss} | measured)

    def _save_checkpoint(self) -> None:
        """Replace the checkpoint in one step, so that there is a whole one at any instant."""
        if self.checkpoint is None:
            return
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": vars(self.progress),
        }
        whole = io.BytesIO()
        torch.save(state, whole)  # to memory: where a disk is full its error names neither that nor the file
        new = self.checkpoint.with_suffix(".new")
        try:
            with new.open("wb") as file:
                file.write(whole.getbuffer())
                file.flush()
                os.fsync(file.fileno())  # else a power cut could leave the new name with no content
            new.replace(self.checkpoint)
        except OSError as error:
            new.unlink(missing_ok=True)
            raise OSError(error.errno, error.strerror, str(self.checkpoint)) from error

    @contextmanager
    def _damage_named(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # torch.load raises many kinds
            raise TrainingFailed(
                f"{self.checkpoint}: damaged ({error}). Delete {self.checkpoint.parent} to start the run anew"
            ) from error

    def _read_checkpoint(self) -> dict[str, Any] | None:
        """What is saved, if anything is; on the host, from where it can go to all processes."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return None
        with self._damage_named():
            with zipfile.ZipFile(self.checkpoint) as parts:
                if parts.testzip() is not None:  # torch.load compares no checksums
                    raise ValueError("another checksum than when it was written")
            return torch.load(self.checkpoint, map_location="cpu", weights_only=True)

    def _load_checkpoint(self) -> None:
        """Go on from the checkpoint of the first process, if it has one."""
        state = from_first(self._read_checkpoint)
        if state is None:
            return
        with self._damage_named():
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.progress = Progress(**state["progress"])
