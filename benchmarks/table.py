"""Measuring groups, and showing what was measured."""

import datetime
import importlib
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from tabulate import tabulate

from manyviews.environment import describe_environment
from manyviews.files import read_json, write_json, write_text
from manyviews.train import resolve_device, resolve_precision

FOLDER = Path(__file__).parent
RESULTS, README = FOLDER / "results.json", FOLDER / "README.md"
BEGIN, END = "<!-- table: written by python -m benchmarks --readme -->", "<!-- end of table -->"
OF_NETWORKS = ("training", "network", "growth")  # kept for each precision: it decides what they say
NEAR, TIMES = 0.95, 3  # aims: of the rate of the network alone; of the rate of other recipes


def measure(groups: Sequence[str], repeats: int) -> dict[str, Any]:
    """Rows of each group, with what they were measured on; a group of networks names their precision."""
    results = {}
    for name in groups:
        print(f"measuring: {name}", file=sys.stderr, flush=True)
        group = importlib.import_module(f"benchmarks.{name}")
        device = resolve_device(getattr(group, "DEVICE", "auto"))
        environment = describe_environment(device, resolve_precision("auto", device))
        title = f"{name}, {environment['precision']}" if name in OF_NETWORKS else name
        results[title] = {
            "date": datetime.date.today().isoformat(),
            "repeats": repeats,
            "environment": environment,
            "rows": group.measure(repeats),
        }
    return results


def as_text(results: dict[str, Any]) -> str:
    """Markdown: for each group what it was measured on, and its table."""
    parts = []
    for title, result in results.items():
        parts += [f"### {title}", origin(result), table(result["rows"])]
        parts += aims(result["rows"]) if title.startswith("training") else []
    return "\n\n".join(parts)


def origin(result: dict[str, Any]) -> str:
    """When and where a group was measured."""
    e = result["environment"]
    commit = (e["git_commit"] or "unknown")[:7] + (" with changes" if e["git_dirty"] else "")
    return (
        f"{result['date']}, {e['device']}, {e['threads']} threads, torch {e['torch']}, "
        f"commit {commit}. Median (lowest to highest) of {result['repeats']} rounds."
    )


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each row; the first of a case is compared with the others."""
    lines = []
    for case, group in groupby(rows, by_case):
        first, *others = group
        lines.append([case, *cells(first), ""])
        lines += [["", *cells(other), ratio(first, other)] for other in others]
    headers = ("case", "who or what", "measured", "unit", "note", "first against this")
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def aims(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each aim: where it was reached, and what free views could reach."""
    cases = [{row["contender"]: row["median"] for row in of_case} for _, of_case in groupby(rows, by_case)]
    near = sum(case["ours"] >= NEAR * case["ours, network alone"] for case in cases)
    lines = [f"Aim: {NEAR} of the network alone. Reached in {near} of {len(cases)} cases."]
    for rival in (name for name in cases[0] if not name.startswith("ours")):
        measured = [case for case in cases if case[rival] is not None]
        if measured:
            now = [case["ours"] / case[rival] for case in measured]
            most = [case["ours, network alone"] / case[rival] for case in measured]
            lines.append(
                f"Aim: {TIMES} times {rival}. Reached in {sum(r >= TIMES for r in now)} of {len(now)} cases; "
                f"if our views cost nothing, it would be {min(most):.2f} to {max(most):.2f} times."
            )
    return lines


def by_case(row: dict[str, Any]) -> str:
    return row["case"]


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
