"""An exported run stands alone: its network, its weights and a report that says what the results say."""

import ast
import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from manyviews import export, paths
from manyviews.config import NetworkConfig, RunConfig, TrainingConfig, ViewConfig
from manyviews.encoder import ImageEncoder
from manyviews.experiment import run_experiment
from manyviews.models import count_parameters
from manyviews.report import percent
from manyviews.results import ACCURACIES, REPORTED, load_run
from manyviews.train import make_model

# Depth, stem, BatchNorm in the projection head; sizes that are none of the defaults.
NETWORKS = {
    "18-conv3": (18, "conv3", False),
    "18-conv3-norm": (18, "conv3", True),
    "34-conv7": (34, "conv7", False),
    "34-conv7-norm": (34, "conv7", True),
    "18-pooled": (18, "conv3_pool", True),
    "34-imagenet": (34, "imagenet", False),
}
SIZES = {"width": 8, "feature_dim": 50, "projection_hidden": 20, "projection_dim": 12}

# What a user writes, each time from the folder of an export; our package cannot be imported.
USER = """
import inspect, sys, torch
from safetensors.torch import load_model
sys.modules["manyviews"] = None
x, results = torch.load("x.pt"), {}
for name in sys.argv[1:]:
    sys.path.insert(0, name)
    from models import ImageEncoder
    encoder = ImageEncoder()
    load_model(encoder, f"{name}/final_model.safetensors", strict=True)
    encoder.eval()
    with torch.no_grad():
        results[name] = {"features": encoder.get_features(x), "projections": encoder(x)}
    defaults = inspect.signature(ImageEncoder).parameters.values()
    results[name]["defaults"] = {p.name: p.default for p in defaults}
    results[name]["attributes"] = {p.name: getattr(encoder, p.name) for p in defaults}
    del sys.path[0], sys.modules["models"]
torch.save(results, "results.pt")
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Folder of a tiny run, as training leaves it, with a notebook."""
    sizes = dict.fromkeys(("classes", "ood_classes"), 3) | dict.fromkeys(
        ("train_per_class", "val_per_class", "ood_per_class"), 10
    )
    config = RunConfig(
        run="baseline",
        depth=18,
        stem="conv3",
        n_views=2,
        profile="test",
        device="cpu",
        data={"name": "fractals", "image_size": 8, **sizes},
        network={"width": 4},
        training={
            "epochs": 3,
            "warmup_epochs": 1,
            "batch_size": 10,
            "learning_rate": 1e-3,
            "precision": "float64",
        },
        evaluation={"every_epochs": 2},
    )
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MANYVIEWS_DATA", "MANYVIEWS_RESULTS"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name)))
        folder = run_experiment(config).folder
    (folder / "notebook.ipynb").write_text('{"cells": []}')
    return folder


@pytest.fixture
def run_folder(finished, tmp_path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(finished, tmp_path / "test/baseline/seed0")


@pytest.fixture(scope="module")
def networks():
    """A run's network for each of NETWORKS, with BatchNorm statistics that are not the initial ones."""
    trained = {}
    for name, (depth, stem, norm) in NETWORKS.items():
        config = RunConfig(
            run="baseline",
            depth=depth,
            stem=stem,
            n_views=2,
            profile="test",
            data={"path": "anywhere", "image_size": 16},
            network={**SIZES, "projection_norm": norm},
        )
        model = make_model(config)
        model(torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1)))
        trained[name] = config, model.eval()
    return trained


