"""A run's folder: whole or visibly not, kept, resumed, refused."""

import json
import shutil

import pandas as pd
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from manyviews import experiment, paths, train
from manyviews.config import ConfigError, RunConfig
from manyviews.evaluation import MEASURES, accuracies, split_tensors
from manyviews.experiment import run_experiment
from manyviews.models import count_parameters
from manyviews.results import (
    ACCURACIES,
    FURTHER,
    check_recipe,
    forget,
    is_finished,
    load_failures,
    load_runs,
)
from manyviews.train import Trainer, TrainingFailed, make_model

FILES = {
    "accuracy_plateau.png",
    "accuracy_plateau.svg",
    "config.json",
    "environment.json",
    "feature_map.csv",
    "feature_map.png",
    "metrics.csv",
    "model.safetensors",
    "neighbours.csv",
    "neighbours.png",
    "predictions.csv",
    "predictions_initial.csv",
    "summary.json",
    "training_loss.png",
    "training_loss.svg",
}


def config(**changes) -> RunConfig:
    training = {
        "epochs": 2,
        "warmup_epochs": 1,
        "batch_size": 10,
        "learning_rate": 1e-3,
        "precision": "float64",
    }
    sizes = dict.fromkeys(("classes", "ood_classes"), 3) | dict.fromkeys(
        ("train_per_class", "val_per_class", "ood_per_class"), 10
    )
    values = {
        "run": "baseline",
        "depth": 18,
        "stem": "conv3",
        "n_views": 2,
        "profile": "test",
        "device": "cpu",
        "data": {"name": "fractals", "image_size": 8, **sizes},
        "network": {"width": 4},
        "training": training | changes.pop("training", {}),
    }
    return RunConfig(**values | changes)


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
            run_experiment(config())


def folder():
    return paths.run_folder("test", "baseline", 0)


def test_a_finished_run_holds_all_it_should():
    run = run_experiment(config())
    assert {path.name for path in run.folder.iterdir()} == FILES
    assert run.folder == folder()
    assert list(run.metrics["epoch"]) == [0, 1, 2]
    final = run.metrics.iloc[-1]
    assert all(run.summary[name] == final[name] for name in ("loss_nats", *ACCURACIES))
    assert run.summary["images_forwarded"] == 2 * 30 * 2
    assert run.summary["multiply_adds"] == 3 * run.summary["multiply_adds_per_view"] * 120
    assert run.summary["parameters"] == count_parameters(make_model(config()))
    assert run.summary["synthetic"] is True
    for key in (
        "git_commit",
        "torch",
        "device",
        "threads",
        "data_sha256",
        "wall_time_s",
        "cpu_time_s",
        "seed",
    ):
        assert run.environment[key] is not None, key
    assert list(load_runs(config())) == ["baseline"]


def test_stored_weights_give_the_stored_numbers():
    """Weights, read back into a new network, have the final features; a probe of them repeats the numbers."""
    run = run_experiment(config())
    model = make_model(config())
    model.load_state_dict(load_file(run.folder / "model.safetensors"))
    images, labels = split_tensors(experiment.load_dataset(config().data), torch.device("cpu"))
    features = experiment.all_features(model.backbone, images, 512)["fc"]
    again = experiment.report_accuracies(features, labels, config().evaluation)
    assert all(again[name] == run.summary[name] for name in ACCURACIES)


def test_stored_predictions_give_the_stored_numbers():
    """Those of the last epoch and those of the initial weights, to the last digit."""
    run = run_experiment(config())
    assert accuracies(run.predictions) == {name: run.summary[name] for name in MEASURES}
    assert accuracies(run.initial_predictions).items() <= run.summary["initial"].items()
    first = run.metrics.iloc[0]
    assert all(run.summary["initial"][name] == first[name] for name in ACCURACIES)
    assert set(FURTHER) <= run.summary.keys()


def test_the_ladder_is_an_option():
    """Of trained and of random weights, of both layers; its plain rungs are the report's own probes."""
    run = run_experiment(
        config(evaluation={"ladder": True, "ladder_neighbours": [1, 5], "ladder_c": [0.1, 1.0]})
    )
    ladder = run.ladder
    assert set(ladder["weights"]) == {"trained", "initial"}
    assert set(ladder["layer"]) == {"fc", "pooled"}
    plain = ladder[(ladder["layer"] == "fc") & ~ladder["normalised"] & (ladder["weights"] == "trained")]
    shares = plain.set_index(["task", "probe", "neighbours"])["accuracy"]
    for task in ("id", "ood"):
        assert shares[task, "knn", 5] == run.summary[f"{task}_knn_accuracy"]
        assert shares.loc[task, "linear"].item() == run.summary[f"{task}_linear_accuracy"]


def test_the_floor_is_measured_once_for_the_same_images_and_probes(monkeypatch):
    dataset = experiment.load_dataset(config().data)
    first = experiment.measure_floor(config(), dataset)
    assert set(first["split"]) == {"id", "ood"}
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "raw_pixel_predictions", crash)
        pd.testing.assert_frame_equal(experiment.measure_floor(config(seed=1), dataset), first)
        with pytest.raises(Interrupted):
            experiment.measure_floor(config(evaluation={"neighbours": 3}), dataset)
    again = experiment.measure_floor(config(), dataset)  # after the crash, the old recipe does not count
    pd.testing.assert_frame_equal(again, first)


