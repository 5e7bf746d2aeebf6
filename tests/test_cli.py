"""run_all.sh: its options, which jobs it does, what is kept, and how failures are told."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from manyviews import cli
from manyviews.cli import parse_arguments, run_notebook
from manyviews.config import paths
from manyviews.config.files import write_json
from manyviews.config.profiles import keep_profile, load_profile, profile_names, with_data
from manyviews.config.runs import configure, run_specs
from manyviews.config.schema import ConfigError
from manyviews.config.surroundings import BUSY, TIME_IS_OVER, seconds_left
from manyviews.data import dataset
from manyviews.data.dataset import DataError, recognised
from manyviews.report import pages
from manyviews.runs import jobs
from manyviews.runs.store import RunState, partial_folder, state_of


@pytest.fixture(autouse=True)
def _results(tmp_path, monkeypatch):
    monkeypatch.setenv("MANYVIEWS_RESULTS", str(tmp_path / "results"))


@pytest.fixture
def notebooks(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path)
    return tmp_path


def make_notebook(folder: Path, name: str, *sources: str) -> None:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), folder / f"{name}.ipynb")


PARAMETERS = {"profile": "smoke", "seed": 3}


def test_an_executed_notebook_is_kept_without_time_stamps_and_bars_and_is_the_same_file_twice(notebooks):
    source = "import sys\nprint(seed, file=sys.stderr)\nprint(seed)"
    make_notebook(notebooks, "good", "profile = ''\nseed = 0", source)
    outputs = [notebooks / f"out/{time}.ipynb" for time in ("first", "second")]
    for output in outputs:
        assert run_notebook("good", output, PARAMETERS) == ""
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    executed = nbformat.read(outputs[0], as_version=4)
    assert "papermill" not in executed.metadata
    assert [o.name for o in executed.cells[-1].outputs] == ["stdout"]
    assert executed.cells[-1].outputs[0].text == "3\n"
    assert list(notebooks.glob("results/smoke/logs/*")) == []


def test_a_failure_names_notebook_cell_and_log_and_does_not_replace_an_earlier_success(notebooks):
    output = notebooks / "out/notebook.ipynb"
    make_notebook(notebooks, "one", "profile = ''\nseed = 0", "print(seed)")
    assert run_notebook("one", output, PARAMETERS) == ""
    before = output.read_bytes()
    make_notebook(notebooks, "one", "profile = ''\nseed = 0", "raise ValueError('lr too high')")
    reason = run_notebook("one", output, PARAMETERS)
    assert re.match(r"one, cell \[3\]: ValueError: lr too high\n  log: (.*)", reason)
    assert Path(reason.rsplit("log: ", 1)[1]).exists()
    assert output.read_bytes() == before


def test_an_unknown_parameter_is_fatal_in_a_real_notebook(tmp_path):
    """Papermill alone would warn, and run with the defaults."""
    reason = run_notebook("02_baseline", tmp_path / "out.ipynb", {"profile": "smoke", "sed": 3})
    assert "ConfigError: unknown parameter 'sed': did you mean 'seed'?" in reason


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--profile", "dmo"],
            r"unknown profile 'dmo'; did you mean 'demo'\? choose among: demo, imagenet-200, paper",
        ),
        (
            ["--runs", "baseline,view8"],
            r"unknown run 'view8'; did you mean 'views8'\? choose among: base",
        ),
        (
            ["--study", "control"],
            r"unknown study 'control'; did you mean 'controls'\? choose among: c",
        ),
        (["--study", "controls", "--runs", "baseline"], "not allowed with"),
        (["--jobs", "0"], "--jobs takes a whole number from 1"),
        (
            ["--jobs", "two"],
            "argument --jobs: invalid int value: 'two'; `run_all.sh --help` lists the options",
        ),
        (["smoke"], "unrecognized arguments: smoke"),
        (["--seeds", "0,x"], "--seeds takes whole numbers"),
        (["--seeds", "-1"], "--seeds takes whole numbers from 0, such as 0,1,2, not '-1'"),
        (["--sed", "1"], "unrecognized arguments: --sed"),
        (
            ["--data", "/nowhere"],
            "/nowhere: is not there; it must have one of these: a folder for each class",
        ),
        (["--results", "/dev/null/x"], "/dev/null/x/demo: cannot hold results .*give another --results"),
        (["--results", f"/tmp/{'x' * 300}"], "cannot hold results .File name too long"),
    ],
)
def test_a_wrong_option_lists_the_valid_ones(arguments, message, capsys):
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(f"run_all.sh: error: .*{message}.*\n", said)


def test_images_too_few_for_a_batch_are_refused_before_anything_is_timed(tmp_path, monkeypatch, capsys):
    """Four classes of three pictures; with $, ^ and | in their names, which no message alters."""
    monkeypatch.setenv("MANYVIEWS_DATA", str(tmp_path))
    for name in ("a$b^c", "$x^2$", "p|q", "{e} f"):
        (tmp_path / "few" / name).mkdir(parents=True)
        for shade in range(3):
            Image.new("RGB", (16, 16), (90 * shade, 9, 9)).save(tmp_path / "few" / name / f"{shade}.png")
    assert cli.main(["--profile", "smoke", "--data", str(tmp_path / "few")]) == 2
    told = capsys.readouterr().err
    assert "error: profile 'smoke-few', run 'baseline': training.batch_size 16 puts 16 images" in told


def test_a_folder_may_have_braces_in_its_name(notebooks, monkeypatch):
    """Papermill alone would take them for a template."""
    folder = notebooks / "{profile}{0}"
    folder.mkdir()
    monkeypatch.setattr(paths, "NOTEBOOKS", folder)
    monkeypatch.setenv("MANYVIEWS_RESULTS", str(folder))
    make_notebook(folder, "one", "profile = ''\nseed = 0", "print(seed)")
    assert run_notebook("one", folder / "out.ipynb", PARAMETERS) == ""
    assert (folder / "out.ipynb").exists()


def test_a_start_clears_the_log_of_a_notebook_whose_process_was_killed(notebooks, monkeypatch):
    """Its kernel kills the process that runs it."""
    make_notebook(notebooks, "one", "profile = ''\nseed = 0", "import os\nos.kill(os.getppid(), 9)")
    child = os.fork()
    if child == 0:
        run_notebook("one", notebooks / "out.ipynb", PARAMETERS)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    logs = notebooks / "results/smoke/logs"
    assert len(list(logs.iterdir())) == 1
    monkeypatch.setattr(cli, "run_jobs", lambda options: [TIME_IS_OVER])
    assert cli.main(["--profile", "smoke"]) == 75
    assert list(logs.iterdir()) == []


def test_a_killed_kernel_is_told_in_a_sentence(notebooks):
    make_notebook(notebooks, "one", "profile = ''\nseed = 0", "import os\nos.kill(os.getpid(), 9)")
    assert "one: its kernel was killed" in run_notebook("one", notebooks / "out.ipynb", PARAMETERS)


def test_a_notebook_shows_an_expected_failure_as_one_sentence(notebooks):
    source = "from manyviews.config.profiles import load_profile\nload_profile('dmo')"
    make_notebook(notebooks, "one", "profile = ''\nseed = 0", source)
    reason = run_notebook("one", notebooks / "out.ipynb", PARAMETERS)
    executed = nbformat.read(reason.rsplit("log: ", 1)[1], as_version=4)
    (shown,) = [
        out.traceback for cell in executed.cells for out in cell.get("outputs", []) if "traceback" in out
    ]
    assert len(shown) == 1
    assert shown[0].startswith("ConfigError: unknown profile 'dmo'; did you mean 'demo'?")


def test_the_script_may_be_called_by_sh_and_with_a_cdpath(tmp_path):
    command = ["sh", "run_all.sh", "--help"]
    variables = {"PATH": os.environ["PATH"], "CDPATH": f"{tmp_path}:{paths.ROOT.parent}"}
    done = subprocess.run(command, cwd=paths.ROOT, env=variables, capture_output=True, text=True, check=True)
    assert "smoke" in done.stdout
    assert done.stderr == ""


def test_options_are_checked_without_the_libraries_of_training():
    """They take seconds to import, for which a mistyped name need not wait."""
    command = [sys.executable, "-X", "importtime", "-m", "manyviews", "--profile", "dmo"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    imported = set(re.findall(r"\| +([\w.]+)$", done.stderr, re.MULTILINE))
    assert "manyviews.cli" in imported
    assert not {"torch", "pandas", "papermill", "matplotlib", "sklearn"} & imported


def test_seeds_and_runs_default_to_the_profiles_and_the_originals():
    assert parse_arguments(["--profile", "demo"]).seeds == [0]
    options = parse_arguments(["--profile", "tiny-imagenet-tenth"])
    assert options.seeds == [0, 1, 2]
    assert options.runs == ["baseline", "resnet34", "views8", "supervised"]
    assert parse_arguments(["--profile", "demo", "--seeds", "4"]).seeds == [4]
    studied = parse_arguments(["--study", "scaling,controls"])
    assert set(studied.runs) == {*run_specs().of_study("scaling"), *run_specs().of_study("controls")}


@pytest.fixture
def done(monkeypatch):
    """Titles of the jobs, each of which leaves behind what it would."""
    titles = []

    def fake(jobs, at_once, scheduler=""):
        for job in jobs:
            titles.append(job.title)
            if job.config is not None:
                folder = paths.run_folder(job.config.profile, job.config.run, job.config.seed)
                write_json(folder / "config.json", job.config.model_dump(mode="json"))
                write_json(folder / "summary.json", {})
                (folder / "rerun").unlink(missing_ok=True)
            output = job.work.args[1] if job.work.func is run_notebook else None
            if output is not None:
                output.parent.mkdir(parents=True, exist_ok=True)
                nbformat.write(nbformat.v4.new_notebook(), output)
            if job.title == "the data":
                write_json(output.with_name("raw_pixels.json"), {})
        return []

    monkeypatch.setattr(jobs, "do_jobs", fake)
    monkeypatch.setattr(pages, "export_page", lambda *_: None)  # so no answers, of runs that hold nothing
    return titles


def test_it_makes_what_is_missing_and_keeps_what_is_there(done):
    arguments = ["--profile", "smoke", "--runs", "baseline,sgd"]
    assert cli.main(arguments) == 0
    assert [title.split("(")[-1] for title in done] == [
        "the data",
        "baseline), seed 0",
        "sgd), seed 0",
        "methods",
        "report",
    ]
    done.clear()
    assert cli.main(arguments) == 0
    assert done == ["methods", "report"]
    assert cli.main([*arguments, "--force"]) == 0
    assert len(done) == 2 + 5
    assert state_of(paths.run_folder("smoke", "baseline", 0)) is RunState.COMPLETE


def test_a_run_that_stands_in_for_another_is_made_though_it_was_not_asked_for(done):
    """In this profile 32 distinct views are as many as fresh ones: the baseline's training."""
    assert cli.main(["--profile", "smoke", "--runs", "distinct32", "--seeds", "0,1,0"]) == 0
    assert done[1:-2] == [f"ResNet-18, 2 views (baseline), seed {seed}" for seed in (0, 1)]


