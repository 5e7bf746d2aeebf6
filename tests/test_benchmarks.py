"""The benchmarks' tables: which way a ratio goes, and what is told of a contender that is not there."""

import re
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import __main__ as command_line
from benchmarks import guard, network, pipeline, probes, table, training
from benchmarks.timing import Contender, interleaved, missing, rate, row
from manyviews.models import count_multiply_adds
from manyviews.train import make_model


def line_of(name: str, rows: list[dict]) -> str:
    return next(line for line in table.table(rows).splitlines() if name in line)


def compete(case: str, unit: str, rounds: dict[str, list[float]]) -> list[dict]:
    """Rows of contenders with given values, one for each round."""
    contenders = [Contender(name, iter(values).__next__) for name, values in rounds.items()]
    return interleaved(case, unit, contenders, len(next(iter(rounds.values()))), warm_up=False)


@pytest.mark.parametrize(("unit", "ours", "theirs"), [("views/s", 600.0, 200.0), ("s", 2.0, 6.0)])
def test_three_times_as_fast_is_written_so(unit, ours, theirs):
    rows = compete("case", unit, {"ours": [ours], "other": [theirs]})
    assert line_of("other", rows).rstrip(" |").endswith(" 3.00x")


def test_what_slows_a_round_does_not_change_the_ratio():
    """The machine runs at half its pace in the second round, and both with it."""
    rows = compete("case", "views/s", {"ours": [400.0, 200.0, 404.0], "other": [200.0, 100.0, 200.0]})
    assert rows[1]["times"] == {"median": 2.0, "low": 2.0, "high": 2.02}
    assert "2.00x (2.00 to 2.02)" in line_of("other", rows)


def test_rows_that_do_not_compete_are_not_compared():
    rows = [row("growth", name, "s", [value]) for name, value in (("images: 1", 1.0), ("images: 4", 4.0))]
    assert "x |" not in line_of("images: 4", rows)


def test_a_single_measurement_shows_no_spread():
    assert "| 1.5 " in line_of("once", [row("case", "once", "s", [1.5])])
    assert "| 1.5 (1 to 2) " in line_of("often", [row("case", "often", "s", [1.0, 1.5, 2.0])])


def test_a_measurement_lasts_as_long_as_it_must():
    calls = []
    per_second = rate(lambda: calls.append(time.sleep(0.01)), amount=3, least=0.1)()
    assert 5 <= len(calls) <= 10
    assert 100 < per_second <= 300


def test_a_package_that_is_missing_is_shown():
    rows = [row("case", "ours", "s", [1.0]), missing("case", "kornia", "s")]
    line = line_of("kornia", rows)
    assert "not installed" in line
    assert "x |" not in line


def test_aims_are_judged_from_the_numbers():
    """500 views a second of 510 are near, 3.3 times another's rate reach the aim, 2 times miss it."""
    ours, alone, lightly, pil = "ours", "ours, network alone", "lightly's recipe", "PIL recipe, bfloat16"
    rows = [
        *compete("a", "views/s", {ours: [500, 500], alone: [510, 510], lightly: [150, 150]}),
        missing("a", pil, "views/s"),
        *compete("b", "views/s", {ours: [400, 400], alone: [600, 601], lightly: [200, 201], pil: [100, 140]}),
    ]
    of_network, of_lightly, of_pil = table.aims(rows)
    assert "Reached in 1 of 2 cases, undecided in 0." in of_network
    assert "Reached in 1 of 2 cases, undecided in 0." in of_lightly
    assert "3.00 to 3.40 times" in of_lightly
    assert (
        "Reached in 1 of 1 cases, by medians."
        in table.aims(compete("c", "views/s", {ours: [1], alone: [1]}))[0]
    )
    assert "Reached in 0 of 1 cases, undecided in 1." in of_pil
    summary = table.in_short({"training": rows})
    assert re.search(r"training +\| lightly's recipe +\| 2.00 to 3.33 +\| 2 ", summary)


def test_what_bounds_a_network_is_read_off_its_shares():
    """It runs at 0.4 of the product's rate and spends 80 % of its time in products: these run at 0.5."""
    rows = compete("network: A", "GFLOP/s", {"ours": [40.0], "matrix product, float32": [100.0]})
    shares = {"convolutions and matrix products": 80.0, "BatchNorm": 9.0, "ReLU": 3.0, "all else": 8.0}
    rows += [row("time of: A", kind, "%", [share]) for kind, share in shares.items()]
    (line,) = table.bounds(rows)
    assert "reach at least 0.50 of the large product" in line
    assert "BatchNorm and ReLU take 12 to 12 %" in line
    assert table.bounds(rows[:2]) == []  # a GPU gives no shares


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
    forward = count_multiply_adds(make_model(training.make_config(small)), small.size)
    of_images = 2 * 3 * 4 * 3 * 3 * small.size**2  # 3 to 4 channels, 3 x 3
    assert 6 * forward - of_images <= counted <= 1.02 * (6 * forward - of_images)


def test_a_command_that_fails_shows_what_it_said():
    with pytest.raises(RuntimeError, match="ended with 3:\nthe reason"):
        pipeline.timed([sys.executable, "-c", "print('the reason'); raise SystemExit(3)"])


def test_a_group_can_name_its_threads(monkeypatch):
    group = SimpleNamespace(THREADS=1, measure=lambda repeats: [{"threads": torch.get_num_threads()}])
    monkeypatch.setattr(table.importlib, "import_module", lambda _: group)
    before = torch.get_num_threads()
    (result,) = table.measure(["views"], repeats=1).values()
    assert result["environment"]["threads"] == result["rows"][0]["threads"] == 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repeats", "0"], "--repeats takes a whole number from 1, not 0"),
        (["guard", "views"], "guard stands alone"),
        (["guard", "--readme"], "guard stands alone"),
        (["view"], "unknown case 'view'; choose among: guard, training"),
    ],
)
def test_a_wrong_option_is_told(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit):
        command_line.parse_arguments()
    assert message in capsys.readouterr().err


def test_new_results_keep_those_of_other_groups(tmp_path, monkeypatch):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    monkeypatch.setattr(table, "README", readme)
    monkeypatch.setattr(table, "RESULTS", tmp_path / "results.json")
    group = SimpleNamespace(measure=lambda repeats: [])
    monkeypatch.setattr(table.importlib, "import_module", lambda _: group)
    for name in ("probes", "views"):
        table.keep(table.measure([name], repeats=1))
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert text.index("### views") < text.index("### probes")
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
        "ours",
        "scikit-learn",
        "ours",
        "scikit-learn, as in the report",
    ]
    assert rows[1]["note"].startswith("20 of 20 predictions equal to ours")
    assert rows[2]["note"].startswith("converged")
    assert {r["case"].split(", ")[-1] for r in rows} == {"trained backbone", "random backbone"}
