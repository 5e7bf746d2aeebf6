"""What run_all.sh calls: makes the runs of a profile that are missing, then writes the pages."""

import argparse
import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from manyviews.config import paths
from manyviews.config.errors import Arguments, command
from manyviews.config.files import clear_leftovers
from manyviews.config.profiles import keep_profile, load_profile, with_data
from manyviews.config.runs import ORIGINAL, STUDIES, run_specs
from manyviews.config.schema import ConfigError, Profile, check_name
from manyviews.config.surroundings import BUSY, TIME_IS_OVER
from manyviews.data.dataset import recognised

NOTEBOOKS = {  # of the runs that have one of their own
    "baseline": "02_baseline",
    "resnet34": "03_resnet34",
    "views8": "04_eight_views",
    "supervised": "05_supervised",
}
DATA_NOTEBOOK = "01_data"
UNFINISHED = 75  # the exit status of what is to be tried again, as in sysexits.h
PAGES = {
    "controls": "06_controls",
    "scaling": "07_scaling",
    "probes": "08_probes",
    "literature": "09_literature",
    "methods": "10_methods",
    "report": "11_report",
}


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of run_all.sh.

    Raises:
        ConfigError: a wrong option or value; lists the valid ones.
    """
    # The help text is in run_all.sh, which can show it before anything is installed.
    parser = Arguments(prog="run_all.sh", add_help=False)
    parser.add_argument("--profile", default="demo", metavar="NAME")
    parser.add_argument("--data", metavar="PATH", type=Path)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--runs", metavar="A,B")
    what.add_argument("--study", default="", metavar="NAME")
    parser.add_argument("--jobs", type=int, metavar="N")
    parser.add_argument("--seeds", metavar="0,1")
    parser.add_argument("--scheduler", default="", metavar="ADDRESS")
    parser.add_argument("--time-limit", metavar="9m")
    parser.add_argument("--results", metavar="DIR", type=Path)
    parser.add_argument("--list-runs", action="store_true")
    parser.add_argument("--force", action="store_true")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--publish", action="store_true")
    parser.add_argument("--pdf", action="store_true")
    options = parser.parse_args(arguments)
    if options.results is not None:
        os.environ["MANYVIEWS_RESULTS"] = str(options.results.absolute())
    options.profile = load_profile(options.profile)
    if options.data is not None:
        try:
            options.data = options.data.resolve()
        except (OSError, RuntimeError) as error:  # links in a circle; RuntimeError before Python 3.13
            raise ConfigError(f"--data {options.data}: cannot be followed ({error})") from None
        options.profile = with_data(options.profile, recognised(options.data), options.data)
    options.study = _names(options.study, "study", STUDIES)
    needed = [name for study in options.study for name in run_specs().of_study(study)]
    options.runs = _names(options.runs, "run", list(run_specs().runs)) if options.runs else needed
    options.runs = options.runs or run_specs().of_study(ORIGINAL)
    options.seeds = _seeds(options.seeds) if options.seeds else list(options.profile.seeds)
    if options.jobs is not None and options.jobs < 1:
        raise ConfigError(f"--jobs takes a whole number from 1, not {options.jobs}")
    if options.list_runs and options.force:
        raise ConfigError("--list-runs only prints; give --force to the command that makes the runs")
    if options.time_limit is not None:
        options.time_limit = _seconds(options.time_limit)
    return options


def _names(given: str, kind: str, known: Sequence[str]) -> list[str]:
    names = [check_name(name.strip(), kind, known) for name in given.split(",")] if given else []
    return list(dict.fromkeys(names))


def _seeds(given: str) -> list[int]:
    try:
        seeds = list(dict.fromkeys(int(seed) for seed in given.split(",")))
    except ValueError:
        seeds = [-1]
    if not all(0 <= seed < 2**31 for seed in seeds):
        raise ConfigError(f"--seeds takes whole numbers from 0, such as 0,1,2, not '{given}'")
    return seeds


def _seconds(given: str) -> float:
    """Seconds of a time such as 90s, 9m or 2.5h."""
    try:
        seconds = float(given[:-1]) * {"s": 1, "m": 60, "h": 3600}[given[-1:]]
    except (ValueError, KeyError):
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ConfigError(f"--time-limit takes a time such as 90s, 9m or 2.5h, not '{given}'")
    return seconds


def run_notebook(notebook: str, output: Path, parameters: dict[str, Any]) -> str:
    """Execute notebooks/<notebook>.ipynb and keep the executed copy as `output`, which appears whole.

    Args:
        notebook: name without ending.
        output: replaced only when all cells have run.
        parameters: values in place of those of its parameters cell.
    Returns:
        Why it failed, with the path of the notebook as far as it came; empty if it did not.
    """
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    from manyviews.config.files import replacing
    from manyviews.report.pages import clean

    log = paths.results_root() / parameters["profile"] / "logs" / f"{output.parent.name}-{notebook}.ipynb"
    if output.parent.name.startswith("seed"):
        log = log.with_name(f"{output.parent.parent.name}-{log.name}")
    failure = ""
    try:
        with replacing(log) as running:  # so that of a notebook that was stopped no log stays
            try:
                papermill.execute_notebook(
                    _literal(paths.NOTEBOOKS / f"{notebook}.ipynb"),
                    _literal(running),
                    parameters=parameters,
                    cwd=str(paths.NOTEBOOKS),
                    kernel_name="python3",
                    progress_bar=False,
                    extra_arguments=["--log-level=CRITICAL"],  # no advice on encryption: the kernel is local
                )
            except PapermillExecutionError as error:
                failure = f"{notebook}, cell [{error.exec_count}]: {error.ename}: {error.evalue}"
    except DeadKernelError:
        return f"{notebook}: its kernel was killed, as happens when memory runs out; fewer --jobs need less"
    if failure:
        return f"{failure}\n  log: {log}"
    with replacing(output) as new:
        nbformat.write(clean(nbformat.read(log, as_version=4)), new)
    log.unlink()
    return ""


def _literal(path: Path) -> str:
    """A path for papermill, which takes braces in it for a template."""
    return str(path).replace("{", "{{").replace("}", "}}")


def run_jobs(options: argparse.Namespace) -> list[str]:
    """The data notebook and the runs that are missing, side by side; gives what failed."""
    profile: Profile = options.profile
    print(f"Stage 1 of 3: the images of profile '{profile.profile}'", flush=True)  # before slow imports
    from manyviews.data.dataset import load_dataset
    from manyviews.runs.jobs import (
        Job,
        amount_of_training,
        default_jobs,
        do_jobs,
        estimate_seconds,
        make_run,
        missing_runs,
        run_title,
    )
    from manyviews.runs.run import check
    from manyviews.runs.store import RAW_PIXELS, RunState, mark_for_rerun, state_of

    missing = missing_runs(options.runs, profile, options.seeds, options.force)
    dataset = load_dataset(profile.data)
    check(missing, dataset)
    for config in missing if options.force else ():  # only now: wrong input costs no work
        mark_for_rerun(paths.run_folder(config.profile, config.run, config.seed))
    folder = paths.results_root() / profile.profile
    jobs = []
    data_files = (f"{DATA_NOTEBOOK}.ipynb", f"{RAW_PIXELS}.json")
    if missing or not all((folder / name).exists() for name in data_files):
        work = partial(
            run_notebook, DATA_NOTEBOOK, folder / f"{DATA_NOTEBOOK}.ipynb", {"profile": profile.profile}
        )
        jobs.append(Job("the data", work))
    left = {(config.run, config.seed): config for config in missing}  # without a notebook that makes them
    for run, seed in product([name for name in options.runs if name in NOTEBOOKS], options.seeds):
        output = paths.run_folder(profile.profile, run, seed) / "notebook.ipynb"
        if state_of(output.parent) is RunState.COMPLETE and output.exists():
            print(f"{run}, seed {seed}: finished before, kept (--force makes it again)")
            continue
        work = partial(run_notebook, NOTEBOOKS[run], output, {"profile": profile.profile, "seed": seed})
        jobs.append(Job(run_title(run, seed), work, left.pop((run, seed), None)))
    jobs += [Job(run_title(*name), partial(make_run, config), config) for name, config in left.items()]
    # The longest runs first, so that none is left alone at the end. What trains nothing is soon done.
    jobs.sort(key=lambda job: -amount_of_training(job.config) if job.config else -math.inf)
    about = f"on the workers of {options.scheduler}" if missing else "nothing to train"
    if missing and not options.scheduler:
        print("Timing some steps of each network", flush=True)
        seconds = estimate_seconds(missing, dataset, options.jobs or default_jobs(profile.devices))
        minutes = max(1, round(seconds / 60))
        about = f"about {minutes} minute{'s' * (minutes > 1)} here"
    print(f"Stage 2 of 3: {len(missing)} runs to make in {len(jobs)} jobs, {about}", flush=True)
    return do_jobs(jobs, options.jobs, options.scheduler)


def write_pages(options: argparse.Namespace) -> list[str]:
    """Our report, and with the studies that were asked for all pages beside it; gives what failed."""
    from manyviews.report.pages import export_page, print_pdf
    from manyviews.runs.jobs import Job, do_jobs

    folder, parameters = paths.results_root() / options.profile.profile, {"profile": options.profile.profile}
    print("Stage 3 of 3: our report", flush=True)
    beside = ["probes", "literature"] if options.study else []
    executed = {
        page: folder / f"{PAGES[page]}.ipynb" for page in [*options.study, *beside, "methods", "report"]
    }
    failed = do_jobs(
        [Job(page, partial(run_notebook, PAGES[page], path, parameters)) for page, path in executed.items()],
        options.jobs,
    )
    # Now that all are there, to which one may lead:
    pages = [export_page(path, folder, page) for page, path in executed.items() if path.exists()]
    for page in pages if options.pdf else ():
        print(print_pdf(page))
    return failed


def _check_writable(folder: Path) -> None:
    """See that results can be written; else ConfigError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot hold results ({error.strerror}); give another --results"
        ) from None