def test_the_longest_runs_are_begun_first_and_before_them_what_trains_nothing(done):
    """Four times the epochs at twice the width, then eight times the epochs, then eight views an epoch."""
    assert cli.main(["--profile", "smoke", "--runs", "baseline"]) == 0
    (paths.run_folder("smoke", "baseline", 0) / "notebook.ipynb").unlink()
    done.clear()
    names = ["baseline", "length_half", "length_8", "views8", "views8", "resnet34", "width_2_4"]
    assert cli.main(["--profile", "smoke", "--runs", ",".join(names)]) == 0
    begun = [title.split("(")[-1].split(")")[0] for title in done]
    assert sorted(begun[:2]) == ["baseline", "the data"]
    assert begun[2:-2] == ["width_2_4", "length_8", "views8", "resnet34", "length_half"]


def test_a_list_of_runs_forces_none(done, capsys):
    assert cli.main(["--profile", "smoke", "--list-runs", "--force"]) == 2
    assert "--list-runs only prints" in capsys.readouterr().err


@pytest.fixture
def npz(tmp_path):
    """A folder of arrays."""
    folder = tmp_path / "My pictures: été"
    folder.mkdir()
    for name in ("train", "val", "ood"):
        np.savez(folder / f"{name}.npz", images=np.full((20, 16, 16, 3), 9, np.uint8), labels=[0, 1] * 10)
    return folder


