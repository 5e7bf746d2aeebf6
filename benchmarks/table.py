"""Measuring groups, and showing what was measured."""

import datetime
import importlib
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from manyviews.environment import describe_environment
from manyviews.files import read_json, write_json, write_text
from manyviews.train import resolve_device, resolve_precision

FOLDER = Path(__file__).parent
RESULTS, README = FOLDER / "results.json", FOLDER / "README.md"
BEGIN, END = "<!-- table: written by python -m benchmarks --readme -->", "<!-- end of table -->"
GROUPS = ("training", "views", "network", "growth", "pipeline", "before", "probes")
OF_NETWORKS = ("training", "network", "growth")  # kept for each precision: it decides what they say
ALONE = "ours, network alone"
PRODUCTS = "convolutions and matrix products"  # a kind of operation: see network.py
NEAR, TIMES = 0.95, 3  # aims: of the rate of the network alone; of the rate of other recipes


def measure(groups: Sequence[str], repeats: int) -> dict[str, Any]:
    """Rows of each group, with what they were measured on; a group of networks names their precision."""
    results = {}
    for name in groups:
        print(f"measuring: {name}", file=sys.stderr, flush=True)
        group = importlib.import_module(f"benchmarks.{name}")
        device = resolve_device(getattr(group, "DEVICE", "auto"))
        with threads(getattr(group, "THREADS", torch.get_num_threads())):
            environment = describe_environment(device, resolve_precision("auto", device))
            title = f"{name}, {environment['precision']}" if name in OF_NETWORKS else name
            results[title] = {
                "date": datetime.date.today().isoformat(),
                "repeats": repeats,
                "environment": environment,
                "rows": group.measure(repeats),
            }
    return results


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Compute with so many threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def as_text(results: dict[str, Any]) -> str:
    """Markdown: what was found, and for each group what it was measured on, and its table."""
    titles = sorted(results, key=lambda title: (GROUPS.index(title.split(",")[0]), title))
    parts = ["### In short", in_short({title: results[title]["rows"] for title in titles})]
    for title in titles:
        rows = results[title]["rows"]
        parts += [f"### {title}", origin(results[title]), table(rows)]
        parts += aims(rows) if title.startswith("training") else []
        parts += bounds(rows) if title.startswith("network") else []
    return "\n\n".join(parts)


def in_short(groups: dict[str, list[dict[str, Any]]]) -> str:
    """How many times as fast ours is as each contender, over the cases of a group."""
    lines = []
    for title, rows in groups.items():
        compared = [row for row in rows if "times" in row]
        for name in dict.fromkeys(row["contender"] for row in compared):
            times = [row["times"]["median"] for row in compared if row["contender"] == name]
            lines.append([title, name, numbers(min(times), max(times)), len(times)])
    headers = ("group", "ours, in rate or time, beside", "times as fast", "cases")
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def numbers(low: float, high: float) -> str:
    return f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"


def origin(result: dict[str, Any]) -> str:
    """When and where a group was measured."""
    e = result["environment"]
    commit = (e["git_commit"] or "unknown")[:7] + (" with changes" if e["git_dirty"] else "")
    return (
        f"{result['date']}, {e['device']}, {e['threads']} threads, torch {e['torch']}, "
        f"commit {commit}. Median (lowest to highest) of {result['repeats']} rounds; a number alone was "
        "measured once."
    )


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each row; where they compete, the last column says how the first of a case compares."""
    lines = []
    for case, group in groupby(rows, by_case):
        first, *others = group
        lines.append([case, *cells(first), ratio(first)])
        lines += [["", *cells(other), ratio(other)] for other in others]
    headers = ("case", "who or what", "measured", "unit", "note", "first against this")
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def aims(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each aim: in how many cases it was reached, and what free views could reach."""
    alone = {row["case"]: row["times"] for row in rows if row["contender"] == ALONE}
    lines = [f"Aim: {NEAR} of the network alone. {reached(alone.values(), NEAR)}"]
    rivals = [row for row in rows if "times" in row and not row["contender"].startswith("ours")]
    for rival in dict.fromkeys(row["contender"] for row in rivals):
        found = {row["case"]: row["times"] for row in rivals if row["contender"] == rival}
        free = [times["median"] / alone[case]["median"] for case, times in found.items()]
        lines.append(
            f"Aim: {TIMES} times {rival}. {reached(found.values(), TIMES)} If our views cost nothing, it "
            f"would be {numbers(min(free), max(free))} times."
        )
    return lines


def bounds(rows: list[dict[str, Any]]) -> list[str]:
    """What keeps the networks from the rate of a large matrix product; a line, where it can be told."""
    compared = [row for row in reversed(rows) if "times" in row]  # the first, of its precision, is kept
    times = {row["case"].split(": ", 1)[1]: row["times"]["median"] for row in compared}
    shares = {(row["case"].split(": ", 1)[1], row["contender"]): row["median"] for row in rows}
    networks = [name for name in times if (name, PRODUCTS) in shares]
    if not networks:
        return []
    alone = [times[name] / (shares[name, PRODUCTS] / 100) for name in networks]
    light = [shares[name, "BatchNorm"] + shares[name, "ReLU"] for name in networks]
    return [
        f"Convolutions and products of the networks, timed without all else, reach at least "
        f"{numbers(min(alone), max(alone))} of the large product; time between operations is in no share. "
        f"BatchNorm and ReLU take {min(light):.0f} to {max(light):.0f} % of the time."
    ]


def reached(found: Collection[dict[str, float]], aim: float) -> str:
    """In how many cases all rounds reach the aim, and in how many only some; by medians, if these are all."""
    sure = sum(times["low"] >= aim for times in found)
    if all(times["low"] == times["high"] for times in found):
        return f"Reached in {sure} of {len(found)} cases, by medians."
    open_ = sum(times["low"] < aim <= times["high"] for times in found)
    return f"Reached in {sure} of {len(found)} cases, undecided in {open_}."


def by_case(row: dict[str, Any]) -> str:
    return row["case"]


def cells(row: dict[str, Any]) -> tuple[str, str, str, str]:
    if row["median"] is None:
        return row["contender"], "", "", row["note"]
    median, low, high = (
        f"{row[key]:,.0f}" if row[key] >= 1000 else f"{row[key]:.3g}" for key in ("median", "low", "high")
    )
    measured = median if low == high else f"{median} ({low} to {high})"
    return row["contender"], measured, row["unit"], row["note"]


def ratio(row: dict[str, Any]) -> str:
    """How many times as fast the first of the case is; see timing.times_as_fast."""
    if "times" not in row:
        return ""
    median, low, high = (row["times"][key] for key in ("median", "low", "high"))
    return f"{median:.2f}x" if low == high else f"{median:.2f}x ({low:.2f} to {high:.2f})"


def keep(results: dict[str, Any]) -> None:
    """Keep results beside those of groups that were not measured now, and renew the table in README.md."""
    results = (read_json(RESULTS) if RESULTS.exists() else {}) | results
    write_json(RESULTS, results)
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    write_text(README, f"{before}{BEGIN}\n\n{as_text(results)}\n\n{END}{after}")