def test_a_supervised_run_is_a_run_like_the_others():
    """Its head has as many outputs as there are classes; the probes read the same features."""
    run = run_experiment(config(run="supervised", objective="supervised"))
    weights = load_file(run.folder / "model.safetensors")
    assert weights["projection_head.weight"].shape == (3, 1000)
    assert run.summary["parameters"] == count_parameters(make_model(RunConfig(**run.config), 3))
    assert list(load_runs(config())) == ["supervised"]


def test_a_finished_run_is_kept(monkeypatch, capsys):
    run_experiment(config())
    monkeypatch.setattr(Trainer, "run", lambda self: pytest.fail("trained again"))
    run_experiment(config(device="auto", seeds=[0, 1]))  # what cannot change the numbers does not matter
    assert "finished before, kept" in capsys.readouterr().out


def test_another_configuration_is_refused_and_the_difference_named():
    run_experiment(config())
    with pytest.raises(ConfigError, match=r"training.epochs is 2 there and 3 here.*--force"):
        run_experiment(config(training={"epochs": 3}))


def test_a_run_without_weights_counts_as_not_done():
    """That is how runs come with the repository."""
    (run_experiment(config()).folder / "model.safetensors").unlink()
    assert not is_finished(folder())
    assert list(load_runs(config())) == ["baseline"]  # the report still reads it
    run_experiment(config())
    assert is_finished(folder())


@pytest.mark.parametrize(
    "crash_at", ["first step", "second epoch", "weights", "summary", "figures", "rename"]
)
def test_a_crash_leaves_a_folder_that_is_visibly_incomplete_and_resumes(monkeypatch, crash_at, tmp_path):
    """Ends bit-identical to an unbroken run: same weights, same metrics, same summary."""
    whole = run_experiment(config())
    shutil.move(whole.folder, tmp_path / "whole")

    with monkeypatch.context() as patch:
        if crash_at == "first step":
            patch.setattr(Trainer, "_step", crash)
        elif crash_at == "second epoch":
            epoch = Trainer._epoch
            patch.setattr(
                Trainer, "_epoch", lambda self, bar: crash() if self.progress.epoch else epoch(self, bar)
            )
        elif crash_at == "weights":
            patch.setattr(experiment, "save_file", crash)
        elif crash_at == "summary":
            patch.setattr(experiment, "_summary", crash)
        elif crash_at == "figures":
            patch.setattr(experiment.plots, "save_figure", crash)
        else:
            patch.setattr(experiment.Path, "rename", crash)
        with pytest.raises(Interrupted):
            run_experiment(config())
    assert not folder().exists()
    assert folder().with_name("seed0.partial").is_dir()
    assert load_runs(config()) == {}
    (folder().with_name("seed0.partial") / ".checkpoint.pt.123.new").touch()  # as a killed process leaves it

    resumed = run_experiment(config())
    assert {path.name for path in resumed.folder.iterdir()} == FILES
    assert not folder().with_name("seed0.partial").exists()
    names = ("metrics.csv", "summary.json", "config.json", "model.safetensors", "accuracy_plateau.png")
    for name in (*names, "predictions.csv", "neighbours.png", "feature_map.csv"):
        assert (resumed.folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_an_interrupted_run_is_not_resumed_with_another_configuration(monkeypatch):
    interrupt_run(monkeypatch)
    with pytest.raises(
        ConfigError, match=r"seed0\.partial was made with another .*: training\.temperature is"
    ):
        run_experiment(config(training={"temperature": 0.1}))


def test_a_run_that_failed_is_marked_and_not_tried_in_vain(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(train, "nt_xent", lambda z, temperature: z.sum() * float("nan"))
        with pytest.raises(TrainingFailed, match=r"epoch 1, step 1, at learning rate 0\.001"):
            run_experiment(config())
    assert "`baseline` seed0 failed: the loss is nan" in load_failures("test")[0]
    marked = json.loads((folder().with_name("seed0.partial") / "failed.json").read_text())
    assert "the loss is nan" in marked["reason"]
    with pytest.raises(TrainingFailed, match=r"the loss is nan.*To try again, delete .*seed0.partial"):
        run_experiment(config())


def test_weights_that_are_no_number_never_become_the_last_good_checkpoint(monkeypatch):
    """The last step of an epoch can spoil the weights after its loss was computed."""
    step = Trainer._step

    def spoiling(self, *arguments):
        loss = step(self, *arguments)
        next(self.model.parameters()).data.fill_(float("inf"))
        return loss

    monkeypatch.setattr(Trainer, "_step", spoiling)
    with pytest.raises(TrainingFailed, match="weights are no longer finite after epoch 1"):
        run_experiment(config(training={"batch_size": 30}))
    assert not (folder().with_name("seed0.partial") / "checkpoint.pt").exists()


def test_a_brief_run_keeps_its_numbers_and_no_weights():
    """It counts as finished all the same, and its accuracies are those that its predictions give."""
    run = run_experiment(config(evaluation={"brief": True}))
    kept = {"config.json", "environment.json", "metrics.csv", "predictions.csv", "summary.json"}
    assert {path.name for path in run.folder.iterdir()} == kept
    assert is_finished(folder())
    assert accuracies(run.predictions) == {name: run.summary[name] for name in MEASURES}
    assert run.initial_predictions is run.ladder is run.neighbours is run.feature_map is None


def test_a_forgotten_run_keeps_its_numbers_until_the_new_one_is_done(monkeypatch):
    before = run_experiment(config()).summary
    forget(folder())
    assert not is_finished(folder())
    assert load_runs(config())["baseline"][0].summary == before
    interrupt_run(monkeypatch)
    assert load_runs(config())["baseline"][0].summary == before
    with FileLock(folder().with_name("seed0.lock")), pytest.raises(ConfigError, match="another process"):
        forget(folder())


def test_runs_of_different_configurations_are_never_averaged():
    run_experiment(config(seed=0))
    run_experiment(config(seed=1, training={"temperature": 0.1}))
    with pytest.raises(
        ConfigError, match=r"seed1 was made with another .*training.temperature is 0.1 there and 0.5"
    ):
        load_runs(config())


def test_a_run_begun_on_other_images_is_not_resumed(monkeypatch):
    interrupt_run(monkeypatch)
    note = folder().with_name("seed0.partial") / "environment.json"
    note.write_text(note.read_text().replace('"data_sha256": "', '"data_sha256": "0'))
    with pytest.raises(ConfigError, match="begun with data_sha256"):
        run_experiment(config())


def test_a_run_resumed_by_other_libraries_says_so(monkeypatch):
    interrupt_run(monkeypatch)
    note = folder().with_name("seed0.partial") / "environment.json"
    old = json.loads(note.read_text())
    note.write_text(json.dumps(old | {"torch": "1.0"}))
    environment = run_experiment(config()).environment
    assert environment["torch"] == "1.0"
    assert environment["resumed_with"] == [{"torch": old["torch"]}]


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({"neighbours": 25}, "evaluation.neighbours 25 exceeds the 24 fitted"),
        ({"ood_fit_share": 0.999}, "lower it"),
        ({"ood_folds": 11}, "evaluation.ood_folds 11 exceeds the 10 images"),
        ({"ood_fit_share": 0.2, "ladder": True}, "evaluation.ladder: no fifth of the OOD images"),
        ({"ladder": True, "ladder_neighbours": [25]}, "evaluation.ladder_neighbours: none of"),
        ({"ood_fit_share": 0.05}, "evaluation.ood_fit_share 0.05 leaves less than one image of each"),
        ({"ood_folds": 2, "neighbours": 16}, "evaluation.neighbours 16 exceeds the 15 fitted"),
    ],
)
def test_probes_that_cannot_work_are_refused_before_training(evaluation, message):
    with pytest.raises(ConfigError, match=message):
        run_experiment(config(evaluation=evaluation))