def test_data_takes_the_place_of_the_profiles_and_has_results_of_its_own(done, npz):
    assert cli.main(["--profile", "smoke", "--data", str(npz), "--runs", "baseline"]) == 0
    config = json.loads((paths.run_folder("smoke-my-pictures-t", "baseline", 0) / "config.json").read_text())
    assert (config["data"]["name"], config["data"]["path"]) == ("folder", str(npz))
    assert config["data"]["classes"] is None
    assert load_profile("smoke-my-pictures-t").training == load_profile("smoke").training
    done.clear()
    assert cli.main(["--profile", "smoke-my-pictures-t", "--report"]) == 0, "known by its name from now on"
    assert done == ["methods", "report"]
    assert not (paths.results_root() / "smoke").exists()


def test_of_its_own_kind_of_data_a_profile_keeps_the_limits(npz):
    """So that --data says where ImageNet lies, and the profile how much of it is taken."""
    (npz / "train.npz").unlink()
    (npz / "n01").mkdir()
    data = parse_arguments(["--profile", "imagenet-200", "--data", str(npz)]).profile.data
    assert data == load_profile("imagenet-200").data.model_copy(update={"path": str(npz)})


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda path: (path / "train_images.npy").write_bytes(b""), "folder"),
        (lambda path: (path / "wnids.txt").write_text(""), "tiny-imagenet"),
        (
            lambda path: [(path / "tiny").mkdir(), (path / "tiny" / "wnids.txt").write_text("")],
            "tiny-imagenet",
        ),
        (lambda path: (path / "cat").mkdir(), "images"),
    ],
)
def test_what_lies_there_is_recognised(tmp_path, make, name):
    make(tmp_path)
    assert recognised(tmp_path) == name
    archive = Path(shutil.make_archive(tmp_path.parent / "packed", "zip", tmp_path))
    if name == "tiny-imagenet":
        assert recognised(archive) == name
    else:
        with pytest.raises(DataError, match=r"packed.zip: has none of these: .*class.*npz.*wnids.txt"):
            recognised(archive)


