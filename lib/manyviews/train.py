"""Training that can be stopped at any instant and resumed to the same bits."""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from manyviews.augment import make_views
from manyviews.config import ConfigError, RunConfig, TrainingConfig
from manyviews.files import replacing, write_table
from manyviews.losses import multi_view_nt_xent, nt_xent
from manyviews.models import SimCLR, make_backbone, make_projection_head
from manyviews.sampler import ViewSampler

STEPS_BETWEEN_CHECKS = 10  # reading the loss makes a GPU wait, so it is not read at each step


class TrainingFailed(RuntimeError):
    """The loss is no longer a number."""


@dataclass
class Progress:
    """What a run has done so far; kept in each checkpoint."""

    epoch: int = 0  # epochs done
    steps: int = 0
    images_forwarded: int = 0  # views through the network in training
    wall_time_s: float = 0.0  # training and evaluation, interruptions left out
    cpu_time_s: float = 0.0
    metrics: list[dict[str, Any]] = field(default_factory=list)  # a row for each epoch


def resolve_device(name: str) -> torch.device:
    """The device of that name; `auto` is a GPU where there is one.

    Raises:
        ConfigError: a GPU was asked for that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device '{name}': this machine has {torch.cuda.device_count()} GPUs; use 'auto'")
    return device


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """The type of the network's products; `auto` is bfloat16 where the processor computes it natively."""
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def repeatable() -> AbstractContextManager[None]:
    """On a GPU, the algorithms that repeat to the bit, not the fastest, and no shortened float32."""
    return torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False)


def learning_rate(config: TrainingConfig, step: int, steps_per_epoch: int) -> float:
    """Linear warm-up, then the schedule, moved once per epoch or once per step.

    Args:
        config: peak rate, epochs, warm-up, schedule and how often the rate moves.
        step: steps done before this one.
        steps_per_epoch: batches in an epoch.
    """
    unit = steps_per_epoch if config.schedule_per == "epoch" else 1  # steps between two moves
    done = step // unit
    warm_up = round(config.warmup_epochs * steps_per_epoch / unit)
    total = config.epochs * steps_per_epoch // unit
    if done < warm_up:
        return config.learning_rate * (done + 1) / warm_up
    if config.schedule == "constant":
        decay = round(config.decay_share * total)  # moves before the end at which the descent begins
        return config.learning_rate * min(1, (total - done) / decay if decay else 1)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (total - warm_up)))


def make_model(config: RunConfig, n_classes: int | None = None) -> SimCLR:
    """The run's network with its initial weights, which depend on the seed only.

    Args:
        config: the run.
        n_classes: of the training images; a supervised run's head has that size.
    """
    network = config.network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        backbone = make_backbone(config.depth, config.stem, network.width, network.feature_dim)
        if config.objective == "supervised":
            return SimCLR(backbone, nn.Linear(network.feature_dim, n_classes))
        head = make_projection_head(
            network.feature_dim, network.projection_hidden, network.projection_dim, network.projection_norm
        )
    return SimCLR(backbone, head)


