"""The benchmarks' tables: which way a ratio goes, and how rounds are taken."""

import re
import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks import __main__ as command_line
from benchmarks import guard, network, pipeline, probes, table, training
from benchmarks.timing import Contender, interleaved
from manyviews.config.schema import ConfigError
from manyviews.simclr.models import count_macs


def line_of(name: str, rows: list[dict]) -> str:
    return next(line for line in table.table(rows).splitlines() if name in line)


def compete(unit: str, rounds: dict[str, list[float]]) -> list[dict]:
    """Rows of contenders with given values, one for each round."""
    contenders = [Contender(name, iter(values).__next__) for name, values in rounds.items()]
    return interleaved("case", unit, contenders, len(next(iter(rounds.values()))), warm_up=False)


@pytest.mark.parametrize(("unit", "ours", "theirs"), [("views/s", 600.0, 200.0), ("s", 2.0, 6.0)])
def test_three_times_as_fast_is_written_so(unit, ours, theirs):
    rows = compete(unit, {"ours": [ours], "other": [theirs]})
    assert line_of("other", rows).rstrip(" |").endswith(" 3.00x")
    assert "(" not in line_of("other", rows)  # a single measurement shows no spread
    assert "| other " in table.in_short({"views": rows})
    assert "x |" not in line_of("ours", rows)


def test_what_slows_a_round_does_not_change_the_ratio():
    """The machine runs at half its pace in the second round, and both with it."""
    rows = compete("views/s", {"ours": [400.0, 200.0, 404.0], "other": [200.0, 100.0, 200.0]})
    assert rows[1]["times"] == {"median": 2.0, "low": 2.0, "high": 2.02}
    assert "| 200 (100 to 200) " in line_of("other", rows)
    assert "2.00x (2.00x to 2.02x)" in line_of("other", rows)


def test_contenders_take_turns_and_the_first_round_does_not_count():
    calls = []
    contenders = [Contender(name, lambda name=name: calls.append(name) or len(calls)) for name in "abc"]
    rows = interleaved("case", "s", contenders, 3)
    assert "".join(calls) == "abc" + "abc" + "bac" + "cab"
    assert [(r["low"], r["median"], r["high"]) for r in rows] == [(4, 8, 11), (5, 7, 12), (6, 9, 10)]


@pytest.mark.parametrize(("alone", "status"), [(120.0, 0), (130.0, 1)])
def test_the_guard_stops_a_gross_loss(monkeypatch, alone, status):
    """100 views a second are 0.83 and 0.77 of the network's own rate; 0.8 is wanted."""
    pair = [Contender("ours", lambda: 100.0), Contender("ours, network alone", lambda: alone)]
    monkeypatch.setattr(guard, "ours", lambda *_: pair)
    assert guard.check(repeats=1) == status


def test_operations_of_a_step_are_six_for_each_multiply_add_of_the_forward_pass():
    """But for the gradient of the images, which nobody asks for, and the loss, which is small beside it."""
    small = training.Network(18, "conv3", 4, 16, steps=1)
    _, alone = training.ours(small, training.random_images(small))
    counted = network.operations(alone.measure) / (2 * training.BATCH)
    forward = count_macs(training.make_model(small, torch.device("cpu")), small.size)
    of_images = 2 * 3 * 4 * 3 * 3 * small.size**2  # 3 to 4 channels, 3 x 3
    assert 6 * forward - of_images <= counted <= 1.02 * (6 * forward - of_images)


def test_a_command_that_fails_shows_what_it_said():
    with pytest.raises(RuntimeError, match="ended with 3:\nthe reason"):
        pipeline.timed([sys.executable, "-c", "print('the reason'); raise SystemExit(3)"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repeats", "0"], "--repeats takes a whole number from 1, not 0"),
        (["guard", "--readme"], "guard stands alone"),
        (["view"], "unknown case 'view'; choose among: guard, gpu, training"),
    ],
)
def test_a_wrong_option_is_told(arguments, message, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(ConfigError, match=re.escape(message)):
        command_line.parse_arguments()


def test_new_results_keep_those_of_other_groups(tmp_path, monkeypatch):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    monkeypatch.setattr(table, "README", readme)
    monkeypatch.setattr(table, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(
        table.importlib, "import_module", lambda _: SimpleNamespace(measure=lambda repeats: [])
    )
    for name in ("probes", "views"):
        table.keep(table.measure([name], repeats=1))
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert text.index("### views") < text.index("### probes")
    assert "old" not in text


def test_the_probes_are_compared_on_the_same_features(monkeypatch):
    """Three classes far apart: both k-NN agree on every query, and the linear fit converges."""
    labels = torch.arange(60) % 3
    noise = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    features = 10 * torch.eye(3, 8)[labels] + noise
    sample = {"fit": features, "fit_labels": labels, "queries": features[:20], "query_labels": labels[:20]}
    monkeypatch.setattr(probes, "load", lambda backbone: sample)
    monkeypatch.setattr(probes, "SIZES", ((3, 20),))
    rows = probes.measure(repeats=1)
    assert rows[1]["note"].startswith("20 of 20 predictions equal to ours")
    assert rows[2]["note"] == "converged, accuracy 1.0000"
    assert {r["case"].split(", ")[-1] for r in rows} == {"trained backbone", "random backbone"}
