"""A run's folder: whole or visibly not, kept, resumed, refused."""

import errno
import json
import os
import platform
import shutil
from functools import partial as partial_of
from pathlib import Path

import pandas as pd
import pytest
import safetensors.torch
import torch
from filelock import FileLock
from safetensors.torch import load_file
from small import full_disk, small_profile, small_run

from manyviews.config import paths
from manyviews.config.errors import sentence
from manyviews.config.schema import ConfigError
from manyviews.data.dataset import load_dataset
from manyviews.probes.features import split_features
from manyviews.probes.predictions import MEASURES, accuracies
from manyviews.probes.protocol import evaluate
from manyviews.runs import jobs, store
from manyviews.runs import run as runs_run
from manyviews.runs.environment import LIBRARIES
from manyviews.runs.run import (
    OutOfTime,
    first_of_each_class,
    make_model,
    raw_pixels,
    recipe_of,
    run,
    split_tensors,
)
from manyviews.runs.store import (
    CURVES,
    RunState,
    failures,
    load_own,
    mark_for_rerun,
    partial_folder,
    state_of,
)
from manyviews.simclr import train
from manyviews.simclr.models import count_parameters
from manyviews.simclr.train import Trainer, TrainingFailed

BRIEF = {"config.json", "environment.json", "metrics.csv", "predictions.csv", "predictions_initial.csv"}
BRIEF |= {"summary.json", "SHA256SUMS"}
WHOLE = BRIEF | {"model.safetensors", "neighbours.csv", "feature_map.csv"}


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(autouse=True)
def _folders(tmp_path, data_root, monkeypatch):
    monkeypatch.setenv("MANYVIEWS_DATA", str(data_root))
    monkeypatch.setenv("MANYVIEWS_RESULTS", str(tmp_path))


class Interrupted(BaseException):
    """Stands for a crash: no handler of ours may catch it."""


def crash(*_, **__):
    raise Interrupted


def interrupt_run(monkeypatch):
    """Begin the run and crash at its first step."""
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", crash)
        with pytest.raises(Interrupted):
            run(small_run())


def folder() -> Path:
    return paths.run_folder("small", "baseline", 0)


def names(path: Path) -> set[str]:
    return {file.name for file in path.iterdir()}


def test_a_finished_run_holds_all_it_should():
    made = run(small_run())
    assert names(folder()) == WHOLE
    assert state_of(folder()) is RunState.COMPLETE
    assert list(made.metrics["epoch"]) == [0, 1, 2]
    final = made.metrics.iloc[-1]
    assert all(made.summary[name] == final[name] for name in ("loss_nats", *CURVES))
    assert made.summary["views_forwarded"] == 2 * 30 * 2
    assert made.summary["macs"] == 3 * made.summary["macs_per_view"] * 120
    assert made.summary["parameters"] == count_parameters(make_model(small_run(), 3))
    assert made.summary["synthetic"] is True
    for key in ("git_commit", "torch", "device", "threads", "data_sha256", "wall_time_s", "cpu_time_s"):
        assert made.environment[key] is not None, key
    assert "baseline" in load_own(small_profile()).runs


@pytest.mark.parametrize(
    ("classes", "train", "val"), [(2, 10, 10), (3, 1, 1)], ids=["two classes", "one image a class"]
)
def test_a_study_of_very_few_images_is_made_whole(classes, train, val):
    sizes = {"classes": classes, "train_per_class": train, "val_per_class": val}
    config = small_run(
        data={"name": "fractals", "image_size": 8, "ood_classes": 2, "ood_per_class": 2, **sizes},
        evaluation={"neighbours": 1, "ood_folds": 2, "ood_fit_fraction": 0.5},
        training={"batch_size": classes},
    )
    made = run(config)
    assert names(folder()) == WHOLE
    assert all(0 <= made.summary[measure] <= 1 for measure in CURVES)
    assert made.summary["classes"] == classes


