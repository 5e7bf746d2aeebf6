"""pyproject.toml (ranges), requirements.txt (the lock) and environment.yml (conda) say the same."""

import ast
import importlib.metadata
import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RUNTIME = [Requirement(line) for line in PROJECT["dependencies"]]
ON_DEMAND = {"onnxruntime", "onnxscript"}  # of one option, which says what to install
TEST = [Requirement(line) for line in PROJECT["optional-dependencies"]["test"]]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))

LOCK_LINES = [
    line.partition(" #")[0].strip()
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    if line.strip() and not line.lstrip().startswith("#")
]

PACKAGE_OF = {
    "IPython": "ipython",
    "PIL": "pillow",
    "bs4": "beautifulsoup4",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}  # where module and package differ

PYTHONS = ("3.10.13", "3.11.7", "3.12.1", "3.13.0", "3.14.0")
PLATFORMS = {
    "linux": {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"},
    "macos": {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"},
}


def environment(python: str, platform: str) -> dict[str, str]:
    """The variables that a marker such as `python_version < "3.11"` is checked against."""
    version = {"python_full_version": python, "python_version": python.rpartition(".")[0]}
    return {**default_environment(), **PLATFORMS[platform], **version}


def applies(requirement: Requirement, variables: dict[str, str]) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": "", **variables})


def locked(variables: dict[str, str]) -> dict[str, list[str]]:
    """Name to the versions that the lock installs there; more than one is a conflict."""
    pins: dict[str, list[str]] = {}
    for pin in map(Requirement, LOCK_LINES):
        if applies(pin, variables):
            pins.setdefault(canonicalize_name(pin.name), []).append(str(pin.specifier)[2:])
    return pins


everywhere = pytest.mark.parametrize(
    "variables",
    [pytest.param(environment(p, s), id=f"{s}-{p}") for p in PYTHONS for s in PLATFORMS],
)

own_venv_only = pytest.mark.skipif(
    Path(sys.prefix).resolve() != (ROOT / ".venv").resolve(),
    reason="not in this project's .venv, so other versions are allowed",
)


def test_lock_pins_exactly() -> None:
    """Every line is `name==version`, perhaps with a marker: no ranges, links, paths or pip options."""
    pin = re.compile(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.!_-]*( ; .+)?")
    assert [line for line in LOCK_LINES if not pin.fullmatch(line)] == []


@everywhere
def test_lock_has_one_version_of_each_package(variables: dict[str, str]) -> None:
    conflicts = {name: versions for name, versions in locked(variables).items() if len(versions) > 1}
    assert conflicts == {}


@everywhere
def test_lock_lies_within_the_ranges(variables: dict[str, str]) -> None:
    """Each dependency of pyproject.toml is locked, at a version that its range allows."""
    pins = locked(variables)
    for requirement in RUNTIME + TEST:
        if applies(requirement, variables):
            name = canonicalize_name(requirement.name)
            assert name in pins, f"{name} is not in requirements.txt; see there how to refresh it"
            assert requirement.specifier.contains(pins[name][0]), f"{name} {pins[name][0]}: {requirement}"


def test_every_python_tested_here_is_allowed() -> None:
    allowed = SpecifierSet(PROJECT["requires-python"])
    assert all(allowed.contains(python) for python in PYTHONS)
    assert not allowed.contains("3.9.18")


def test_conda_file_installs_the_lock() -> None:
    """conda wants `pip` itself listed; `-e .` adds the package, whose dependencies the lock has met."""
    (by_pip,) = [entry["pip"] for entry in CONDA["dependencies"] if isinstance(entry, dict)]
    assert "pip" in CONDA["dependencies"]
    assert by_pip == ["-r requirements.txt", "-e ."]


def test_conda_python_is_allowed() -> None:
    by_conda = [entry for entry in CONDA["dependencies"] if isinstance(entry, str)]
    (version,) = [entry.partition("=")[2] for entry in by_conda if entry.startswith("python=")]
    assert SpecifierSet(PROJECT["requires-python"]).contains(version)
    assert any(python.startswith(f"{version}.") for python in PYTHONS)


def imported_modules() -> set[str]:
    """Top-level names of all modules that the package imports, but for itself and the standard library."""
    names = set()
    for path in (ROOT / "lib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names - {"manyviews"}


def test_imports_are_declared() -> None:
    declared = {canonicalize_name(requirement.name) for requirement in RUNTIME} | ON_DEMAND
    needed = {PACKAGE_OF.get(module, module) for module in imported_modules()}
    assert needed <= declared, f"not in pyproject.toml: {needed - declared}"


@own_venv_only
def test_installed_versions_are_the_locked_ones() -> None:
    """Packages that a user added are no matter; a CPU build (`2.0+cpu`) counts as the same version."""
    for name, (version,) in locked(default_environment()).items():
        assert importlib.metadata.version(name).partition("+")[0] == version, name


@own_venv_only
def test_lock_is_complete() -> None:
    """Oracle: the metadata of what is installed. All that a locked package needs is locked too."""
    pins = locked(default_environment())
    for name in pins:
        needs = map(Requirement, importlib.metadata.requires(name) or [])
        needed = {canonicalize_name(need.name) for need in needs if applies(need, default_environment())}
        assert needed <= set(pins), f"needed by {name}: {needed - set(pins)}"


@own_venv_only
def test_threads_of_a_notebook_opened_by_hand_sleep_while_they_wait() -> None:
    kernel = json.loads((Path(sys.prefix) / "share/jupyter/kernels/python3/kernel.json").read_text())
    assert kernel["env"]["OMP_WAIT_POLICY"] == "PASSIVE"
    assert Path(kernel["argv"][0]).parent == Path(sys.prefix) / "bin"


@own_venv_only
def test_jupyterlab_opens_the_start_page_and_saves_when_asked_to() -> None:
    config = json.loads((Path(sys.prefix) / "etc/jupyter/jupyter_lab_config.json").read_text())
    assert (ROOT / config["LabApp"]["default_url"].removeprefix("/lab/tree/")).is_file()
    settings = json.loads((Path(sys.prefix) / "share/jupyter/lab/settings/overrides.json").read_text())
    assert settings["@jupyterlab/docmanager-extension:plugin"]["autosave"] is False
