"""The demo as it is now, and as it was before anything was done for speed, on this machine."""

import io
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.pipeline import study
from benchmarks.timing import missing, row, times_as_fast
from manyviews import paths

COMMIT = "eaae31a"  # the last one before
RUNS = "baseline,resnet34,views8"  # what there was then
OPTIONS = ("--profile", "demo", "--runs", RUNS, "--seeds", "0")
CASES = (
    "demo, three runs, one seed: all, which now probes and tells much more",
    "demo, three runs, one seed: training and probes along the way",
)


def measure(repeats: int) -> list[dict[str, Any]]:
    """Seconds of the same three runs of the demo, one seed: training with probes along the way, and all.

    It takes long, so that there is one round whatever `repeats` says.
    """
    archive = subprocess.run(["git", "archive", COMMIT], cwd=paths.ROOT, capture_output=True)
    if archive.returncode:
        return [missing(case, "before", "s", "no such commit in this copy") for case in CASES]
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
            files.extractall(folder, filter="data")
        now, before = study(*OPTIONS), study(*OPTIONS, root=Path(folder))
    rows = []
    for index, case in enumerate(CASES):
        today, then = [now[index]], [before[index]]
        rows.append(row(case, "now", "s", today))
        earlier = row(case, f"before, commit {COMMIT}", "s", then)
        rows.append(earlier | times_as_fast(today, then, "s"))
    return rows