@pytest.fixture(scope="module")
def by_user(networks, finished, tmp_path_factory):
    """What a fresh interpreter gets from the export of each network, and the images it is given."""
    place = tmp_path_factory.mktemp("user")
    x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.save(x, place / "x.pt")
    for name, (config, model) in networks.items():
        folder = shutil.copytree(finished, place / "runs" / name)
        (folder / "config.json").write_text(config.model_dump_json())
        save_file(model.state_dict(), folder / "model.safetensors")
        export.export(folder, place / name)
    subprocess.run([sys.executable, "-I", "-c", USER, *networks], cwd=place, check=True)
    return x, torch.load(place / "results.pt")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_fresh_interpreter_gets_the_features_that_we_probe(name, networks, by_user):
    """Oracle: the trained network. The weights load strictly, so no name of a layer differs."""
    x, results = by_user
    _, model = networks[name]
    with torch.no_grad():
        torch.testing.assert_close(results[name]["features"], model.backbone(x), atol=1e-5, rtol=0)
        expected = F.normalize(model(x), dim=1)
    torch.testing.assert_close(results[name]["projections"], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_written_defaults_are_the_runs(name, by_user):
    expected = {"input_dim": 16, "input_channels": 3, "feature_dim": 50, "proj_dim": 12}
    _, results = by_user
    assert results[name]["defaults"] == results[name]["attributes"] == expected


def test_the_template_is_the_reports_baseline():
    """study: 14.0 M parameters. The assignment: 64 x 64 RGB images, 1000 features, 128 projections."""
    encoder = ImageEncoder()
    sizes = (encoder.input_dim, encoder.input_channels, encoder.feature_dim, encoder.proj_dim)
    assert sizes == (64, 3, 1000, 128)
    assert count_parameters(encoder) == 13_994_152


def test_only_rgb_images_are_read():
    with pytest.raises(ValueError, match="input_channels must be 3"):
        ImageEncoder(input_channels=1)


def test_models_imports_only_torch_and_torchvision(finished):
    source = export.models_source(export.read_config(finished))
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.partition(".")[0])
    assert imported - sys.stdlib_module_names == {"torch", "torchvision"}


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=["lint", "format"])
def test_models_reads_like_our_own_code(command, finished, tmp_path):
    """Oracle: ruff, with the project's rules."""
    (tmp_path / "models.py").write_text(export.models_source(export.read_config(finished)))
    ruff = [sys.executable, "-m", "ruff", *command, "--config", paths.ROOT / "pyproject.toml"]
    done = subprocess.run([*ruff, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_an_export_is_whole(run_folder, tmp_path, capsys):
    out = tmp_path / "new/submission"
    assert export.main([str(run_folder), str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    files = {"models.py", "final_model.safetensors", "notebook.ipynb", "report.md"}
    assert {path.name for path in out.iterdir()} == files
    assert [path.name for path in out.parent.iterdir()] == ["submission"]
    assert (out / "notebook.ipynb").read_bytes() == (run_folder / "notebook.ipynb").read_bytes()


def test_an_export_that_breaks_off_leaves_nothing(run_folder, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    assert export.main([str(run_folder), str(tmp_path / "new/submission")]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert list((tmp_path / "new").iterdir()) == []


def change_config(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


SPOILED = {
    "no folder": (shutil.rmtree, r"seed0: no such folder; give a run's, such as"),
    "no run": (
        lambda folder: (folder / "config.json").unlink(),
        r"seed0: no config.json in it; give a run's, such as",
    ),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        r"safetensors is missing.*`./run_all.sh --profile test --runs baseline --seeds 0 --results DIR`",
    ),
    "damaged weights": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"not weights"),
        r"model.safetensors is damaged.*repeat the run with `.* --force`",
    ),
    "weights of another network": (
        lambda folder: change_config(folder, depth=34),
        r"model.safetensors is damaged, or not of the network in config.json",
    ),
    "run of a study": (
        lambda folder: change_config(folder, evaluation={"brief": True}),
        r"seed0: the run of a study, which keeps neither weights nor a notebook; export one of the report's",
    ),
    "no notebook": (
        lambda folder: (folder / "notebook.ipynb").unlink(),
        r"notebook.ipynb is missing; `./run_all.sh --profile test .*`.* writes it without training again",
    ),
    "interrupted": (
        lambda folder: folder.rename(folder.with_name("seed0.partial")),
        r"seed0\.partial: the run is not finished; the command that began it",
    ),
    "supervised": (
        lambda folder: change_config(folder, objective="supervised"),
        r"config.json: objective 'supervised' trains no projections; export a run of 'nt_xent'",
    ),
    "of another version": (
        lambda folder: change_config(folder, depht=18),
        r"config.json: unknown parameter 'depht'.*; repeat the run",
    ),
    "damaged configuration": (
        lambda folder: (folder / "config.json").write_text("{"),
        r"config.json: damaged, not JSON.*run again",
    ),
}


@pytest.mark.parametrize("spoiled", SPOILED)
def test_a_run_that_cannot_be_exported_is_named_with_the_fix(spoiled, run_folder, tmp_path, capsys):
    spoil, message = SPOILED[spoiled]
    spoil(run_folder)
    out = tmp_path / "submission"
    assert export.main([str(run_folder), str(out)]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert str(run_folder) in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_an_interrupted_run_is_not_exported_by_its_own_name(run_folder, tmp_path, capsys):
    partial = run_folder.rename(run_folder.with_name("seed0.partial"))
    assert export.main([str(partial), str(tmp_path / "submission")]) == 2
    assert "seed0.partial: the run is not finished" in capsys.readouterr().err


def test_nothing_that_exists_is_replaced(run_folder, tmp_path, capsys):
    out = tmp_path / "submission"
    out.mkdir()
    assert export.main([str(run_folder), str(out)]) == 2
    assert f"{out}: exists already; delete it" in capsys.readouterr().err
    assert list(out.iterdir()) == []


def test_the_report_shows_the_final_accuracies_beside_the_reported(finished):
    run = load_run(finished)
    measured = dict(zip(ACCURACIES, (0.111, 0.222, 0.333, 0.444), strict=True))
    text = export.report_text(dataclasses.replace(run, summary=run.summary | measured))
    for metric, label in ACCURACIES.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| {label}"))
        cells = [cell.strip() for cell in row.split("|")[2:5]]
        first = percent(run.metrics[metric].iloc[0])
        assert cells == [percent(REPORTED["baseline"][metric]), percent(measured[metric]), first]


def test_a_run_that_was_not_reported_has_no_reported_number(finished):
    run = load_run(finished)
    text = export.report_text(dataclasses.replace(run, config=run.config | {"run": "resnet34"}))
    assert text.count("no number") == len(ACCURACIES)


def test_the_end_of_the_curves_is_that_of_the_metrics(finished):
    """Epochs 0, 2 and 3 were evaluated; the cosine of the last of two annealed epochs stands at a half."""
    run = load_run(finished)
    metrics = run.metrics.copy()
    metrics.loc[2, list(ACCURACIES)] = 0.5
    metrics.loc[3, list(ACCURACIES)] = [0.6, 0.5, 0.45, 0.501]
    text = export.ending_text(dataclasses.replace(run, metrics=metrics))
    assert "From epoch 2 to 3, the last, these accuracies changed by +10.0, +0.0, -5.0, +0.1 points" in text
    assert "50% of the peak" in text


def test_the_report_says_what_it_cannot_tell(finished):
    run = load_run(finished)
    text = export.limits_text(run)
    assert "n = 1" in text
    assert "synthetic" in text
    real = dataclasses.replace(run, summary=run.summary | {"synthetic": False, "linear_converged": False})
    assert "synthetic" not in export.limits_text(real)
    assert "did not converge" in export.limits_text(real)
    resumed = dataclasses.replace(run, environment=run.environment | {"resumed_with": [{"torch": "1.0"}]})
    assert "resumed with other code" in export.limits_text(resumed)


def other(value):
    """A value unlike a configuration's default, as long as any."""
    if isinstance(value, bool | str | None):
        return f"not_{value}"
    return [other(part) for part in value] if isinstance(value, list) else value + 0.123456789


def test_the_longest_report_has_500_words_at_most(finished):
    """Of a run that departs from the report's recipe in every value."""
    run = load_run(finished)
    defaults = {"network": NetworkConfig(), "views": ViewConfig(), "training": TrainingConfig()}
    departed = {
        name: {key: other(value) for key, value in section.model_dump(mode="json").items()}
        for name, section in defaults.items()
    }
    departed["training"]["optimizer"] = "sgd"
    environment = run.environment | {
        "git_dirty": True,
        "resumed_with": [{}],
        "device": "Some (R) 6400 CPU @ 2 GHz",
    }
    run = dataclasses.replace(run, config=run.config | departed, environment=environment)
    text = export.report_text(run)
    for name, section in departed.items():
        assert all(f"`{name}.{key}`" in text for key in section)
    assert len(text.split()) <= 500


def test_the_reports_of_all_committed_results_fit():
    summaries = sorted((paths.ROOT / "results").glob("*/*/seed*/summary.json"))
    assert summaries
    for path in summaries:
        text = export.report_text(load_run(path.parent))
        assert 200 < len(text.split()) <= 500


def test_a_longer_report_is_our_error_and_not_written(run_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "MAX_WORDS", 100)
    with pytest.raises(RuntimeError, match=r"words, more than 100; shorten report_text"):
        export.main([str(run_folder), str(tmp_path / "submission")])
    assert not (tmp_path / "submission").exists()
