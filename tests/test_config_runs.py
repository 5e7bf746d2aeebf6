"""The runs as data: one line is a run, in every profile, and work that two need is done once."""

import re

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
from manyviews.config.schema import ConfigError
from manyviews.runs.run import recipe_of
from manyviews.simclr.train import learning_rate

TEXT = FILE.read_text(encoding="utf-8")
SPECS = run_specs()


def read(tmp_path, text: str) -> RunSpecs:
    path = tmp_path / "runs.yaml"
    path.write_text(text, encoding="utf-8")
    return read_run_specs(path)


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
    assert SPECS.members("identity") == ["length_4", "resnet18_views8", "length_4_epochs", "views8_epochs"]
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
    assert "distinct8" not in of_studies["scaling"]


def test_the_run_that_falls_at_the_end_is_until_then_the_constant_one():
    recipes = [recipe_of(configure(name, load_profile("demo"), 0)) for name in ("constant", "decayed")]
    steps = 10 * recipes[0].epochs
    falls = steps - steps // 5 + 1  # the first step below the peak
    constant, decayed = ([learning_rate(recipe, step, 10) for step in range(steps)] for recipe in recipes)
    assert constant[:falls] == decayed[:falls]
    assert all(a > b for a, b in zip(constant[falls:], decayed[falls:], strict=True))


def test_sizes_are_multiples_of_the_profiles():
    shared = load_profile("demo")
    assert shared.network.width == shared.data.image_size == 16
    assert configure("width_half", shared, 0).network.width == 8
    assert configure("width_2", shared, 0).network.width == 32
    assert configure("efficient", shared, 0).view_size == 8
    assert configure("baseline", shared, 0).view_size == 16
    assert configure("baseline", shared, 0).views.size is None
    # A curve has as many points, long or short, and half as many in a control.
    looked_at = [configure(name, shared, 0).evaluation for name in ("baseline", "joint", "length_4")]
    assert [evaluation.every_epochs for evaluation in looked_at] == [1, 2, 8]


def test_the_originals_runs_alone_are_put_to_all_probes():
    shared = load_profile("demo")
    assert shared.evaluation.sweep
    for name, spec in SPECS.runs.items():
        evaluation, original = configure(name, shared, 0).evaluation, ORIGINAL in spec.comparisons
        assert (evaluation.brief, evaluation.sweep) == (not original, original)


def test_what_is_the_same_training_is_made_once():
    """Where the rate moves per step, eight views are two for 4 x the epochs. 8 epochs draw 16 views."""
    alike = {"resnet18_views8": "length_4", "distinct16": "baseline", "distinct32": "baseline"}
    own = ("baseline", "views8_epochs", "length_4_epochs", "distinct8", "distinct32_4", "joint", "sgd")
    expected = alike | {name: name for name in own}
    assert deduplicate(expected, load_profile("demo")) == expected
    # In this profile the rate moves per epoch, and the original's optimiser is the profile's own.
    expected = {name: name for name in ("resnet18_views8", "distinct32")} | {"reported_optimizer": "baseline"}
    assert deduplicate(expected, load_profile("tiny-imagenet")) == expected


@pytest.mark.parametrize(("evaluation", "same"), [({"neighbours": 20}, False), ({"every_epochs": 3}, True)])
def test_another_probe_makes_another_run_but_not_another_look_at_it(monkeypatch, evaluation, same):
    spec = SPECS.runs["reported_optimizer"].model_copy(update={"evaluation": evaluation})
    changed = SPECS.model_copy(update={"runs": SPECS.runs | {"reported_optimizer": spec}})
    monkeypatch.setattr(runs, "run_specs", lambda: changed)
    worker = "baseline" if same else "reported_optimizer"
    assert deduplicate(["reported_optimizer"], load_profile("paper")) == {"reported_optimizer": worker}


def test_a_profile_that_cannot_make_one_run_can_make_the_others():
    shared = load_profile("demo", {"training": {"batch_size": 62}})
    assert deduplicate(["baseline", "k8_pairs"], shared) == {"baseline": "baseline"}
    with pytest.raises(ConfigError, match=r"runs.yaml: run 'k8_pairs' in profile 'demo'.*multiple of 4"):
        configure("k8_pairs", shared, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("length: 4", "lenght: 4"), "unknown parameter 'runs.length_4.lenght': did you mean 'length'"),
        (
            ("comparisons: [images]", "comparisons: [image]"),
            "run 'images_half': unknown comparison 'image'; known: original, identity",
        ),
        (
            ("reference: length_4", "reference: length_5"),
            "comparison 'identity': reference 'length_5' is no run of the file",
        ),
        (("reference: length_4", "refrence: length_4"), "did you mean 'reference'"),
        (("depth: 34", "depth: 50"), "parameter 'runs.resnet34.depth': Input should be 18 or 34 (got 50)"),
        (("  resnet34_conv3:", "  resnet34:"), "'resnet34' is there twice"),
        (("claim: C", "claim: G"), "parameter 'comparisons.identity.claim'"),
        (
            ("n_views: 8", "n_views: 7"),
            "parameter 'runs.views8.n_views': Input should be a multiple of 2 (got 7)",
        ),
        (("  length_4:", "  Length 4:"), "parameter 'runs.Length 4.[key]': String should match pattern"),
        (("\nruns:", "\nrun:"), "unknown parameter 'run': did you mean 'runs'"),
        (("runs:", "runs: ["), "not valid YAML"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path, change, message):
    assert change[0] in TEXT
    with pytest.raises(ConfigError, match=rf"(?s)runs\.yaml: .*{re.escape(message)}"):
        read(tmp_path, TEXT.replace(*change, 1))
