"""Configurations: the original's recipe by default, and clear errors before any work starts."""

import errno
import os
import platform
import re
import subprocess
from dataclasses import fields

import pytest

from manyviews.config import paths
from manyviews.config.files import clear_leftovers, read_json, replacing, write_json
from manyviews.config.profiles import load_profile, notebook_parameters, notebook_profile
from manyviews.config.runs import notebook_config
from manyviews.config.schema import ConfigError, NetworkConfig, RunConfig, TrainingConfig, ViewConfig
from manyviews.simclr.models import make_simclr
from manyviews.simclr.train import Recipe
from manyviews.simclr.views import ViewStrengths

EXPERIMENT = {"run": "baseline", "depth": 18, "stem": "conv3", "n_views": 2}
PAPER = {"profile": "paper", "data": {"name": "folder", "path": "data/paper"}}


def test_defaults_are_the_originals_recipe():
    run = RunConfig(**EXPERIMENT, **PAPER)
    t, v, e, n = run.training, run.views, run.evaluation, run.network
    assert (t.epochs, t.warmup_epochs, t.schedule, t.schedule_per) == (50, 10, "cosine", "epoch")
    assert (t.batch_size, t.views_per_batch, t.temperature) == (256, 2, 0.5)
    assert (t.optimizer, t.learning_rate, t.weight_decay, t.joint_forward) == ("adamw", 0.6, 0, False)
    assert (v.crop_scale, v.crop_ratio, v.flip_p) == ((0.2, 1.0), (3 / 4, 4 / 3), 0.5)
    assert (v.brightness, v.contrast, v.saturation, v.hue, v.jitter_p) == (0.4, 0.4, 0.4, 0.1, 0.8)
    assert (v.grayscale_p, v.blur_p, v.blur_sigma, v.distinct) == (0.2, 0.5, (0.1, 2.0), None)
    assert (e.neighbours, e.linear_c, e.linear_max_iter, e.ood_fit_fraction) == (5, 1.0, 1000, 0.8)
    assert (n.width, n.feature_dim, n.projection_hidden, n.projection_dim) == (64, 1000, 2048, 128)
    assert n.projection_norm is False


def test_the_library_has_the_same_defaults_where_it_is_used_without_a_configuration():
    """simclr repeats them because it imports nothing of config."""
    views, training = ViewConfig(), TrainingConfig()
    assert {field.name: field.default for field in fields(ViewStrengths)} == {
        name: getattr(views, name) for name in ViewConfig.model_fields.keys() - {"size", "distinct"}
    }
    own = {"n_views": 2, "view_size": None, "distinct": None, "strengths": ViewStrengths()}
    shared = dict(training)
    del shared["image_fraction"], shared["precision"]  # who makes the trainer sees to these
    assert vars(Recipe()) == shared | own
    assert {name: make_simclr.__kwdefaults__[name] for name in NetworkConfig.model_fields} == dict(
        NetworkConfig()
    )


def test_the_paper_profile_departs_from_the_recipe_in_nothing():
    profile = load_profile("paper")
    assert profile.training == TrainingConfig()
    assert profile.views == ViewConfig()
    assert profile.network == NetworkConfig()
    assert profile.seeds == (42,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trainig": {}}, r"unknown parameter 'trainig': did you mean 'training'\?"),
        ({"training": {"learning_rat": 1}}, r"'training.learning_rat': did you mean 'learning_rate'\?"),
        ({"n_views": 3}, r"parameter 'n_views': .*multiple of 2 \(got 3\)"),
        ({"depth": 50}, r"parameter 'depth': Input should be 18 or 34"),
        ({"training": {"epochs": 5, "warmup_epochs": 5}}, r"warmup_epochs \(5\) must be fewer than epochs"),
        (
            {"training": {"epochs": 10, "warmup_epochs": 4, "schedule": "constant", "decay_fraction": 0.7}},
            r"decay_fraction \(0.7\) must leave room for warmup_epochs \(4\) in 10 epochs",
        ),
        ({"views": {"crop_scale": [0.9, 0.2]}}, r"crop_scale must be \[low, high\]"),
        ({"views": {"crop_scale": [0.2, 1.2]}}, "crop_scale is a fraction of the area, at most 1"),
        ({"views": {"blur_kernel": 4}}, "blur_kernel must be odd, not 4"),
        (
            {"views": {"blur_kernel": 17, "size": 8}},
            r"views.blur_kernel \(17\) is too wide for views of 8 pixels; use 15",
        ),
        (
            {"n_views": 8, "training": {"views_per_batch": 3, "batch_size": 6}},
            r"training.views_per_batch \(3\) must divide n_views \(8\).*use one of \[2, 4, 8\]",
        ),
        (
            {"n_views": 4, "views": {"distinct": 6}, "training": {"views_per_batch": 4}},
            r"views.distinct \(6\) must be a multiple of training.views_per_batch \(4\).*use 8",
        ),
        ({"views": {"distinct": 1}}, "parameter 'views.distinct': .*greater than or equal to 2"),
        ({"views": {"distinct": True}}, r"parameter 'views.distinct': .*integer \(got True\)"),
        (
            {"n_views": 8, "training": {"views_per_batch": 8, "batch_size": 50}},
            r"2 \* batch_size \(100\) views.*batch_size that is a multiple of 4 and at least 8",
        ),
        (
            {"n_views": 8, "training": {"views_per_batch": 8, "batch_size": 4}},
            "of two images or more; use a batch_size that is a multiple of 4 and at least 8",
        ),
        ({"training": {"multi_view_loss": "between"}}, "multi_view_loss': .*'pairs', 'outside' or 'inside'"),
        ({"data": {"name": "folder"}}, "needs data.path"),
        ({"data": {"name": "fractals", "classes": 3}}, "fractals need data.ood_classes"),
        ({"device": "gpu"}, "parameter 'device'"),
        ({"training": {"learning_rate": float("nan")}}, "parameter 'training.learning_rate'"),
        ({"training": {"epochs": "20"}}, r"parameter 'training.epochs': .*integer \(got '20'\)"),
        ({"seed": True}, r"parameter 'seed': .*integer \(got True\)"),
        ({"profile": "../elsewhere"}, "parameter 'profile': String should match"),
        ({"training": {"temperature": 1e-45}}, "parameter 'training.temperature': .*equal to 0.001"),
        ({"data": PAPER["data"] | {"image_size": 300_000}}, "parameter 'data.image_size': .*equal to 4096"),
    ],
)
def test_a_mistake_is_named_with_the_fix(change, message):
    with pytest.raises(ConfigError, match=message):
        RunConfig(**EXPERIMENT | PAPER | change)


