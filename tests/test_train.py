"""Training: the schedule, resuming to the same bits, and stopping when the loss is no number."""

import itertools
import math
import re
import shutil

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from manyviews import augment, train
from manyviews.config import ConfigError, RunConfig, TrainingConfig
from manyviews.losses import multi_view_nt_xent
from manyviews.models import SimCLR, make_backbone, make_projection_head
from manyviews.sampler import ViewSampler
from manyviews.train import Trainer, TrainingFailed, learning_rate, make_model

IMAGES = torch.randint(0, 256, (20, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(20) % 4
FORWARD = SimCLR.forward
DEFINITIONS = ("pairs", "outside", "inside")  # of the loss of many views


def config(**changes) -> RunConfig:
    training = {
        "epochs": 3,
        "warmup_epochs": 1,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "precision": "float32",
    }
    values = {
        "run": "test",
        "profile": "test",
        "depth": 18,
        "stem": "conv3",
        "n_views": 4,
        "device": "cpu",
        "data": {"name": "folder", "path": "none", "image_size": 12},
        # At widths below 12 the gradient of a 1x1 convolution with stride overwrites memory (oneDNN 3.12).
        "network": {"width": 16, "feature_dim": 10, "projection_hidden": 16, "projection_dim": 8},
        "training": training | changes.pop("training", {}),
    }
    return RunConfig(**values | changes)


def evaluate(backbone) -> dict:
    """Stands for the probes: a number that any change of the weights changes."""
    return {"checksum": sum(p.double().sum().item() for p in backbone.parameters())}


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in trainer.model.state_dict().values()])


def recording(forward, sizes: list[int]):
    """The forward pass of a network, which notes the size of each batch."""

    def noted(self, x):
        sizes.append(len(x))
        return forward(self, x)

    return noted


class Interrupted(Exception):
    """Stands for a crash."""


@pytest.mark.parametrize(
    ("crash_after", "changes"),
    [
        (0, {}),
        (4, {}),
        (11, {}),
        (7, {"optimizer": "sgd"}),
        (7, {"joint_forward": True}),
        (7, {"precision": "bfloat16", "schedule_per": "step"}),
        (7, {"views_per_batch": 4}),
    ],
)
def test_a_resumed_run_ends_bit_identical(tmp_path, monkeypatch, crash_after, changes):
    """Crashes are at the start, within the first and within the second epoch, which has 5 or 6 steps."""
    whole = Trainer(config(training=changes), IMAGES, LABELS, tmp_path / "whole", evaluate)
    whole.run()

    step, done = Trainer._step, []

    def crashing_step(self, *arguments):
        if len(done) == crash_after:
            raise Interrupted
        done.append(1)
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "_step", crashing_step)
    with pytest.raises(Interrupted):
        Trainer(config(training=changes), IMAGES, LABELS, tmp_path / "broken", evaluate).run()
    monkeypatch.setattr(Trainer, "_step", step)
    resumed = Trainer(config(training=changes), IMAGES, LABELS, tmp_path / "broken", evaluate)
    assert resumed.progress.epoch == crash_after // len(
        resumed.sampler
    )  # loses the work since the last epoch, no more
    resumed.run()

    assert torch.equal(weights(resumed), weights(whole))
    assert (tmp_path / "broken/metrics.csv").read_bytes() == (tmp_path / "whole/metrics.csv").read_bytes()


def test_a_crash_while_the_checkpoint_is_written_keeps_the_one_before(tmp_path, monkeypatch):
    first = Trainer(config(), IMAGES, LABELS, tmp_path, evaluate)
    first.run()
    good = first.checkpoint.read_bytes()

    def half_written(state, path):
        path.write_bytes(good[:100])
        raise Interrupted

    monkeypatch.setattr(train.torch, "save", half_written)
    with pytest.raises(Interrupted):
        first._save_checkpoint()
    assert first.checkpoint.read_bytes() == good
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "metrics.csv"]


