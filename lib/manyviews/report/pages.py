"""Executed notebooks as pages: a self-contained .html, and a .md with its figures beside it."""

import re
from pathlib import Path

import jinja2
import nbformat
from bs4 import BeautifulSoup, Tag
from nbconvert import HTMLExporter, MarkdownExporter

from manyviews.config.files import replacing, write_text
from manyviews.report.text import TEMPLATES

HIDDEN = {"exclude_input": True, "exclude_input_prompt": True, "exclude_output_prompt": True}


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without time stamps, drawn names and progress bars, so that equal results make equal files."""
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.id = "injected-parameters"  # papermill draws another each time
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
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
    write_text(folder / f"{name}.html", _html(notebook, f"Many Views: {name} of {folder.name}"))
    markdown, files = _markdown(notebook, name)
    for path, content in files.items():
        with replacing(folder / path) as new:
            new.write_bytes(content)
    write_text(folder / f"{name}.md", markdown)
    return folder / f"{name}.html"


def _html(notebook: nbformat.NotebookNode, title: str) -> str:
    body, _ = HTMLExporter(template_name="basic", **HIDDEN).from_notebook_node(notebook)
    soup = BeautifulSoup(body, "html.parser")
    for unneeded in soup(["style", "script"]):
        unneeded.decompose()
    for table in soup("table"):
        _tidy_table(table)
        box = soup.new_tag("div", attrs={"class": "scroll", "tabindex": "0", "role": "region"})
        box["aria-label"] = "Table"  # which a keyboard can scroll
        table.wrap(box)
    for link in soup("a", href=re.compile(r"^\w+\.md$")):  # pages lead to those of their own kind
        link["href"] = link["href"].removesuffix(".md") + ".html"
    contents = [(h["id"], h.get_text().rstrip("¶")) for h in soup("h2")]
    loader = jinja2.FileSystemLoader(TEMPLATES)
    template = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined).get_template(
        "page.html.j2"
    )
    return template.render(title=title, contents=contents, body=str(soup))


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
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if "filename" in output.get("metadata", {}):  # a figure, see figures.show
            path = f"{name}_files/{output.metadata['filename']}.png"
            alt = output.metadata["image/png"]["alt"]
            markdown = markdown.replace(f"![png]({path})", f"![{alt}]({path})")
    return markdown, resources["outputs"]
