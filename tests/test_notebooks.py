"""The notebooks as they are committed."""

import ast

import nbformat
import pytest
import yaml

from manyviews import paths
from manyviews.config import EXPERIMENT, RunConfig
from manyviews.files import read_json
from manyviews.pipeline import NOTEBOOKS
from manyviews.reference import REFERENCE

NAMES = sorted(path.stem for path in paths.NOTEBOOKS.glob("*.ipynb"))


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(paths.NOTEBOOKS / f"{name}.ipynb", as_version=4)


def code_cells(name: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(name).cells if cell.cell_type == "code"]


def assigned(source: str) -> dict:
    return {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(source).body}


def test_there_is_one_for_each_step():
    assert NAMES == ["01_data", "02_baseline", "03_resnet34", "04_eight_views", "07_supervised", "09_report"]


@pytest.mark.parametrize("name", NAMES)
def test_every_code_cell_was_executed(name):
    """nbval compares nothing in a cell without a count: a stripped notebook would pass whatever it prints."""
    assert [cell.execution_count for cell in code_cells(name)] == list(range(1, len(code_cells(name)) + 1))


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_those_of_the_smoke_profile(name):
    tagged = [cell for cell in code_cells(name) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    smoke = yaml.safe_load((paths.PROFILES / "smoke.yaml").read_text(encoding="utf-8"))
    assert assigned(tagged[0].source) == smoke | {"seed": 0}


@pytest.mark.parametrize("name", NAMES)
def test_reads_as_a_text_with_some_code(name):
    cells = read(name).cells
    code = [
        cell
        for cell in cells
        if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", [])
    ]
    assert sum(cell.cell_type == "markdown" for cell in cells) >= len(code)
    assert cells[0].source.startswith("# ")
    assert cells[0].source.splitlines()[0].endswith("?")
    for cell in code:
        assert len(cell.source.splitlines()) <= 15
        assert not any(
            isinstance(n, ast.FunctionDef | ast.ClassDef) for n in ast.walk(ast.parse(cell.source))
        )


@pytest.mark.parametrize("name", NAMES)
def test_outputs_hold_no_progress_bars_warnings_or_addresses(name):
    for cell in code_cells(name):
        for output in cell.outputs:
            assert output.get("name") != "stderr"
            assert output.output_type != "error"
            assert "0x7f" not in str(output.get("text", "")) + str(
                output.get("data", {}).get("text/markdown", "")
            )


@pytest.mark.parametrize("run", NOTEBOOKS)
def test_the_experiment_is_the_reports_and_is_compared_with_the_reference(run):
    """study, section 1: depth, stem and views of each run; the ceiling is the baseline, with labels. The
    committed check did compare numbers."""
    setup = next(cell.source for cell in code_cells(NOTEBOOKS[run]) if "experiment = {" in cell.source)
    line = next(line for line in setup.splitlines() if line.startswith("experiment = "))
    experiment = assigned(line)["experiment"]
    expected = {
        "baseline": ("nt_xent", 18, "conv3", 2),
        "resnet34": ("nt_xent", 34, "conv7", 2),
        "views8": ("nt_xent", 34, "conv7", 8),
        "supervised": ("supervised", 18, "conv3", 2),
    }[run]
    assert set(experiment) == EXPERIMENT
    keys = ("run", "objective", "depth", "stem", "n_views")
    assert tuple(experiment[key] for key in keys) == (run, *expected)
    smoke = yaml.safe_load((paths.PROFILES / "smoke.yaml").read_text(encoding="utf-8"))
    recipe = RunConfig(**experiment, **smoke).recipe()
    assert read_json(REFERENCE)[run]["recipe"] == {
        k: v for k, v in recipe.items() if k not in ("seeds", "device")
    }
    assert code_cells(NOTEBOOKS[run])[-1].outputs[0].text == f"{run}: 5 values within 2% of the reference\n"
