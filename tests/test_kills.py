"""A run that is killed at any instant goes on to the same files: `pytest -m kills tests/test_kills.py`.

Left out of the default run; $MANYVIEWS_KILLS says how many kills (default 10).
"""

import os
import random
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from small import small_profile, small_run

from manyviews.config import paths
from manyviews.config.files import clear_leftovers
from manyviews.data.dataset import load_dataset
from manyviews.runs.run import run
from manyviews.runs.store import load_own, mark_for_rerun, state_of

pytestmark = pytest.mark.kills
KILLS = int(os.environ.get("MANYVIEWS_KILLS", "10"))
EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"}  # Python's audit events of files
SECONDS = 2.0  # a run takes about as long
DIFFER = {"environment.json", "SHA256SUMS"}  # times of day are in the one, and its sum in the other


def in_child(work: Callable[[], None]) -> int:
    """Exit status of a forked process that does the work; negative: the signal that killed it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def make_and_die_at_event(number: int) -> None:
    """Make the run, and be killed right before the so-many-th thing done to its files."""
    seen = 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal seen
        if event in EVENTS and str(arguments[0]).startswith(str(paths.results_root())):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    run(small_run())


def make_and_die_after(seconds: float) -> None:
    """Make the run, and be killed at an instant."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    run(small_run())


def make() -> None:
    run(small_run())


def contents(root: Path) -> dict[str, bytes]:
    """All files of a folder, but for what differs by the time of day."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): b"" if path.name in DIFFER else path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Results of a run that nobody killed, and the dataset of all."""
    root = tmp_path_factory.mktemp("unbroken")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MANYVIEWS_DATA", str(root / "data"))
        patch.setenv("MANYVIEWS_RESULTS", str(root / "results"))
        load_dataset(small_profile().data)
        assert in_child(make) == 0
    return root


@pytest.mark.parametrize("again", [False, True], ids=["first", "repeated"])
@pytest.mark.parametrize("kill", range(KILLS // 2))
def test_a_killed_run_goes_on_to_the_same_files_and_leaves_nothing_behind(
    kill, again, unbroken, tmp_path, monkeypatch
):
    """Half of the kills at a thing done to a file, half at an instant; up to three before the run ends."""
    monkeypatch.setenv("MANYVIEWS_DATA", str(unbroken / "data"))
    monkeypatch.setenv("MANYVIEWS_RESULTS", str(tmp_path))
    folder, draw = paths.run_folder("small", "baseline", 0), random.Random(f"{kill} {again}")
    if again:  # as with --force
        shutil.copytree(unbroken / "results", tmp_path, dirs_exist_ok=True)
        mark_for_rerun(folder)
    for _ in range(draw.randint(1, 3)):
        if kill % 2:
            status = in_child(lambda: make_and_die_at_event(draw.randint(1, 60)))
        else:
            status = in_child(lambda: make_and_die_after(draw.uniform(0.05, SECONDS)))
        assert status <= 0, "it failed by itself"
        if state_of(folder).has_numbers or again:
            assert len(load_own(small_profile()).runs.get("baseline", [])) == state_of(folder).has_numbers
    assert in_child(make) == 0
    clear_leftovers(tmp_path)
    assert contents(tmp_path) == contents(unbroken / "results")
