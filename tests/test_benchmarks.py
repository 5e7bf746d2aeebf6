"""The benchmarks' tables: which way a ratio goes, and what is told of a contender that is not there."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import guard, probes, table
from benchmarks.timing import Contender, interleaved, missing, row


def line_of(name: str, rows: list[dict]) -> str:
    return next(line for line in table.table(rows).splitlines() if name in line)


@pytest.mark.parametrize(("unit", "ours", "theirs"), [("views/s", 600.0, 200.0), ("s", 2.0, 6.0)])
def test_three_times_as_fast_is_written_so(unit, ours, theirs):
    rows = [row("case", name, unit, [value]) for name, value in (("ours", ours), ("other", theirs))]
    assert "3.00x" in line_of("other", rows)


def test_a_package_that_is_missing_is_shown():
    rows = [row("case", "ours", "s", [1.0]), missing("case", "kornia", "s")]
    line = line_of("kornia", rows)
    assert "not installed" in line
    assert "x |" not in line


def test_aims_are_judged_from_the_numbers():
    """500 views a second of 510 are near; 3.3 times another's rate reaches the aim, 2 times misses it."""
    cases = {"a": (500, 510, 150, None), "b": (400, 600, 200, 100)}
    names = ("ours", "ours, network alone", "lightly's recipe", "PIL recipe, bfloat16")
    rows = [
        missing(case, name, "views/s") if value is None else row(case, name, "views/s", [value])
        for case, values in cases.items()
        for name, value in zip(names, values, strict=True)
    ]
    near, lightly, pil = table.aims(rows)
    assert "Reached in 1 of 2" in near
    assert "Reached in 1 of 2" in lightly
    assert "3.00 to 3.40 times" in lightly
    assert "Reached in 1 of 1" in pil


def test_contenders_take_turns_and_the_first_round_does_not_count():
    calls = []
    contenders = [Contender(name, lambda name=name: calls.append(name) or len(calls)) for name in "ab"]
    rows = interleaved("case", "s", contenders, 3)
    assert calls == ["a", "b"] * 4
    assert [(r["low"], r["median"], r["high"]) for r in rows] == [(3, 5, 7), (4, 6, 8)]


@pytest.mark.parametrize(("alone", "status"), [(120.0, 0), (130.0, 1)])
def test_the_guard_stops_a_gross_loss(monkeypatch, alone, status):
    """100 views a second are 0.83 and 0.77 of the network's own rate; 0.8 is wanted."""
    pair = [Contender("ours", lambda: 100.0), Contender("ours, network alone", lambda: alone)]
    monkeypatch.setattr(guard, "ours", lambda *_: pair)
    assert guard.check(repeats=1) == status


def test_new_results_keep_those_of_other_groups(tmp_path, monkeypatch):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    monkeypatch.setattr(table, "README", readme)
    monkeypatch.setattr(table, "RESULTS", tmp_path / "results.json")
    group = SimpleNamespace(measure=lambda repeats: [])
    monkeypatch.setattr(table.importlib, "import_module", lambda _: group)
    for name in ("one", "two"):
        table.keep(table.measure([name], repeats=1))
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "### one" in text
    assert "### two" in text
    assert "old" not in text


def test_the_probes_are_compared_on_the_same_features(monkeypatch):
    """Three classes far apart: both k-NN agree on every query, and the linear fit converges."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    features = (10 * np.eye(3, 8)[labels] + rng.normal(size=(60, 8))).astype(np.float32)
    sample = {"fit": features, "fit_labels": labels, "queries": features[:20], "query_labels": labels[:20]}
    monkeypatch.setattr(probes.probe_features, "load", lambda backbone: sample)
    monkeypatch.setattr(probes, "SIZES", ((3, 20),))
    rows = probes.measure(repeats=1)
    assert [r["contender"] for r in rows[:4]] == [
        "manyviews",
        "scikit-learn",
        "manyviews",
        "scikit-learn, as in the report",
    ]
    assert rows[1]["note"].startswith("20 of 20 predictions equal to ours")
    assert rows[2]["note"].startswith("converged")
    assert {r["case"].split(", ")[-1] for r in rows} == {"trained backbone", "random backbone"}
