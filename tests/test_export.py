"""An exported run stands alone: its network, its weights and a report that says what the results say."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_model, save_file
from small import small_run

from manyviews import export, features
from manyviews.config import paths
from manyviews.config.schema import NetworkConfig, TrainingConfig, ViewConfig
from manyviews.data import images
from manyviews.encoder import ImageEncoder
from manyviews.report.tables import MEASURE_TITLES
from manyviews.runs.run import run
from manyviews.runs.store import CURVES, load_run
from manyviews.simclr.models import count_parameters, make_simclr

# Depth, stem, BatchNorm in the projection head; sizes that are none of the defaults.
NETWORKS = {
    "18-conv3": (18, "conv3", False),
    "34-conv7-norm": (34, "conv7", True),
}
SIZES = {"width": 8, "feature_dim": 50, "projection_hidden": 20, "projection_dim": 12}

# What a user writes, each time from the folder of an export; our package cannot be imported.
USER = """
import inspect, sys, torch
from safetensors.torch import load_model
sys.modules |= dict.fromkeys(["manyviews", "pandas", "pydantic", "yaml"])
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
    """Folder of a small run, as training leaves it, with a notebook."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MANYVIEWS_DATA", "MANYVIEWS_RESULTS"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name)))
        run(small_run(training={"epochs": 3}, evaluation={"every_epochs": 2}))
        folder = paths.run_folder("small", "baseline", 0)
    (folder / "notebook.ipynb").write_text('{"cells": [{"outputs": ["a figure"]}]}')
    return folder


@pytest.fixture
def run_folder(finished, tmp_path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(finished, tmp_path / "small/baseline/seed0")


def test_a_fresh_interpreter_gets_the_features_that_we_probe(finished, tmp_path):
    """Oracle: trained networks. Their weights load strictly, so no name of a layer differs."""
    x, networks = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)), {}
    torch.save(x, tmp_path / "x.pt")
    for name, (depth, stem, norm) in NETWORKS.items():
        networks[name] = make_simclr(depth=depth, stem=stem, projection_norm=norm, **SIZES)
        networks[name](x + 1)  # so that BatchNorm's statistics are not the initial ones
        folder = shutil.copytree(finished, tmp_path / "runs" / name)
        data = small_run().data.model_dump() | {"image_size": 16}
        change_config(folder, depth=depth, stem=stem, data=data, network=SIZES | {"projection_norm": norm})
        save_file(networks[name].state_dict(), folder / "model.safetensors")
        export.export(folder, tmp_path / name)
    subprocess.run([sys.executable, "-I", "-c", USER, *networks], cwd=tmp_path, check=True)
    for name, result in torch.load(tmp_path / "results.pt").items():
        with torch.no_grad():
            features, z = networks[name].eval().backbone(x), F.normalize(networks[name](x), dim=1)
        torch.testing.assert_close(result["features"], features, atol=1e-5, rtol=0)
        torch.testing.assert_close(result["projections"], z, atol=1e-5, rtol=0)
        expected = {"input_dim": 16, "input_channels": 3, "feature_dim": 50, "proj_dim": 12}
        assert result["defaults"] == result["attributes"] == expected


def test_onnx_gives_the_features_that_we_probe_for_any_number_of_images(run_folder, tmp_path):
    """Oracle: the trained network, by onnxruntime."""
    import onnxruntime

    out, size = tmp_path / "encoder.onnx", small_run().data.image_size
    assert export.main([str(run_folder), str(out)]) == 0
    session = onnxruntime.InferenceSession(out)
    backbone = export.load_network(run_folder, export.read_config(run_folder)).backbone
    for n in (1, 5):
        images = torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(n))
        (given,) = session.run(["features"], {"images": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(given), backbone(images).detach(), rtol=1e-4, atol=1e-4)


def test_onnx_replaces_nothing_and_names_a_missing_package(run_folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "encoder.onnx"
    out.touch()
    assert export.main([str(run_folder), str(out)]) == 2
    assert "encoder.onnx: exists already" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert export.main([str(run_folder), str(tmp_path / "other.onnx")]) == 2
    assert "pip install onnx onnxscript onnxruntime" in capsys.readouterr().err


def test_the_template_is_the_originals_baseline():
    """14.0 M parameters. The assignment: 64 x 64 RGB images, 1000 features, 128 projections."""
    encoder = ImageEncoder()
    sizes = (encoder.input_dim, encoder.input_channels, encoder.feature_dim, encoder.proj_dim)
    assert sizes == (64, 3, 1000, 128)
    assert count_parameters(encoder) == 13_994_152
    with pytest.raises(ValueError, match="input_channels must be 3"):
        ImageEncoder(input_channels=1)


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
    files = {"models.py", "final_model.safetensors", "CS461_Assignment1.ipynb", "report.md"}
    assert {path.name for path in out.iterdir()} == files
    assert [path.name for path in out.parent.iterdir()] == ["submission"]
    assert (out / "CS461_Assignment1.ipynb").read_bytes() == (run_folder / "notebook.ipynb").read_bytes()


def test_an_export_that_breaks_off_leaves_nothing(run_folder, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    assert export.main([str(run_folder), str(tmp_path / "new/submission")]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert list((tmp_path / "new").iterdir()) == []


def change_config(folder: Path, **changes) -> None:
    """As the configuration of another run, made without sums of its files."""
    (folder / "SHA256SUMS").unlink(missing_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def remove(name: str):
    return lambda folder: (folder / name).unlink()


def damage(name: str):
    return lambda folder: (folder / name).write_bytes(b"{")


COMMAND = "`./run_all.sh --profile small --runs baseline --seeds 0"
SPOILED = {
    "no folder": (shutil.rmtree, r"seed0: no such folder; give a run's, such as"),
    "no run": (remove("config.json"), r"seed0: no config.json in it; give a run's, such as"),
    "no weights": (remove("model.safetensors"), rf"safetensors is missing; .*{COMMAND} --force`"),
    "damaged weights": (damage("model.safetensors"), r"model.safetensors: not what was written"),
    "damaged weights of an older run": (
        lambda f: (remove("SHA256SUMS")(f), damage("model.safetensors")(f)),
        rf"is damaged.* repeat it with {COMMAND} --force",
    ),
    "empty notebook": (
        lambda f: (f / "notebook.ipynb").write_text('{"cells": []}'),
        rf"notebook.ipynb shows nothing; delete it, and {COMMAND}`",
    ),
    "weights of another network": (
        lambda f: change_config(f, depth=34),
        "or not of the network in config.json",
    ),
    "run of a study": (
        lambda f: change_config(f, evaluation={"brief": True}),
        "seed0: a run of the studies keeps no",
    ),
    "no notebook": (remove("notebook.ipynb"), rf"is missing; {COMMAND}` writes it without training again"),
    "interrupted": (
        lambda folder: folder.rename(folder.with_name("seed0.partial")),
        r"seed0\.partial: the run is not finished; the command that began it",
    ),
    "supervised": (lambda f: change_config(f, objective="supervised"), "'supervised' trains no projections"),
    "of another version": (
        lambda f: change_config(f, depht=18),
        r"unknown parameter 'depht'.*make its run again",
    ),
    "damaged configuration": (
        damage("config.json"),
        r"config.json: damaged, not JSON.*make its run again",
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


def test_nothing_that_exists_is_replaced(run_folder, tmp_path, capsys):
    out = tmp_path / "submission"
    out.mkdir()
    assert export.main([str(run_folder), str(out)]) == 2
    assert f"{out}: exists already; delete it" in capsys.readouterr().err
    assert list(out.iterdir()) == []


def test_the_report_shows_the_final_accuracies_beside_the_originals(finished):
    """In the order of the columns; the three rows are distinct, so that none is in another's place."""
    made = load_run(finished)
    final = dict(zip(CURVES, (0.111, 0.222, 0.333, 0.444), strict=True))
    lines = export.report_text(dataclasses.replace(made, summary=made.summary | final)).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert rows[0][1:] == [MEASURE_TITLES[name] for name in CURVES]
    initial = [f"{100 * made.metrics[name].iloc[0]:.1f}" for name in CURVES]
    assert rows[2] == ["the original", "18.0", "20.0", "12.0", "19.0"]
    assert rows[3] == ["measured", "11.1", "22.2", "33.3", "44.4"]
    assert rows[4] == ["initial weights", *initial]


