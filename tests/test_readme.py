"""The README tells what is in the repository."""

import re
import subprocess

import pytest
from refresh_readme import BEGIN, README, with_results

from manyviews import paths
from manyviews.config import profile_names
from manyviews.files import read_json


@pytest.fixture
def _as_committed():
    git = ["git", "-C", str(paths.ROOT), "diff", "--quiet", "HEAD", "--", "results", "README.md"]
    if subprocess.run(git, check=False, capture_output=True).returncode:
        pytest.skip("results/ or README.md differ from the repository's, or there is no git")


@pytest.mark.usefixtures("_as_committed")
def test_its_numbers_are_those_of_the_committed_results(monkeypatch):
    monkeypatch.delenv("MANYVIEWS_RESULTS", raising=False)
    text = README.read_text(encoding="utf-8")
    assert BEGIN in text
    assert with_results(text) == text, "run tests/refresh_readme.py"


@pytest.mark.usefixtures("_as_committed")
def test_the_runs_of_the_demo_had_as_many_threads_as_it_says():
    environments = list((paths.ROOT / "results/demo").glob("*/seed*/environment.json"))
    assert len(environments) > 100
    assert {read_json(path)["threads"] for path in environments} == {1}
    assert "runs of `demo` in this repository had one thread each" in README.read_text(encoding="utf-8")


def test_each_file_imports_only_what_stands_above_it():
    """The architecture, read off the README's table and the files themselves."""
    table = README.read_text(encoding="utf-8").split("## How it is built")[1].split("\n\n")[2]
    order = re.findall(r"`(\w+)\.py`", table)
    assert len(order) > 15
    for place, name in enumerate(order):
        source = (paths.ROOT / f"lib/manyviews/{name}.py").read_text(encoding="utf-8")
        imported = set(re.findall(r"^from manyviews\.(\w+) import", source, re.MULTILINE))
        for names in re.findall(r"^from manyviews import (.+)$", source, re.MULTILINE):
            imported |= {part.strip() for part in names.split(",")}
        assert imported <= set(order[:place]), name


def test_its_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (paths.ROOT / link).exists()] == []


def test_it_lists_every_profile_and_every_file_of_the_package():
    text = README.read_text(encoding="utf-8")
    modules = [path.name for path in (paths.ROOT / "lib/manyviews").glob("[a-z]*.py")]
    assert [name for name in (*profile_names(), *modules) if f"`{name}`" not in text] == []
