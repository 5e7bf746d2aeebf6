"""The runs as data: one line is a run, in every profile, and work that two need is done once."""

import re
from dataclasses import fields

import pytest

from manyviews.config import runs
from manyviews.config.profiles import load_profile, profile_names
from manyviews.config.runs import (
    FILE,
    ORIGINAL,
    STUDIES,
    RunSpecs,
    configure,
    deduplicate,
    read_run_specs,
    run_specs,
)
from manyviews.config.schema import ConfigError, RunConfig
from manyviews.simclr.train import Recipe, learning_rate

TEXT = FILE.read_text(encoding="utf-8")
SPECS = run_specs()


def read(tmp_path, text: str) -> RunSpecs:
    path = tmp_path / "runs.yaml"
    path.write_text(text, encoding="utf-8")
    return read_run_specs(path)


def rates(config: RunConfig, steps_per_epoch: int) -> list[float]:
    """The learning rate at each step of a run."""
    names = {field.name for field in fields(Recipe)}
    recipe = Recipe(**{name: value for name, value in dict(config.training).items() if name in names})
    return [learning_rate(recipe, step, steps_per_epoch) for step in range(recipe.epochs * steps_per_epoch)]


@pytest.mark.parametrize("profile", profile_names())
def test_every_run_can_be_made_in_every_profile(profile):
    shared = load_profile(profile)
    for name, spec in SPECS.runs.items():
        config = configure(name, shared, 3)
        assert (config.run, config.seed, config.profile) == (name, 3, profile)
        assert (config.depth, config.stem, config.n_views) == (spec.depth, spec.stem, spec.n_views)


def test_the_originals_runs_are_runs_like_the_others():
    """Objective, depth, first layer and views; the supervised baseline is the baseline, with labels."""
    original = {
        name: (spec.objective, spec.depth, spec.stem, spec.n_views)
        for name, spec in SPECS.runs.items()
        if ORIGINAL in spec.comparisons
    }
    assert original == {
        "baseline": ("nt_xent", 18, "conv3", 2),
        "resnet34": ("nt_xent", 34, "conv7", 2),
        "views8": ("nt_xent", 34, "conv7", 8),
        "supervised": ("supervised", 18, "conv3", 2),
    }


def test_one_line_adds_a_run_to_its_comparisons(tmp_path):
    experiment = "depth: 18, stem: conv3, n_views: 2, training: {temperature: 1}"
    line = f"  temperature_1: {{title: hot, comparisons: [optimiser, cost], {experiment}}}"
    specs = read(tmp_path, f"{TEXT}\n{line}\n")
    assert specs.runs.keys() - SPECS.runs.keys() == {"temperature_1"}
    assert specs.runs["temperature_1"].training == {"temperature": 1}
    assert specs.title("temperature_1") == "hot"
    for comparison in ("optimiser", "cost"):
        assert specs.members(comparison) == [*SPECS.members(comparison), "temperature_1"]
    assert specs.members("dose") == SPECS.members("dose")


def test_a_comparison_lists_its_runs_after_their_reference():
    assert SPECS.members("equal_steps") == ["views8", "resnet34_long", "resnet34_long_epochs"]
    assert SPECS.members("images")[0] == "length_2"
    assert all(len(SPECS.members(comparison)) > 1 for comparison in SPECS.comparisons)


def test_each_run_belongs_to_a_study_and_comes_in_the_order_of_the_file():
    order = list(SPECS.runs)
    of_studies = {study: SPECS.of_study(study) for study in (ORIGINAL, *STUDIES)}
    assert {name for names in of_studies.values() for name in names} == set(order)
    for names in of_studies.values():
        assert names == sorted(names, key=order.index)
    assert of_studies[ORIGINAL] == ["baseline", "resnet34", "views8", "supervised"]
    assert "length_2" in of_studies["controls"]  # a reference that is itself of another comparison
    assert "frozen8" not in of_studies["scaling"]


def test_two_views_for_four_times_the_epochs_get_the_schedule_of_eight_views():
    """equal_steps: the learning rate of the two is the same at each step, to the bit."""
    shared = load_profile("demo")
    few, many = configure("resnet34_long", shared, 0), configure("views8", shared, 0)
    # Steps an epoch: 2,000 images in batches of 64, one pass and four.
    assert rates(few, 32) == rates(many, 128)