def test_two_processes_do_not_make_the_same_run():
    folder().parent.mkdir(parents=True)
    with (
        FileLock(folder().with_name("seed0.lock")),
        pytest.raises(ConfigError, match="another process is at work"),
    ):
        run_experiment(config())


def test_batches_that_cannot_work_are_refused_before_any_folder_is_made():
    with pytest.raises(ConfigError, match="batch_size 29 leaves a last batch of one"):
        run_experiment(config(training={"batch_size": 29}))
    assert not folder().with_name("seed0.partial").exists()


def test_seeds_give_different_runs():
    one, other = (run_experiment(config(seed=seed)) for seed in (0, 1))
    assert not torch.equal(
        *(load_file(r.folder / "model.safetensors")["backbone.fc.weight"] for r in (one, other))
    )
    assert [run.config["seed"] for run in load_runs(config())["baseline"]] == [0, 1]


def test_a_run_from_before_views_per_batch_is_kept_as_one_of_pairs():
    run = run_experiment(config())
    old = json.loads((folder() / "config.json").read_text())
    del old["training"]["views_per_batch"], old["training"]["multi_view_loss"]
    (folder() / "config.json").write_text(json.dumps(old))
    assert run_experiment(config()).config == run.config
    assert run.config["training"]["views_per_batch"] == 2


def test_a_stored_configuration_reads_back():
    run = run_experiment(config())
    check_recipe(RunConfig(**run.config), run.folder)


def test_metrics_are_documented():
    """Every column and key that a run writes is explained in results/README.md."""
    text = (paths.ROOT / "results/README.md").read_text(encoding="utf-8")
    run = run_experiment(config())
    libraries = set(experiment.describe_environment.__globals__["LIBRARIES"]) | {"python"}
    names = {*pd.read_csv(run.folder / "metrics.csv"), *run.summary, *run.environment} - libraries
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []
