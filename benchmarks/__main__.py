"""The command line: `python -m benchmarks --help`."""

import argparse
import os
import sys

from tabulate import tabulate

from benchmarks import gpu, guard
from benchmarks.table import GROUPS, as_text, keep, measure
from manyviews.config.errors import Arguments, command
from manyviews.runs.jobs import PROCESS_SETTINGS


def parse_arguments() -> argparse.Namespace:
    parser = Arguments(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "cases", nargs="*", metavar="CASE", help=f"guard, gpu, or some of: {', '.join(GROUPS)}"
    )
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="rounds, default 5")
    parser.add_argument("--minutes", type=float, default=8, metavar="M", help="of gpu, default 8")
    parser.add_argument("--readme", action="store_true", help="keep the results; write README.md's table")
    options = parser.parse_args()
    for name in {"guard", "gpu"} & set(options.cases):
        if len(options.cases) > 1 or options.readme:
            parser.error(f"{name} stands alone: it measures nothing that is kept")
    if options.repeats < 1:
        parser.error(f"--repeats takes a whole number from 1, not {options.repeats}")
    unknown = set(options.cases) - {"guard", "gpu", *GROUPS}
    if unknown:
        parser.error(f"unknown case '{min(unknown)}'; choose among: guard, gpu, {', '.join(GROUPS)}")
    return options


def main() -> int:
    """Measure what the command line asks for; the exit status is 1 if the guard finds a gross loss."""
    options = parse_arguments()
    if "guard" in options.cases:
        return guard.check(options.repeats)
    if "gpu" in options.cases:
        print(tabulate(gpu.measure(options.minutes), headers="keys", tablefmt="github", floatfmt=".3g"))
        return 0
    results = measure(options.cases or GROUPS, options.repeats)
    print(as_text(results))
    if options.readme:
        keep(results)
    return 0


if __name__ == "__main__":
    if not PROCESS_SETTINGS.keys() <= os.environ.keys():  # they are read when a process starts
        again = [sys.executable, "-m", "benchmarks", *sys.argv[1:]]
        os.execve(sys.executable, again, PROCESS_SETTINGS | os.environ)
    sys.exit(command("python -m benchmarks", main))