def test_tensorboard_shows_the_numbers_of_each_epoch_where_it_is_asked_for(tmp_path, monkeypatch):
    """Oracle: TensorBoard's own reader. Without the variable nothing is written."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("MANYVIEWS_TENSORBOARD", str(tmp_path / "scalars"))
    made = run(small_run())
    shown = EventAccumulator(str(tmp_path / "scalars/small/baseline/seed0")).Reload()
    for column in ("loss_nats", "id_knn_accuracy", "learning_rate"):
        epochs = {event.step: event.value for event in shown.Scalars(column)}
        measured = made.metrics.dropna(subset=[column]).query("epoch > 0").set_index("epoch")[column]
        assert epochs == pytest.approx(measured.to_dict(), rel=1e-6)
    monkeypatch.delenv("MANYVIEWS_TENSORBOARD")
    shutil.rmtree(tmp_path / "scalars")
    run(small_run(seed=1))
    assert not (tmp_path / "scalars").exists()


def test_who_watches_a_run_sees_its_metrics_after_each_epoch():
    seen = []
    made = run(small_run(), watch=seen.append)
    assert [len(metrics) for metrics in seen] == [*range(2, len(made.metrics) + 1), len(made.metrics)]
    pd.testing.assert_frame_equal(seen[-1], made.metrics, check_dtype=False)
    run(small_run(), watch=seen.clear)  # finished before: nothing to watch
    assert seen


def test_stored_weights_give_the_stored_numbers():
    """Weights, read back into a new network, have the final features; a probe of them repeats the numbers."""
    config, made = small_run(), run(small_run())
    model = make_model(config, 3)
    model.load_state_dict(load_file(folder() / "model.safetensors"))
    images, labels = split_tensors(load_dataset(config.data), torch.device("cpu"))
    features = split_features(model.backbone, images, 512)["fc"]
    again = accuracies(evaluate(features, labels, config.evaluation, folds=True).predictions)
    assert again == {name: made.summary[name] for name in MEASURES}


def test_stored_predictions_give_the_stored_numbers():
    """Those of the last epoch and those of the initial weights, which differ, to the last digit."""
    made = run(small_run())
    assert accuracies(made.predictions) == {name: made.summary[name] for name in MEASURES}
    assert accuracies(made.initial_predictions) == made.summary["initial"]
    assert made.summary["initial"] != {name: made.summary[name] for name in MEASURES}
    first = made.metrics.iloc[0]
    assert all(made.summary["initial"][name] == first[name] for name in CURVES)


def test_the_probe_sweep_is_an_option():
    """Of trained and of random weights, of both layers; its plain probes are the original's own."""
    made = run(small_run(evaluation={"sweep": True, "sweep_neighbours": [1, 5], "sweep_c": [0.1, 1.0]}))
    assert set(made.sweep["layer"]) == {"fc", "pooled"}
    plain = made.sweep[(made.sweep["layer"] == "fc") & ~made.sweep["normalised"].astype(bool)]
    for weights, numbers in (("trained", made.summary), ("initial", made.summary["initial"])):
        of_weights = plain[plain["weights"] == weights].set_index(["task", "probe", "neighbours"])["accuracy"]
        for task in ("id", "ood"):
            assert of_weights[task, "knn", 5] == numbers[f"{task}_knn_accuracy"]
            assert of_weights.loc[task, "linear"].item() == numbers[f"{task}_linear_accuracy"]


def test_raw_pixels_are_probed_once_for_the_same_images_and_probes(monkeypatch):
    profile = small_profile()
    dataset = load_dataset(profile.data)
    first = raw_pixels(profile, dataset)
    assert set(first["split"]) == {"id", "ood"}
    with monkeypatch.context() as patch:
        patch.setattr(runs_run, "raw_pixel_features", crash)
        pd.testing.assert_frame_equal(raw_pixels(profile, dataset), first)
        with pytest.raises(Interrupted):
            raw_pixels(small_profile(evaluation={"neighbours": 3}), dataset)
    # After the crash, what was noted before does not count.
    pd.testing.assert_frame_equal(raw_pixels(profile, dataset), first)


def test_a_supervised_run_is_a_run_like_the_others():
    """Its head has as many outputs as there are classes; the probes read the same features."""
    made = run(small_run("supervised"))
    weights = load_file(paths.run_folder("small", "supervised", 0) / "model.safetensors")
    assert weights["projection_head.weight"].shape == (3, 16)
    assert made.summary["parameters"] == count_parameters(make_model(small_run("supervised"), 3))


def test_a_finished_run_is_kept(monkeypatch, capsys):
    run(small_run())
    monkeypatch.setattr(Trainer, "run", lambda self: pytest.fail("trained again"))
    run(small_run(device="auto", seeds=[0, 1]))  # what cannot change the numbers does not matter
    assert "finished before, kept" in capsys.readouterr().out


