"""What is not training: imports, the way to the first step, and the smoke run of run_all.sh."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.timing import row
from manyviews.files import read_json

IMPORT = "import manyviews.experiment"
FIRST_STEP = """
from benchmarks.training import NETWORKS, ours, random_images
network = NETWORKS[0]._replace(steps=1)
ours(network, random_images(network))[0].measure()
"""


def measure(repeats: int) -> list[dict[str, Any]]:
    """Seconds of each, in processes of their own."""
    rows = []
    for name, code in (("import", IMPORT), ("import, network and first step", FIRST_STEP)):
        seconds = [timed([sys.executable, "-c", code]) for _ in range(repeats)]
        rows.append(row(f"start-up: {name}", "ours", "s", seconds))
    whole, training = zip(*(smoke_run() for _ in range(repeats)), strict=True)
    rest = [all_of_it - part for all_of_it, part in zip(whole, training, strict=True)]
    parts = {"all": whole, "training and probes along the way": training, "the rest": rest}
    for name, seconds in parts.items():
        rows.append(row("run_all.sh --profile smoke", name, "s", seconds))
    return rows


def timed(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def smoke_run() -> tuple[float, float]:
    """Seconds of the whole, and of what its runs say they trained and probed."""
    with tempfile.TemporaryDirectory() as results:
        options = ["--profile", "smoke", "--results", results]
        whole = timed([sys.executable, "-m", "manyviews.pipeline", *options])
        environments = Path(results).glob("smoke/*/seed*/environment.json")
        training = sum(read_json(path)["wall_time_s"] for path in environments)
    return whole, training
