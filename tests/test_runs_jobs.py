"""Several runs side by side: what is missing is made once, and what fails keeps no other from running."""

import os
import socket
import subprocess
import sys
import threading
import time
import warnings
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pandas as pd
import psutil
import pytest
from small import small_profile, small_run

from manyviews.config import paths
from manyviews.config.files import read_json, write_json
from manyviews.config.schema import ConfigError
from manyviews.config.surroundings import BUSY, cores
from manyviews.data.dataset import SPLITS, load_dataset
from manyviews.runs import jobs
from manyviews.runs.jobs import (
    Job,
    default_jobs,
    do_jobs,
    estimate_seconds,
    fraction_done,
    make_run,
    missing_runs,
    run_title,
)
from manyviews.runs.store import RunBusy, RunState, partial_folder, run_lock, state_of, write_table


@pytest.fixture(autouse=True)
def _results(tmp_path, monkeypatch):
    monkeypatch.setenv("MANYVIEWS_RESULTS", str(tmp_path / "results"))


def pretend(name: str, seed: int) -> None:
    """Leave behind what a finished control would."""
    config = small_run(name, seed)
    folder = paths.run_folder("small", name, seed)
    write_json(folder / "config.json", config.model_dump(mode="json"))
    write_json(folder / "summary.json", {})


def missing(names, seeds, force=False) -> list[tuple[str, int]]:
    return [(config.run, config.seed) for config in missing_runs(names, small_profile(), seeds, force)]


def test_what_is_there_is_not_made_again_and_seeds_of_a_run_follow_each_other():
    names = ["resnet34_conv3_4", "distinct2_4"]
    assert missing(names, [0, 1]) == [(name, seed) for name in names for seed in (0, 1)]
    pretend("resnet34_conv3_4", 0)
    assert missing(["resnet34_conv3_4"], [0, 1]) == [("resnet34_conv3_4", 1)]
    assert missing(["resnet34_conv3_4"], [0, 1], force=True) == [
        ("resnet34_conv3_4", 0),
        ("resnet34_conv3_4", 1),
    ]
    assert state_of(paths.run_folder("small", "resnet34_conv3_4", 0)) is RunState.COMPLETE  # until later


def test_what_two_names_need_is_made_once():
    assert missing(["baseline", "temperature_05"], [0]) == [("baseline", 0)]


def test_two_processes_make_runs_and_one_that_fails_keeps_none_from_running(capsys):
    """One of the runs blows up; the message is the run's own. Each has one thread."""
    blows_up = small_run("length_half", training={"optimizer": "sgd", "learning_rate": 1e300})
    configs = [small_run("length_half", 1), blows_up, small_run("temperature_01")]
    jobs = [Job(run_title(config.run, config.seed), partial(make_run, config), config) for config in configs]
    reasons = do_jobs(jobs, at_once=2)
    assert len(reasons) == 1
    assert "length_half), seed 0: " in reasons[0]
    assert "Lower training.learning_rate" in reasons[0]
    done = [paths.run_folder("small", config.run, config.seed) for config in configs]
    states = [state_of(folder) for folder in done]
    assert states == [RunState.COMPLETE, RunState.FAILED, RunState.COMPLETE]
    threads = max(1, cores() // 2)
    assert {read_json(folder / "environment.json")["threads"] for folder in done[::2]} == {threads}
    assert sorted(line[:5] for line in capsys.readouterr().out.splitlines() if line[:1] == "[") == [
        "[1/3]",
        "[2/3]",
        "[3/3]",
    ]


def test_an_unexpected_error_is_told_and_stops_no_other_job():
    jobs = [Job("bad", partial(int, "x")), Job("good", partial(str, ""))]
    (reason,) = do_jobs(jobs, at_once=1)
    told, log = reason.removesuffix(")").split(" (traceback: ")
    assert told == "bad: unexpected ValueError: invalid literal for int() with base 10: 'x'"
    assert "Traceback" in Path(log).read_text()
    Path(log).unlink()
    assert do_jobs([]) == []


def test_two_commands_at_a_time_do_not_want_the_same_port():
    with warnings.catch_warnings(), socket.socket() as other:
        warnings.filterwarnings("error", message="Port .* is already in use")
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # taken already, as it shall be
            other.bind(("", 8787))
            other.listen()
        assert do_jobs([Job("good", partial(str, ""))], at_once=1) == []


def test_a_process_that_is_killed_takes_no_other_with_it():
    """As the system does where memory runs out."""
    jobs = [Job("killed", partial(os.abort)), Job("good", partial(str, ""))]
    assert do_jobs(jobs, at_once=2) == [
        "killed: its process was killed, as happens when memory runs out; fewer --jobs need less"
    ]


def test_what_stops_the_command_ends_its_jobs_and_begins_no_other(monkeypatch, tmp_path):
    """Stopped when the first of three jobs is done; the second would take an hour."""

    def stopped(config):
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "_resumed_with", stopped)
    work = [partial(str, ""), partial(time.sleep, 3600), partial((tmp_path / "third").mkdir)]
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(KeyboardInterrupt):
        do_jobs([Job("one of three", each) for each in work], at_once=2)
    left = [
        p
        for p in set(psutil.Process().children(recursive=True)) - before
        if "resource_tracker" not in str(p.cmdline())
    ]
    assert not left
    assert not (tmp_path / "third").exists()


