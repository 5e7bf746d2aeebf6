"""Training: each value of a recipe counts, resuming to the same bits, stopping at a loss that is none."""

import itertools
import math
import re
from dataclasses import fields, replace
from functools import cache

import pytest
import torch
from small import small_profile, small_run

from manyviews.config.schema import RunConfig
from manyviews.data.dataset import load_dataset
from manyviews.runs.run import recipe_of, run
from manyviews.simclr import numerics, train
from manyviews.simclr.losses import multi_view_nt_xent, nt_xent
from manyviews.simclr.models import SimCLR, make_simclr
from manyviews.simclr.numerics import repeatable
from manyviews.simclr.sampler import ViewSampler
from manyviews.simclr.train import Recipe, Trainer, TrainingFailed, learning_rate, read_ahead
from manyviews.simclr.views import ViewStrengths, make_views

IMAGES = torch.randint(0, 256, (20, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(20) % 4
SEED = 5
SHORT = Recipe(n_views=4, epochs=3, warmup_epochs=1, batch_size=8, learning_rate=1e-2)

# A recipe in which each field is off its default and has an effect on the result.
STRENGTHS = ViewStrengths(
    crop_scale=(0.3, 0.8), crop_ratio=(0.5, 1.5), flip_p=0.3, jitter_p=0.7, brightness=0.2, contrast=0.3,
    saturation=0.5, hue=0.25, grayscale_p=0.4, blur_p=0.6, blur_sigma=(0.3, 1.5), blur_kernel=7,
)  # fmt: skip
OFF_DEFAULT = Recipe(
    n_views=8, views_per_batch=4, multi_view_loss="inside", temperature=0.3, batch_size=6, joint_forward=True,
    epochs=3, warmup_epochs=1, schedule="constant", decay_fraction=0.4, schedule_per="step",
    optimizer="sgd", learning_rate=0.02, weight_decay=0.01, momentum=0.7,
    view_size=10, distinct=8, strengths=STRENGTHS,
)  # fmt: skip
# What each field is set to instead: its default, unless that needs more images or time than there are.
INSTEAD = {"n_views": 4, "epochs": 2, "warmup_epochs": 1.5, "batch_size": 8}
ALTERNATIVES = {field.name: INSTEAD.get(field.name, field.default) for field in fields(Recipe)}
del ALTERNATIVES["strengths"]
ALTERNATIVES |= {f"strengths.{field.name}": field.default for field in fields(ViewStrengths)}


def network(**changes) -> SimCLR:
    """In float64, in which the written-out training gives the same digits."""
    sizes = {"width": 4, "feature_dim": 10, "projection_hidden": 16, "projection_dim": 8}
    return make_simclr(1, **sizes | changes).double()


def trainer(recipe: Recipe = SHORT, seed: int = SEED, model: SimCLR | None = None, **settings) -> Trainer:
    return Trainer(model or network(), IMAGES, recipe, seed, **settings)


def trained(recipe: Recipe = SHORT, seed: int = SEED, **settings) -> Trainer:
    made = trainer(recipe, seed, **settings)
    made.run()
    return made


def checksum(model: SimCLR, epoch: int) -> dict:
    """Stands for the probes: a number that any change of the weights changes."""
    return {"checksum": sum(p.double().sum().item() for p in model.parameters())}


def weights(model: SimCLR) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def losses(made: Trainer) -> list[float]:
    return [row["loss_nats"] for row in made.progress.metrics[1:]]


def written_out(recipe: Recipe, seed: int) -> tuple[SimCLR, list[float]]:
    """Training as a loop over its parts, view by view; gives the network and the loss of each step."""
    model, per_batch = network(), 2 * recipe.batch_size // recipe.views_per_batch
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            model.parameters(), momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
    else:
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=recipe.weight_decay)
    sampler = ViewSampler(len(IMAGES), per_batch, seed, recipe.views_per_batch, recipe.distinct)
    passes = recipe.n_views // recipe.views_per_batch  # of an epoch
    of_steps = []
    for images, draws in itertools.chain(*(sampler.batches(g) for g in range(recipe.epochs * passes))):
        x = [
            make_views(
                IMAGES, images, draws[:, v], seed=seed, size=recipe.view_size or 12,
                strengths=recipe.strengths, dtype=torch.float64,
            )
            for v in range(recipe.views_per_batch)
        ]  # fmt: skip
        z = model(torch.cat(x)) if recipe.joint_forward else torch.cat([model(one) for one in x])
        loss = multi_view_nt_xent(z, recipe.views_per_batch, recipe.temperature, recipe.multi_view_loss)
        model.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = learning_rate(recipe, len(of_steps), passes * len(sampler))
        optimizer.step()
        of_steps.append(loss.item())
    return model, of_steps


@pytest.mark.parametrize(
    "recipe",
    [
        OFF_DEFAULT,
        replace(OFF_DEFAULT, distinct=None, optimizer="adamw", multi_view_loss="pairs", joint_forward=False),
        replace(SHORT, weight_decay=0.2),
    ],
    ids=["all off their defaults", "adamw, fresh views, one at a time", "short"],
)
def test_training_is_the_loop_over_its_parts(recipe):
    """Oracle: sampler, views, network, loss and torch's optimisers in a plain loop."""
    ours, (model, of_steps) = trained(recipe), written_out(recipe, SEED)
    means = torch.tensor(of_steps, dtype=torch.float64).view(recipe.epochs, -1).mean(dim=1)
    assert losses(ours) == pytest.approx(means.tolist(), rel=1e-7)
    torch.testing.assert_close(weights(ours.model), weights(model), rtol=1e-6, atol=1e-8)


@pytest.fixture(scope="module")
def off_default() -> torch.Tensor:
    return weights(trained(OFF_DEFAULT).model)


@pytest.mark.parametrize("name", ALTERNATIVES)
def test_every_value_of_a_recipe_changes_the_result(off_default, name):
    """So that none is ignored, and so that the recipe above would show it."""
    value, (field, _, strength) = ALTERNATIVES[name], name.partition(".")
    if strength:
        value = replace(STRENGTHS, **{strength: value})
    changed = replace(OFF_DEFAULT, **{field: value})
    assert changed != OFF_DEFAULT
    assert not torch.allclose(weights(trained(changed).model), off_default, rtol=1e-4, atol=1e-6)


class Interrupted(Exception):
    """Stands for a crash."""


def crash_at(monkeypatch, method: str, call: int):
    """Let a method of the trainer crash when it is called for this time, counted from 0."""
    whole, done = getattr(Trainer, method), []

    def crashing(self, *arguments, **named):
        if len(done) == call:
            raise Interrupted
        done.append(1)
        return whole(self, *arguments, **named)

    monkeypatch.setattr(Trainer, method, crashing)


# An epoch has 6 steps, with 4 views in a batch 5; the first record is of the initial weights.
@pytest.mark.parametrize(
    ("method", "call", "epochs_kept", "changes"),
    [
        ("_record", 0, 0, {}),
        ("_step", 8, 1, {"joint_forward": True, "schedule_per": "step", "views_per_batch": 4}),
        ("_step", 17, 2, {"optimizer": "sgd"}),
        ("_save_checkpoint", 2, 2, {}),
    ],
)
def test_a_resumed_training_ends_bit_identical(tmp_path, monkeypatch, method, call, epochs_kept, changes):
    """Crashes before, within and at the end of each epoch, the last among them."""
    recipe = replace(SHORT, **changes)
    whole = trained(recipe, checkpoint=tmp_path / "whole.pt", evaluate=checksum)
    settings = {"checkpoint": tmp_path / "broken.pt", "evaluate": checksum}
    with monkeypatch.context() as patch:
        crash_at(patch, method, call)
        with pytest.raises(Interrupted):
            trainer(recipe, **settings).run()
    resumed = trainer(recipe, **settings)
    assert resumed.progress.epoch == epochs_kept  # loses the work since the last epoch, no more
    resumed.run()
    assert torch.equal(weights(resumed.model), weights(whole.model))
    assert str(resumed.progress.metrics) == str(whole.progress.metrics)  # nan is not equal to itself
    for name in ("epoch", "steps", "views_forwarded"):
        assert getattr(resumed.progress, name) == getattr(whole.progress, name)


@pytest.mark.parametrize("labels", [None, LABELS], ids=["contrastive", "supervised"])
def test_a_training_by_rounding_is_near_that_in_float32_and_resumes_bit_identical(
    tmp_path, monkeypatch, labels
):
    """As on a processor without bfloat16; on any other its losses are as near."""
    of_classes = {} if labels is None else {"n_classes": 4}

    def made(precision: torch.dtype, **settings) -> Trainer:
        model = network(**of_classes).float()
        return trainer(model=model, labels=labels, precision=precision, **settings)

    (exact := made(torch.float32)).run()
    (native := made(torch.bfloat16)).run()
    monkeypatch.setattr(numerics, "has_bfloat16", lambda device: False)
    whole = made(torch.bfloat16, checkpoint=tmp_path / "whole.pt")
    whole.run()
    for of in (whole, native):
        assert losses(of) != losses(exact)
        assert losses(of) == pytest.approx(losses(exact), rel=0.03)
    with monkeypatch.context() as patch:
        crash_at(patch, "_step", 8)
        with pytest.raises(Interrupted):
            made(torch.bfloat16, checkpoint=tmp_path / "broken.pt").run()
    resumed = made(torch.bfloat16, checkpoint=tmp_path / "broken.pt")
    assert resumed.progress.epoch == 1
    resumed.run()
    assert torch.equal(weights(resumed.model), weights(whole.model))
    assert all(p.dtype == torch.float32 for p in whole.model.parameters())


@pytest.mark.parametrize(("n_images", "batch_size", "optimizer"), [(20, 8, "sgd"), (19, 5, "adamw")])
def test_views_per_epoch_are_passes_and_nothing_more(tmp_path, monkeypatch, n_images, batch_size, optimizer):
    """To the bit, eight views for 2 epochs, two for 8, and four for 4, with a crash, are one training."""

    def made(n_views, epochs):
        recipe = Recipe(
            n_views=n_views, epochs=epochs, warmup_epochs=1.5 * epochs / 8, schedule_per="step",
            batch_size=batch_size, optimizer=optimizer, learning_rate=1e-2,
        )  # fmt: skip
        return Trainer(network(), IMAGES[:n_images], recipe, SEED, checkpoint=tmp_path / f"{n_views}.pt")

    with monkeypatch.context() as patch:
        crash_at(patch, "_step", 10)
        with pytest.raises(Interrupted):
            made(4, 4).run()
    eight, two, four = made(8, 2), made(2, 8), made(4, 4)
    assert four.progress.steps > 0
    for one in (eight, two, four):
        one.run()
        assert one.progress.views_forwarded == 16 * n_images
        assert torch.equal(weights(one.model), weights(eight.model))
    assert sum(losses(two)) / 8 == pytest.approx(sum(losses(eight)) / 2, rel=1e-12)


PER_EPOCH = {"schedule_per": "epoch"}
EIGHT_VIEWS = {"n_views": 8, "epochs": 2, "warmup_epochs": 0.5}  # as many passes as the training below
FOUR_IN_A_BATCH = EIGHT_VIEWS | {"views_per_batch": 4, "batch_size": 10}


def config_of(n_views=2, seed=0, distinct=None, **training) -> RunConfig:
    """By default 8 passes over all images, with 2 views each."""
    training = {"epochs": 8, "warmup_epochs": 2, "schedule_per": "step"} | training
    shared = small_profile(training=training, views={"distinct": distinct}).model_dump()
    return RunConfig(run=f"views{n_views}", depth=18, stem="conv3", n_views=n_views, seed=seed, **shared)


@cache
def trained_by(config: RunConfig) -> torch.Tensor:
    return weights(trained(recipe_of(config), config.seed).model)


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ({}, EIGHT_VIEWS, True),
        (PER_EPOCH, EIGHT_VIEWS | PER_EPOCH, False),
        ({}, EIGHT_VIEWS | {"warmup_epochs": 0.25}, False),
        ({}, FOUR_IN_A_BATCH, False),
        ({}, {"multi_view_loss": "pairs"}, True),
        (FOUR_IN_A_BATCH, FOUR_IN_A_BATCH | {"multi_view_loss": "pairs"}, False),
        # Fresh views are as many distinct ones as there are draws, which are 16.
        ({}, {"distinct": 16}, True),
        ({}, {"distinct": 18}, True),
        ({}, {"distinct": 14}, False),
        ({"distinct": 4}, EIGHT_VIEWS | {"distinct": 4}, True),
        ({"distinct": 4}, {"distinct": 6}, False),
        ({}, {"momentum": 0.5}, True),
        ({"optimizer": "sgd"}, {"optimizer": "sgd", "momentum": 0.5}, False),
        ({}, {"decay_fraction": 0.5}, True),
        ({"schedule": "constant"}, {"schedule": "constant", "decay_fraction": 0.5}, False),
    ],
)
def test_configurations_have_one_canonical_form_where_their_trainings_are_one(one, other, equal):
    """To the bit; so that a training is never made twice, and never passed off as another."""
    one, other = config_of(**one), config_of(**other)
    assert (one.canonical() == other.canonical()) is equal
    assert torch.equal(trained_by(one), trained_by(other)) is equal


