"""The runs as data: one line is a run, in every profile, and work that two need is done once."""

import re

import pytest
import yaml

from manyviews.config import ConfigError, load_profile, profile_names
from manyviews.rows import FILE, PARTS, ROWS, STUDIES, configure, members, read_study, rows_of, same_runs
from manyviews.train import learning_rate

TEXT = FILE.read_text(encoding="utf-8")


@pytest.mark.parametrize("profile", profile_names())
def test_every_run_can_be_made_in_every_profile(profile):
    shared = load_profile(profile)
    for name in ROWS:
        assert configure(name, shared).run == name


def test_the_reports_runs_are_rows_like_the_others():
    """study, section 1: objective, depth, first layer and views; the ceiling is the baseline, with labels."""
    found = {
        name: (r.objective, r.depth, r.stem, r.n_views) for name, r in ROWS.items() if "report" in r.parts
    }
    assert found == {
        "baseline": ("nt_xent", 18, "conv3", 2),
        "resnet34": ("nt_xent", 34, "conv7", 2),
        "views8": ("nt_xent", 34, "conv7", 8),
        "supervised": ("supervised", 18, "conv3", 2),
    }


def test_in_paper_the_reports_runs_are_the_reports_recipe():
    shared = load_profile("paper")
    training = configure("views8", shared).training
    assert (training.epochs, training.learning_rate, training.temperature) == (50, 0.6, 0.5)
    assert training.schedule_per == "epoch"


def test_one_line_adds_a_run_to_the_tables_of_its_parts():
    experiment = "depth: 18, stem: conv3, n_views: 2, training: {temperature: 1}"
    line = f"  temperature_1: {{title: hot, parts: [C7], {experiment}}}"
    study = read_study(f"{TEXT}\n{line}\n")
    assert study.runs.keys() - ROWS.keys() == {"temperature_1"}
    assert study.runs["temperature_1"].training == {"temperature": 1}


def test_a_part_lists_its_runs_after_the_one_they_are_compared_with():
    assert members("C1")[0] == "views8"
    assert {"resnet34_long", "resnet34_long_epochs"} == set(members("C1")[1:])
    assert all(len(members(part)) > 1 for part in PARTS)
    assert set(ROWS) == {*rows_of("report"), *(name for study in STUDIES for name in rows_of(study))}


def test_two_views_for_four_times_the_epochs_get_the_schedule_of_eight_views():
    """C1: the learning rate of the two is the same at each step, to the bit."""
    shared = load_profile("demo")
    few, many = configure("resnet34_long", shared), configure("views8", shared)
    steps_few, steps_many = 32, 128  # per epoch: 2,000 images in batches of 64, one pass and four
    total = few.training.epochs * steps_few
    assert total == many.training.epochs * steps_many
    rates = [
        [learning_rate(c.training, step, steps) for step in range(total)]
        for c, steps in ((few, steps_few), (many, steps_many))
    ]
    assert rates[0] == rates[1]


def test_lengths_take_warm_up_and_curve_along():
    shared = load_profile("demo")
    one, eight = configure("baseline", shared), configure("length_8", shared)
    for section, key in (
        ("training", "epochs"),
        ("training", "warmup_epochs"),
        ("evaluation", "every_epochs"),
    ):
        assert getattr(getattr(eight, section), key) == 8 * getattr(getattr(one, section), key)


def test_runs_that_leave_a_constant_rate_are_its_branches():
    """C6: the same rate at each step, up to where a branch begins to fall."""
    shared = load_profile("demo")
    steps = 32  # per epoch
    whole = configure("constant", shared).training
    for name in ("decayed_half", "decayed_1", "decayed_2"):
        branch = configure(name, shared).training
        total = branch.epochs * steps
        stays = round(total * (1 - branch.decay_share))
        rates = [[learning_rate(c, step, steps) for step in range(total)] for c in (branch, whole)]
        assert rates[0][:stays] == rates[1][:stays]
        assert rates[0][-1] < rates[1][total - 1]


def test_a_row_that_changes_a_probe_only_is_a_run_of_its_own(monkeypatch):
    """How often, and how fully, it is evaluated makes none."""
    shared = load_profile("demo")
    for changed, standing in (({"neighbours": 20}, "adamw"), ({"every_epochs": 1}, "baseline")):
        row = ROWS["adamw"].model_copy(update={"evaluation": changed})
        monkeypatch.setitem(ROWS, "adamw", row)
        assert same_runs(["adamw"], shared) == {"adamw": standing}


def test_sizes_are_multiples_of_the_profiles():
    shared = load_profile("tiny-imagenet-quick")
    assert configure("width_half", shared).network.width == 8
    assert configure("efficient", shared).views.size == 16


def test_the_factors_form_all_combinations():
    cells = {(ROWS[name].depth, ROWS[name].stem, ROWS[name].n_views) for name in members("C2")}
    assert len(cells) == len(members("C2")) == 8


def test_what_comes_out_alike_is_run_once():
    """The report's optimiser is the paper profile's own; that of demo is another."""
    assert same_runs(["reported_optimizer"], load_profile("paper")) == {"reported_optimizer": "baseline"}
    assert same_runs(["reported_optimizer"], load_profile("demo")) == {
        "reported_optimizer": "reported_optimizer"
    }
    assert same_runs(["adamw"], load_profile("demo")) == {"adamw": "baseline"}


def test_runs_that_differ_in_the_seed_only_are_alike_in_every_seed():
    shared = load_profile("demo")
    assert same_runs(ROWS, shared | {"seed": 0}) == same_runs(ROWS, shared | {"seed": 1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("length: 4", "lenght: 4"),
            "runs.yaml: unknown parameter 'runs.resnet34_long.lenght': did you mean 'length'",
        ),
        (("parts: [C1, cost]", "parts: [C9]"), "run 'resnet34_long': unknown part 'C9'; known: report, C1"),
        (("against: views8", "against: views9"), "part 'C1': against 'views9', which is no run"),
        (
            ("depth: 34, stem: conv7, n_views: 2, length: 4", "depth: 50, stem: conv7, n_views: 2"),
            "runs.yaml: parameter 'runs.resnet34_long.depth': Input should be 18 or 34 (got 50)",
        ),
        (("  resnet34_conv3:", "  resnet34_long:"), "'resnet34_long' is there twice"),
        (("runs:", "runs: ["), "not valid YAML"),
    ],
)
def test_a_mistake_in_the_file_is_named(change, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_study(TEXT.replace(*change, 1))


def test_a_profile_that_cannot_make_one_run_can_make_the_others():
    shared = load_profile("demo")
    shared["training"] = shared["training"] | {"batch_size": 62}
    assert same_runs(["baseline", "k8_pairs"], shared) == {"baseline": "baseline"}


def test_a_run_that_a_profile_cannot_make_is_named():
    shared = load_profile("demo")
    shared["training"] = shared["training"] | {"batch_size": 62}
    with pytest.raises(ConfigError, match=r"runs.yaml: run 'k8_pairs' in profile 'demo'.*multiple of 4"):
        configure("k8_pairs", shared)


def test_each_run_is_one_line():
    lines = TEXT.split("\nruns:\n")[1].splitlines()
    assert sum(line.startswith("  ") and not line.strip().startswith("#") for line in lines) == len(ROWS)
    assert yaml.safe_load(TEXT)["runs"].keys() == ROWS.keys()
