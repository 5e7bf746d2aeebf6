"""Runs on disk: states, what is published and read back, and which runs a report is about."""

import itertools
from dataclasses import replace

import pandas as pd
import pytest
from small import small_profile, small_run

from manyviews.config import paths
from manyviews.config.files import write_json
from manyviews.config.profiles import profile_names
from manyviews.config.schema import ConfigError
from manyviews.report import tables
from manyviews.runs import store
from manyviews.runs.run import run
from manyviews.runs.store import (
    Results,
    RunState,
    load_own,
    load_published,
    load_results,
    merge,
    partial_folder,
    publish,
    read_table,
    state_of,
)


@pytest.fixture(scope="module")
def results_of_runs(tmp_path_factory):
    """Own results of two runs, one of them with two seeds."""
    root = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MANYVIEWS_DATA", str(root / "data"))
        patch.setenv("MANYVIEWS_RESULTS", str(root))
        for name, seed in (("baseline", 10), ("baseline", 9), ("length_2", 9)):
            run(small_run(name, seed))
    return root


@pytest.fixture(autouse=True)
def _folders(results_of_runs, tmp_path, monkeypatch):
    monkeypatch.setenv("MANYVIEWS_RESULTS", str(results_of_runs))
    monkeypatch.setattr(store.paths, "published_root", lambda: tmp_path)


def test_a_variant_lies_beside_the_run_it_varies_and_is_shown_with_it():
    profile = small_profile()
    config = small_run("baseline", 9, training={"learning_rate": 2e-3})
    made = run(config.model_copy(update={"run": "baseline-fast"}))
    assert "baseline-fast" not in load_own(profile).runs
    named = store.load_variants(profile)
    assert [(name, [one.seed for one in seeds]) for name, seeds in named.items()] == [("baseline-fast", [9])]
    own = load_own(profile).runs
    row = tables.variants(profile, named, own).loc["ResNet-18, 2 views", "fast"]
    assert row["what differs"] == "training.learning_rate: 0.002, not 0.001"
    assert row["k-NN, training classes (%)"] == tables.percent(made.summary["id_knn_accuracy"])
    seed9 = next(one for one in own["baseline"] if one.seed == 9)
    assert row["without (%)"] == tables.percent(seed9.summary["id_knn_accuracy"])
    assert tables.variants(profile, {}, own).empty
    with pytest.raises(
        ConfigError, match=r'learning_rate is 0.001 there and 0.002 here.*`variant = "b"`.*--force'
    ):
        run(config)
    with pytest.raises(ConfigError, match=r"learning_rate is 0.002 there.*delete that folder$"):
        run(small_run("baseline", 9).model_copy(update={"run": "baseline-fast"}))


def test_the_state_of_a_folder_follows_from_what_lies_there(tmp_path):
    """All combinations of a finished folder, the mark to make it again, a partial one, and a failure."""
    expected = {}
    for number, (done, marked, begun, failed) in enumerate(itertools.product([False, True], repeat=4)):
        if (marked and not done) or (failed and not begun):
            continue
        folder = tmp_path / f"seed{number}"
        if done:
            write_json(folder / "summary.json", {})
        if marked:
            (folder / "rerun").touch()
        if begun:
            partial_folder(folder).mkdir()
        if failed:
            write_json(partial_folder(folder) / "failed.json", {"reason": "why"})
        expected[done, marked, begun, failed] = state_of(folder)
    for (done, marked, begun, failed), state in expected.items():
        if done:
            assert state is (RunState.MARKED if marked else RunState.COMPLETE)
        elif failed:
            assert state is RunState.FAILED
        elif begun:
            assert state is RunState.BEGUN
        else:
            assert state is RunState.ABSENT


def test_own_runs_come_with_their_seeds_in_order_and_under_the_names_of_equal_recipes():
    profile = small_profile(training={"temperature": 0.5})
    runs = load_own(profile).runs
    assert [one.seed for one in runs["baseline"]] == [9, 10]  # as numbers, not as text
    assert runs["temperature_05"] == runs["baseline"]
    assert [one.seed for one in runs["length_2"]] == [9]
    assert "length_4" not in runs


def test_runs_of_different_configurations_are_never_averaged():
    with pytest.raises(ConfigError, match=r"temperature is 0.5 there and 0.3 here"):
        load_own(small_profile(training={"temperature": 0.3}))


