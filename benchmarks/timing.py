"""Contenders measured in turn, so that what disturbs the machine disturbs all of them alike."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from tqdm import tqdm


class Contender(NamedTuple):
    """One way to do the work of a case."""

    name: str
    measure: Callable[[], float]  # does it and gives its measure, in the unit of the case
    note: str = ""  # what a reader of the number must know


def rate(work: Callable[[], Any], amount: float, least: float = 0) -> Callable[[], float]:
    """A measure: amount of work for each second, over so many calls as take `least` seconds."""

    def measured() -> float:
        started, calls, seconds = time.perf_counter(), 0, 0.0
        while calls == 0 or seconds < least:
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            calls, seconds = calls + 1, time.perf_counter() - started
        return calls * amount / seconds

    return measured


class Timed:
    """A measure: seconds of a call, whose last result is kept."""

    def __init__(self, work: Callable[[], Any]):
        self.work, self.result = work, None

    def __call__(self) -> float:
        started = time.perf_counter()
        self.result = self.work()
        return time.perf_counter() - started


def interleaved(
    case: str, unit: str, contenders: Sequence[Contender], repeats: int, warm_up: bool = True
) -> list[dict[str, Any]]:
    """A row for each contender, from `repeats` rounds; one that does not count comes first, to warm up."""
    for contender in contenders if warm_up else ():
        contender.measure()
    values: list[list[float]] = [[] for _ in contenders]
    for index in tqdm(range(repeats), desc=case, unit="round"):
        for turn in range(len(contenders)):
            # Not always after the same one: what ran before leaves traces in memory and caches.
            place = (index + (turn if index % 2 == 0 else -turn)) % len(contenders)
            values[place].append(contenders[place].measure())
    rows = [row(case, c.name, unit, its, c.note) for c, its in zip(contenders, values, strict=True)]
    for other, its in zip(rows[1:], values[1:], strict=True):
        other |= times_as_fast(values[0], its, unit)
    return rows


def row(case: str, name: str, unit: str, values: Sequence[float], note: str = "") -> dict[str, Any]:
    """A contender's values."""
    return {"case": case, "contender": name, "unit": unit, "note": note, **spread(values)}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def times_as_fast(first: Sequence[float], other: Sequence[float], unit: str) -> dict[str, Any]:
    """How many times as fast the first of a case is, round by round: what disturbs a round disturbs both."""
    pairs = zip(other, first, strict=True) if unit == "s" else zip(first, other, strict=True)
    return {"times": spread([a / b for a, b in pairs])}
