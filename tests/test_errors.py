"""How commands end, and what of a user's surroundings reaches the processes that they start."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from manyviews.config import paths
from manyviews.config.errors import command, sentence
from manyviews.config.schema import ConfigError
from manyviews.config.surroundings import clean_room
from manyviews.runs.environment import describe_environment
from manyviews.simclr.train import TrainingFailed


def failing(error: BaseException):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (ConfigError("a.yaml: write b"), 2, "run: error: a.yaml: write b\n"),
        (TrainingFailed("the loss is nan"), 1, "run: error: the loss is nan\n"),
        (
            OSError(28, "No space left on device", "a.csv"),
            1,
            "run: error: a.csv: No space left on device; make room there, and the same command goes on\n",
        ),
        (KeyboardInterrupt(), 130, "\nrun: stopped; the same command goes on from here\n"),
        (ConfigError("Straße"), 2, "run: error: Straße\n"),
    ],
)
def test_an_expected_failure_is_one_sentence_and_a_status(error, status, told, capsys):
    assert command("run", failing(error)) == status
    assert capsys.readouterr().err == told


def test_the_traceback_of_an_unexpected_failure_is_in_a_log_and_on_demand_raised(capsys, monkeypatch):
    assert command("run", failing(KeyError("x"))) == 1
    told, log = capsys.readouterr().err.removesuffix(")\n").split(" (traceback: ")
    assert told == "run: error: unexpected KeyError: 'x'"
    assert "in work" in Path(log).read_text()
    Path(log).unlink()
    monkeypatch.setenv("MANYVIEWS_DEBUG", "1")
    with pytest.raises(KeyError):
        command("run", failing(KeyError("x")))


def test_out_of_memory_is_told_with_what_needs_less():
    for error in (MemoryError(), RuntimeError("CUDA out of memory.")):
        assert "not enough memory" in sentence(error)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_ended_says_so_in_one_line(number, capsys):
    before = signal.signal(number, signal.SIG_DFL)  # nohup, for one, leaves SIGHUP ignored
    try:
        assert command("run", lambda: os.kill(os.getpid(), number)) == 130
    finally:
        signal.signal(number, before)
    assert capsys.readouterr().err.splitlines() == ["", "run: stopped; the same command goes on from here"]


def test_names_in_any_script_can_be_told_on_a_terminal_that_has_none():
    code = "from manyviews.config.errors import command; command('run', lambda: print('猫') or 0)"
    variables = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, check=True)
    assert done.stdout == b"\\u732b\n"


SEEN = """
import json, sys, time
import matplotlib
print(json.dumps([sys.executable, matplotlib.rcParams["figure.dpi"], time.tzname[0], "device" in globals()]))
import manyviews
print(manyviews.__file__)
"""


def test_nothing_of_the_surroundings_reaches_a_kernel(tmp_path, monkeypatch):
    """Another python3 kernel, another checkout, start-up files, a matplotlibrc and a time zone are unseen."""
    from nbclient import NotebookClient
    from nbformat import v4

    spec = tmp_path / "kernels/python3/kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["false"], "display_name": "x", "language": "python"}))
    (tmp_path / "profile_default/startup").mkdir(parents=True)
    (tmp_path / "profile_default/startup/a.py").write_text("device = 'cuda:7'")
    (tmp_path / "start.py").write_text("device = 'cuda:7'")
    (tmp_path / "manyviews").mkdir()
    (tmp_path / "manyviews/__init__.py").touch()
    (tmp_path / "matplotlibrc").write_text("figure.dpi: 7")
    for name in ("JUPYTER_PATH", "JUPYTER_DATA_DIR", "IPYTHONDIR", "PYTHONPATH", "MATPLOTLIBRC"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "start.py"))
    monkeypatch.setenv("MPLBACKEND", "no_such_backend")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    notebook = v4.new_notebook(cells=[v4.new_code_cell(SEEN)])
    before = dict(os.environ)
    with clean_room():
        NotebookClient(notebook, kernel_name="python3").execute()
    assert dict(os.environ) == before
    settings, package = notebook.cells[0].outputs[0].text.splitlines()
    assert json.loads(settings) == [sys.executable, 100.0, "UTC", False]
    assert Path(package).parent == paths.ROOT / "lib/manyviews"


def test_relative_places_mean_the_callers_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MANYVIEWS_DATA", "images")
    with clean_room():
        monkeypatch.chdir("/")
        assert paths.data_root() == tmp_path / "images"


def test_the_provenance_names_no_other_repository(tmp_path, monkeypatch):
    """Neither one that $GIT_DIR names, nor one around a copy of the project that is none itself."""
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@x", "-C", str(tmp_path)]
    for arguments in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "other"]):
        subprocess.run([*git, *arguments], check=True)
    (tmp_path / "copy").mkdir()
    monkeypatch.setattr(paths, "ROOT", tmp_path / "copy")
    import torch

    assert describe_environment(torch.device("cpu"), torch.float32)["git_commit"] is None
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    assert describe_environment(torch.device("cpu"), torch.float32)["git_commit"] is None