def make_optimizer(config: TrainingConfig, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW or SGD with momentum; the learning rate is set before each step."""
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(),
            config.learning_rate,
            config.momentum,
            weight_decay=config.weight_decay,
            fused=True,
        )
    return torch.optim.AdamW(
        model.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True
    )


class Trainer:
    """A run between its first and its last step.

    Args:
        config: the run.
        images: training images, (N, 3, H, W) uint8, of which training.image_share is used.
        labels: their classes, (N,) int64; only supervised training looks at them.
        folder: where the checkpoint lies; one found there is resumed.
        evaluate: called with the backbone before the first epoch and after those that the configuration
            asks for; gives columns of the metrics.
    Raises:
        ConfigError: batch size and number of images leave a batch of one image, or exceed each other.
    """

    def __init__(
        self,
        config: RunConfig,
        images: Tensor,
        labels: Tensor,
        folder: Path,
        evaluate: Callable[[nn.Module], dict[str, Any]],
    ):
        n_classes = int(labels.max()) + 1
        used = first_of_each_class(labels, config.training.image_share)
        images, labels = images[used], labels[used]
        check_batches(len(images), config.training)
        self.config = config
        self.folder = folder
        self.evaluate = evaluate
        self.device = resolve_device(config.device)
        self.precision = resolve_precision(config.training.precision, self.device)
        self.dtype = (
            torch.float64 if self.precision == torch.float64 else torch.float32
        )  # of weights and views
        self.images, self.labels = images.to(self.device), labels.to(self.device)
        self.sampler = ViewSampler(
            len(images),
            config.n_views,
            config.training.images_per_batch,
            config.seed,
            config.training.views_per_batch,
        )
        self.model = make_model(config, n_classes).to(
            self.device, self.dtype, memory_format=torch.channels_last
        )
        self.optimizer = make_optimizer(config.training, self.model)
        self.progress = Progress()
        if self.checkpoint.exists():
            self._load_checkpoint()

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def run(self) -> Progress:
        """Train to the last epoch, from wherever the run stands.

        Raises:
            TrainingFailed: the loss is not finite. The last good checkpoint stays.
        """
        epochs, steps = self.config.training.epochs, len(self.sampler)
        name = f"{self.config.run} seed {self.config.seed}"
        bar = tqdm(total=epochs * steps, initial=self.progress.steps, desc=name, unit="step", mininterval=0.5)
        with repeatable(), bar:
            if not self.progress.metrics:
                self._timed(lambda: self._record(loss=math.nan, rate=math.nan))
            while self.progress.epoch < epochs:
                self._timed(lambda: self._epoch(bar))
                self._save_checkpoint()
                self._write_metrics()
        self._write_metrics()  # if the last epoch's was interrupted
        return self.progress

    def _timed(self, work: Callable[[], None]) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        self.progress.wall_time_s += time.perf_counter() - wall
        self.progress.cpu_time_s += time.process_time() - cpu

    def _epoch(self, bar: tqdm) -> None:
        losses: list[Tensor] = []
        rate = 0.0
        for step, (images, views) in enumerate(self.sampler.epoch(self.progress.epoch, self.device)):
            rate = learning_rate(self.config.training, self.progress.steps, len(self.sampler))
            losses.append(self._step(images, views, self.progress.epoch, rate))
            self.progress.steps += 1
            self.progress.images_forwarded += views.numel()
            if step % STEPS_BETWEEN_CHECKS == 0:
                self._check_finite(losses)
                bar.set_postfix_str(
                    f"epoch {self.progress.epoch + 1}, loss {losses[-1].item():.3f}", refresh=False
                )
            bar.update()
        self._check_finite(losses)
        if not all(value.isfinite().all() for value in self.model.state_dict().values()):
            raise TrainingFailed(
                f"the weights are no longer finite after epoch {self.progress.epoch + 1}, at learning rate "
                f"{rate:.3g}. {self._advice()}"
            )
        self.progress.epoch += 1
        self._record(loss=torch.stack(losses).double().mean().item(), rate=rate)

    def _step(self, images: Tensor, views: Tensor, epoch: int | Tensor, rate: float | Tensor) -> Tensor:
        """One optimiser step on images (B,) and their views (B, K); gives the loss.

        Epoch and rate may be scalar tensors on the device, the rate in float32: one CUDA graph of the step
        then serves them all, for batches of one size.
        """
        n_views = views.shape[1]
        x = make_views(
            self.images,
            images.repeat(n_views),
            views.T.flatten(),
            epoch,
            seed=self.config.seed,
            size=self.config.views.size or self.config.data.image_size,
            config=self.config.views,
            dtype=self.dtype,
        ).contiguous(memory_format=torch.channels_last)  # (KB, 3, H, W): all first views, all second, ...
        with torch.autocast(self.device.type, self.precision, enabled=self.precision == torch.bfloat16):
            # Apart, BatchNorm sees one view of each image at a time, as in the report.
            z = (
                self.model(x)
                if self.config.training.joint_forward
                else torch.cat([self.model(v) for v in x.chunk(n_views)])
            )
        loss = self._loss(z, images)
        self.optimizer.zero_grad()
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        return loss.detach()

    def _loss(self, z: Tensor, images: Tensor) -> Tensor:
        """Loss of the head's outputs z (KB, .) for images (B,): all first views, all second, ..."""
        training, n_views = self.config.training, len(z) // len(images)
        if self.config.objective == "nt_xent" and n_views == 2:
            return nt_xent(z, training.temperature)
        if self.config.objective == "nt_xent":
            return multi_view_nt_xent(z, n_views, training.temperature, training.multi_view_loss)
        labels = self.labels[images].repeat(n_views)
        return F.cross_entropy(z.to(torch.promote_types(z.dtype, torch.float32)), labels)

    def _check_finite(self, losses: list[Tensor]) -> None:
        """Stop at the first loss of this epoch that is not a number."""
        bad = (~torch.stack(losses).isfinite()).nonzero()
        if len(bad):
            training, step = self.config.training, int(bad[0])
            rate = learning_rate(training, self.progress.epoch * len(self.sampler) + step, len(self.sampler))
            raise TrainingFailed(
                f"the loss is {losses[step].item()} in epoch {self.progress.epoch + 1}, step {step + 1}, at "
                f"learning rate {rate:.3g}. {self._advice()}"
            )

    def _advice(self) -> str:
        training = self.config.training
        return (
            f"Lower training.learning_rate, now {training.learning_rate} with {training.optimizer}, or "
            "lengthen training.warmup_epochs."
        )

    def _record(self, loss: float, rate: float) -> None:
        """Append the epoch's row to the metrics, with accuracies where they are due."""
        epoch, last = self.progress.epoch, self.config.training.epochs
        due = epoch in (0, last) or epoch % self.config.evaluation.every_epochs == 0
        row = {
            "epoch": epoch,
            "steps": self.progress.steps,
            "images_forwarded": self.progress.images_forwarded,
            "learning_rate": rate,
            "loss_nats": loss,
        }
        self.progress.metrics.append(row | (self.evaluate(self.model.backbone) if due else {}))

    def _save_checkpoint(self) -> None:
        """Replace the checkpoint in one step, so that there is a whole one at any instant."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": vars(self.progress),
        }
        with replacing(self.checkpoint) as new:
            torch.save(state, new)

    def _write_metrics(self) -> None:
        write_table(pd.DataFrame(self.progress.metrics), self.folder / "metrics.csv")

    def _load_checkpoint(self) -> None:
        try:
            state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.progress = Progress(**state["progress"])
        except Exception as error:  # torch.load raises many kinds
            raise RuntimeError(
                f"{self.checkpoint}: damaged ({type(error).__name__}). Delete {self.folder} to start the run "
                "anew"
            ) from error


def first_of_each_class(labels: Tensor, share: float) -> Tensor:
    """Numbers, in order, of the first images of each class: its share of them, and at least one.

    Args:
        labels: (N,) int64.
        share: above 0, up to 1.
    """
    of_classes = [(labels == label).nonzero()[:, 0] for label in labels.unique()]
    return torch.cat([rows[: max(1, round(share * len(rows)))] for rows in of_classes]).sort().values


def check_batches(n_images: int, training: TrainingConfig) -> None:
    """See that the loss finds a negative in each batch.

    Raises:
        ConfigError: not so; names the nearest batch size that works.
    """
    size, views = training.batch_size, training.views_per_batch
    if training.images_per_batch > n_images:
        raise ConfigError(
            f"training.batch_size {size} puts {training.images_per_batch} images into a batch, more than the "
            f"{n_images} training images; lower it"
        )
    if n_images % training.images_per_batch == 1:
        sizes = [*range(size - 1, views - 1, -1), *range(size + 1, n_images * views // 2 + 1)]
        good = (s for s in sizes if 2 * s % views == 0 and n_images % (2 * s // views) != 1)
        raise ConfigError(
            f"training.batch_size {size} leaves a last batch of one of the {n_images} training images, "
            f"which has no negatives; use {next(good, 'another training.views_per_batch')}"
        )
