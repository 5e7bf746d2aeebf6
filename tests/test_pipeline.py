"""run_all.sh: which notebooks run, what is kept, and how failures are told."""

import os
import re
import shutil
import subprocess
import sys

import nbformat
import pytest

from manyviews import options, paths, pipeline
from manyviews.config import load_profile, profile_names
from manyviews.files import write_json
from manyviews.options import parse_arguments
from manyviews.pipeline import NotebookFailed, main, run_notebook
from manyviews.rows import ROWS, configure
from manyviews.study import default_jobs


@pytest.fixture(autouse=True)
def _results(tmp_path, monkeypatch):
    monkeypatch.setenv("MANYVIEWS_RESULTS", str(tmp_path / "results"))


def make_notebook(folder, name: str, *sources: str) -> None:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), folder / f"{name}.ipynb")


@pytest.fixture
def notebooks(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path)
    return tmp_path


def test_an_executed_notebook_is_kept_without_time_stamps_and_bars(notebooks):
    make_notebook(notebooks, "good", "seed = 0", "import sys\nprint(seed, file=sys.stderr)\nprint(seed)")
    output = notebooks / "out/notebook.ipynb"
    run_notebook("good", output, {"seed": 3}, notebooks / "log.ipynb")
    executed = nbformat.read(output, as_version=4)
    assert "papermill" not in executed.metadata
    assert [o.name for o in executed.cells[-1].outputs] == ["stdout"]
    assert executed.cells[-1].outputs[0].text == "3\n"
    assert [path.name for path in output.parent.iterdir()] == ["notebook.ipynb"]
    assert not (notebooks / "log.ipynb").exists()


def test_a_notebook_executed_twice_is_the_same_file(notebooks):
    make_notebook(notebooks, "good", "seed = 0", "print(seed)")
    outputs = [notebooks / f"out/{time}.ipynb" for time in ("first", "second")]
    for output in outputs:
        run_notebook("good", output, {"seed": 3}, notebooks / "log.ipynb")
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("raise ValueError('lr too high')", r"bad.ipynb, cell \[3\]: ValueError: lr too high"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", r"bad.ipynb: DeadKernelError"),
    ],
)
def test_a_failure_names_notebook_cell_and_log(notebooks, source, message):
    make_notebook(notebooks, "bad", "seed = 0", source)
    output, log = notebooks / "out/notebook.ipynb", notebooks / "logs/bad.ipynb"
    with pytest.raises(NotebookFailed, match=message) as failure:
        run_notebook("bad", output, {"seed": 3}, log)
    assert not output.parent.exists()
    assert log.exists()
    assert str(log) in str(failure.value)


def test_a_failure_does_not_replace_an_earlier_success(notebooks):
    output = notebooks / "out/notebook.ipynb"
    make_notebook(notebooks, "one", "seed = 0", "print(seed)")
    run_notebook("one", output, {"seed": 1}, notebooks / "log.ipynb")
    before = output.read_bytes()
    make_notebook(notebooks, "one", "seed = 0", "1 / 0")
    with pytest.raises(NotebookFailed):
        run_notebook("one", output, {"seed": 1}, notebooks / "log.ipynb")
    assert output.read_bytes() == before


def test_a_page_opens_without_a_network(tmp_path):
    """It holds its figures, and neither scripts nor addresses to fetch; pages lead to those of their kind."""
    picture = {"image/png": "iVBORw0KGgo="}
    metadata = {"image/png": {"alt": "a curve"}, "filename": "curve"}
    output = nbformat.v4.new_output("display_data", data=picture, metadata=metadata)
    cells = [
        nbformat.v4.new_markdown_cell("# Title\n\n[controls](controls.md)"),
        nbformat.v4.new_code_cell("hidden_code()", outputs=[output]),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "in.ipynb")
    html = pipeline.write_page(tmp_path / "in.ipynb", "report").read_text()
    assert "<title>Many Views" in html
    assert "data:image/png;base64,iVBORw0KGgo=" in html
    assert "a curve" in html
    assert "hidden_code" not in html
    assert 'href="controls.html"' in html
    assert "<script" not in html
    assert not re.search(r"""(src|href)=["']?http""", html)
    markdown = (tmp_path / "report.md").read_text()
    assert "![a curve](report_files/curve.png)" in markdown
    assert "(controls.md)" in markdown
    assert (tmp_path / "report_files/curve.png").exists()