def _is_left(reason: str) -> bool:
    """Whether a job has not failed but has only to be gone on with."""
    return TIME_IS_OVER in reason or BUSY in reason


def _again(force: bool) -> str:
    """What goes on with unfinished work: with --force it would begin anew."""
    return f"the same command{' without --force' * force}"


def run_all(arguments: Sequence[str] | None = None) -> int:
    """Do what the options say; 0 if all went well, 1 if something failed, 75 if something is unfinished."""
    options = parse_arguments(arguments)
    profile: Profile = options.profile
    folder = paths.results_root() / profile.profile
    if options.list_runs:
        from manyviews.runs.jobs import missing_runs

        for config in missing_runs(options.runs, profile, options.seeds):
            print(config.run, config.seed)
        return 0
    if options.publish:
        from manyviews.runs.store import load_own, load_published, merge, publish

        publish(merge(load_published(profile), load_own(profile)), paths.published_root() / profile.profile)
        return 0
    _check_writable(folder)
    if options.pdf:
        from manyviews.report.pages import find_browser

        find_browser(folder / "report.html")
    clear_leftovers(folder)
    if options.time_limit is not None:
        os.environ["MANYVIEWS_STOP_AT"] = str(time.time() + options.time_limit)
    if options.data is not None:
        keep_profile(profile)
    failed = [] if options.report else run_jobs(options)
    if not any(map(_is_left, failed)):
        failed += write_pages(options)
    if left := list(filter(_is_left, failed)):
        jobs, them = ("jobs", "them") if left[1:] else ("job", "it")
        print(f"Unfinished: {len(left)} {jobs}; {_again(options.force)} goes on with {them}")
        return UNFINISHED
    for reason in failed:
        print(f"FAILED: {reason}", file=sys.stderr)
    if (folder / "report.html").exists():
        from manyviews.report import text
        from manyviews.runs.store import load_own, load_results

        answers = text.answers(load_results(profile), profile, load_own(profile)).data
        print(f"\n{answers.replace('*', '')}\n\nOur report: {folder / 'report.html'}")
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """run_all.sh, and how it ends: see config.errors.command for the exit status."""
    force = "--force" in (sys.argv if arguments is None else arguments)
    return command("run_all.sh", lambda: run_all(arguments), _again(force))
