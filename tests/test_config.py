"""Configurations: the report's recipe by default, and clear errors before any work starts."""

import pytest
from pydantic import ValidationError

from manyviews import config, paths
from manyviews.config import ConfigError, RunConfig, load_profile, notebook_parameters, profile_names

FULL = """
profile: made
seeds: [0]
data: {name: folder, path: x}
network: {}
views: {}
training: {}
evaluation: {}
claims: {}
"""
EXPERIMENT = {"run": "baseline", "depth": 18, "stem": "conv3", "n_views": 2}
PAPER = {"profile": "paper", "data": {"name": "folder", "path": "data/paper"}}


def test_defaults_are_the_reports_recipe():
    """study, section 1."""
    run = RunConfig(**EXPERIMENT, **PAPER)
    t, v, e, n = run.training, run.views, run.evaluation, run.network
    assert (t.epochs, t.warmup_epochs, t.schedule_per, t.batch_size, t.temperature) == (
        50,
        10,
        "epoch",
        256,
        0.5,
    )
    assert (t.optimizer, t.learning_rate, t.weight_decay, t.joint_forward) == ("adamw", 0.6, 0, False)
    assert (v.crop_scale, v.crop_ratio, v.flip_p) == ((0.2, 1.0), (3 / 4, 4 / 3), 0.5)
    assert (v.brightness, v.contrast, v.saturation, v.hue, v.jitter_p) == (0.4, 0.4, 0.4, 0.1, 0.8)
    assert (v.grayscale_p, v.blur_p, v.blur_sigma, v.frozen) == (0.2, 0.5, (0.1, 2.0), False)
    assert (e.neighbours, e.linear_c, e.linear_max_iter, e.ood_fit_share) == (5, 1.0, 1000, 0.8)
    assert (n.width, n.feature_dim, n.projection_hidden, n.projection_dim) == (64, 1000, 2048, 128)
    assert n.projection_norm is False


def test_the_paper_profile_departs_from_the_recipe_in_nothing():
    run = RunConfig(**EXPERIMENT, **load_profile("paper"))
    assert run.training == config.TrainingConfig()
    assert run.views == config.ViewConfig()
    assert run.network == config.NetworkConfig()
    assert run.seeds == (42,)


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_is_valid_and_leaves_nothing_to_the_notebooks_own_parameters(name):
    """Papermill replaces what a profile names; the rest would stay at the values of `smoke`."""
    profile = load_profile(name)
    assert profile["profile"] == name
    assert profile.keys() == load_profile("smoke").keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trainig": {}}, r"unknown parameter 'trainig': did you mean 'training'\?"),
        ({"training": {"learning_rat": 1}}, r"'training.learning_rat': did you mean 'learning_rate'\?"),
        ({"views": {"xyz": 1}}, r"unknown parameter 'views.xyz': Known: crop_scale, "),
        ({"n_views": 3}, r"parameter 'n_views': .*multiple of 2 \(got 3\)"),
        ({"depth": 50}, r"parameter 'depth': Input should be 18 or 34"),
        (
            {"training": {"epochs": 5, "warmup_epochs": 5}},
            r"warmup_epochs \(5\) must be fewer than epochs \(5\)",
        ),
        ({"views": {"crop_scale": [0.9, 0.2]}}, r"crop_scale must be \[low, high\]"),
        ({"views": {"blur_kernel": 4}}, "blur_kernel must be odd, not 4"),
        (
            {"n_views": 8, "training": {"views_per_batch": 3, "batch_size": 6}},
            r"'training': views_per_batch \(3\) must divide n_views \(8\).*use one of \[2, 4, 8\]",
        ),
        ({"training": {"views_per_batch": 4}}, r"\(4\) must divide n_views \(2\).*use one of \[2\]"),
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
    ],
)
def test_a_mistake_is_named_with_the_fix(change, message):
    with pytest.raises(ConfigError, match=message):
        RunConfig(**EXPERIMENT | PAPER | change)


def test_all_mistakes_are_named_at_once():
    with pytest.raises(ConfigError) as error:
        RunConfig(**EXPERIMENT | PAPER | {"depth": 50, "n_views": 3})
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("batch_size", "views_per_batch", "images"), [(256, 2, 256), (256, 4, 128), (256, 8, 64), (6, 3, 4)]
)
def test_a_batch_keeps_its_number_of_views(batch_size, views_per_batch, images):
    """study, C3: more views of an image in a batch are compared at an equal batch of views."""
    training = config.TrainingConfig(batch_size=batch_size, views_per_batch=views_per_batch)
    assert training.images_per_batch == images
    assert images * views_per_batch == 2 * batch_size


def test_a_configuration_from_before_views_per_batch_is_of_pairs():
    old = RunConfig(**EXPERIMENT, **PAPER).model_dump(mode="json")
    del old["training"]["views_per_batch"], old["training"]["multi_view_loss"]
    assert RunConfig(**old).training.views_per_batch == 2
    assert RunConfig(**old).recipe() == RunConfig(**EXPERIMENT, **PAPER).recipe()


def test_a_configuration_cannot_be_changed():
    run = RunConfig(**EXPERIMENT, **PAPER)
    with pytest.raises(ValidationError, match="frozen"):
        run.training.epochs = 1


def test_the_recipe_leaves_out_what_cannot_change_numbers():
    one = RunConfig(**EXPERIMENT, **PAPER)
    assert one.recipe() == RunConfig(**EXPERIMENT, **PAPER, device="cpu", seeds=[3, 4]).recipe()
    assert one.recipe() != RunConfig(**EXPERIMENT, **PAPER, seed=1).recipe()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("profile: [", "not valid YAML"),
        ("- 1", "must hold `name: value` lines"),
        ("profile: other\ndata: {name: folder, path: x}", "write `profile: made`"),
        ("profile: made\ndepth: 18", "'depth' belongs to the notebook"),
        ("profile: made\ndata: {name: folder, path: x}", r"'seeds' is missing; write `seeds: {}`"),
        (FULL + "epoch: 3", r"made.yaml: unknown parameter 'epoch'"),
        (FULL.replace("views: {}", ""), r"made.yaml: 'views' is missing; write `views: {}` for its defaults"),
    ],
)
def test_a_bad_profile_is_named(tmp_path, monkeypatch, content, message):
    monkeypatch.setattr(paths, "PROFILES", tmp_path)
    (tmp_path / "made.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_profile("made")


def test_an_unknown_profile_lists_the_valid_ones():
    with pytest.raises(ConfigError, match=r"unknown profile 'dmo'; did you mean 'demo'\? choose one of: "):
        load_profile("dmo")


def test_notebook_parameters_are_those_of_the_notebook_and_of_papermill():
    """By hand there is no injected cell; in batch an unknown name comes through, to be refused."""
    by_hand = {"In": ["", "seed = 1"], "seed": 1, "data": PAPER["data"], "scratch": 3, "run": object()}
    assert notebook_parameters(by_hand) == {"seed": 1, "data": PAPER["data"]}
    batch = by_hand | {"In": ["", "seed = 0", "# Parameters\nseed = 1\nepoch = 2\n"], "epoch": 2}
    assert notebook_parameters(batch) == {"seed": 1, "data": PAPER["data"], "epoch": 2}
    with pytest.raises(ConfigError, match="unknown parameter 'epoch'"):
        RunConfig(**EXPERIMENT, profile="paper", **notebook_parameters(batch))