def test_what_follows_an_epoch_is_made_up_for_after_an_interruption(tmp_path):
    """A crash while the last epoch's row was written to disk must not leave the file a row short."""
    path, rows = tmp_path / "c.pt", []

    def crash_at_last(progress):
        if progress.epoch == SHORT.epochs:
            raise Interrupted
        rows.append(len(progress.metrics))

    with pytest.raises(Interrupted):
        trainer(checkpoint=path).run(crash_at_last)
    trainer(checkpoint=path).run(lambda progress: rows.append(len(progress.metrics)))
    assert rows == [2, 3, 4]


def test_a_crash_while_the_checkpoint_is_written_keeps_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    first = trained(checkpoint=path)
    good = path.read_bytes()

    def half_written(state, file):
        file.write(good[:100])
        raise Interrupted

    monkeypatch.setattr(train.torch, "save", half_written)
    with pytest.raises(Interrupted):
        first._save_checkpoint()
    assert path.read_bytes() == good


def test_a_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(RuntimeError, match=r"checkpoint.pt: damaged .*Delete .* to start"):
        trainer(checkpoint=tmp_path / "checkpoint.pt")


def test_one_flipped_bit_of_a_checkpoint_is_found(tmp_path):
    """It would give another model, which torch.load does not see."""
    path = tmp_path / "checkpoint.pt"
    one = trainer(checkpoint=path)
    one.run()
    weight = next(p for p in one.model.parameters() if p.ndim == 1).detach().numpy().tobytes()
    content = bytearray(path.read_bytes())
    content[content.index(weight)] ^= 1
    path.write_bytes(content)
    with pytest.raises(TrainingFailed, match=r"checkpoint.pt: damaged .another checksum"):
        trainer(checkpoint=path)


