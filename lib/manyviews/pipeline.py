"""Run a profile's notebooks with papermill and write the report: what run_all.sh calls."""

import logging
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbconvert import HTMLExporter, MarkdownExporter
from papermill.exceptions import PapermillExecutionError

from manyviews import paths
from manyviews.files import replacing, write_text
from manyviews.options import parse_arguments
from manyviews.results import TITLES, check_recipe, forget, has_numbers, is_finished, reason_of
from manyviews.rows import configure, rows_of, same_runs
from manyviews.study import missing_jobs, run_jobs

NOTEBOOKS = {
    "baseline": "02_baseline",
    "resnet34": "03_resnet34",
    "views8": "04_eight_views",
    "supervised": "07_supervised",
}
PAGES = {"controls": "05_controls", "scaling": "06_scaling", "report": "09_report"}  # those of studies first
PROCESS_SETTINGS = {  # read from the environment when a kernel starts
    # Threads that wait for each other give up the core sooner: no slower on an idle machine, and several
    # times faster beside another program.
    "GOMP_SPINCOUNT": "10000",
    # Memory once used is kept for the next step. By default glibc gives large tensors back to the system,
    # which then clears each page of the next one: up to a sixth of a step's time.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**62),
}
SECONDS_BETWEEN_LINES = 15  # of progress, where the output is not a terminal


class NotebookFailed(RuntimeError):
    """A notebook raised, or its kernel died."""


class ProgressWriter:
    """Passes on what a notebook's progress bars write.

    A terminal gets all of it. In a log file, where a bar cannot redraw itself, each bar gets a line now
    and then instead.
    """

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self.last_line = time.monotonic()

    def write(self, text: str) -> None:
        if self.terminal:
            sys.stderr.write(text)
            return
        bar = text.replace("\r", "\n").strip().rsplit("\n", 1)[-1].strip()
        if bar and time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            print(f"  {bar}", file=sys.stderr, flush=True)

    def flush(self) -> None:
        sys.stderr.flush()


def run_notebook(notebook: str, output: Path, parameters: dict[str, Any], log: Path) -> None:
    """Execute notebooks/<notebook>.ipynb and keep the executed copy as `output`.

    Args:
        notebook: name without ending.
        output: replaced only when all cells have run.
        parameters: see config.load_profile.
        log: the notebook while it runs; stays there if it fails.
    Raises:
        NotebookFailed: names the notebook, the cell and the log.
    """
    source = paths.NOTEBOOKS / f"{notebook}.ipynb"
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            str(source),
            str(log),
            parameters=parameters,
            cwd=str(paths.NOTEBOOKS),
            kernel_name="python3",
            progress_bar=False,
            stderr_file=ProgressWriter(),
            extra_arguments=["--log-level=ERROR"],  # no advice on encryption: the kernel is local
        )
        executed = clean(nbformat.read(log, as_version=4))
        with replacing(output) as new:
            nbformat.write(executed, new)
        log.unlink()
    except PapermillExecutionError as error:
        cell = f"cell [{error.exec_count}]"
        raise NotebookFailed(f"{source}, {cell}: {error.ename}: {error.evalue}\n  log: {log}") from None
    except Exception as error:  # the kernel died, the disk is full, ...
        raise NotebookFailed(f"{source}: {type(error).__name__}: {error}\n  log: {log}") from error


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


def run_all(profile: dict[str, Any], runs: Sequence[str], seeds: Sequence[int], force: bool) -> list[str]:
    """The data notebook and the runs of a profile, those that are not there yet.

    Args:
        profile: its parameters, see config.load_profile.
        runs: names of rows. The report's have a notebook each; the others are made side by side.
        seeds: each run is done once for each.
        force: repeat runs that are finished.
    Returns:
        What failed, as messages; a failed run does not keep the others from running.
    Raises:
        ConfigError: a finished run was made with another configuration; before any work starts.
        NotebookFailed: the data notebook, without which no run can start.
    """
    name = profile["profile"]
    jobs = [(run, seed, paths.run_folder(name, run, seed)) for seed in seeds for run in runs]
    for run, seed, folder in jobs:
        if is_finished(folder) and not force:
            check_recipe(configure(run, profile | {"seed": seed}), folder)

    prepare_data(profile)
    failures = []
    for number, (run, seed, folder) in enumerate(jobs, 1):
        if run not in NOTEBOOKS:
            continue
        say(f"[{number}/{len(jobs)}] {TITLES[run]}, seed {seed}")
        if force:
            forget(folder)
        elif has_numbers(folder) and not is_finished(folder):
            say("  its numbers are here without weights, as the repository has them: repeated")
        if is_finished(folder) and (folder / "notebook.ipynb").exists():
            say("  finished before, kept (--force repeats it)")
        else:
            failures += attempt(NOTEBOOKS[run], folder / "notebook.ipynb", profile | {"seed": seed})
    return failures + run_rows(profile, [run for run in runs if run not in NOTEBOOKS], seeds, force)


def run_rows(profile: dict[str, Any], runs: Sequence[str], seeds: Sequence[int], force: bool) -> list[str]:
    """Runs that have no notebook of their own, side by side."""
    if force:
        forget_rows(profile, runs, seeds)
    return run_jobs(missing_jobs(runs, profile, seeds), profile)


