"""What is not training: imports, the way to the first step, and the smoke run of run_all.sh."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.timing import row
from manyviews.config import paths
from manyviews.config.files import read_json
from manyviews.runs.jobs import PROCESS_SETTINGS

IMPORT = "import manyviews.runs.run"
FIRST_STEP = f"""
{IMPORT}
from benchmarks.training import NETWORKS, ours, random_images
network = NETWORKS[0]._replace(steps=1)
ours(network, random_images(network))[0].measure()
"""
STARTS = {
    "options of run_all.sh": "from manyviews.cli import parse_arguments; parse_arguments([])",
    "imports of a run": IMPORT,
    "the same, a network and its first step": FIRST_STEP,
}


def measure(repeats: int) -> list[dict[str, Any]]:
    """Seconds of each, in processes of their own."""
    rows = []
    for name, code in STARTS.items():
        seconds = [timed([sys.executable, "-c", code]) for _ in range(repeats)]
        rows.append(row(f"start-up: {name}", "ours", "s", seconds))
    whole = "run_all.sh --profile smoke"
    phases = [smoke() for _ in range(repeats)]
    return rows + [row(whole, name, "s", [seconds[name] for seconds in phases]) for name in phases[0]]


def timed(command: list[str], **variables: str) -> float:
    """Seconds of a command, which itself sets what its kernels need."""
    inherited = {name: value for name, value in os.environ.items() if name not in PROCESS_SETTINGS}
    started = time.perf_counter()
    to_both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "env": inherited | variables}
    done = subprocess.run(command, cwd=paths.ROOT, text=True, **to_both)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stdout[-2000:]}")
    return time.perf_counter() - started


def smoke() -> dict[str, float]:
    """Seconds of the smoke study, images included, and of what its runs say of their phases.

    The notebooks run side by side, so that the phases of all runs together may exceed the whole.
    """
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        command = [sys.executable, "-m", "manyviews", "--profile", "smoke", "--results", str(results)]
        whole = timed(command, MANYVIEWS_DATA=str(Path(folder) / "data"))
        environments = [read_json(path) for path in results.glob("*/*/seed*/environment.json")]
    return {
        "all": whole,
        "training and probes along the way, sum of the runs": sum(e["wall_time_s"] for e in environments),
        "final evaluation, sum of the runs": sum(e["final_evaluation_time_s"] for e in environments),
    }