def test_the_recipe_leaves_out_what_cannot_change_numbers():
    one = RunConfig(**EXPERIMENT, **PAPER)
    unimportant = {"device": "cpu", "seeds": [3, 4], "claims": {"margin": 0.05}}
    assert one.recipe() == RunConfig(**EXPERIMENT, **PAPER, **unimportant).recipe()
    for change in ({"seed": 1}, {"evaluation": {"neighbours": 4}}, {"views": {"hue": 0.2}}):
        assert one.recipe() != RunConfig(**EXPERIMENT, **PAPER, **change).recipe()


# ------------------------------------------------------------------------------------------------ profiles


@pytest.fixture
def profiles(tmp_path, monkeypatch):
    """A folder of profiles in place of the project's."""
    monkeypatch.setattr(paths, "PROFILES", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"profile: [", "not valid YAML in UTF-8"),
        (b"- 1", "must hold `name: value` lines"),
        (b"", "must hold `name: value` lines"),
        (b"1: x", "must hold `name: value` lines"),
        (b"profile: other\ndata: {name: folder, path: x}", "write `profile: 'made'`"),
        (b"profile: made\ndepth: 18", "'depth' belongs to a run, not to a profile: remove it"),
        (b"profile: made\ndata: {name: folder, path: x}\nepoch: 3", "unknown parameter 'epoch'"),
        (b"profile: made", "parameter 'data' is missing"),
        (b"profile: made\nprofile: made", "'profile' is there twice"),
        (b"profile: made\ntraining: {epochs: 3, epochs: 4}", "'epochs' is there twice"),
        (b"profile: made\ntraining: {<<: {epochs: 3}}", "'<<' is not read"),
        ("profile: made".encode("utf-16"), "not valid YAML in UTF-8"),
        ("profile: made\ndata: {path: caf\xe9}".encode("latin-1"), "not valid YAML in UTF-8"),
    ],
)
def test_a_bad_profile_is_named_with_its_file(profiles, content, message):
    (profiles / "made.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=f"{re.escape(str(profiles / 'made.yaml'))}: .*{message}"):
        load_profile("made")


def test_a_profile_named_by_a_number_is_told_the_quotes_it_needs(profiles):
    (profiles / "2024.yaml").write_text("profile: 2024\ndata: {name: folder, path: x}")
    with pytest.raises(ConfigError, match="write `profile: '2024'`"):
        load_profile("2024")
    (profiles / "2024.yaml").write_text("profile: '2024'\ndata: {name: folder, path: x}")
    assert load_profile("2024").profile == "2024"


def test_a_profile_that_cannot_be_read_is_named(profiles):
    (profiles / "made.yaml").mkdir()
    with pytest.raises(ConfigError, match=r"made\.yaml: cannot be read \(Is a directory\)"):
        load_profile("made")


def test_an_unknown_profile_lists_the_valid_ones():
    with pytest.raises(ConfigError, match=r"unknown profile 'dmo'; did you mean 'demo'\? choose among: "):
        load_profile("dmo")


def test_an_override_replaces_what_it_names_and_nothing_else():
    plain = load_profile("smoke")
    changed = load_profile("smoke", {"training": {"epochs": 7}, "seeds": [4]})
    assert (changed.training.epochs, changed.seeds) == (7, (4,))
    assert changed.training.model_copy(update={"epochs": plain.training.epochs}) == plain.training
    assert changed.model_copy(update={"training": plain.training, "seeds": plain.seeds}) == plain


# ----------------------------------------------------------------------------------- parameters of a notebook


def namespace(*cells: str, **variables) -> dict:
    """What `globals()` of a running notebook holds: its cells in `In`, and the variables that they assign."""
    values = {"In": ["", *cells], "scratch": 3, "paths": paths} | variables
    for cell in cells:
        exec(cell, values)
    return values


CELL = "# Parameters\nprofile = 'smoke'\nseed = 0\noverrides = {}"


def test_the_parameters_of_a_notebook_are_those_of_the_last_cell_that_sets_them():
    """By hand there is one cell; papermill injects another after it. Other names are the notebook's own."""
    by_hand = notebook_parameters(namespace(CELL))
    assert by_hand.model_dump() == {"profile": "smoke", "seed": 0, "overrides": {}, "variant": ""}
    injected = "# Parameters\nseed = 3\noverrides = {'training': {'epochs': 5}}"
    config = notebook_config("views8", namespace(CELL, "epoch = 3", injected))
    assert (config.run, config.seed, config.n_views, config.training.epochs) == ("views8", 3, 8, 5)
    assert notebook_profile(namespace(CELL, injected)).training.epochs == 5


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([CELL.replace("overrides", "overides")], "unknown parameter 'overides': did you mean 'overrides'"),
        ([CELL, "# Parameters\nsede = 3"], "unknown parameter 'sede': did you mean 'seed'"),
        ([CELL, "# Parameters\nseed = '3'"], r"parameter 'seed': .*valid integer \(got '3'\)"),
        ([CELL, "# Parameters\nseed = -1"], "parameter 'seed': .*greater than or equal to 0"),
        ([CELL, "# Parameters\noverrides = ['epochs']"], "parameter 'overrides': .*valid dictionary"),
        ([CELL, "# Parameters\nprofile = 5"], r"parameter 'profile': .*valid string \(got 5\)"),
        ([CELL, "# Parameters\nprofile = 'smok'"], "unknown profile 'smok'; did you mean 'smoke'"),
        (["# Parameters\nseed = 0"], "parameter 'profile' is missing"),
        (
            [CELL, "# Parameters\noverrides = {'training': {'epoch': 3}}"],
            "unknown parameter 'training.epoch': did you mean 'epochs'",
        ),
        (
            [CELL, "# Parameters\noverrides = {'training': {'epochs': 'many'}}"],
            r"parameter 'training.epochs': .*valid integer .*\(got 'many'\)",
        ),
        ([CELL, "# Parameters\noverrides = {'depth': 34}"], "unknown parameter 'depth'"),
        ([CELL, "# Parameters\nvariant = 'a b'"], "parameter 'variant': .*pattern"),
    ],
)
def test_a_misspelt_or_wrong_parameter_is_refused_by_hand_and_by_papermill(cells, message):
    with pytest.raises(ConfigError, match=message):
        notebook_config("baseline", namespace(*cells))