def test_a_loss_that_is_no_number_stops_the_training(tmp_path, monkeypatch):
    """Names epoch, step and learning rate, and keeps the last good checkpoint."""
    calls = []

    def sometimes_nan(z, temperature):
        calls.append(1)
        return nt_xent(z, temperature) * (math.nan if len(calls) == 9 else 1)

    monkeypatch.setattr(train, "nt_xent", sometimes_nan)
    with pytest.raises(TrainingFailed, match=r"the loss is nan in epoch 2, step 3, at learning rate 0.01"):
        trainer(checkpoint=tmp_path / "c.pt").run()
    kept = trainer(checkpoint=tmp_path / "c.pt")
    assert kept.progress.epoch == 1
    assert weights(kept.model).isfinite().all()


@pytest.mark.parametrize(
    ("labels", "changes", "share"),
    [
        (LABELS, {}, 0.9),
        (None, {"multi_view_loss": "inside", "views_per_batch": 4, "batch_size": 40}, 0.7),
    ],
)
def test_training_lowers_the_loss(labels, changes, share):
    """Images of one colour each, which views without jitter keep: easy to tell apart."""
    easy = replace(SHORT, epochs=6, temperature=0.2, strengths=ViewStrengths(jitter_p=0, grayscale_p=0))
    model = network(projection_norm=True, n_classes=None if labels is None else 4)
    images = IMAGES[:, :, :1, :1].expand(-1, -1, 12, 12)
    made = Trainer(model, images, replace(easy, **changes), labels=labels)
    made.run()
    assert 0 < losses(made)[-1] < share * losses(made)[0]