def test_a_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(RuntimeError, match=r"checkpoint.pt: damaged .*[Dd]elete"):
        Trainer(config(), IMAGES, LABELS, tmp_path, evaluate)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, monkeypatch):
    """Names epoch, step and learning rate, and keeps the last good checkpoint."""
    loss, calls = train.nt_xent, []

    def sometimes_nan(z, temperature):
        calls.append(1)
        return loss(z, temperature) * (math.nan if len(calls) == 9 else 1)

    monkeypatch.setattr(train, "nt_xent", sometimes_nan)
    with pytest.raises(TrainingFailed, match=r"the loss is nan in epoch 2, step 3, at learning rate 0.01"):
        Trainer(config(), IMAGES, LABELS, tmp_path, evaluate).run()
    monkeypatch.setattr(train, "nt_xent", loss)
    kept = Trainer(config(), IMAGES, LABELS, tmp_path, evaluate)
    assert kept.progress.epoch == 1
    assert weights(kept).isfinite().all()


@pytest.mark.parametrize(
    ("views_per_batch", "definition", "least"),
    [(2, "outside", 0), (4, "pairs", 0), (4, "outside", math.log(3)), (4, "inside", 0)],
)
def test_training_lowers_the_loss(tmp_path, views_per_batch, definition, least):
    """Images of one colour each, which views without jitter keep: easy to tell apart.

    With three positives outside the logarithm, their probabilities add up to less than 1, and the loss
    cannot fall below log 3.
    """
    images = IMAGES[:, :, :1, :1].expand(-1, -1, 12, 12).contiguous()
    easy = config(
        views={"jitter_p": 0, "grayscale_p": 0},
        network=dict(config().network) | {"projection_norm": True},
        training={
            "epochs": 12,
            "temperature": 0.2,
            "views_per_batch": views_per_batch,
            "multi_view_loss": definition,
        },
    )
    metrics = Trainer(easy, images, torch.arange(len(images)), tmp_path, evaluate).run().metrics
    assert least < metrics[-1]["loss_nats"] < least + 0.7 * (metrics[1]["loss_nats"] - least)


def test_a_supervised_run_learns_its_labels(tmp_path):
    """Four classes, a colour each: cross-entropy starts near log 4 and falls to almost nothing."""
    images = IMAGES[LABELS, :, :1, :1].expand(-1, -1, 12, 12).contiguous()
    easy = {"views": {"jitter_p": 0, "grayscale_p": 0}, "training": {"epochs": 20}}
    trainer = Trainer(config(objective="supervised", **easy), images, LABELS, tmp_path, evaluate)
    assert trainer.model.projection_head.out_features == 4
    losses = [row["loss_nats"] for row in trainer.run().metrics]
    assert losses[1] < 2 * math.log(4)
    assert losses[-1] < 0.3 * math.log(4)


def test_a_supervised_loss_pairs_each_image_with_its_label(tmp_path):
    """Oracle: cross-entropy by hand. Rows are the first views of all images, then the second."""
    trainer = Trainer(config(objective="supervised"), IMAGES, LABELS, tmp_path, evaluate)
    images = torch.tensor([5, 0, 7])
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    expected = [-torch.log_softmax(z[row], 0)[LABELS[images[row % 3]]] for row in range(6)]
    assert trainer._loss(z, images) == pytest.approx(sum(expected).item() / 6, rel=1e-6)
    twice = {"views_per_batch": 4}  # the same rows again as third and fourth views
    trainer = Trainer(config(objective="supervised", training=twice), IMAGES, LABELS, tmp_path, evaluate)
    assert trainer._loss(z.repeat(2, 1), images) == pytest.approx(sum(expected).item() / 6, rel=1e-6)


def test_counts_what_it_does(tmp_path):
    """20 images in batches of 8: 3 batches a pass, 2 passes an epoch; every image gives 4 views an epoch."""
    progress = Trainer(config(), IMAGES, LABELS, tmp_path, evaluate).run()
    assert progress.steps == 3 * 2 * 3
    assert progress.images_forwarded == 3 * 20 * 4
    assert [row["epoch"] for row in progress.metrics] == [0, 1, 2, 3]