@contextmanager
def cluster(workers: int, folder: Path):
    """A scheduler and its workers, as on other machines; gives its address, and the processes."""
    port = free_port()
    dask, address = [sys.executable, "-m", "distributed.cli.dask_scheduler"], f"tcp://127.0.0.1:{port}"
    worker = [
        sys.executable,
        "-m",
        "distributed.cli.dask_worker",
        address,
        "--nthreads",
        "1",
        "--no-dashboard",
    ]
    environment = os.environ | {
        "PYTHONPATH": str(paths.ROOT / "lib"),
        "DASK_TEMPORARY_DIRECTORY": str(folder),
    }
    environment.pop("MANYVIEWS_RESULTS")  # which the command tells them
    options = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    commands = [[*dask, "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"], *[worker] * workers]
    processes = [subprocess.Popen(command, **options) for command in commands]
    while not listens(port):
        assert processes[0].poll() is None  # else the port was taken meanwhile
        time.sleep(0.1)
    try:
        yield address, processes
    finally:
        for process in processes:
            for each in [*psutil.Process(process.pid).children(recursive=True), process]:
                each.kill()
            process.wait()


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_workers_elsewhere_are_told_of_places_as_the_caller_means_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MANYVIEWS_DATA", "images")
    assert jobs._settings()["MANYVIEWS_DATA"] == str(tmp_path / "images")


def test_a_cluster_makes_the_same_runs_to_the_bit(tmp_path, monkeypatch):
    """Two workers; one is killed in the middle of its run, which another, or its next process, resumes."""
    configs = [small_run("distinct2", seed, training={"epochs": 20}) for seed in (0, 1)]
    work = [Job(f"seed {config.seed}", partial(make_run, config), config) for config in configs]
    assert do_jobs(work, at_once=2) == []
    here = metrics_of(configs)
    monkeypatch.setenv("MANYVIEWS_RESULTS", str(tmp_path / "elsewhere"))
    with cluster(2, tmp_path) as (address, (_, *workers)):

        def kill() -> None:
            while fraction_done(configs[0]) + fraction_done(configs[1]) == 0:
                time.sleep(0.05)
            victim = psutil.Process(workers[0].pid).children(recursive=True)[-1]
            victim.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        assert do_jobs(work, scheduler=address) == []
        killer.join()
    assert here == metrics_of(configs)


def metrics_of(configs) -> list[str]:
    folders = [paths.run_folder("small", config.run, config.seed) for config in configs]
    return [(folder / "metrics.csv").read_text() for folder in folders]


def test_a_scheduler_that_is_killed_ends_the_command_with_a_sentence_and_its_runs_go_on_later(tmp_path):
    config = small_run("distinct2", training={"epochs": 20})
    job = Job("long", partial(make_run, config), config)
    with cluster(1, tmp_path) as (address, (scheduler, _)):

        def kill() -> None:
            while fraction_done(config) == 0:
                time.sleep(0.05)
            scheduler.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        (reason,) = do_jobs([job], scheduler=address)
        killer.join()
    assert reason == f"long: {jobs.LOST}"
    assert do_jobs([job]) == []
    assert state_of(paths.run_folder("small", config.run, config.seed)) is RunState.COMPLETE