def test_a_supervised_loss_pairs_each_image_with_its_label():
    """Oracle: cross-entropy by hand. Rows are the first views of all images, then the second, and so on."""
    made = trainer(model=network(n_classes=4), labels=LABELS)
    images = torch.tensor([5, 0, 7])
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    expected = [-torch.log_softmax(z[row], 0)[LABELS[images[row % 3]]] for row in range(6)]
    assert made._loss(z, images) == pytest.approx(sum(expected).item() / 6, rel=1e-6)


def test_counts_what_it_does():
    """20 images in batches of 8: 3 batches a pass, 2 passes an epoch; every image gives 4 views an epoch."""
    progress = trainer().run()
    rows = [(row["epoch"], row["steps"], row["views_forwarded"]) for row in progress.metrics]
    assert rows == [(0, 0, 0), (1, 6, 80), (2, 12, 160), (3, 18, 240)]
    assert (progress.epoch, progress.steps, progress.views_forwarded) == rows[-1]


@pytest.mark.parametrize(("epochs", "every", "expected"), [(5, 2, [0, 2, 4, 5]), (3, 9, [0, 3])])
def test_evaluates_first_last_and_every_so_often(epochs, every, expected):
    called = []

    def evaluate(model, epoch):
        called.append(epoch)
        return checksum(model, epoch)

    metrics = trainer(replace(SHORT, epochs=epochs), evaluate=evaluate, every_epochs=every).run().metrics
    assert [row["epoch"] for row in metrics if "checksum" in row] == called == expected


