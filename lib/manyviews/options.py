"""The options of run_all.sh: read and checked in a moment, before anything slow is imported."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from manyviews.config import ConfigError, load_profile, suggest
from manyviews.rows import ROWS, STUDIES, rows_of


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of run_all.sh; a wrong one ends the program with a message that lists the valid ones."""
    # The help text is in run_all.sh, which can show it before anything is installed.
    parser = argparse.ArgumentParser(prog="run_all.sh", add_help=False)
    parser.add_argument("--profile", default="demo", metavar="NAME")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--runs", default=",".join(rows_of("report")), metavar="A,B")
    what.add_argument("--study", metavar="NAME")
    parser.add_argument("--jobs", type=int, metavar="N")
    parser.add_argument("--seeds", metavar="0,1")
    parser.add_argument("--results", metavar="DIR", type=Path)
    parser.add_argument("--force", action="store_true")
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args(arguments)
    try:
        options.parameters = load_profile(options.profile)
    except ConfigError as error:
        parser.error(str(error))
    options.runs = options.runs.split(",")
    options.study = options.study.split(",") if options.study else []
    for kind, names, known in (("run", options.runs, list(ROWS)), ("study", options.study, STUDIES)):
        for name in names:
            if name not in known:
                hint = suggest(name, known)
                parser.error(f"unknown {kind} '{name}'; {hint}choose among: {', '.join(known)}")
    if options.jobs is not None and options.jobs < 1:
        parser.error(f"--jobs takes a whole number from 1, not {options.jobs}")
    given = options.seeds
    try:
        options.seeds = [int(seed) for seed in (given.split(",") if given else options.parameters["seeds"])]
        if not all(0 <= seed < 2**31 for seed in options.seeds):
            raise ValueError
    except ValueError:
        parser.error(f"--seeds takes whole numbers from 0, such as 0,1,2, not '{given}'")
    return options