def test_a_damaged_zip_and_links_in_a_circle_are_refused_by_name(tmp_path, capsys):
    archive, link = tmp_path / "cut.zip", tmp_path / "link"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("wnids.txt", "x" * 100)
    archive.write_bytes(archive.read_bytes().replace(b"PK\x01\x02", b"PK\x00\x00"))
    link.symlink_to(link)
    for path, said in ((archive, "cut.zip: a damaged zip"), (link, "link: ")):
        assert cli.main(["--profile", "smoke", "--data", str(path)]) == 2
        assert said in capsys.readouterr().err


def test_images_of_another_folder_do_not_take_the_place_of_a_profile_s(tmp_path, monkeypatch):
    monkeypatch.setenv("MANYVIEWS_RESULTS", str(tmp_path))
    profile = load_profile("smoke")
    keep_profile(with_data(profile, "images", tmp_path / "a" / "mine"))
    keep_profile(with_data(profile, "images", tmp_path / "a" / "mine"))
    with pytest.raises(ConfigError, match=r"profile.yaml: is of the images at .*a/mine, not of those at"):
        keep_profile(with_data(profile, "images", tmp_path / "b" / "Mine"))


def test_data_that_are_of_no_kind_are_refused_before_any_work(done, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert cli.main(["--profile", "smoke", "--data", str(tmp_path / "empty")]) == 2
    assert f"{tmp_path / 'empty'}: has none of these: a folder for each class" in capsys.readouterr().err
    assert done == []


def test_a_report_is_written_from_the_runs_there_are(done):
    assert cli.main(["--profile", "smoke", "--report", "--study", "controls"]) == 0
    assert done == ["controls", "probes", "literature", "methods", "report"]


def test_another_configuration_is_an_error_before_any_work(done, capsys):
    """The message names the key; no traceback."""
    config = configure("baseline", load_profile("smoke", {"training": {"epochs": 2}}), 0)
    folder = paths.run_folder("smoke", "baseline", 0)
    write_json(folder / "config.json", config.model_dump(mode="json"))
    write_json(folder / "summary.json", {})
    assert cli.main(["--profile", "smoke"]) == 2
    assert "training.epochs is 2 there and 3 here" in capsys.readouterr().err
    assert done == []


def test_what_failed_is_told_and_the_exit_code_says_so(monkeypatch, capsys):
    monkeypatch.setattr(jobs, "do_jobs", lambda jobs, *options: ["it broke"])
    assert cli.main(["--profile", "smoke", "--runs", "sgd"]) == 1
    assert "FAILED: it broke" in capsys.readouterr().err


def test_a_time_that_is_over_is_no_failure_but_unfinished(monkeypatch, capsys):
    """Exit status 75: to be tried again, as schedulers of batch jobs know it. No page is written."""
    over = f"seed 0: {TIME_IS_OVER} after epoch 1 of 3"
    monkeypatch.setattr(jobs, "do_jobs", lambda jobs, *options: [over, "it broke"])
    monkeypatch.setattr(cli, "write_pages", lambda options: pytest.fail("pages"))
    monkeypatch.setenv("MANYVIEWS_STOP_AT", "inf")
    assert cli.main(["--profile", "smoke", "--runs", "sgd", "--time-limit", "90s"]) == 75
    assert "Unfinished: 1 job; the same command goes on with it" in capsys.readouterr().out
    assert 80 < seconds_left() <= 90


def test_a_run_that_another_command_makes_and_pages_out_of_time_are_unfinished_too(monkeypatch, capsys):
    """As they would be written again and again without those results, or the next slice would not follow."""
    monkeypatch.setattr(jobs, "do_jobs", lambda jobs, *options: [f"seed 0: folder: {BUSY}; wait"])
    assert cli.main(["--profile", "smoke", "--runs", "sgd"]) == 75
    monkeypatch.setattr(jobs, "do_jobs", lambda jobs, *options: [])
    monkeypatch.setattr(cli, "write_pages", lambda options: [f"methods: {TIME_IS_OVER} before it was begun"])
    assert cli.main(["--profile", "smoke", "--runs", "sgd", "--force"]) == 75
    assert "the same command without --force goes on with it" in capsys.readouterr().out


def test_what_is_to_be_made_again_is_kept_while_the_input_is_wrong(done, monkeypatch):
    """Half of a run and a whole one lie there; the images are away."""
    arguments = ["--profile", "smoke", "--runs", "baseline,sgd"]
    assert cli.main(arguments) == 0
    whole, half = (paths.run_folder("smoke", name, 0) for name in ("baseline", "sgd"))
    half.rename(partial_folder(half))

    def away(config):
        raise ConfigError("the images are away")

    with monkeypatch.context() as patch:
        patch.setattr(dataset, "load_dataset", away)
        assert cli.main([*arguments, "--force"]) == 2
    assert state_of(whole) is RunState.COMPLETE
    assert state_of(half) is RunState.BEGUN


def test_raw_pixels_whose_measuring_was_cut_short_are_measured_again(done):
    arguments = ["--profile", "smoke", "--runs", "baseline"]
    assert cli.main(arguments) == 0
    done.clear()
    (paths.results_root() / "smoke" / "raw_pixels.json").unlink()
    assert cli.main(arguments) == 0
    assert done == ["the data", "methods", "report"]


@pytest.mark.parametrize(("given", "seconds"), [("90s", 90), ("9m", 540), ("2.5h", 9000)])
def test_a_time_limit_has_a_unit(given, seconds):
    assert parse_arguments(["--profile", "smoke", "--time-limit", given]).time_limit == seconds


@pytest.mark.parametrize("given", ["9", "m", "-1m", "0s", "nanm", "infh", ""])
def test_a_time_limit_without_one_is_refused(given):
    with pytest.raises(ConfigError, match=r"takes a time such as 90s, 9m or 2\.5h"):
        parse_arguments(["--profile", "smoke", f"--time-limit={given}"])


def test_missing_runs_are_listed_for_other_launchers(done, capsys):
    """What a job array reads: a run and its seed on each line."""
    arguments = ["--profile", "smoke", "--runs", "baseline,sgd", "--seeds", "0,1"]
    assert cli.main([*arguments, "--list-runs"]) == 0
    assert capsys.readouterr().out.splitlines() == ["baseline 0", "baseline 1", "sgd 0", "sgd 1"]
    assert done == []


def test_the_help_names_every_profile_and_option():
    text = subprocess.run(
        [paths.ROOT / "run_all.sh", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert all(name in text for name in profile_names())
    source = (paths.ROOT / "lib/manyviews/cli.py").read_text(encoding="utf-8")
    options = re.findall(r'add_argument\("(--[\w-]+)"', source)
    assert len(options) == 14
    assert [option for option in options if option not in text] == []