def test_what_a_step_is_made_of_reads_nothing_back():
    """On a GPU the host would wait. Oracle: torch's `meta` device, whose tensors have no values to read."""
    images, draws = next(ViewSampler(20, 8, seed=0).batches(0, "meta"))
    settings = {"seed": 0, "size": 12, "strengths": ViewStrengths()}
    x = make_views(IMAGES.to("meta"), images.repeat(2), draws.T.flatten(), **settings)
    model = network().float().to("meta")
    nt_xent(model(x), 0.5).backward()
    for definition in ("pairs", "outside", "inside"):
        multi_view_nt_xent(model(x), 4, 0.5, definition).backward()
    assert all(p.grad.is_meta for p in model.parameters())


def test_learning_rate_of_the_original():
    """Per epoch: linear over 10 epochs to 0.6, then a cosine to 0, torch's; constant within an epoch."""
    rates = [learning_rate(Recipe(), step, 391) for step in range(50 * 391)]
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
    """Its warm-up may end within an epoch."""
    schedule = Recipe(epochs=2, warmup_epochs=0.25, schedule_per="step", learning_rate=1.0)
    rates = [learning_rate(schedule, step, 20) for step in range(40)]
    assert rates[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert all(a > b for a, b in itertools.pairwise(rates[5:]))
    assert 0 < rates[-1] < 0.01


def test_a_constant_schedule_falls_in_a_straight_line_over_its_last_part():
    """Oracle: torch's LinearLR, from the peak over the last fifth."""
    schedule = Recipe(epochs=10, warmup_epochs=1, schedule="constant", schedule_per="step", learning_rate=1.0)
    rates = [learning_rate(schedule, step, 10) for step in range(100)]
    assert rates[10:81] == [1.0] * 71
    oracle = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    line = torch.optim.lr_scheduler.LinearLR(oracle, 1.0, 0.0, total_iters=20)
    for rate in rates[80:]:
        assert rate == pytest.approx(line.get_last_lr()[0])
        oracle.step()
        line.step()
    assert learning_rate(replace(schedule, decay_fraction=0), 99, 10) == 1.0


@pytest.mark.parametrize(
    ("n_images", "batch_size", "views_per_batch", "message"),
    [
        (20, 19, 2, "batch_size 19 leaves .* use 18$"),
        (21, 2, 2, "batch_size 2 leaves .* use 3$"),
        (21, 8, 4, "batch_size 8 leaves .* use 6$"),  # 3 images: 7 batches
        (17, 32, 8, "batch_size 32 leaves .* use 28$"),  # 7 images: two batches and one of 3 images
        (3, 3, 3, "batch_size 3 leaves .* use another training.views_per_batch$"),
        (20, 42, 4, "batch_size 42 puts 21 images .* more than the 20 training images"),
    ],
)
def test_a_batch_without_negatives_is_refused_with_a_fix_that_works(
    n_images, batch_size, views_per_batch, message
):
    recipe = Recipe(n_views=24, batch_size=batch_size, views_per_batch=views_per_batch)
    images = IMAGES.repeat(2, 1, 1, 1)[:n_images]
    with pytest.raises(ValueError, match=message):
        Trainer(network(), images, recipe)
    if fix := re.search(r"use (\d+)$", message):
        train.check_batches(n_images, replace(recipe, batch_size=int(fix[1])))


def test_a_fraction_of_the_images_is_trained_on(tmp_path, monkeypatch):
    """image_fraction 0.4 of 10 images of each of 3 classes: 12 images and their labels; probes see all 30."""
    monkeypatch.setenv("MANYVIEWS_DATA", str(tmp_path))
    monkeypatch.setenv("MANYVIEWS_RESULTS", str(tmp_path))
    seen = []
    whole = Trainer.run
    monkeypatch.setattr(Trainer, "run", lambda self, *after: seen.append(self) or whole(self, *after))
    config = small_run("supervised", training={"image_fraction": 0.4, "batch_size": 6})
    made = run(config)
    train_split = load_dataset(config.data).train
    used = [index for label in range(3) for index in (train_split.labels == label).nonzero()[0][:4]]
    assert torch.equal(seen[0].images, train_split.as_tensor()[sorted(used)])
    assert seen[0].labels.tolist() == train_split.labels[sorted(used)].tolist()
    assert (made.summary["views_forwarded"], made.summary["train_images"]) == (2 * 12 * 2, 30)


def test_on_a_gpu_convolutions_are_those_of_cudnn_that_repeat_to_the_bit():
    with repeatable():
        assert torch.backends.cudnn.enabled
        assert torch.backends.cudnn.deterministic


def test_the_next_batch_is_read_while_one_is_worked_on():
    read = []

    class Mapped:
        device = torch.device("cpu")

        def numpy(self):
            return self

        def __getitem__(self, images):
            read.append(images.tolist())

    batches = [(torch.tensor([i, i + 1]), torch.tensor([0, 1])) for i in range(4)]
    given = []
    for batch in read_ahead(iter(batches), Mapped()):
        given.append(batch)
    assert all(a is b for a, b in zip(given, batches, strict=True))
    assert read == [[1, 2], [2, 3], [3, 4]]
