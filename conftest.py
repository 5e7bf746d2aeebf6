"""Settings of every test, those of the notebooks (nbval) included."""

import os
import shutil
import tempfile

import hypothesis
import pytest

from manyviews.config.surroundings import clean_room

# No results/ here: it holds executed notebooks, which `pytest --nbval` would run again.
collect_ignore = ["results"]

# The same examples in every run, and no time limit for one of them on a busy machine.
hypothesis.settings.register_profile("project", derandomize=True, deadline=None)
hypothesis.settings.load_profile("project")


def pytest_configure(config: pytest.Config) -> None:
    """Send what tests write to a temporary folder; the kernels of notebooks inherit the variable."""
    config.manyviews_results = tempfile.mkdtemp(prefix="manyviews-results-")
    os.environ["MANYVIEWS_RESULTS"] = config.manyviews_results
    config.clean_room = clean_room()
    config.clean_room.__enter__()
    # One thread: two of small networks wait for each other, and round sums in another order.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_unconfigure(config: pytest.Config) -> None:
    config.clean_room.__exit__(None, None, None)
    shutil.rmtree(config.manyviews_results, ignore_errors=True)


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Not compared in notebooks: warnings, which contain a process id, and progress bars."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr",)
