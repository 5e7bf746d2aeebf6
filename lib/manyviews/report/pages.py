"""Executed notebooks as pages: a self-contained .html, and a .md with its figures beside it."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup, Tag
from nbconvert import HTMLExporter, MarkdownExporter

from manyviews.config import paths
from manyviews.config.files import replacing, write_text
from manyviews.config.schema import ConfigError
from manyviews.report.text import template

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "microsoft-edge")
WIDGET = "application/vnd.jupyter.widget-view+json"  # nothing without a kernel
HIDDEN = {"exclude_input": True, "exclude_input_prompt": True, "exclude_output_prompt": True}


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without time stamps, drawn names, progress bars and widgets, so that equal results make equal files."""
    for key in ("papermill", "widgets"):
        notebook.metadata.pop(key, None)
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.id = "injected-parameters"  # papermill draws another each time
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            trains = "nbval-ignore-output" in cell.metadata.get("tags", [])
            told = {"stderr", "stdout" if trains else None}  # how it goes; its numbers are shown below it
            cell.outputs = [
                output
                for output in cell.outputs
                if output.get("name", "") not in told
                and WIDGET not in output.get("data", {})
                and output.get("data") != {}  # of a curve that grew until the training was done
            ]
    return notebook


def export_page(executed: Path, folder: Path, name: str) -> Path:
    """Write what a notebook shows, without its code.

    Args:
        executed: notebook; may hold results of any profile.
        folder: of the pages <name>.html, which holds all it shows, and <name>.md, whose figures are in
            <name>_files/.
        name: of the pages.
    Returns:
        Path of the HTML page.
    """
    notebook = nbformat.read(executed, as_version=4)
    _lead_links(notebook, folder)
    _caption_figures(notebook, executed.name)
    write_text(folder / f"{name}.html", _html(notebook, name, folder.name))
    markdown, files = _markdown(notebook, name)
    for path, content in files.items():
        with replacing(folder / path) as new:
            new.write_bytes(content)
    write_text(folder / f"{name}.md", markdown)
    for stale in {*folder.glob(f"{name}_files/*.png")} - {folder / path for path in files}:
        stale.unlink()  # of a page that was there before
    return folder / f"{name}.html"


def _lead_links(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Links to other pages lead to the published ones where one's own are not there, or else go."""

    def lead(link: re.Match[str]) -> str:
        words, page = link.groups()
        if list(folder.glob(f"*_{page}.ipynb")):  # executed before, or a moment ago, and exported as this one
            return link[0]
        published = paths.published_root() / folder.name
        there = os.path.relpath(published, folder)
        return f"[{words}]({there}/{page}.md)" if (published / f"{page}.md").exists() else words

    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\[([^]]+)\]\((\w+)\.md\)", lead, cell.source)


def _caption_figures(notebook: nbformat.NotebookNode, source: str) -> None:
    """Number the figures, and write below each what it shows, and which cell of the notebook drew it."""
    number = 0
    for cell in notebook.cells:
        outputs = []
        for output in cell.get("outputs", []):
            outputs.append(output)
            if _is_figure(output):
                number += 1
                drawn_by = f"<small>(cell {cell.execution_count} of {source})</small>"
                caption = {"text/markdown": f"**Figure {number}.** {_alt(output)}. {drawn_by}"}
                outputs.append(nbformat.v4.new_output("display_data", caption))
        if outputs:
            cell.outputs = outputs


def _is_figure(output: nbformat.NotebookNode) -> bool:
    """Whether figures.show has displayed it."""
    return "filename" in output.get("metadata", {})


def _alt(figure: nbformat.NotebookNode) -> str:
    """What a figure shows, in words."""
    return figure.metadata["image/png"]["alt"]


