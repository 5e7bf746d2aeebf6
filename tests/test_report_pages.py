"""Pages hold all that they show, and equal results make equal pages."""

import copy
import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from manyviews.config import paths
from manyviews.config.schema import ConfigError
from manyviews.report.pages import WIDGET, clean, export_page, print_pdf

TABLE = pd.DataFrame({"k-NN": ["43.3", "18.0"]}, pd.Index(["measured", "the original"], name="Run")).to_html()
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def notebook() -> nbformat.NotebookNode:
    figure = new_output(
        "display_data",
        data={"image/png": PNG, "text/plain": "<Figure>"},
        metadata={"image/png": {"alt": "Curves of two runs"}, "filename": "curves"},
    )
    table = {"text/html": f"<div><style scoped>td {{}}</style>{TABLE}</div>"}
    outputs = [
        figure,
        new_output("display_data", data=table),
        new_output("stream", name="stderr", text="a warning"),
        new_output("display_data", data={WIDGET: {"model_id": "1"}, "text/plain": "a slider"}),
    ]
    gone = new_output("display_data")
    bar = new_output("stream", name="stdout", text="a progress bar")
    said = new_output("stream", name="stdout", text="a sentence")
    trains = {"tags": ["nbval-ignore-output"]}
    cells = [
        new_markdown_cell(
            "# Many Views?\n\nSee [controls](controls.md), [scaling](scaling.md), [probes](probes.md)."
        ),
        new_markdown_cell("## Cost"),
        new_code_cell("profile = 'demo'", metadata={"tags": ["injected-parameters"]}),
        new_code_cell(
            "secret_code()", outputs=outputs, execution_count=1, metadata={"execution": {"iopub": "12:00"}}
        ),
        new_code_cell("train()", outputs=[gone, bar], metadata=trains),
        new_code_cell("say()", outputs=[said]),
    ]
    return new_notebook(cells=cells, metadata={"papermill": {"start_time": "12:00"}})


def executed(folder: Path) -> Path:
    """Where our report is executed, in a folder that has the controls."""
    folder.mkdir()
    (folder / "06_controls.ipynb").touch()
    return folder / "11_report.ipynb"


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Of one's own results, where controls are made, scaling is published, and probes are nowhere."""
    (tmp_path / "published" / "demo").mkdir(parents=True)
    (tmp_path / "published" / "demo" / "scaling.md").touch()
    monkeypatch.setattr(paths, "published_root", lambda: tmp_path / "published")
    path = executed(tmp_path / "demo")
    nbformat.write(clean(notebook()), path)
    return export_page(path, path.parent, "report")


def test_a_page_asks_for_nothing_from_elsewhere(page):
    html = page.read_text(encoding="utf-8")
    assert f"data:image/png;base64,{PNG}" in html
    assert "<script" not in html
    assert not re.findall(r"""(?:src|href)=["']https?://""", html)


def test_a_page_shows_results_with_texts_for_figures_and_no_code(page):
    for path in (page, page.with_suffix(".md")):
        words = path.read_text(encoding="utf-8")
        assert "Curves of two runs" in words
        assert "43.3" in words
        assert "secret_code" not in words
        assert "a sentence" in words
        assert not any(noise in words for noise in ("a progress bar", "a warning", "a slider"))


def test_a_table_has_one_row_of_headings_and_a_box_that_scrolls(page):
    """Each heading says what it is of, and the original's row can be told from ours."""
    table = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").find("table")
    heads = [[cell.get_text() for cell in row(["th", "td"])] for row in table.thead("tr")]
    assert heads == [["Run", "k-NN"]]
    assert {cell["scope"] for cell in table.thead("th")} == {"col"}
    assert {cell["scope"] for cell in table.tbody("th")} == {"row"}
    assert [row.get("class") for row in table.tbody("tr")] == [None, ["quoted"]]
    assert (table.parent["tabindex"], table.parent["class"]) == ("0", ["scroll"])


def test_the_contents_lead_to_the_headings(page):
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    links = {link["href"]: link.get_text() for link in soup.nav("a")}
    assert links == {"#Cost": "Cost"}
    assert soup.find(id="Cost").name == "h2"


def test_pages_lead_to_those_of_their_own_kind_or_to_published_ones(page):
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    links = {link.get_text(): link["href"] for link in soup.main("a") if not link["href"].startswith("#")}
    assert links == {"controls": "controls.html", "scaling": "../published/demo/scaling.html"}
    markdown = page.with_suffix(".md").read_text(encoding="utf-8")
    assert "[controls](controls.md), [scaling](../published/demo/scaling.md), probes." in markdown


def test_the_markdown_has_its_figures_beside_it_and_no_style_sheets(page):
    words = page.with_suffix(".md").read_text(encoding="utf-8")
    assert "![Curves of two runs](report_files/curves.png)" in words
    assert (page.parent / "report_files" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "<style" not in words


def test_a_figure_that_a_page_no_longer_has_goes(page):
    stale = page.parent / "report_files" / "older.png"
    stale.write_bytes(b"")
    export_page(page.parent / "11_report.ipynb", page.parent, "report")
    assert [path.name for path in stale.parent.iterdir()] == ["curves.png"]


def test_equal_results_make_equal_pages(page):
    """Executed at another time, with other drawn names: the same bytes."""
    later = notebook()
    later.metadata["papermill"]["start_time"] = "13:00"
    later.cells[2].id, later.cells[3].metadata["execution"] = "drawn-anew", {"iopub": "13:00"}
    before = nbformat.read(page.parent / "11_report.ipynb", as_version=4)
    for cell, first in zip(later.cells, before.cells, strict=True):
        cell.id = cell.id if cell.id == "drawn-anew" else first.id
    paths.published_root().joinpath("demo").rename(paths.published_root() / "later")
    path = executed(page.parent.parent / "later")
    nbformat.write(clean(copy.deepcopy(later)), path)
    export_page(path, path.parent, "report")
    assert path.read_bytes() == (page.parent / path.name).read_bytes()
    name = "report_files/curves.png"
    assert (path.parent / name).read_bytes() == (page.parent / name).read_bytes()
    for name in ("report.md", "report.html"):
        ours, theirs = ((folder / name).read_text() for folder in (page.parent, path.parent))
        names = re.compile("(of |published/|profile )demo")  # pages tell of which profile they are
        assert names.sub(r"\1later", ours) == theirs


def test_a_figure_is_numbered_and_names_the_cell_that_drew_it(page):
    for text in (
        BeautifulSoup(page.read_text(), "html.parser").get_text(),
        page.with_suffix(".md").read_text(),
    ):
        assert re.search(r"Figure 1\.\W* Curves of two runs\. .*cell 1 of 11_report\.ipynb", text)


def test_a_pdf_is_printed_by_a_browser_that_is_found(page, tmp_path, monkeypatch):
    """A made-up browser that writes the path of what it was to print."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"--pdf needs one of chromium, .*report\.html in a browser"):
        print_pdf(page)
    browser = tmp_path / "google-chrome"
    browser.write_text(
        '#!/bin/sh\nfor a in "$@"; do case $a in --print-to-pdf=*) echo "$@" > "${a#*=}";; esac; done\n'
    )
    browser.chmod(0o755)
    assert print_pdf(page).read_text().strip().endswith(page.as_uri())
    for status in (0, 1):  # the PDF that was there is an older page's
        browser.write_text(f"#!/bin/sh\necho no display >&2; exit {status}\n")
        with pytest.raises(ConfigError, match="no display"):
            print_pdf(page)
