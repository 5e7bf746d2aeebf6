"""Several runs side by side: what is missing is made once, and what fails keeps no other from running."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import pandas as pd
import pytest

from manyviews import paths, study
from manyviews.config import ConfigError, RunConfig
from manyviews.files import read_json, write_json, write_table
from manyviews.results import forget, has_numbers, is_finished, partial_folder, run_lock
from manyviews.rows import configure
from manyviews.study import missing_jobs, run_jobs, training_work

SIZES = {"classes": 2, "ood_classes": 2, "train_per_class": 12, "val_per_class": 6, "ood_per_class": 10}
SHARED = {
    "profile": "study",
    "data": {"name": "fractals", "image_size": 8, **SIZES},
    "network": {"width": 4, "feature_dim": 16, "projection_hidden": 16, "projection_dim": 8},
    "training": {
        "epochs": 2,
        "warmup_epochs": 1,
        "batch_size": 8,
        "learning_rate": 0.01,
        "precision": "float64",
    },
    "evaluation": {"neighbours": 3},
}


@pytest.fixture(autouse=True)
def _results(tmp_path, monkeypatch):
    monkeypatch.setenv("MANYVIEWS_RESULTS", str(tmp_path / "results"))


def pretend(name: str, seed: int) -> None:
    """Leave behind what a finished control without weights would."""
    folder = paths.run_folder("study", name, seed)
    write_json(folder / "config.json", configure(name, SHARED | {"seed": seed}).model_dump(mode="json"))
    write_json(folder / "summary.json", {})


def test_what_is_there_is_not_made_again_and_seeds_of_a_run_follow_each_other():
    assert missing_jobs(["resnet34_long", "frozen2"], SHARED, [0, 1]) == [
        ("resnet34_long", 0),
        ("resnet34_long", 1),
        ("frozen2", 0),
        ("frozen2", 1),
    ]
    pretend("resnet34_long", 0)
    assert missing_jobs(["resnet34_long"], SHARED, [0, 1]) == [("resnet34_long", 1)]


def test_what_two_rows_need_is_made_once():
    shared = SHARED | {"training": SHARED["training"] | {"temperature": 0.2}}
    assert missing_jobs(["baseline", "temperature_02"], shared, [0]) == [("baseline", 0)]


def test_a_forgotten_run_is_made_again_and_keeps_its_numbers_until_then():
    pretend("frozen2", 0)
    folder = paths.run_folder("study", "frozen2", 0)
    assert is_finished(folder)
    forget(folder)
    assert not is_finished(folder)
    assert has_numbers(folder)
    assert missing_jobs(["frozen2"], SHARED, [0]) == [("frozen2", 0)]


def test_a_run_of_another_configuration_is_an_error():
    pretend("frozen2", 0)
    changed = SHARED | {"training": SHARED["training"] | {"temperature": 0.1}}
    with pytest.raises(
        ConfigError, match=r"temperature is 0.5 there and 0.1 here.*--runs frozen2 --seeds 0 --force"
    ):
        missing_jobs(["frozen2"], changed, [0])


def test_two_processes_make_runs_and_one_that_fails_keeps_none_from_running():
    """Two of the runs blow up; the message is the run's own."""
    shared = SHARED | {"training": SHARED["training"] | {"optimizer": "sgd", "learning_rate": 1e300}}
    jobs = missing_jobs(["length_2", "adamw", "frozen2"], shared, [0])
    failures = run_jobs(jobs, shared, at_once=2)
    assert len(failures) == 2
    assert all("Lower training.learning_rate" in failure for failure in failures)
    assert missing_jobs(["length_2", "adamw", "frozen2"], shared, [0]) == [("length_2", 0), ("frozen2", 0)]
    folder = paths.run_folder("study", "adamw", 0)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "environment.json",
        "metrics.csv",
        "predictions.csv",
        "summary.json",
    ]
    assert read_json(folder / "summary.json")["epoch"] == 2
    assert "TQDM_DISABLE" not in os.environ


def test_a_run_that_another_process_has_is_left_to_it():
    with run_lock(paths.run_folder("study", "frozen2", 0)):
        assert study.run_job(configure("frozen2", SHARED)) == ""
    assert missing_jobs(["frozen2"], SHARED, [0]) == [("frozen2", 0)]


