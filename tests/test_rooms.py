"""The rooms of the library: who may import whom, and what an import may cost."""

import ast
import subprocess
import sys

import pytest

from manyviews.config import paths

LIBRARY = paths.ROOT / "lib" / "manyviews"
ROOMS = ("config", "data", "simclr", "probes", "runs", "stats", "report", "cli", "export")
ON_TOP = {
    "__main__": "cli",
    "encoder": "export",
    "features": "export",
}  # files that stand beside a room, as part of it
FILES = sorted(LIBRARY.rglob("*.py"))
SIMCLR_MAY_USE = {"torch", "torchvision", "numpy", "tqdm"}

# Prints the files of notebooks/ that were opened while modules were imported, then all modules.
WATCH = """
import importlib, sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
for name in sys.argv[2:]:
    importlib.import_module(name)
print(sorted({path for path in opened if path.startswith(sys.argv[1])}))
print(sorted(sys.modules))
"""


def room_of(path) -> str:
    """The room of a file of the library."""
    name = path.relative_to(LIBRARY).parts[0].removesuffix(".py")
    return ON_TOP.get(name, name)


def imports_of(path) -> list[str]:
    """Full names of the modules that a file imports, at its top or within a function."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def modules_of(*rooms: str) -> list[str]:
    files = [path for path in FILES if room_of(path) in rooms and path.stem != "__init__"]
    return [".".join(path.relative_to(LIBRARY.parent).with_suffix("").parts) for path in files]


def watched(modules: list[str]) -> tuple[list[str], set[str]]:
    """Files of notebooks/ opened by importing modules in a fresh interpreter, and all that is loaded."""
    command = [sys.executable, "-c", WATCH, str(paths.NOTEBOOKS), *modules]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    opened, loaded = map(ast.literal_eval, done.stdout.splitlines())
    return opened, set(loaded)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_a_room_imports_only_from_those_before_it(path):
    room = room_of(path)
    if room == "__init__":
        assert not imports_of(path)
        return
    before = ROOMS[: ROOMS.index(room)]
    for name in imports_of(path):
        package, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        if package == "manyviews":
            assert ON_TOP.get(other, other) in (*before, room), name
            assert not (room == "simclr" and other != room), name


def test_losses_views_and_training_need_torch_and_little_else():
    used = {name.partition(".")[0] for path in (LIBRARY / "simclr").glob("*.py") for name in imports_of(path)}
    assert used - sys.stdlib_module_names - {"manyviews"} <= SIMCLR_MAY_USE


def test_an_import_reads_no_configuration():
    """runs.yaml and the profiles are read when they are asked for: a mistake in them breaks no import."""
    opened, _ = watched(modules_of("config", "simclr"))
    assert opened == []


def test_what_is_read_would_be_seen(tmp_path, monkeypatch):
    """Oracle: a module that reads runs.yaml, so that the test above can fail."""
    code = "from manyviews.config.runs import run_specs\nrun_specs()\n"
    (tmp_path / "read_when_imported.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    opened, _ = watched(["manyviews.config.runs", "read_when_imported"])
    assert opened == [str(paths.NOTEBOOKS / "runs.yaml")]


def test_a_configuration_is_read_without_torch_or_pandas():
    """Within a second: run_all.sh refuses a wrong option before anything heavy is imported."""
    _, loaded = watched(modules_of("config"))
    assert "manyviews.config.schema" in loaded
    assert not loaded & {"torch", "pandas", "numpy"}