# -------------------------------------------------------------------------------------------------- files


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "folder" / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(UnicodeEncodeError), replacing(path) as new:
        new.write_text("half \ud800", encoding="utf-8")
    assert read_json(path) == {"a": 1}
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"a\.json: damaged, not JSON"):
        read_json(path)
    with pytest.raises(ConfigError, match=r"b\.json: missing"):
        read_json(path.with_name("b.json"))


def test_what_dead_processes_left_is_cleared_and_nothing_of_the_living(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    here = platform.node()
    for pid, node in ((ended.pid, here), (os.getpid(), here), (ended.pid, "another.machine")):
        (tmp_path / f".new.{pid}@{node}.a.csv").touch()
    clear_leftovers(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {f".new.{os.getpid()}@{here}.a.csv", f".new.{ended.pid}@another.machine.a.csv"}


def test_a_full_disk_is_told_with_the_file(tmp_path):
    """What the system reports of a write names no file."""
    with (
        pytest.raises(OSError, match=r"No space left on device: '.*a\.json'"),
        replacing(tmp_path / "a.json"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_results_and_data_go_where_they_are_sent(tmp_path, monkeypatch):
    """One's own results never lie in the published ones' folder."""
    monkeypatch.setenv("MANYVIEWS_RESULTS", str(tmp_path / "mine"))
    monkeypatch.setenv("MANYVIEWS_DATA", str(tmp_path / "images"))
    assert paths.run_folder("demo", "views8", 2) == tmp_path / "mine/demo/views8/seed2"
    assert paths.data_root() == tmp_path / "images"
    monkeypatch.delenv("MANYVIEWS_RESULTS")
    assert paths.run_folder("demo", "views8", 2) == paths.ROOT / "results/demo/views8/seed2"
    assert paths.published_root() == paths.ROOT / "results/published"


def test_a_configuration_shows_what_differs_from_the_original():
    assert repr(TrainingConfig()) == "TrainingConfig()"
    assert repr(TrainingConfig(epochs=30)) == "TrainingConfig(epochs=30)"