@pytest.mark.parametrize("joint", [False, True])
def test_more_views_in_a_batch_forward_as_many_in_as_many_steps(tmp_path, monkeypatch, joint):
    """20 images, 4 views, 20 views a batch: 4 steps an epoch, with 10 images in a batch or with 5."""
    forwards = []
    monkeypatch.setattr(SimCLR, "forward", recording(SimCLR.forward, forwards))
    for views_per_batch in (2, 4):
        forwards.clear()
        sizes = {"batch_size": 10, "views_per_batch": views_per_batch, "joint_forward": joint}
        folder = tmp_path / str(views_per_batch)
        progress = Trainer(config(training=sizes), IMAGES, LABELS, folder, evaluate).run()
        assert (progress.steps, progress.images_forwarded) == (3 * 4, 3 * 4 * 20)
        assert forwards == ([20] * 12 if joint else [20 // views_per_batch] * views_per_batch * 12)


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_one_step_with_many_views_is_the_loss_of_all_views_of_its_images(tmp_path, definition):
    """Oracle: views, forward and loss written out, view by view."""
    sizes = {"views_per_batch": 4, "multi_view_loss": definition}
    trainer = Trainer(config(training=sizes), IMAGES, LABELS, tmp_path, evaluate)
    images, views = next(trainer.sampler.epoch(0))
    assert views.shape == (4, 4)
    expected = make_model(config())
    z = [
        expected(train.make_views(IMAGES, images, views[:, v], 0, seed=0, size=12, config=config().views))
        for v in range(4)
    ]
    loss = multi_view_nt_xent(torch.cat(z), 4, 0.5, definition)
    torch.testing.assert_close(trainer._step(images, views, 0, 0.01), loss.detach(), rtol=1e-4, atol=1e-5)


def test_evaluates_first_last_and_every_so_often(tmp_path):
    changes = {"training": {"epochs": 5}, "evaluation": {"every_epochs": 2}}
    metrics = Trainer(config(**changes), IMAGES, LABELS, tmp_path, evaluate).run().metrics
    assert [row["epoch"] for row in metrics if "checksum" in row] == [0, 2, 4, 5]


def test_one_step_is_plain_simclr(tmp_path):
    """The trainer's first step against one written out with torch's own optimiser on the same views."""
    trainer = Trainer(config(), IMAGES, LABELS, tmp_path, evaluate)
    images, views = next(trainer.sampler.epoch(0))
    expected = make_model(config())
    optimizer = torch.optim.AdamW(expected.parameters(), lr=0.01, weight_decay=0)
    pair = [
        train.make_views(IMAGES, images, views[:, v], 0, seed=0, size=12, config=config().views)
        for v in (0, 1)
    ]
    loss = train.nt_xent(torch.cat([expected(x) for x in pair]), 0.5)
    loss.backward()
    optimizer.step()
    torch.testing.assert_close(trainer._step(images, views, 0, 0.01), loss.detach(), rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(trainer.model.parameters(), expected.parameters(), strict=True):
        # Adam's first step is the learning rate times the gradient's sign: rounding flips those near 0.
        close = torch.isclose(ours, theirs, atol=1e-4)
        assert close.float().mean() > 0.99


def test_what_a_step_is_made_of_reads_nothing_back():
    """On a GPU the host would wait. Oracle: torch's `meta` device, whose tensors have no values to read."""
    images, views = next(ViewSampler(20, 4, 8, seed=0).epoch(0, "meta"))
    x = train.make_views(
        IMAGES.to("meta"), images.repeat(2), views.T.flatten(), 0, seed=0, size=12, config=config().views
    )
    model = make_model(config()).to("meta")
    train.nt_xent(model(x), 0.5).backward()
    for definition in DEFINITIONS:
        multi_view_nt_xent(model(x), 4, 0.5, definition).backward()
    assert all(p.grad.is_meta for p in model.parameters())


class Kernels(TorchDispatchMode):
    """Notes each kernel that runs, with its arguments; of a tensor its shape and type only."""

    def __init__(self):
        super().__init__()
        self.log = []

    def __torch_dispatch__(self, kernel, types, args=(), kwargs=None):
        noted = tree_map_only(torch.Tensor, lambda t: (tuple(t.shape), t.dtype), (args, kwargs))
        if kernel.namespace == "aten":  # else the profiler's
            self.log.append((str(kernel), str(noted)))
        return kernel(*args, **(kwargs or {}))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_one_capture_of_a_step_would_serve_all_steps(tmp_path, monkeypatch, optimizer):
    """A CUDA graph repeats the kernels of one step with the numbers they were called with.

    So these must not depend on the images, nor on an epoch and a rate that are tensors. Given as numbers they
    stand among the arguments, which shows that the log sees them.
    """
    monkeypatch.setattr(augment, "_change_chosen", augment._change_all)  # as on a GPU
    changes = {"optimizer": optimizer, "batch_size": 5}  # divides the images
    trainer = Trainer(config(training=changes), IMAGES, LABELS, tmp_path, evaluate)
    batches = trainer.sampler.epoch(0)
    trainer._step(*next(batches), 0, 0.1)  # makes the optimiser's state

    def log(epoch, rate) -> list:
        with Kernels() as kernels:
            trainer._step(*next(batches), epoch, rate)
        return kernels.log

    first, second = (log(torch.tensor(epoch), torch.tensor(rate)) for epoch, rate in ((1, 0.01), (7, 0.02)))
    kernels = {name for name, _ in first}
    assert not {name for name in kernels if "local_scalar" in name or "nonzero" in name}  # reads of a tensor
    assert kernels >= {
        "aten.convolution_backward.default",
        f"aten._fused_{optimizer}_.tensor_lr",
    }
    assert first == second
    assert log(1, 0.01) != log(7, 0.01)
    assert log(1, 0.01) != log(1, 0.02)


def test_rates_and_epochs_as_tensors_train_the_same(tmp_path):
    number, tensor = (Trainer(config(), IMAGES, LABELS, tmp_path, evaluate) for _ in range(2))
    batch = next(number.sampler.epoch(0))
    number._step(*batch, 5, 0.01)
    tensor._step(*batch, torch.tensor(5), torch.tensor(0.01, dtype=torch.float64))
    assert torch.equal(weights(number), weights(tensor))


@pytest.mark.parametrize("views_per_batch", [2, 4])
def test_joint_and_separate_forward_differ_in_batch_norm_only(tmp_path, views_per_batch):
    """In evaluation mode BatchNorm has fixed statistics, and both give the same loss; in training not."""
    losses = {}
    for joint in (False, True):
        for mode in (False, True):
            changes = {"joint_forward": joint, "views_per_batch": views_per_batch}
            trainer = Trainer(config(training=changes), IMAGES, LABELS, tmp_path, evaluate)
            trainer.model.train(mode)
            losses[joint, mode] = trainer._step(*next(trainer.sampler.epoch(0)), 0, 0.0).item()
    assert losses[True, False] == pytest.approx(losses[False, False], rel=1e-5)
    assert losses[True, True] != pytest.approx(losses[False, True], rel=1e-5)


def test_learning_rate_of_the_report():
    """study: per epoch, linear over 10 epochs to 0.6, then cosine to 0; constant within an epoch."""
    rates = [learning_rate(TrainingConfig(), step, 391) for step in range(50 * 391)]
    per_epoch = rates[::391]
    assert all(rates[e * 391] == rates[e * 391 + 390] for e in range(50))
    assert per_epoch[:10] == pytest.approx([0.06 * (e + 1) for e in range(10)])
    oracle = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.6)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(oracle, 40)
    for epoch in range(10, 50):
        assert per_epoch[epoch] == pytest.approx(cosine.get_last_lr()[0])
        oracle.step()
        cosine.step()


def test_a_schedule_in_steps_moves_at_each_step():
    schedule = TrainingConfig(epochs=4, warmup_epochs=1, schedule_per="step", learning_rate=1.0)
    rates = [learning_rate(schedule, step, 10) for step in range(40)]
    assert rates[:10] == pytest.approx([0.1 * (s + 1) for s in range(10)])
    assert rates[10] == 1.0
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert 0 < rates[-1] < 0.01


def test_a_constant_schedule_falls_in_a_straight_line_over_its_last_part():
    """torch's LinearLR, from the peak over the last fifth."""
    schedule = TrainingConfig(
        epochs=10, warmup_epochs=1, schedule="constant", schedule_per="step", learning_rate=1.0
    )
    rates = [learning_rate(schedule, step, 10) for step in range(100)]
    assert rates[10:81] == [1.0] * 71
    oracle = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    line = torch.optim.lr_scheduler.LinearLR(oracle, 1.0, 0.0, total_iters=20)
    for rate in rates[80:]:
        assert rate == pytest.approx(line.get_last_lr()[0])
        oracle.step()
        line.step()
    level = TrainingConfig(epochs=10, warmup_epochs=1, schedule="constant", decay_share=0, learning_rate=1.0)
    assert learning_rate(level, 99, 10) == 1.0


def test_a_warm_up_may_end_within_an_epoch():
    schedule = TrainingConfig(epochs=2, warmup_epochs=0.25, schedule_per="step", learning_rate=1.0)
    rates = [learning_rate(schedule, step, 20) for step in range(40)]
    assert rates[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert rates[6] < 1


def test_runs_that_leave_a_constant_rate_share_its_first_steps(tmp_path):
    """C6: to the bit, so that the short run is a branch of the long one."""
    schedule = {"schedule": "constant", "schedule_per": "step", "learning_rate": 1e-3}
    short = Trainer(config(training=schedule), IMAGES, LABELS, tmp_path / "a", evaluate)
    long = Trainer(config(training=schedule | {"epochs": 6}), IMAGES, LABELS, tmp_path / "b", evaluate)
    short.run()
    long.run()
    losses = [[row["loss_nats"] for row in t.progress.metrics] for t in (short, long)]
    assert losses[0][1:3] == losses[1][1:3]  # two of three epochs; the last fifth of these falls
    assert losses[0][3] != losses[1][3]


def test_a_share_of_the_images_is_the_first_of_each_class(tmp_path):
    assert train.first_of_each_class(LABELS, 0.4).tolist() == [0, 1, 2, 3, 4, 5, 6, 7]  # 2 of 5 in each of 4
    assert train.first_of_each_class(LABELS, 1).tolist() == list(range(20))
    assert train.first_of_each_class(LABELS, 0.01).tolist() == [0, 1, 2, 3]
    trainer = Trainer(config(training={"image_share": 0.4}), IMAGES, LABELS, tmp_path, evaluate)
    assert torch.equal(trainer.images, IMAGES[:8])
    assert len(trainer.sampler) == 2  # of 8 images, two passes


def test_views_may_be_smaller_than_the_images(tmp_path, monkeypatch):
    sizes = set()
    monkeypatch.setattr(SimCLR, "forward", lambda self, x: sizes.add(x.shape[2:]) or FORWARD(self, x))
    Trainer(config(views={"size": 8}), IMAGES, LABELS, tmp_path, evaluate).run()
    assert sizes == {(8, 8)}


def test_initial_weights_depend_on_the_seed_only():
    torch.manual_seed(1)
    one = make_model(config())
    torch.manual_seed(2)
    other = make_model(config())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert not torch.equal(next(one.parameters()), next(make_model(config(seed=1)).parameters()))


def test_model_is_what_the_configuration_says():
    expected = SimCLR(make_backbone(18, "conv3", 16, 10), make_projection_head(10, 16, 8, norm=False))
    assert str(make_model(config())) == str(expected)


def test_a_batch_of_one_image_is_refused_with_the_fix(tmp_path):
    with pytest.raises(ConfigError, match=r"batch_size 19 leaves a last batch of one .* use 18"):
        Trainer(config(training={"batch_size": 19}), IMAGES, LABELS, tmp_path, evaluate)
    with pytest.raises(
        ConfigError, match=r"batch_size 21 puts 21 images .* more than the 20 training images"
    ):
        Trainer(config(training={"batch_size": 21}), IMAGES, LABELS, tmp_path, evaluate)


@pytest.mark.parametrize(
    ("n_images", "batch_size", "views_per_batch", "message"),
    [
        (21, 2, 2, "batch_size 2 leaves .* use 3$"),
        (21, 8, 4, "batch_size 8 leaves .* use 6$"),  # 3 images: 7 batches
        (17, 32, 8, "batch_size 32 leaves .* use 28$"),  # 7 images: two batches and one of 3 images
        (3, 3, 3, "batch_size 3 leaves .* use another training.views_per_batch$"),
        (20, 42, 4, "batch_size 42 puts 21 images .* more than the 20 training images"),
    ],
)
def test_the_fix_of_a_batch_size_works(n_images, batch_size, views_per_batch, message):
    sizes = {"batch_size": batch_size, "views_per_batch": views_per_batch}
    with pytest.raises(ConfigError, match=message):
        train.check_batches(n_images, TrainingConfig(**sizes))
    if fix := re.search(r"use (\d+)$", message):
        train.check_batches(n_images, TrainingConfig(**sizes | {"batch_size": int(fix[1])}))


def test_a_missing_gpu_is_named():
    with pytest.raises(ConfigError, match="device 'cuda:99': this machine has"):
        train.resolve_device("cuda:99")


def test_the_run_does_not_depend_on_the_callers_random_state(tmp_path):
    torch.manual_seed(1)
    one = Trainer(config(), IMAGES, LABELS, tmp_path / "a", evaluate)
    one.run()
    torch.manual_seed(2)
    other = Trainer(config(), IMAGES, LABELS, tmp_path / "b", evaluate)
    other.run()
    assert torch.equal(weights(one), weights(other))
    shutil.rmtree(tmp_path)