def test_a_scheduler_that_is_not_there_is_a_wrong_input():
    with pytest.raises(ConfigError, match="no Dask scheduler answers there"):
        do_jobs([Job("never", partial(str, ""))], scheduler=f"tcp://127.0.0.1:{free_port()}")


def test_a_run_that_another_process_has_is_left_to_it():
    with run_lock(paths.run_folder("small", "distinct2_4", 0)), pytest.raises(RunBusy, match=BUSY):
        make_run(small_run("distinct2_4"))
    assert state_of(paths.run_folder("small", "distinct2_4", 0)) is RunState.ABSENT


def test_an_estimate_times_each_kind_of_network_once_and_follows_views_and_evaluations(monkeypatch):
    """At 10 ms a view of ResNet-18 and 30 of ResNet-34; two at a time take half as long, one no less."""
    timed = []

    def fake(config, dataset, at_once):
        timed.append(config.depth)
        return 0.01 if config.depth == 18 else 0.03

    monkeypatch.setattr(jobs, "_seconds_of_a_view", fake)
    dataset = load_dataset(small_run("baseline").data)
    images = [len(getattr(dataset, name).labels) for name in SPLITS]
    short, deep = small_run("baseline"), small_run("resnet34")
    looks = short.training.epochs // short.evaluation.every_epochs + 13
    views = 2 * short.training.epochs * images[0]
    expected = 0.01 * (views + looks * sum(images) * 2 / 3) + jobs.SECONDS_TO_START
    assert estimate_seconds([short], dataset, 1) == pytest.approx(expected)
    assert estimate_seconds([short], dataset, 2) == pytest.approx(expected)
    assert estimate_seconds([short, short], dataset, 2) == pytest.approx(expected)
    assert timed == [18, 18, 18]
    assert estimate_seconds([deep], dataset, 1) > 2 * expected - jobs.SECONDS_TO_START
    assert estimate_seconds([], dataset, 2) == 0
    whole = estimate_seconds([deep], dataset, 1)
    assert estimate_seconds([short, deep], dataset, 2) == whole  # the longest alone takes as long


def test_a_timed_step_takes_some_time():
    config = small_run("baseline")
    assert 0 < jobs._seconds_of_a_view(config, load_dataset(config.data), at_once=2) < 10


@pytest.mark.parametrize(
    ("content", "fraction"),
    [("", 0), ("epoch\n", 0), ('epoch\n"0', 0), ("epoch\n0\n1\n2\n", 0.25), ("epoch\n" + "0\n" * 99, 1)],
)
def test_the_bar_follows_the_epochs_of_a_run(content, fraction):
    """2 of 8 epochs are a quarter; empty, broken off, or of a longer training: the run itself will tell."""
    config = small_run("distinct2_4")
    assert config.training.epochs == 8
    assert fraction_done(config) == 0
    folder = partial_folder(paths.run_folder("small", "distinct2_4", 0))
    write_table(pd.DataFrame({"epoch": [0]}), folder / "metrics.csv")
    (folder / "metrics.csv").write_text(content)
    assert fraction_done(config) == fraction
    pretend("distinct2_4", 0)
    assert fraction_done(config) == 1


def test_the_bar_leaves_room_for_the_last_probes_of_a_run_that_takes_them():
    config = small_run("baseline")
    table = pd.DataFrame({"epoch": range(config.training.epochs + 1)})
    write_table(table, partial_folder(paths.run_folder("small", "baseline", 0)) / "metrics.csv")
    assert 0.25 < fraction_done(config) < 1


def test_the_number_at_a_time_can_be_said(monkeypatch):
    monkeypatch.setenv("MANYVIEWS_JOBS", "3")
    assert default_jobs() == 3
    monkeypatch.delenv("MANYVIEWS_JOBS")
    monkeypatch.setattr(jobs, "cores", lambda: 6)
    for there, devices, at_once in ((0, 1, 6), (4, 0, 6), (4, 1, 4), (4, 2, 2), (1, 2, 1)):
        monkeypatch.setattr(jobs, "gpus", lambda there=there: there)
        assert default_jobs(devices) == at_once


@pytest.mark.parametrize("given", ["two", "0", "-1", "1.5"])
def test_another_number_at_a_time_is_refused(given, monkeypatch):
    monkeypatch.setenv("MANYVIEWS_JOBS", given)
    with pytest.raises(ConfigError, match=rf"\$MANYVIEWS_JOBS takes a whole number from 1, not '{given}'"):
        default_jobs()