def run_studies(
    profile: dict[str, Any], studies: Sequence[str], seeds: Sequence[int], force: bool
) -> list[str]:
    """The notebooks and pages of studies, which make the runs that are missing; gives what failed.

    Raises:
        ConfigError: a run cannot be made in this profile, or was made with another configuration; before any
            work starts.
        NotebookFailed: the data notebook.
    """
    runs = {study: rows_of(study) for study in studies}
    every = [run for of_study in runs.values() for run in of_study]
    for run in every:
        configure(run, profile)
    if not force:
        missing_jobs(every, profile, seeds)
    prepare_data(profile)
    if force:
        forget_rows(profile, every, seeds)
    failures = []
    for study in studies:
        failures += make_page(study, profile | {"seeds": list(seeds)})
        failures += [
            f"{run} seed {seed} of study '{study}' is not there: {reason_of(folder) or f'see {PAGES[study]}'}"
            for run, seed in missing_jobs(runs[study], profile, seeds)
            for folder in [paths.run_folder(profile["profile"], run, seed)]
        ]
    return failures


def make_page(name: str, parameters: dict[str, Any]) -> list[str]:
    """Run the notebook of a page, export it and say where it is; gives the failure, if it failed."""
    executed = paths.results_root() / parameters["profile"] / f"{PAGES[name]}.ipynb"
    failures = attempt(PAGES[name], executed, parameters)
    if not failures:
        say(f"{name.capitalize()}: {write_page(executed, name)}")
    return failures


def forget_rows(profile: dict[str, Any], runs: Sequence[str], seeds: Sequence[int]) -> None:
    """Have runs begin anew."""
    for run in dict.fromkeys(same_runs(runs, profile).values()):
        for seed in seeds:
            forget(paths.run_folder(profile["profile"], run, seed))


def prepare_data(profile: dict[str, Any]) -> None:
    """The data notebook.

    Raises:
        NotebookFailed: it failed, and no run could start.
    """
    failures = attempt("01_data", paths.results_root() / profile["profile"] / "01_data.ipynb", profile)
    if failures:
        raise NotebookFailed(failures[0])


def attempt(notebook: str, output: Path, parameters: dict[str, Any]) -> list[str]:
    """Run a notebook and say how it went; gives the failure, if it failed."""
    started = time.monotonic()
    name = f"{notebook}-seed{parameters['seed']}" if "seed" in parameters else notebook
    # The process number keeps two of them, with a share of the runs each, from writing one file.
    log = paths.results_root() / parameters["profile"] / "logs" / f"{name}-{os.getpid()}.ipynb"
    try:
        run_notebook(notebook, output, parameters, log)
    except NotebookFailed as error:
        say(f"  FAILED {error}")
        return [str(error)]
    say(f"  {notebook}: done in {time.monotonic() - started:.0f} s")
    return []


def write_page(executed: Path, name: str) -> Path:
    """Export an executed notebook beside it, its results without their code.

    Args:
        executed: notebook.
        name: of the page <name>.html, which holds all it shows, and of <name>.md with its figures in
            <name>_files/.
    Returns:
        Path of the HTML page.
    """
    notebook, folder = nbformat.read(executed, as_version=4), executed.parent
    hidden = {"exclude_input": True, "exclude_input_prompt": True, "exclude_output_prompt": True}
    # Without these the page would ask the network for scripts that it does not need.
    offline = {
        "mathjax_url": "",
        "require_js_url": "",
        "jquery_url": "",
        "mermaid_js_url": "",
        "jupyter_widgets_base_url": "",
    }
    html, _ = HTMLExporter(template_name="classic", **hidden, **offline).from_notebook_node(
        notebook, resources={"metadata": {"name": f"Many Views: {name} of {folder.name}"}}
    )
    html = re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)  # all are for what the page has not
    html = re.sub(r'href="(\w+)\.md"', r'href="\1.html"', html)  # pages lead to those of their own kind
    write_text(folder / f"{name}.html", html)
    files = f"{name}_files"
    markdown, resources = MarkdownExporter(**hidden).from_notebook_node(
        notebook, resources={"output_files_dir": files, "unique_key": name}
    )
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if "filename" in output.get("metadata", {}):  # a figure, see plots.show
            path = f"{files}/{output.metadata['filename']}.png"
            markdown = markdown.replace(
                f"![png]({path})", f"![{output.metadata['image/png']['alt']}]({path})"
            )
    for path, content in resources["outputs"].items():
        with replacing(folder / path) as new:
            new.write_bytes(content)
    write_text(folder / f"{name}.md", markdown)
    return folder / f"{name}.html"


def say(text: str) -> None:
    """Print a line at once, also into a pipe."""
    print(text, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; the exit status is 0 when all went well."""
    options = parse_arguments(arguments)
    if options.results:
        os.environ["MANYVIEWS_RESULTS"] = str(options.results.resolve())
    if options.jobs:
        os.environ["MANYVIEWS_JOBS"] = str(options.jobs)
    os.environ.update(PROCESS_SETTINGS | os.environ)
    logging.getLogger("papermill").setLevel(logging.ERROR)
    failures: list[str] = []
    try:
        if options.report:
            os.environ["MANYVIEWS_JOBS"] = "0"
            for study in options.study:
                failures += make_page(study, options.parameters | {"seeds": options.seeds})
        elif options.study:
            failures += run_studies(options.parameters, options.study, options.seeds, options.force)
        else:
            failures += run_all(options.parameters, options.runs, options.seeds, options.force)
        failures += make_page("report", options.parameters)
    except NotebookFailed:
        say("Nothing was trained, for the data cannot be used.")
        return 1
    except ValueError as error:  # a configuration or a file that cannot be used
        say(f"run_all.sh: error: {error}")
        return 2
    except KeyboardInterrupt:
        say("Stopped. The same command, without --force, goes on from the last finished epoch.")
        return 130
    if failures:
        say("What failed:")
        for failure in failures:
            say(f"- {failure}")
    return 1 if failures else 0