def test_runs_that_leave_a_constant_rate_are_its_branches():
    """The same rate at each step, up to where a branch begins to fall."""
    shared, steps = load_profile("demo"), 32
    whole = rates(configure("constant", shared, 0), steps)
    for name in ("decayed_half", "decayed_1", "decayed_2"):
        config = configure(name, shared, 0)
        branch = rates(config, steps)
        stays = round(len(branch) * (1 - config.training.decay_fraction))
        assert branch[:stays] == whole[:stays]
        assert branch[-1] < whole[len(branch) - 1]


def test_sizes_are_multiples_of_the_profiles():
    shared = load_profile("demo")
    assert shared.network.width == shared.data.image_size == 16
    assert configure("width_half", shared, 0).network.width == 8
    assert configure("width_2", shared, 0).network.width == 32
    assert configure("efficient", shared, 0).view_size == 8
    assert configure("baseline", shared, 0).view_size == 16
    assert configure("baseline", shared, 0).views.size is None


def test_the_originals_runs_alone_are_put_to_all_probes():
    shared = load_profile("demo")
    assert shared.evaluation.sweep
    for name, spec in SPECS.runs.items():
        evaluation, original = configure(name, shared, 0).evaluation, ORIGINAL in spec.comparisons
        assert (evaluation.brief, evaluation.sweep) == (not original, original)


def test_what_comes_out_alike_is_run_once():
    """The original's optimiser is the paper profile's own; that of demo is another."""
    assert deduplicate(["reported_optimizer"], load_profile("paper")) == {"reported_optimizer": "baseline"}
    assert deduplicate(["reported_optimizer", "adamw"], load_profile("demo")) == {
        "reported_optimizer": "reported_optimizer",
        "adamw": "baseline",
    }


def test_what_differs_in_a_probe_is_another_run_but_not_what_differs_in_how_it_is_looked_at(monkeypatch):
    shared = load_profile("demo")
    for changed, worker in (({"neighbours": 20}, "adamw"), ({"every_epochs": 1}, "baseline")):
        spec = SPECS.runs["adamw"].model_copy(update={"evaluation": changed})
        changed_specs = SPECS.model_copy(update={"runs": SPECS.runs | {"adamw": spec}})
        with monkeypatch.context() as patch:
            patch.setattr(runs, "run_specs", lambda specs=changed_specs: specs)
            assert deduplicate(["adamw"], shared) == {"adamw": worker}


def test_a_profile_that_cannot_make_one_run_can_make_the_others():
    shared = load_profile("demo", {"training": {"batch_size": 62}})
    assert deduplicate(["baseline", "k8_pairs"], shared) == {"baseline": "baseline"}
    with pytest.raises(ConfigError, match=r"runs.yaml: run 'k8_pairs' in profile 'demo'.*multiple of 4"):
        configure("k8_pairs", shared, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("length: 4", "lenght: 4"), "unknown parameter 'runs.resnet34_long.lenght': did you mean 'length'"),
        (
            ("comparisons: [equal_steps, cost]", "comparisons: [steps]"),
            "run 'resnet34_long': unknown comparison 'steps'; known: original, equal_steps",
        ),
        (
            ("reference: views8", "reference: views9"),
            "comparison 'equal_steps': reference 'views9' is no run of the file",
        ),
        (("reference: views8", "refrence: views8"), "did you mean 'reference'"),
        (
            ("depth: 34, stem: conv7, n_views: 2, length: 4", "depth: 50, stem: conv7, n_views: 2"),
            "parameter 'runs.resnet34_long.depth': Input should be 18 or 34 (got 50)",
        ),
        (("  resnet34_conv3:", "  resnet34_long:"), "'resnet34_long' is there twice"),
        (("claim: C", "claim: F"), "parameter 'comparisons.equal_steps.claim'"),
        (("\nruns:", "\nrun:"), "unknown parameter 'run': did you mean 'runs'"),
        (("runs:", "runs: ["), "not valid YAML"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path, change, message):
    assert change[0] in TEXT
    with pytest.raises(ConfigError, match=rf"(?s)runs\.yaml: .*{re.escape(message)}"):
        read(tmp_path, TEXT.replace(*change, 1))
