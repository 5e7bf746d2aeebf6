"""The notebooks as they are committed."""

import ast

import nbformat
import pytest

from manyviews.cli import DATA_NOTEBOOK, NOTEBOOKS, PAGES
from manyviews.config import paths
from manyviews.config.runs import STUDIES, run_specs

NAMES = sorted(path.stem for path in paths.NOTEBOOKS.glob("*.ipynb"))


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(paths.NOTEBOOKS / f"{name}.ipynb", as_version=4)


def code_cells(name: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(name).cells if cell.cell_type == "code"]


def tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def test_there_is_one_for_each_step_numbered_without_gaps():
    assert sorted([DATA_NOTEBOOK, *NOTEBOOKS.values(), *PAGES.values()]) == NAMES
    assert [int(name[:2]) for name in NAMES] == list(range(1, len(NAMES) + 1))


@pytest.mark.parametrize("name", NAMES)
def test_every_code_cell_was_executed_and_shows_no_bars_warnings_or_addresses(name):
    """nbval compares nothing in a cell without a count: a stripped notebook would pass whatever it prints."""
    assert [cell.execution_count for cell in code_cells(name)] == list(range(1, len(code_cells(name)) + 1))
    for output in (output for cell in code_cells(name) for output in cell.outputs):
        assert output.get("name") != "stderr"
        assert output.output_type != "error"
        assert "0x7f" not in str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", ""))


@pytest.mark.parametrize("name", NAMES)
def test_the_parameters_are_those_of_the_smoke_profile(name):
    tagged = [cell for cell in code_cells(name) if "parameters" in tags(cell)]
    assert len(tagged) == 1
    assert tagged[0].source.startswith("# Parameters")
    body = ast.parse(tagged[0].source).body
    assigned = {node.targets[0].id: ast.literal_eval(node.value) for node in body}
    of_training = {"variant": ""} if any("= run(config" in cell.source for cell in code_cells(name)) else {}
    assert assigned == {"profile": "smoke", "seed": 0, "overrides": {}} | of_training


@pytest.mark.parametrize("name", NAMES)
def test_reads_as_a_text_with_some_code(name):
    cells = read(name).cells
    code = [cell for cell in code_cells(name) if "parameters" not in tags(cell)]
    assert sum(cell.cell_type == "markdown" for cell in cells) >= len(code)
    assert cells[0].source.startswith("# ")
    assert cells[0].source.splitlines()[0].endswith("?")
    for cell in code:
        assert len(cell.source.splitlines()) <= 15
        nodes = ast.walk(ast.parse(cell.source))
        assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in nodes)


def test_most_cells_are_compared_and_each_notebook_shows_a_table_of_numbers():
    every = [cell for name in NAMES for cell in code_cells(name)]
    exempt = [cell for cell in every if "nbval-ignore-output" in tags(cell)]
    assert len(exempt) <= 0.4 * len(every)
    for name in NAMES:
        compared = [cell for cell in code_cells(name) if "nbval-ignore-output" not in tags(cell)]
        shown = [output.get("data", {}) for cell in compared for output in cell.outputs]
        assert any("<table" in data.get("text/html", "") for data in shown), name


@pytest.mark.parametrize("run", NOTEBOOKS)
def test_a_run_notebook_makes_its_run_by_the_one_function(run):
    sources = "\n".join(cell.source for cell in code_cells(NOTEBOOKS[run]))
    assert f'"{run}"' in sources
    assert "notebook_config(" in sources
    assert sources.count("= run(config") == 1


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_notebook_shows_each_of_its_comparisons(study):
    source = "\n".join(cell.source for cell in code_cells(PAGES[study]))
    for name, comparison in run_specs().comparisons.items():
        if comparison.study == study:
            assert f'"{name}"' in source, name


@pytest.mark.parametrize("page", PAGES.values())
def test_pages_only_read_results(page):
    source = "\n".join(cell.source for cell in code_cells(page))
    assert "load_results(" in source
    assert "= run(config" not in source