def test_a_worker_does_not_outlive_its_parent(tmp_path):
    """A kernel that is killed must leave no training behind that would hold the run's lock."""
    script = tmp_path / "parent.py"
    script.write_text(
        "from manyviews.study import prepare_worker\n"
        "from multiprocessing import get_context\n"
        "import time\n"
        "def work(queue):\n"
        "    prepare_worker(1, queue)\n"
        "    time.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    context = get_context('spawn')\n"
        "    queue = context.Queue()\n"
        "    queue.put(0)\n"
        "    child = context.Process(target=work, args=(queue,))\n"
        "    child.start()\n"
        "    print(child.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    time.sleep(8)  # for its imports
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    for _ in range(100):
        if not alive(worker):
            return
        time.sleep(0.2)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker lived on")


def alive(pid: int) -> bool:
    """Whether a process runs; on Linux. Elsewhere each looks as if it had ended."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        return status.rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_bar_follows_the_epochs_of_a_run_and_starts_where_the_run_stands(monkeypatch, capsys):
    """A run of hours is not silent until its end, and what was there before is not taken for speed."""
    monkeypatch.setattr(study, "SECONDS_BETWEEN_LOOKS", 0.05)
    config = configure("frozen2", SHARED)
    assert config.training.epochs == 8
    assert study.share_done(config) == 0
    leave_metrics(config, epochs=2)
    task: Future[str] = Future()

    def train() -> None:
        time.sleep(1)
        leave_metrics(config, epochs=4)
        time.sleep(1)
        task.set_result("")

    threading.Thread(target=train).start()
    assert study._follow({task: ("frozen2", 0)}, {("frozen2", 0): config}) == []
    printed = capsys.readouterr()
    shown = [int(percent) for percent in re.findall(r"(\d+)%", printed.err)]
    assert shown == sorted(shown)
    assert list(dict.fromkeys(shown)) == [25, 50, 100]
    assert printed.out == "[1/1] frozen2 seed 0: done\n"


@pytest.mark.parametrize(
    ("content", "share"), [("", 0), ("epoch\n", 0), ('epoch\n"0', 0), ("epoch\n" + "0\n" * 99, 1)]
)
def test_metrics_that_cannot_be_right_stop_no_other_run(content, share):
    """Empty, broken off, or of a longer training: the run itself will tell."""
    config = configure("frozen2", SHARED)
    leave_metrics(config, epochs=1)
    folder = partial_folder(paths.run_folder(config.profile, config.run, config.seed))
    (folder / "metrics.csv").write_text(content)
    assert study.share_done(config) == share


def leave_metrics(config: RunConfig, epochs: int) -> None:
    """What a run that is at work leaves after some epochs."""
    folder = partial_folder(paths.run_folder(config.profile, config.run, config.seed))
    folder.mkdir(parents=True, exist_ok=True)
    write_table(pd.DataFrame({"epoch": range(epochs + 1)}), folder / "metrics.csv")


def test_longer_and_larger_runs_count_for_more_work():
    names = ("baseline", "length_2", "width_2", "images_half")
    work = {name: training_work(configure(name, SHARED)) for name in names}
    assert work["length_2"] == 2 * work["baseline"]
    assert work["images_half"] == 2 * work["baseline"]  # four times the epochs on half the images
    assert work["width_2"] > 2 * work["baseline"]


def test_gpus_are_shared_out_by_the_names_that_are_visible(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert study.visible_gpu(1) == "7"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert study.visible_gpu(1) == "1"


def test_the_number_at_a_time_can_be_said(monkeypatch):
    monkeypatch.setenv("MANYVIEWS_JOBS", "3")
    assert study.default_jobs() == 3
    monkeypatch.delenv("MANYVIEWS_JOBS")
    assert study.default_jobs() >= 1
    assert multiprocessing.parent_process() is None


def test_no_jobs_make_nothing(monkeypatch):
    """So that pages can be written from the runs there are."""
    monkeypatch.setenv("MANYVIEWS_JOBS", "0")
    assert study.run_jobs([("baseline", 0)], {}) == []
