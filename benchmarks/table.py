"""Measuring groups, and showing what was measured."""

import datetime
import importlib
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from manyviews.environment import describe_environment
from manyviews.files import read_json, write_json, write_text
from manyviews.train import resolve_precision

FOLDER = Path(__file__).parent
RESULTS, README = FOLDER / "results.json", FOLDER / "README.md"
BEGIN, END = "<!-- table: written by python -m benchmarks --readme -->", "<!-- end of table -->"


def measure(groups: Sequence[str], repeats: int) -> dict[str, Any]:
    """Rows of each group, with what they were measured on."""
    device = torch.device("cpu")
    results = {}
    for name in groups:
        print(f"measuring: {name}", file=sys.stderr, flush=True)
        results[name] = {
            "date": datetime.date.today().isoformat(),
            "repeats": repeats,
            "environment": describe_environment(device, resolve_precision("auto", device)),
            "rows": importlib.import_module(f"benchmarks.{name}").measure(repeats),
        }
    return results


def as_text(results: dict[str, Any]) -> str:
    """Markdown: for each group what it was measured on, and its table."""
    return "\n\n".join(
        f"### {name}\n\n{origin(result)}\n\n{table(result['rows'])}" for name, result in results.items()
    )


def origin(result: dict[str, Any]) -> str:
    """When and where a group was measured."""
    e = result["environment"]
    return (
        f"{result['date']}, {e['device']}, {e['threads']} threads, torch {e['torch']}, commit "
        f"{(e['git_commit'] or 'unknown')[:7]}{' with changes' if e['git_dirty'] else ''}. Median (lowest to "
        f"highest) of {result['repeats']} rounds."
    )


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each row; the first of a case is compared with the others."""
    lines = []
    for case, group in groupby(rows, key=lambda row: row["case"]):
        first, *others = group
        lines.append([case, *cells(first), ""])
        lines += [["", *cells(other), ratio(first, other)] for other in others]
    headers = ("case", "who or what", "measured", "unit", "note", "first against this")
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def cells(row: dict[str, Any]) -> tuple[str, str, str, str]:
    if row["median"] is None:
        return row["contender"], "", "", row["note"]
    numbers = [
        f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
        for value in (row["median"], row["low"], row["high"])
    ]
    return row["contender"], "{} ({} to {})".format(*numbers), row["unit"], row["note"]


def ratio(first: dict[str, Any], other: dict[str, Any]) -> str:
    """How many times as fast the first is: its rate over the other's, or the other's time over its own."""
    if first["unit"] not in ("views/s", "s") or None in (first["median"], other["median"]):
        return ""
    times = first["median"] / other["median"]
    return f"{times if first['unit'] == 'views/s' else 1 / times:.2f}x"


def keep(results: dict[str, Any]) -> None:
    """Keep results beside those of groups that were not measured now, and renew the table in README.md."""
    results = (read_json(RESULTS) if RESULTS.exists() else {}) | results
    write_json(RESULTS, results)
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    write_text(README, f"{before}{BEGIN}\n\n{as_text(results)}\n\n{END}{after}")