def test_what_is_published_reads_back_as_it_was(tmp_path):
    """Tables to the last digit; initial weights' predictions do not take the trained ones' place."""
    profile = small_profile()
    own = load_own(profile)
    pixels = own.runs["baseline"][0].predictions.head(7)
    publish(Results(own.runs, pixels, published=False), tmp_path / "small")
    again = load_published(profile)
    assert {name: [one.seed for one in seeds] for name, seeds in again.runs.items()} == {
        name: [one.seed for one in seeds] for name, seeds in own.runs.items()
    }
    for before, after in zip(own.runs["baseline"], again.runs["baseline"], strict=True):
        assert before.summary == after.summary
        assert before.environment == after.environment
        assert before.config == after.config
        for name in ("metrics", "predictions", "initial_predictions", "neighbours", "feature_map"):
            pd.testing.assert_frame_equal(getattr(before, name), getattr(after, name), check_dtype=False)
    assert again.runs["length_2"][0].neighbours is None
    pd.testing.assert_frame_equal(again.raw_pixels, pixels, check_dtype=False)


def test_published_files_are_checked_against_what_was_written(tmp_path):
    publish(load_own(small_profile()), tmp_path / "small")
    path = tmp_path / "small/metrics.csv"
    path.write_text(path.read_text().replace("0.", "1.", 1))
    with pytest.raises(ConfigError, match=r"metrics.csv: not what was written"):
        load_published(small_profile())


def test_publishing_adds_ones_own_runs_to_what_there_is(tmp_path):
    """Seeds in order; of a seed in both, one's own; written and read again, the others are as they were."""
    profile = small_profile()
    own = load_own(profile)
    nine, ten = own.runs["baseline"]
    older = replace(ten, summary=ten.summary | {"steps": -1})
    pixels = nine.predictions.head(7)
    publish(
        Results({"baseline": [older]} | {"length_2": own.runs["length_2"]}, pixels, True), tmp_path / "small"
    )
    merged = merge(load_published(profile), Results({"baseline": [nine, ten]}, None, published=False))
    publish(merged, tmp_path / "small")
    again = load_published(profile)
    assert [(one.seed, one.summary) for one in again.runs["baseline"]] == [
        (9, nine.summary),
        (10, ten.summary),
    ]
    pd.testing.assert_frame_equal(again.runs["length_2"][0].metrics, own.runs["length_2"][0].metrics)
    assert len(again.raw_pixels) == 7


def test_published_runs_of_another_recipe_are_left_out(tmp_path):
    profile = small_profile()
    publish(load_own(profile), tmp_path / "small")
    other = load_published(small_profile(training={"temperature": 0.3})).runs
    assert "baseline" not in other


def test_a_report_is_about_what_is_published_unless_ones_own_are_as_many(tmp_path):
    profile = small_profile()
    own = load_own(profile)
    assert not load_results(profile).published  # nothing is published
    publish(own, tmp_path / "small")
    assert not load_results(profile).published
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MANYVIEWS_RESULTS", str(tmp_path / "mine"))
        results = load_results(profile)
    assert results.published
    assert [one.seed for one in results.runs["baseline"]] == [9, 10]


def test_a_table_that_is_cut_short_is_named(tmp_path):
    path = tmp_path / "metrics.csv"
    for content in ("", 'epoch,loss\n1,"2'):
        path.write_text(content)
        with pytest.raises(ConfigError, match=r"metrics.csv: damaged .*run again"):
            read_table(path)


def test_what_the_project_publishes_can_be_read_with_todays_profiles(monkeypatch):
    """No published run has a configuration that its profile no longer has."""
    from manyviews.config.files import read_json
    from manyviews.config.profiles import load_profile

    root = paths.ROOT / "results" / "published"
    monkeypatch.setattr(store.paths, "published_root", lambda: root)
    published = [name for name in profile_names() if (root / name).exists()]
    assert published
    for name in published:
        results = load_published(load_profile(name))
        stored = {(about["run"], about["seed"]) for about in read_json(root / name / "runs.json")}
        read = {(one.name, one.seed) for seeds in results.runs.values() for one in seeds}
        assert read == stored
        assert results.raw_pixels is not None
