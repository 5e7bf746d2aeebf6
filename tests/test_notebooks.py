"""The notebooks as they are committed."""

import ast

import nbformat
import pytest
import yaml

from manyviews import paths
from manyviews.files import read_json
from manyviews.pipeline import NOTEBOOKS, PAGES
from manyviews.reference import REFERENCE
from manyviews.rows import PARTS, STUDIES, configure

NAMES = sorted(path.stem for path in paths.NOTEBOOKS.glob("*.ipynb"))


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(paths.NOTEBOOKS / f"{name}.ipynb", as_version=4)


def code_cells(name: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(name).cells if cell.cell_type == "code"]


def assigned(source: str) -> dict:
    return {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(source).body}


def test_there_is_one_for_each_step():
    assert NAMES == [
        "01_data",
        "02_baseline",
        "03_resnet34",
        "04_eight_views",
        "05_controls",
        "06_scaling",
        "07_supervised",
        "09_report",
    ]


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
def test_a_run_notebook_makes_its_row_and_compares_it_with_the_reference(run):
    """The committed check did compare numbers."""
    setup = next(cell.source for cell in code_cells(NOTEBOOKS[run]) if "config = " in cell.source)
    assert setup.splitlines()[-1] == f'config = configure("{run}", notebook_parameters(globals()))'
    smoke = yaml.safe_load((paths.PROFILES / "smoke.yaml").read_text(encoding="utf-8"))
    assert read_json(REFERENCE)[run]["recipe"] == configure(run, smoke).recipe()
    assert code_cells(NOTEBOOKS[run])[-1].outputs[0].text == f"{run}: 5 values within 2% of the reference\n"


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_notebook_shows_each_of_its_parts(study):
    source = "\n".join(cell.source for cell in code_cells(PAGES[study]))
    for name, part in PARTS.items():
        assert (f'show_part("{name}", runs, config.claims)' in source) == (part.study == study)