def test_the_end_of_the_curves_is_that_of_the_metrics(finished):
    """Epochs 0, 2 and 3 were evaluated; the cosine of the last of two annealed epochs stands at a half."""
    made = load_run(finished)
    metrics = made.metrics.copy()
    metrics.loc[2, list(CURVES)] = 0.5
    metrics.loc[3, list(CURVES)] = [0.6, 0.5, 0.45, 0.501]
    text = export.report_text(dataclasses.replace(made, metrics=metrics))
    assert "From epoch 2 to 3, the last, these accuracies changed by +10.0, +0.0, -5.0, +0.1 points" in text
    assert "50% of the peak" in text


def test_the_report_says_what_it_cannot_tell(finished):
    made = load_run(finished)
    summary = made.summary | {"linear_converged": True}
    text = export.report_text(dataclasses.replace(made, summary=summary))
    assert "n = 1" in text
    assert "nothing here is evidence about photographs" in text
    assert "probes converged" in text
    assert "resumed" not in text
    other = made.summary | {"synthetic": False, "linear_converged": False}
    environment = made.environment | {"resumed_with": [{"torch": "1.0"}]}
    text = export.report_text(dataclasses.replace(made, summary=other, environment=environment))
    assert "synthetic" not in text
    assert "did not converge" in text
    assert "resumed with other code" in text