def test_another_configuration_is_refused_and_the_difference_named():
    run(small_run())
    with pytest.raises(ConfigError, match=r"training.epochs is 2 there and 3 here.*--force"):
        run(small_run(training={"epochs": 3}))


def test_a_full_disk_is_told_with_the_file_keeps_no_half_of_it_and_the_run_goes_on(monkeypatch, tmp_path):
    """Full for the configuration, then for the checkpoint, then for the weights, then no more."""
    run(small_run())
    shutil.move(folder(), tmp_path / "whole")
    partial = partial_folder(folder())
    monkeypatch.setattr(train, "tqdm", partial_of(train.tqdm, disable=True))  # stderr may be a file
    with full_disk(1000), pytest.raises(OSError, match=r"config\.json") as first:
        run(small_run())
    assert sentence(first.value) == (
        f"{partial / 'config.json'}: File too large; make room there, and the same command goes on"
    )
    assert names(partial) == set()
    with full_disk(1_000_000), pytest.raises(OSError, match=r"checkpoint\.pt"):
        run(small_run())
    assert names(partial) == {"config.json", "environment.json", "predictions_initial.csv"}
    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save", crash)
        with pytest.raises(Interrupted):
            run(small_run())
    there = names(partial)
    with full_disk(300_000), pytest.raises(OSError, match=r"model\.safetensors"):
        run(small_run())
    assert names(partial) == there
    run(small_run())
    for name in WHOLE - {"environment.json", "SHA256SUMS"}:  # times of day differ
        assert (folder() / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.parametrize("crash_at", ["first step", "second epoch", "last evaluation", "weights", "rename"])
def test_a_crash_leaves_a_folder_that_is_visibly_incomplete_and_resumes(monkeypatch, crash_at, tmp_path):
    """Ends bit-identical to an unbroken run: same weights, same metrics, same summary."""
    run(small_run())
    shutil.move(folder(), tmp_path / "whole")

    with monkeypatch.context() as patch:
        if crash_at == "first step":
            patch.setattr(Trainer, "_step", crash)
        elif crash_at == "second epoch":
            epoch = Trainer._epoch
            patch.setattr(
                Trainer, "_epoch", lambda self, bar: crash() if self.progress.epoch else epoch(self, bar)
            )
        elif crash_at == "last evaluation":
            record = Trainer._record
            patch.setattr(
                Trainer,
                "_record",
                lambda self, bar, **of: (record(self, bar, **of), self.progress.epoch == 2 and crash()),
            )
        elif crash_at == "weights":
            patch.setattr(safetensors.torch, "save", crash)
        else:
            patch.setattr(Path, "rename", crash)
        with pytest.raises(Interrupted):
            run(small_run())
    assert state_of(folder()) is RunState.BEGUN
    assert load_own(small_profile()).runs == {}

    run(small_run())
    assert names(folder()) == WHOLE
    assert not partial_folder(folder()).exists()
    for name in WHOLE - {"environment.json", "SHA256SUMS"}:  # times of day differ
        assert (folder() / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.parametrize("crash_at", ["first rename", "second rename", "deletion"])
def test_a_crash_while_a_new_run_takes_the_old_ones_place_leaves_a_whole_one(monkeypatch, crash_at):
    """And nothing that stays for ever: neither the old folder nor the checkpoint."""
    before = run(small_run()).summary
    mark_for_rerun(folder())
    rename, renamed = Path.rename, []

    def crashing(path, target):
        renamed.append(path)
        if len(renamed) == {"first rename": 1, "second rename": 2}.get(crash_at):
            crash()
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", crashing)
        if crash_at == "deletion":
            patch.setattr(store, "tidy", crash)
        with pytest.raises(Interrupted):
            run(small_run())
    if folder().exists():
        assert load_own(small_profile()).runs["baseline"][0].summary == before
    assert run(small_run()).summary == before
    assert names(folder()) == WHOLE
    assert names(folder().parent) == {"seed0", "seed0.lock"}


def test_a_start_clears_what_a_killed_process_left_in_a_finished_run():
    run(small_run())
    of_dead = f".new.{2**22 + 1}@{platform.node()}.notebook.ipynb"  # above the largest id of a process
    ours = f".new.{os.getpid()}@{platform.node()}.notebook.ipynb"  # which is being written
    for name in ("checkpoint.pt", of_dead, ours):
        (folder() / name).touch()
    (folder() / ".ipynb_checkpoints").mkdir()  # as JupyterLab does beside a notebook that it shows
    assert jobs.missing_runs(["baseline"], small_profile(), [0]) == []
    assert names(folder()) == {*WHOLE, ours, ".ipynb_checkpoints"}


def test_a_run_that_begins_anew_takes_nothing_from_the_one_before_wherever_it_was_killed(monkeypatch):
    """Its folder is renamed, then deleted: a checkpoint without its config.json would be resumed."""
    interrupt_run(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(store.shutil, "rmtree", lambda *_, **__: None)  # killed before it has deleted anything
        mark_for_rerun(folder())
    assert state_of(folder()) is RunState.ABSENT
    assert run(small_run(training={"temperature": 0.3})).metrics["epoch"].tolist() == [0, 1, 2]
    assert names(folder().parent) == {"seed0", "seed0.lock"}


def test_a_run_of_another_version_is_named_with_the_fix():
    run(small_run())
    path = folder() / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"colour": "red"}))
    with pytest.raises(ConfigError, match=r"config.json: of another version \(.*'colour'.*--force"):
        run(small_run())