def test_an_unknown_parameter_is_fatal_in_a_real_notebook(tmp_path):
    """Papermill alone would warn, and run with the defaults."""
    parameters = load_profile("smoke") | {"sed": 3}
    with pytest.raises(NotebookFailed, match=r"ConfigError: unknown parameter 'sed': did you mean 'seed'"):
        run_notebook("02_baseline", tmp_path / "out.ipynb", parameters, tmp_path / "log.ipynb")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--profile", "dmo"],
            r"unknown profile 'dmo'; did you mean 'demo'\? choose one of: demo, paper, smoke",
        ),
        (
            ["--runs", "baseline,view8"],
            r"unknown run 'view8'; did you mean 'views8'\? choose among: baseline, resnet34, views8",
        ),
        (
            ["--study", "control"],
            r"unknown study 'control'; did you mean 'controls'\? choose among: controls, ",
        ),
        (["--study", "controls", "--runs", "baseline"], "not allowed with"),
        (["--jobs", "0"], "--jobs takes a whole number from 1"),
        (["--seeds", "0,x"], "--seeds takes whole numbers"),
        (["--seeds", "-1"], "--seeds takes whole numbers from 0, such as 0,1,2, not '-1'"),
        (["--sed", "1"], "unrecognized arguments|ambiguous|--sed"),
    ],
)
def test_a_wrong_option_lists_the_valid_ones(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse_arguments(arguments)
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_options_are_checked_without_the_libraries_of_training():
    """They take seconds to import, for which a mistyped name need not wait."""
    command = [sys.executable, "-X", "importtime", "-m", "manyviews", "--profile", "dmo"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    imported = set(re.findall(r"\| +([\w.]+)$", done.stderr, re.MULTILINE))
    assert "manyviews.options" in imported
    assert not {"torch", "pandas", "papermill", "matplotlib"} & imported


def test_seeds_default_to_the_profiles():
    assert parse_arguments(["--profile", "demo"]).seeds == [0, 1, 2]
    assert parse_arguments(["--profile", "demo", "--seeds", "4"]).seeds == [4]


@pytest.fixture
def executed(monkeypatch):
    """Calls of run_notebook, which leaves behind what a run would."""
    calls = []

    def fake(notebook, output, parameters, log):
        calls.append((notebook, parameters.get("seed")))
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text("{}")
        if notebook in pipeline.NOTEBOOKS.values():
            run = next(run for run, name in pipeline.NOTEBOOKS.items() if name == notebook)
            recipe = configure(run, parameters).model_dump(mode="json")
            write_json(output.parent / "config.json", recipe)
            for name in ("summary.json", "model.safetensors"):
                (output.parent / name).write_text("{}")

    monkeypatch.setattr(pipeline, "run_notebook", fake)

    def fake_jobs(jobs, shared):
        calls.extend(jobs)
        for name, seed in jobs:
            folder = paths.run_folder(shared["profile"], name, seed)
            recipe = configure(name, shared | {"seed": seed}).model_dump(mode="json")
            write_json(folder / "config.json", recipe)
            write_json(folder / "summary.json", {})
            (folder / "forgotten").unlink(missing_ok=True)
        return []

    monkeypatch.setattr(pipeline, "run_jobs", fake_jobs)
    monkeypatch.setattr(pipeline, "write_page", lambda executed, name: executed.with_name(f"{name}.html"))
    return calls


def test_runs_everything_once_and_keeps_it(executed, capsys):
    assert main(["--profile", "smoke", "--seeds", "0,1"]) == 0
    runs = [(name, seed) for seed in (0, 1) for name in pipeline.NOTEBOOKS.values()]
    assert executed == [("01_data", None), *runs, ("09_report", None)]
    assert capsys.readouterr().out.splitlines()[-1].endswith("results/smoke/report.html")
    executed.clear()
    assert main(["--profile", "smoke", "--seeds", "0,1"]) == 0
    assert executed == [("01_data", None), ("09_report", None)]
    assert capsys.readouterr().out.count("finished before, kept") == 8


def test_a_run_without_a_notebook_is_made_when_it_is_named(executed):
    """And kept, and repeated by force."""
    for _ in range(2):
        assert main(["--profile", "smoke", "--runs", "frozen2", "--seeds", "0,1"]) == 0
    assert executed.count(("frozen2", 0)) == executed.count(("frozen2", 1)) == 1
    assert main(["--profile", "smoke", "--runs", "frozen2", "--seeds", "1", "--force"]) == 0
    assert executed.count(("frozen2", 0)) == 1
    assert executed.count(("frozen2", 1)) == 2


def test_a_study_runs_its_notebook_and_says_what_it_left_undone(executed, capsys):
    assert main(["--profile", "smoke", "--study", "scaling,controls"]) == 1
    assert executed == [("01_data", None), ("06_scaling", None), ("05_controls", None), ("09_report", None)]
    said = capsys.readouterr().out
    assert "frozen2 seed 0 of study 'controls' is not there" in said
    assert "length_8 seed 0 of study 'scaling' is not there" in said


def test_a_study_whose_runs_are_there_is_well(executed, capsys):
    pipeline.run_jobs([(name, 0) for name in ROWS], load_profile("smoke"))
    assert main(["--profile", "smoke", "--study", "controls"]) == 0
    assert "is not there" not in capsys.readouterr().out


def test_force_repeats_a_study_that_was_made_with_another_configuration(executed, monkeypatch, capsys):
    profile = load_profile("smoke")
    pipeline.run_jobs([(name, 0) for name in ROWS], profile)
    changed = profile | {"training": profile["training"] | {"temperature": 0.3}}
    monkeypatch.setattr(options, "load_profile", lambda name: changed)
    assert main(["--profile", "smoke", "--study", "controls"]) == 2
    assert "temperature is 0.2 there and 0.3 here" in capsys.readouterr().out
    executed.clear()
    main(["--profile", "smoke", "--study", "controls", "--force"])
    assert ("05_controls", None) in executed
    assert not pipeline.is_finished(paths.run_folder("smoke", "frozen2", 0))


def test_a_study_that_cannot_be_made_is_an_error_before_any_work(executed, monkeypatch, capsys):
    profile = load_profile("smoke")
    profile["training"] = profile["training"] | {"batch_size": 18}
    monkeypatch.setattr(options, "load_profile", lambda name: profile)
    assert main(["--profile", "smoke", "--study", "controls"]) == 2
    assert executed == []
    assert "run 'k8_pairs' in profile 'smoke'" in capsys.readouterr().out


def test_force_repeats_only_what_is_asked_for(executed):
    main(["--profile", "smoke"])
    executed.clear()
    main(["--profile", "smoke", "--runs", "views8", "--force"])
    assert executed == [("01_data", None), ("04_eight_views", 0), ("09_report", None)]


def test_force_touches_nothing_when_the_data_are_missing(executed, monkeypatch, capsys):
    """A finished run is given up only when its turn comes."""
    main(["--profile", "smoke"])
    fake = pipeline.run_notebook

    def failing(notebook, *arguments):
        if notebook == "01_data":
            raise NotebookFailed("no data")
        fake(notebook, *arguments)

    monkeypatch.setattr(pipeline, "run_notebook", failing)
    assert main(["--profile", "smoke", "--force"]) == 1
    assert "Nothing was trained" in capsys.readouterr().out
    assert all(pipeline.is_finished(paths.run_folder("smoke", run, 0)) for run in pipeline.NOTEBOOKS)


def test_a_failed_report_is_not_exported(executed, monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "write_page", lambda *_: pytest.fail("exported"))

    def failing(notebook, *arguments):
        raise NotebookFailed(f"{notebook} is broken")

    monkeypatch.setattr(pipeline, "run_notebook", failing)
    assert main(["--profile", "smoke", "--report"]) == 1
    assert "09_report is broken" in capsys.readouterr().out


def test_report_alone_runs_nothing_else(executed):
    main(["--profile", "smoke", "--report"])
    assert executed == [("09_report", None)]


def test_report_with_a_study_makes_its_page_from_the_runs_there_are(executed, monkeypatch, capsys):
    monkeypatch.setenv("MANYVIEWS_JOBS", "2")
    assert main(["--profile", "smoke", "--report", "--study", "controls"]) == 0
    assert executed == [("05_controls", None), ("09_report", None)]
    assert default_jobs() == 0
    assert "smoke/controls.html" in capsys.readouterr().out


def test_a_kept_run_of_another_configuration_is_an_error_before_any_work(executed, capsys):
    main(["--profile", "smoke", "--runs", "baseline"])
    config = paths.run_folder("smoke", "baseline", 0) / "config.json"
    config.write_text(config.read_text().replace('"epochs": 3', '"epochs": 30'))
    executed.clear()
    assert main(["--profile", "smoke"]) == 2
    assert executed == []
    assert "training.epochs is 30 there and 3 here" in capsys.readouterr().out


def test_a_failed_notebook_is_told_at_the_end_and_the_others_go_on(executed, monkeypatch, capsys):
    fake = pipeline.run_notebook

    def failing(notebook, output, parameters, log):
        if notebook == "03_resnet34":
            raise NotebookFailed("notebooks/03_resnet34.ipynb, cell [3]: broken")
        fake(notebook, output, parameters, log)

    monkeypatch.setattr(pipeline, "run_notebook", failing)
    assert main(["--profile", "smoke"]) == 1
    assert ("04_eight_views", 0) in executed
    assert ("09_report", None) in executed
    assert "What failed:\n- notebooks/03_resnet34.ipynb, cell [3]: broken" in capsys.readouterr().out


def test_the_help_lists_every_option_and_profile_before_anything_is_installed(tmp_path):
    """In a copy without .venv: no set-up may start."""
    for name in ("run_all.sh", "setup_env.sh"):
        shutil.copy(paths.ROOT / name, tmp_path)
    shutil.copytree(paths.PROFILES, tmp_path / "notebooks/profiles")
    done = subprocess.run([tmp_path / "run_all.sh", "--help"], capture_output=True, text=True, check=True)
    options = ("--profile", "--runs", "--study", "--jobs", "--seeds", "--results", "--force", "--report")
    for name in (*options, *profile_names()):
        assert name in done.stdout
    assert not (tmp_path / ".venv").exists()


def test_an_unknown_option_lists_the_valid_ones(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["--unknown"])
    message = capsys.readouterr().err
    assert "--unknown" in message
    for name in ("--profile", "--runs", "--seeds", "--results", "--force", "--report"):
        assert name in message


def test_the_script_passes_on_options_and_exit_status():
    """run_all.sh itself, from another working directory."""
    script = str(paths.ROOT / "run_all.sh")
    done = subprocess.run(
        [script, "--profile", "nix"], cwd="/", capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 2
    assert "choose one of: demo, paper, smoke, tiny-imagenet, tiny-imagenet-quick" in done.stderr


def test_a_mistake_in_the_runs_is_told_without_a_traceback(tmp_path):
    """runs.yaml is read on import, before any option is."""
    runs = (paths.NOTEBOOKS / "runs.yaml").read_text(encoding="utf-8")
    (tmp_path / "runs.yaml").write_text(runs.replace("n_views:", "n_view:", 1), encoding="utf-8")
    start = (
        "import pathlib, runpy, sys; from manyviews import paths; paths.NOTEBOOKS = pathlib.Path(sys.argv[1])"
    )
    start += "; sys.argv[1:] = []; runpy.run_module('manyviews', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", start, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"{tmp_path / 'runs.yaml'}: " in done.stderr
    assert "did you mean 'n_views'" in done.stderr