def find_browser(page: Path) -> str:
    """Path of a browser that can print a page; ConfigError where there is none."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise ConfigError(
            f"--pdf needs one of {', '.join(BROWSERS)}; without one, open {page} in a browser and print it"
        )
    return browser


def print_pdf(page: Path) -> Path:
    """A page on paper, by whichever browser is found: <name>.pdf beside <name>.html.

    Raises:
        ConfigError: no browser is there, or it fails; says what to do.
    """
    browser = find_browser(page)
    pdf = page.with_suffix(".pdf")
    as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
    options = ["--headless", "--disable-gpu", *as_root, "--no-pdf-header-footer"]
    command = [browser, *options, f"--print-to-pdf={pdf}", page.as_uri()]
    pdf.unlink(missing_ok=True)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        failed, said = done.returncode or not pdf.exists(), done.stderr[-200:]
    except subprocess.TimeoutExpired as error:
        failed, said = True, str(error)
    if failed:
        raise ConfigError(f"{browser} made no {pdf} ({said}); open {page} and print it")
    return pdf


def _html(notebook: nbformat.NotebookNode, name: str, profile: str) -> str:
    body, _ = HTMLExporter(template_name="basic", **HIDDEN).from_notebook_node(notebook)
    soup = BeautifulSoup(body, "html.parser")
    for unneeded in soup(["style", "script"]):
        unneeded.decompose()
    for number, table in enumerate(soup("table"), 1):
        _tidy_table(table)
        box = soup.new_tag("div", attrs={"class": "scroll", "tabindex": "0", "role": "region"})
        box["aria-label"] = f"Table {number}"  # which a keyboard can scroll
        table.wrap(box)
    for link in soup("a", href=re.compile(r"\.md$")):  # pages lead to those of their own kind
        link["href"] = link["href"].removesuffix(".md") + ".html"
    contents = [(h["id"], h.get_text().rstrip("¶").split(":")[0]) for h in soup("h2")]
    _wrap_sections(soup)
    return template("page.html.j2").render(name=name, profile=profile, contents=contents, body=str(soup))


def _wrap_sections(soup: BeautifulSoup) -> None:
    """Each second-level heading, with what follows it, becomes a section."""
    section = None
    for cell in [child for child in soup.children if isinstance(child, Tag)]:
        if cell.find("h2"):
            section = soup.new_tag("section", attrs={"aria-labelledby": cell.h2["id"]})
            cell.insert_before(section)
        if section is not None:
            section.append(cell.extract())


def _tidy_table(table: Tag) -> None:
    """One row of headings, where pandas puts the index's names into a second; each says what it is of."""
    for key in ("border", "style"):
        del table[key]
    head = table.find("thead")
    rows = head("tr") if head else []
    if len(rows) == 2:
        for above, below in zip(rows[0]("th"), rows[1]("th"), strict=False):
            above.string = above.get_text() or below.get_text()
        rows[1].decompose()
    for cell in table("th"):
        cell["scope"] = "col" if head and head in cell.parents else "row"
        if not cell.get_text(strip=True):
            cell.name = "td"
            del cell["scope"]
    for row in table.select("tbody tr"):
        if any(cell.get_text() == "the original" for cell in row("th")):
            row["class"] = "quoted"


def _markdown(notebook: nbformat.NotebookNode, name: str) -> tuple[str, dict[str, bytes]]:
    """The page, and the content of its figures by path."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "text/html" in output.get("data", {}):  # a DataFrame: GitHub shows its HTML, but no styles
                html = output["data"]["text/html"]
                output["data"]["text/html"] = re.sub(r"<style.*?</style>\s*", "", html, flags=re.DOTALL)
    resources = {"output_files_dir": f"{name}_files", "unique_key": name}
    markdown, resources = MarkdownExporter(**HIDDEN).from_notebook_node(notebook, resources=resources)
    for figure in (
        output for cell in notebook.cells for output in filter(_is_figure, cell.get("outputs", []))
    ):
        path = f"{name}_files/{figure.metadata['filename']}.png"
        markdown = markdown.replace(f"![png]({path})", f"![{_alt(figure)}]({path})")
    return markdown, resources["outputs"]
