"""Measuring groups, and showing what was measured."""

import datetime
import importlib
import sys
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from manyviews.config.files import read_json, write_json, write_text
from manyviews.runs.environment import describe_environment, number_format
from manyviews.simclr.numerics import resolve_device, resolve_precision

FOLDER = Path(__file__).parent
RESULTS, README = FOLDER / "results.json", FOLDER / "README.md"
BEGIN, END = "<!-- table: written by python -m benchmarks --readme -->", "<!-- end of table -->"
GROUPS = ("training", "maps", "views", "network", "pipeline", "processes", "probes")
OF_NETWORKS = ("training", "network")  # kept for each precision: it decides what they say


def measure(groups: Sequence[str], repeats: int) -> dict[str, Any]:
    """Rows of each group, with what they were measured on; a group of networks names their precision."""
    results = {}
    threads = torch.get_num_threads()
    for name in groups:
        print(f"measuring: {name}", file=sys.stderr, flush=True)
        group = importlib.import_module(f"benchmarks.{name}")
        device = resolve_device(getattr(group, "DEVICE", "auto"))
        torch.set_num_threads(getattr(group, "THREADS", threads))
        environment = describe_environment(device, resolve_precision("auto"))
        title = f"{name}, {number_format(environment)}" if name in OF_NETWORKS else name
        results[title] = {
            "date": datetime.date.today().isoformat(),
            "repeats": repeats,
            "environment": environment,
            "rows": group.measure(repeats),
        }
        torch.set_num_threads(threads)
    return results


def as_text(results: dict[str, Any]) -> str:
    """Markdown: a summary, and for each group what it was measured on, and its table."""
    titles = sorted(results, key=lambda title: (GROUPS.index(title.split(",")[0]), title))
    parts = ["### In short", in_short({title: results[title]["rows"] for title in titles})]
    for title in titles:
        parts += [f"### {title}", origin(results[title]), table(results[title]["rows"])]
    return "\n\n".join(parts)


def in_short(groups: dict[str, list[dict[str, Any]]]) -> str:
    """How many times as fast ours is as each contender, over the cases of a group."""
    lines = []
    for title, rows in groups.items():
        compared = [row for row in rows if "times" in row]
        for name in dict.fromkeys(row["contender"] for row in compared):
            times = [row["times"]["median"] for row in compared if row["contender"] == name]
            lines.append([title, name, f"{min(times):.2f} to {max(times):.2f}", len(times)])
    headers = ("group", "ours, in rate or time, beside", "times as fast", "cases")
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def origin(result: dict[str, Any]) -> str:
    """When and where a group was measured."""
    e = result["environment"]
    commit = (e["git_commit"] or "unknown")[:7] + (" with changes" if e["git_dirty"] else "")
    return (
        f"{result['date']}, {e['device']}, {number_format(e)}, {e['threads']} threads, torch {e['torch']}, "
        f"commit {commit}. Median (lowest to highest) of {result['repeats']} rounds; a number alone was "
        "measured once."
    )


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each row; where they compete, the last column says how the first of a case compares."""
    lines = []
    for case, of_case in groupby(rows, itemgetter("case")):
        for index, row in enumerate(of_case):
            measured = with_range(row, lambda x: f"{x:,.0f}" if x >= 1000 else f"{x:.3g}")
            ratio = with_range(row["times"], lambda x: f"{x:.2f}x") if "times" in row else ""
            lines.append([case * (not index), row["contender"], measured, row["unit"], row["note"], ratio])
    headers = ("case", "who or what", "measured", "unit", "note", "first against this")
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def with_range(values: dict[str, Any], text: Any) -> str:
    """A median with its lowest and highest value, unless these are one."""
    median, low, high = (text(values[key]) for key in ("median", "low", "high"))
    return median if low == high else f"{median} ({low} to {high})"


def keep(results: dict[str, Any]) -> None:
    """Keep results beside those of groups that were not measured now, and renew the table in README.md."""
    results = (read_json(RESULTS) if RESULTS.exists() else {}) | results
    write_json(RESULTS, results)
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    write_text(README, f"{before}{BEGIN}\n\n{as_text(results)}\n\n{END}{after}")
