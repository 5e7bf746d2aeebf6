"""Contenders measured in turn, so that what disturbs the machine disturbs all of them alike."""

import statistics
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch


class Contender(NamedTuple):
    """One way to do the work of a case.

    Args:
        name: who does it.
        measure: does it and gives its measure, in the unit of the case.
        note: what a reader of the number must know.
    """

    name: str
    measure: Callable[[], float]
    note: str = ""


def rate(work: Callable[[], Any], amount: float) -> Callable[[], float]:
    """A measure: amount of work for each second."""

    def measured() -> float:
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return amount / (time.perf_counter() - started)

    return measured


def interleaved(case: str, unit: str, contenders: Sequence[Contender], repeats: int) -> list[dict[str, Any]]:
    """A row for each contender, from `repeats` rounds after one that does not count."""
    for contender in contenders:
        contender.measure()
    rounds = [[contender.measure() for contender in contenders] for _ in range(repeats)]
    return [
        row(case, c.name, unit, values, c.note)
        for c, values in zip(contenders, zip(*rounds, strict=True), strict=True)
    ]


def row(case: str, name: str, unit: str, values: Sequence[float], note: str = "") -> dict[str, Any]:
    """Median, lowest and highest of a contender's values."""
    return {
        "case": case,
        "contender": name,
        "unit": unit,
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "note": note,
    }


def missing(case: str, name: str, unit: str, why: str = "not installed") -> dict[str, Any]:
    """The row of a contender that cannot be measured here."""
    numbers = dict.fromkeys(("median", "low", "high"))
    return {"case": case, "contender": name, "unit": unit, **numbers, "note": why}


def is_installed(package: str) -> bool:
    return find_spec(package) is not None
