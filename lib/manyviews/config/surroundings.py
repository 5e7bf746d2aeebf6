"""What processes and kernels that we start see of a user's environment: nothing that alters a result."""

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from manyviews.config.paths import ROOT

FOREIGN = ("PYTHON", "IPYTHON", "JUPYTER", "MPL", "MATPLOTLIB")  # first letters of what is left out
# Relative to the caller's folder.
PLACES = ("MANYVIEWS_RESULTS", "MANYVIEWS_DATA", "MANYVIEWS_TINY_IMAGENET", "MANYVIEWS_TENSORBOARD")
KERNEL = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
TIME_IS_OVER = "the time is over"
BUSY = "another process is at work on this run"
FIXED = {
    "PYTHONPATH": str(ROOT / "lib"),  # this checkout, whatever is installed
    "PYTHONUTF8": "1",
    "MATPLOTLIBRC": os.devnull,
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
}


@contextmanager
def clean_room() -> Iterator[None]:
    """Within the block, an environment to start processes in: this Python, this checkout, no settings.

    A user's kernels, start-up files and matplotlibrc are out of sight, and paths are absolute.
    """
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="manyviews-", ignore_cleanup_errors=True) as empty:
        kernel = Path(empty) / "kernels" / "python3" / "kernel.json"
        kernel.parent.mkdir(parents=True)
        kernel.write_text(json.dumps({"argv": KERNEL, "display_name": "Python 3", "language": "python"}))
        jupyter = ("JUPYTER_PATH", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR")
        settings = dict.fromkeys((*jupyter, "IPYTHONDIR"), empty) | FIXED | places()
        for name in [name for name in before if name.startswith(FOREIGN)]:
            del os.environ[name]
        os.environ.update(settings)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def places() -> dict[str, str]:
    """The folders and files that environment variables name, as absolute paths."""
    return {name: str(Path(os.environ[name]).absolute()) for name in PLACES if os.environ.get(name)}


def cores() -> int:
    """How many of the machine's cores we may use, as a scheduler or a container may allot fewer than all."""
    from dask.system import CPU_COUNT  # only here, as it takes a quarter of a second

    return CPU_COUNT


def seconds_left() -> float:
    """Until what runs here has to stop: $MANYVIEWS_STOP_AT, in seconds since 1970; without it, for ever."""
    return float(os.environ.get("MANYVIEWS_STOP_AT", "inf")) - time.time()
