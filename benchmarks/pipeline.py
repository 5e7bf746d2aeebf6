"""What is not training: imports, the way to the first step, and the smoke run of run_all.sh."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.timing import row
from manyviews import paths
from manyviews.files import read_json
from manyviews.pipeline import PROCESS_SETTINGS

IMPORT = "import manyviews.experiment"
RUN_ALL = "import sys; from manyviews.pipeline import main; sys.exit(main())"  # in earlier commits too
WHOLE, STEP = "imports of a run", "the same, a network and its first step"
FIRST_STEP = f"""
{IMPORT}
from benchmarks.training import NETWORKS, ours, random_images
network = NETWORKS[0]._replace(steps=1)
ours(network, random_images(network))[0].measure()
"""


def measure(repeats: int) -> list[dict[str, Any]]:
    """Seconds of each, in processes of their own."""
    rows = []
    for name, code in ((WHOLE, IMPORT), (STEP, FIRST_STEP)):
        seconds = [timed([sys.executable, "-c", code]) for _ in range(repeats)]
        rows.append(row(f"start-up: {name}", "ours", "s", seconds))
    whole, training = zip(*(study("--profile", "smoke") for _ in range(repeats)), strict=True)
    rest = [all_of_it - part for all_of_it, part in zip(whole, training, strict=True)]
    parts = {"all": whole, "training and probes along the way": training, "the rest": rest}
    for name, seconds in parts.items():
        rows.append(row("run_all.sh --profile smoke", name, "s", seconds))
    return rows


def timed(command: list[str], root: Path = paths.ROOT, **variables: str) -> float:
    """Seconds of a command that uses the code under `root`, which itself sets what its kernels need."""
    inherited = {name: value for name, value in os.environ.items() if name not in PROCESS_SETTINGS}
    environment = inherited | {"PYTHONPATH": str(root / "lib"), **variables}
    started = time.perf_counter()
    to_both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(command, cwd=root, env=environment, text=True, **to_both)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stdout[-2000:]}")
    return time.perf_counter() - started


def study(*options: str, root: Path = paths.ROOT) -> tuple[float, float]:
    """Seconds of run_all.sh with these options, and of what its runs say they trained and probed.

    The whole includes making the images, as for a new user.
    """
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        command = [sys.executable, "-c", RUN_ALL, *options, "--results", str(results)]
        whole = timed(command, root, MANYVIEWS_DATA=str(Path(folder) / "data"))
        environments = results.glob("*/*/seed*/environment.json")
        training = sum(read_json(path)["wall_time_s"] for path in environments)
    return whole, training