def test_everyone_who_can_read_a_folder_can_read_its_weights():
    run(small_run())
    modes = {name: (folder() / name).stat().st_mode for name in ("model.safetensors", "config.json")}
    assert len(set(modes.values())) == 1


def test_a_file_system_without_locks_is_told(monkeypatch):
    def without(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(store.FileLock, "acquire", without)
    with pytest.raises(ConfigError, match=r"no locks \(No locks available\); put results on another"):
        run(small_run())


def change_summary(path: Path) -> None:
    path.write_text(path.read_text().replace('"id_knn_accuracy": 0', '"id_knn_accuracy": 1'))


def drop_last_line(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(True)[:-1]))


def double_last_line(path: Path) -> None:
    path.write_text(path.read_text() + path.read_text().splitlines(True)[-1])


def exchange(path: Path) -> None:
    shutil.copy(path.with_name("predictions_initial.csv"), path)


DAMAGE = [
    ("summary.json", change_summary),
    ("summary.json", drop_last_line),
    ("metrics.csv", drop_last_line),
    ("metrics.csv", double_last_line),
    ("predictions.csv", exchange),
    ("predictions.csv", Path.unlink),
    ("config.json", Path.unlink),
    ("environment.json", drop_last_line),
    ("SHA256SUMS", lambda path: path.write_text(path.read_text()[:40])),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGE)
def test_a_damaged_file_is_named_and_force_makes_the_run_again(name, damage):
    run(small_run())
    damage(folder() / name)
    with pytest.raises(ConfigError, match=rf"{name}: .*make its run again.*--force"):
        load_own(small_profile())
    assert len(jobs.missing_runs(["baseline"], small_profile(), [0], force=True)) == 1
    mark_for_rerun(folder())
    run(small_run())
    assert "baseline" in load_own(small_profile()).runs


def test_numbers_that_disagree_are_not_shown_even_of_a_run_without_sums():
    run(small_run())
    (folder() / "SHA256SUMS").unlink()  # as older versions left it
    assert "baseline" in load_own(small_profile()).runs
    exchange(folder() / "predictions.csv")
    with pytest.raises(ConfigError, match=r"summary.json: .*not those of the predictions"):
        load_own(small_profile())


@pytest.mark.parametrize("file", ["raw_pixels.json", "raw_pixels.csv"])
def test_raw_pixels_that_are_damaged_are_measured_again(file, tmp_path, capsys):
    profile = small_profile()
    dataset = load_dataset(profile.data)
    first = raw_pixels(profile, dataset)
    drop_last_line(tmp_path / "small" / file)
    pd.testing.assert_frame_equal(raw_pixels(profile, dataset), first)
    assert "measured again" in capsys.readouterr().out


def test_an_interrupted_run_is_not_resumed_with_another_configuration(monkeypatch):
    interrupt_run(monkeypatch)
    with pytest.raises(ConfigError, match=r"seed0\.partial was made with another .*: training\.temperature"):
        run(small_run(training={"temperature": 0.1}))


