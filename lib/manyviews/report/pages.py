"""Executed notebooks as pages: a self-contained .html, and a .md with its figures beside it."""

import re
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter, MarkdownExporter

from manyviews.config.files import replacing, write_text

HIDDEN = {"exclude_input": True, "exclude_input_prompt": True, "exclude_output_prompt": True}
# Without these a page would ask the network for scripts that it does not need.
SCRIPTS = ("mathjax_url", "require_js_url", "jquery_url", "mermaid_js_url", "jupyter_widgets_base_url")


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
    # The template `classic` keeps the texts of figures, which `lab` drops.
    exporter = HTMLExporter(template_name="classic", **HIDDEN, **dict.fromkeys(SCRIPTS, ""))
    html, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": title}})
    html = re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)  # all are for what the page has not
    return re.sub(r'href="(\w+)\.md"', r'href="\1.html"', html)  # pages lead to those of their own kind


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