def departed(section):
    """Each value unlike its default and as long as any."""

    def other(value):
        if isinstance(value, bool | str | None):
            return f"not_{value}"
        return tuple(map(other, value)) if isinstance(value, tuple) else value + 0.123456789

    return section.model_copy(update={name: other(value) for name, value in section})


def test_the_longest_report_keeps_the_limit_of_words(finished):
    """Of a run that departs from the original's recipe in every value."""
    made = load_run(finished)
    defaults = {"network": NetworkConfig(), "views": ViewConfig(), "training": TrainingConfig()}
    sections = {name: departed(section) for name, section in defaults.items()}
    environment = made.environment | {"git_dirty": True, "resumed_with": [{}], "device": "A (R) CPU @ 2 GHz"}
    config = made.config.model_copy(update=sections)
    text = export.report_text(dataclasses.replace(made, config=config, environment=environment))
    assert all(f"`{name}.{key}`" in text for name, section in sections.items() for key, _ in section)
    assert 200 < len(text.split()) <= 500


@pytest.mark.parametrize("chunk", [1, 512])
def test_features_of_a_folder_are_those_that_the_probes_would_read(
    finished, tmp_path, capsys, chunk, monkeypatch
):
    """Oracle: the network loaded in plain PyTorch. What is no picture is left out, counted and named."""
    monkeypatch.setattr(images, "CHUNK", chunk)
    (tmp_path / "pictures" / "below").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    for i, name in enumerate(("b.png", "below/a.png", "below/c.png")):
        Image.fromarray(pixels[i]).save(tmp_path / "pictures" / name)
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    assert features.main([str(finished), str(tmp_path / "pictures"), str(tmp_path / "out.npz")]) == 0
    assert "1 no pictures that Pillow reads" in capsys.readouterr().err
    with np.load(tmp_path / "out.npz") as out:
        assert [Path(file).name for file in out["files"]] == ["b.png", "a.png", "c.png"]
        assert out["left_out"].tolist() == [
            [str(tmp_path / "pictures" / "notes.txt"), "no pictures that Pillow reads"]
        ]
        config = export.read_config(finished)
        model = make_simclr(depth=config.depth, stem=config.stem, **dict(config.network))
        load_model(model, finished / "model.safetensors")
        expected = model.eval().backbone(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)
        np.testing.assert_allclose(out["features"], expected.detach(), rtol=1e-4, atol=1e-5)


def test_features_are_of_pictures_made_square_as_those_of_the_run(finished, tmp_path):
    """All of an oblong picture, if the run was trained on such: as those of the same picture half as wide."""
    folder = shutil.copytree(finished, tmp_path / "squeezed")
    config = json.loads((folder / "config.json").read_text())
    config["data"]["fit"] = "squeeze"
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "SHA256SUMS").unlink()
    (tmp_path / "mine").mkdir()
    for width in (8, 16):
        picture = Image.new("RGB", (width, 8), "white")
        picture.paste("red", (0, 0, width // 4, 8))
        picture.save(tmp_path / "mine" / f"{width}.png")
    assert features.main([str(folder), str(tmp_path / "mine"), str(tmp_path / "out.npz")]) == 0
    with np.load(tmp_path / "out.npz") as out:
        np.testing.assert_array_equal(*out["features"])


@pytest.mark.parametrize(
    ("files", "words"), [(None, "no such folder"), ([], "no files"), (["x"], "0 pictures")]
)
def test_a_folder_without_pictures_is_refused(finished, tmp_path, files, words, capsys):
    for name in files or ():
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / name).write_text("no picture")
    if files == []:
        (tmp_path / "mine").mkdir()
    assert features.main([str(finished), str(tmp_path / "mine"), str(tmp_path / "out.npz")]) == 2
    assert re.search(f"{tmp_path / 'mine'}: .*{words}.*; give", capsys.readouterr().err)
    assert not (tmp_path / "out.npz").exists()


def test_features_are_written_as_npz_alone(finished, tmp_path, capsys):
    assert features.main([str(finished), str(tmp_path), str(tmp_path / "out.parquet")]) == 2
    assert "out.parquet: its name must end with .npz" in capsys.readouterr().err