@pytest.mark.parametrize("again", [False, True])
def test_a_run_that_failed_is_marked_and_not_tried_in_vain(monkeypatch, again):
    """Nor one that is there, and was to be made again; its numbers stay."""
    if again:
        run(small_run())
        mark_for_rerun(folder())
    with monkeypatch.context() as patch:
        patch.setattr(train, "nt_xent", lambda z, temperature: z.sum() * float("nan"))
        with pytest.raises(TrainingFailed, match=r"epoch 1, step 1, at learning rate 0\.001"):
            run(small_run())
    assert state_of(folder()) is (RunState.MARKED if again else RunState.FAILED)
    assert "the loss is nan" in failures(small_profile())["baseline, seed0"]
    with pytest.raises(TrainingFailed, match=r"the loss is nan.*To try again, delete .*seed0.partial"):
        run(small_run())
    mark_for_rerun(folder())
    assert state_of(folder()) is (RunState.MARKED if again else RunState.ABSENT)
    assert run(small_run()).summary["epoch"] == 2


def test_weights_that_are_no_number_never_become_the_last_good_checkpoint(monkeypatch):
    """The last step of an epoch can spoil the weights after its loss was computed."""
    step = Trainer._step

    def spoiling(self, *arguments):
        loss = step(self, *arguments)
        next(self.model.parameters()).data.fill_(float("inf"))
        return loss

    monkeypatch.setattr(Trainer, "_step", spoiling)
    with pytest.raises(TrainingFailed, match="weights are no longer finite after epoch 1"):
        run(small_run(training={"batch_size": 30}))
    assert not (partial_folder(folder()) / "checkpoint.pt").exists()


def test_a_control_is_evaluated_briefly_and_keeps_no_weights():
    """Its accuracies are those that its predictions give, unseen classes in folds among them."""
    made = run(small_run("length_half"))
    assert names(paths.run_folder("small", "length_half", 0)) == BRIEF
    assert accuracies(made.predictions) == {name: made.summary[name] for name in MEASURES}
    assert made.sweep is made.neighbours is made.feature_map is None


def test_a_run_to_be_made_again_keeps_its_numbers_until_the_new_one_is_done(monkeypatch):
    before = run(small_run()).summary
    mark_for_rerun(folder())
    assert state_of(folder()) is RunState.MARKED
    assert load_own(small_profile()).runs["baseline"][0].summary == before
    interrupt_run(monkeypatch)
    assert load_own(small_profile()).runs["baseline"][0].summary == before
    with FileLock(folder().with_name("seed0.lock")), pytest.raises(ConfigError, match="another process"):
        mark_for_rerun(folder())


def test_a_run_begun_on_other_images_is_not_resumed(monkeypatch):
    interrupt_run(monkeypatch)
    note = partial_folder(folder()) / "environment.json"
    note.write_text(note.read_text().replace('"data_sha256": "', '"data_sha256": "0'))
    with pytest.raises(ConfigError, match="begun with data_sha256"):
        run(small_run())


def test_an_interruption_says_where_it_was_and_that_the_run_goes_on(monkeypatch, capsys):
    """In a notebook, without a traceback."""
    step, steps = Trainer._step, iter(range(10**6))

    def interrupted(*arguments):
        if next(steps) == 4:  # in the second epoch, of three steps each
            raise KeyboardInterrupt
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt, match="Stopped in epoch 2 of 2; run this again") as stop:
            run(small_run())
    assert stop.value._render_traceback_() == [str(stop.value)]
    run(small_run())
    assert "baseline seed 0: resumed after epoch 1 of 2" in capsys.readouterr().out


def test_a_run_stops_after_a_whole_epoch_before_its_time_is_over_and_goes_on(monkeypatch, tmp_path):
    """Where another epoch would end too late, and where all probes at the end would; nothing is lost."""
    unbroken = run(small_run()).metrics
    monkeypatch.setenv("MANYVIEWS_RESULTS", str(tmp_path / "slices"))
    monkeypatch.setattr(runs_run, "seconds_left", lambda: 0.0)
    for epoch in (1, 2):
        with pytest.raises(OutOfTime, match=f"over after epoch {epoch} of 2; run this again to go on"):
            run(small_run())
        assert state_of(folder()) is RunState.BEGUN
    # Begun again, it does something however little time there is: here the probes at the end.
    pd.testing.assert_frame_equal(run(small_run()).metrics, unbroken)


def test_a_run_resumed_by_other_libraries_says_so(monkeypatch):
    interrupt_run(monkeypatch)
    note = partial_folder(folder()) / "environment.json"
    old = json.loads(note.read_text())
    note.write_text(json.dumps(old | {"torch": "1.0"}))
    environment = run(small_run()).environment
    assert environment["torch"] == "1.0"
    assert environment["resumed_with"] == [{"torch": old["torch"]}]
    assert jobs._resumed_with(small_run()) == " (resumed with other torch)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluation": {"neighbours": 25}}, "evaluation.neighbours 25 exceeds the 24 fitted"),
        ({"training": {"batch_size": 29}}, "batch_size 29 leaves a last batch of one"),
        ({"training": {"batch_size": 31}}, "more than the 30 training images"),
    ],
)
def test_what_cannot_work_is_refused_before_any_folder_is_made(changes, message):
    with pytest.raises(ConfigError, match=message):
        run(small_run(**changes))
    assert not partial_folder(folder()).exists()


def test_two_processes_do_not_make_the_same_run():
    folder().parent.mkdir(parents=True)
    with (
        FileLock(folder().with_name("seed0.lock")),
        pytest.raises(ConfigError, match="another process is at"),
    ):
        run(small_run())


def test_seeds_give_different_weights_orders_and_views(monkeypatch):
    """Each with its own of all three: with the initial weights of the same seed, training still differs."""
    seen = []
    make_views = train.make_views

    def spy(dataset, images, draws, **settings):
        seen.append((settings["seed"], images.tolist()))
        return make_views(dataset, images, draws, **settings)

    monkeypatch.setattr(train, "make_views", spy)
    for seed in (0, 1):
        run(small_run(seed=seed))
    assert {seed for seed, _ in seen} == {0, 1}
    orders = [[images for s, images in seen if s == seed] for seed in (0, 1)]
    assert orders[0] != orders[1]
    weights = [
        load_file(paths.run_folder("small", "baseline", seed) / "model.safetensors")["backbone.fc.weight"]
        for seed in (0, 1)
    ]
    assert not torch.equal(*weights)


def test_every_value_of_training_and_views_reaches_the_recipe():
    """Each field off its default, and none in another's place."""
    training = {
        "epochs": 7, "warmup_epochs": 3, "schedule": "constant", "decay_fraction": 0.3,
        "schedule_per": "step", "batch_size": 12, "views_per_batch": 2,
        "multi_view_loss": "inside", "temperature": 0.31,
        "optimizer": "sgd", "learning_rate": 0.07, "weight_decay": 0.011, "momentum": 0.83,
        "joint_forward": True,
    }  # fmt: skip
    views = {
        "crop_scale": (0.31, 0.92), "crop_ratio": (0.8, 1.3), "flip_p": 0.41, "jitter_p": 0.71,
        "brightness": 0.11, "contrast": 0.12, "saturation": 0.13, "hue": 0.14, "grayscale_p": 0.15,
        "blur_p": 0.16, "blur_sigma": (0.2, 1.7), "blur_kernel": 7,
    }  # fmt: skip
    config = small_run("baseline", training=training, views=views | {"size": 10, "distinct": 4})
    recipe = recipe_of(config)
    assert {name: getattr(recipe, name) for name in training} == training
    assert {name: getattr(recipe.strengths, name) for name in views} == views
    assert (recipe.view_size, recipe.distinct, recipe.n_views) == (10, 4, 2)


def test_a_fraction_of_the_images_is_of_each_class():
    """The first half of each of three classes of unlike sizes, in the file's order, and at least one."""
    labels = torch.tensor([2, 0, 1, 0, 0, 2, 0, 2, 2, 2])
    assert first_of_each_class(labels, 0.5).tolist() == [0, 1, 2, 3, 5]
    assert first_of_each_class(labels, 1).tolist() == list(range(10))


def test_metrics_are_documented():
    """Every column and key that a run writes is explained in results/README.md."""
    text = (paths.ROOT / "results/README.md").read_text(encoding="utf-8")
    made = run(small_run())
    known = set(LIBRARIES) | {"python"}
    keys = {*made.metrics, *made.summary, *made.environment} - known
    assert [name for name in sorted(keys) if f"`{name}`" not in text] == []
