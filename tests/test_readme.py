"""README and docs tell what is in the repository: numbers, links, commands, snippets."""

import ast
import dataclasses
import importlib
import importlib.metadata
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import refresh_demo_notes
import torch
import yaml
from made_up import made_up_predictions, made_up_runs
from refresh_docs import REFERENCE, RELIABILITY, SCALE, with_inputs, with_scale, with_tables
from refresh_findings import FINDINGS, with_findings
from refresh_readme import BEGIN, END, PAGES, PROFILES, README, results_text, with_results
from safetensors.torch import save_file
from small import small_run
from torch.distributed.run import get_args_parser as torchrun_parser

from manyviews import cli, export, features
from manyviews.cli import parse_arguments
from manyviews.config import paths
from manyviews.config.profiles import load_profile, profile_names
from manyviews.config.runs import configure, notebook_config, run_specs
from manyviews.config.schema import ConfigError, RunConfig
from manyviews.data import fractals
from manyviews.runs import store
from manyviews.runs.__main__ import parse_arguments as parse_run
from manyviews.runs.store import Results, load_published, publish
from manyviews.simclr.models import make_simclr

TEXT = README.read_text(encoding="utf-8")
DOCS = sorted((paths.ROOT / "docs").glob("*.md"))
PAGES_WITH_COMMANDS = [README, *DOCS, *(paths.ROOT / name for name in ("CONTRIBUTING.md", "data/README.md"))]
WRITTEN = [*PAGES_WITH_COMMANDS, paths.ROOT / "results/README.md"]
HOW_TO = (paths.ROOT / "docs/how-to.md").read_text(encoding="utf-8")
MAX_WORDS = 1200  # of README, without its results


def named(paths_of_pages):
    return pytest.mark.parametrize("page", paths_of_pages, ids=lambda page: str(page.relative_to(paths.ROOT)))


def python_snippets(page) -> list[str]:
    """Python that a page shows: blocks of it, and what stands between the quotes of `python -c`."""
    text = page.read_text(encoding="utf-8")
    quoted = re.findall(r'python -c "(.*?)"$', text, re.DOTALL | re.MULTILINE)
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL) + [
        re.sub("^    ", "", q, flags=re.M) for q in quoted
    ]


def commands(start: str) -> list[tuple[str, list[str]]]:
    """Page and arguments of each command that begins so, in a block or within a sentence."""
    found = []
    for page in PAGES_WITH_COMMANDS:
        for arguments in re.findall(
            rf"{re.escape(start)}(?![\w.])([^`\n]*)", page.read_text(encoding="utf-8")
        ):
            command = re.split("&&|[>;|]", arguments)[0].replace("$run", "baseline").replace("$seed", "0")
            found.append((page.name, shlex.split(command, comments=True)))
    return found


# ---------------------------------------------------------------------------------------------- results


def test_its_results_are_those_that_are_published():
    assert BEGIN in TEXT
    assert with_results(TEXT) == TEXT, "run tests/refresh_readme.py"
    findings = FINDINGS.read_text(encoding="utf-8")
    assert with_findings(findings) == findings, "run tests/refresh_findings.py"
    published = {path.parent.name for path in (paths.ROOT / "results/published").glob("*/runs.json")}
    assert published <= PROFILES.keys() <= set(profile_names())


ORIGINAL_FINALS = {"baseline": [0.5] * 3, "resnet34": [0.5] * 3, "views8": [0.6] * 3}


@pytest.fixture
def published(tmp_path, monkeypatch):
    """An empty folder of published results, and what publishes the original's runs of a profile there."""
    monkeypatch.setattr(paths, "published_root", lambda: tmp_path)

    def add(name: str, finals: dict[str, list[float]] = ORIGINAL_FINALS) -> None:
        profile = load_profile(name)
        runs = made_up_runs(finals)
        for run, seeds in runs.items():
            runs[run] = [dataclasses.replace(s, config=configure(run, profile, s.seed)) for s in seeds]
        publish(Results(runs, made_up_predictions(0.2), published=False), tmp_path / name)

    return add


def test_a_published_profile_has_a_block_with_its_answers_figure_and_pages(published):
    published("demo")
    block = results_text()
    assert block.startswith("### Synthetic images")
    assert block.count("###") == 1
    assert [line[:2] for line in block.splitlines() if re.match(r"\d\.", line)] == [
        "1.",
        "2.",
        "3.",
        "4.",
        "5.",
    ]
    assert "+10.0" in block
    links = re.findall(r"\]\((.*?)\)", block)
    assert links == [
        "results/published/demo/report_files/plateau.png",
        *(f"results/published/demo/{page}.md" for page in PAGES.values()),
    ]


def test_photographs_come_before_synthetic_images(published):
    published("demo")
    published("tiny-imagenet-tenth")
    assert re.findall(r"### (\w+)", results_text()) == ["Photographs", "Synthetic"]


def test_synthetic_images_answer_what_photographs_have_not(published):
    published("tiny-imagenet-tenth", {"baseline": [0.5] * 3})
    published("demo")
    photographs, synthetic = results_text().split("### Synthetic")
    assert "(not run: " in photographs
    assert "no evidence about photographs" in synthetic
    assert re.search(r"^- \*\*What the original's comparison shows", synthetic, re.MULTILINE)
    assert "+10.0" in synthetic
    assert "Identity" in photographs
    assert "Identity" not in synthetic
    few = {"resnet34": [0.3], "views8": [0.4]}  # a gain of one seed is told, and decides nothing
    published("tiny-imagenet-tenth", {"baseline": [0.5] * 3} | few)
    assert "What the original's comparison shows" in results_text().split("### Synthetic")[1]


def test_without_published_results_it_says_that_nothing_was_run(published):
    assert results_text() == "No results are published: not run."


# ------------------------------------------------------------------------------------------ what is told


def test_it_is_short():
    before, rest = TEXT.split(BEGIN)
    assert len(f"{before} {rest.split(END)[1]}".split()) <= MAX_WORDS


@named(WRITTEN)
def test_links_lead_somewhere(page):
    """Those within a page, or into another, to a heading of it."""
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith("http"):
            continue
        file, _, heading = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        if heading:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-") for words in headings]


def test_its_picture_and_that_of_contributing_show_the_rooms_there_are():
    rooms = {path.parent.name for path in (paths.ROOT / "lib/manyviews").glob("*/__init__.py")}
    contributing = (paths.ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for text in (TEXT, contributing):
        line = next(line for line in text.splitlines() if line.startswith("config ──►"))
        assert set(re.findall(r"\w+", line.split("cli")[0])) == rooms
    files = re.findall(r"\| `([\w/]+\.py)` \|", contributing)
    assert len(files) >= 7
    assert [file for file in files if not (paths.ROOT / "lib/manyviews" / file).exists()] == []


def test_every_notebook_and_every_profile_is_told():
    notebooks = {path.stem for path in paths.NOTEBOOKS.glob("*.ipynb")}
    told = set(re.findall(r"^\| `(\d\d_\w+)` \|", TEXT, re.MULTILINE))
    assert told == notebooks
    for text in (TEXT, HOW_TO):
        assert [name for name in profile_names() if f"`{name}`" not in text] == []


def test_the_reference_is_that_of_the_code():
    """And tells every key of a configuration, and every run."""
    text = REFERENCE.read_text(encoding="utf-8")
    assert with_tables(text) == text, "run tests/refresh_docs.py"
    inputs = RELIABILITY.read_text(encoding="utf-8")
    assert with_inputs(inputs) == inputs, "run tests/refresh_docs.py"
    scale = SCALE.read_text(encoding="utf-8")
    assert with_scale(scale) == scale, "run tests/refresh_docs.py"
    sections = [field.annotation for field in RunConfig.model_fields.values()]
    keys = [key for section in sections for key in getattr(section, "model_fields", {})]
    assert len(keys) > 50
    assert [name for name in (*keys, *run_specs().runs) if f"| `{name}` |" not in text] == []
    assert "| `epochs` | whole number, at least 1 | `50` |" in text
    assert "| `hue` | number, at least 0, at most 0.5 | `0.1` | turns of the colour wheel |" in text


def test_the_reference_tells_the_environment_variables_that_are_read():
    code = [path.read_text(encoding="utf-8") for path in (paths.ROOT / "lib").rglob("*.py")]
    read = {name for text in code for name in re.findall(r"\"(MANYVIEWS_\w+)\"", text)}
    told = re.findall(r"^\| `(MANYVIEWS_\w+)` \|", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(told) == read


def test_the_fractals_are_described_by_their_constants():
    text = " ".join((paths.ROOT / "data/README.md").read_text(encoding="utf-8").split())
    for words in (
        f"changed by up to {100 * fractals.MAP_JITTER:.0f} %",
        f"rotated by up to {fractals.ROTATION} radians",
        f"gain of up to {100 * fractals.GAIN:.0f} %",
        f"offset of up to {fractals.OFFSET:.0f} of 255",
    ):
        assert words in text


def test_the_notes_of_the_demo_are_those_of_its_published_runs():
    notes = refresh_demo_notes.FOLDER / "README.md"
    results = load_published(load_profile("demo"))
    assert notes.read_text(encoding="utf-8") == refresh_demo_notes.notes(results), (
        "run tests/refresh_demo_notes.py"
    )


def test_it_can_be_cited():
    cited = yaml.safe_load((paths.ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited.keys() >= {"cff-version", "message", "title", "authors"}
    assert (cited["type"], cited["license"]) == ("software", "MIT")
    assert cited["version"] == importlib.metadata.version("manyviews")
    bibtex = (paths.NOTEBOOKS / "10_methods.ipynb").read_text(encoding="utf-8")
    for value in (cited["authors"][0]["name"], cited["title"], cited["version"], cited["date-released"].year):
        assert f"{{{value}}}" in bibtex


# --------------------------------------------------------------------------------------------- commands


def test_each_call_of_run_all_has_options_profiles_runs_and_studies_that_there_are(monkeypatch):
    monkeypatch.setattr(cli, "recognised", lambda path: "images")
    monkeypatch.setenv("MANYVIEWS_RESULTS", "")
    calls = [(page, arguments) for page, arguments in commands("./run_all.sh") if arguments != ["--help"]]
    assert {"README.md", "how-to.md", "scale.md", "CONTRIBUTING.md"} <= {page for page, _ in calls}
    for page, arguments in calls:
        try:
            parse_arguments(arguments)
        except ConfigError:
            pytest.fail(f"{page}: ./run_all.sh {shlex.join(arguments)}")


def test_each_call_of_export_has_the_arguments_that_it_takes(monkeypatch):
    exported = []
    monkeypatch.setattr(export, "export_onnx", lambda folder, out: exported.append(folder))
    monkeypatch.setattr(export, "export", lambda folder, out: exported.append(folder))
    calls = commands("python -m manyviews.export")
    assert calls
    for _, arguments in calls:
        assert export.main(arguments) == 0
    for folder in exported:
        *_, profile, run, seed = folder.parts
        assert (profile in profile_names(), run in run_specs().runs, seed[:4]) == (True, True, "seed")


def test_each_call_of_torchrun_has_options_profiles_and_runs_that_there_are():
    """Oracle: torchrun's own parser, which takes `--run` for one of its own options, wherever it stands."""
    starts = ("--nnodes", "--nproc-per-node")
    calls = [[start, *arguments] for start in starts for _, arguments in commands(f"torchrun {start}")]
    assert len(calls) >= 2
    for call in calls:
        parsed = torchrun_parser().parse_args(call)
        assert (parsed.module, parsed.training_script) == (True, "manyviews.runs")
        parse_run(parsed.training_script_args)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["views9"], "unknown run 'views9'; did you mean 'views8'"),
        ([], "required: run; `manyviews.runs --help` lists the options"),
        (["baseline", "--profile", "dmo"], "unknown profile 'dmo'; did you mean 'demo'"),
    ],
)
def test_a_wrong_run_of_one_command_is_refused_in_a_sentence(arguments, message):
    with pytest.raises(ConfigError, match=message):
        parse_run(arguments)


def test_each_call_of_features_has_the_arguments_that_it_takes(monkeypatch):
    monkeypatch.setattr(features, "write_features", lambda folder, pictures, out: None)
    calls = commands("python -m manyviews.features")
    assert calls
    assert [features.main(arguments) for _, arguments in calls] == [0] * len(calls)


def test_files_in_commands_are_there():
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES_WITH_COMMANDS)
    files = re.findall(r"(?:run_tests\.sh|bin/python|env create -f) ([\w./]+)", text)
    assert len(files) >= 4
    assert [file for file in files if not (paths.ROOT / file).exists()] == []


@named(PAGES_WITH_COMMANDS)
def test_snippets_import_what_there_is(page):
    for snippet in python_snippets(page):
        for node in ast.walk(ast.parse(snippet)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("manyviews"):
                module = importlib.import_module(node.module)
                assert [name.name for name in node.names if not hasattr(module, name.name)] == []


def test_its_twenty_lines_train_on_an_array_of_ones_own_images(capsys):
    """Images of two kinds, dark and bright at random: even so short a training leaves them apart."""
    snippet = next(code for code in python_snippets(README) if "Trainer" in code)
    labels = torch.arange(130) % 2
    noise = np.random.default_rng(0).integers(0, 100, (130, 3, 8, 8))
    images = torch.from_numpy((noise + 120 * labels.numpy()[:, None, None, None]).astype(np.uint8))
    torch.manual_seed(0)
    exec(snippet, {"images": images, "labels": labels})
    assert float(re.search(r"tensor\((.+)\)", capsys.readouterr().out).group(1)) > 0.8


def test_ours_and_lightlys_losses_are_the_same_numbers():
    """Oracle: lightly, in the lines that the page shows."""
    scope = {}
    for snippet in python_snippets(paths.ROOT / "docs/the-library-alone.md"):
        exec(snippet, scope)
    assert len(scope["ours"]) == 3
    np.testing.assert_allclose(scope["ours"], scope["theirs"], rtol=1e-5)


def test_the_parameters_of_a_variant_make_it_a_run_of_its_own():
    snippet = next(code for code in python_snippets(paths.ROOT / "docs/how-to.md") if "overrides" in code)
    parameters = {}
    exec(snippet, {}, parameters)
    variant, own = notebook_config("baseline", parameters), configure("baseline", load_profile("demo"), 0)
    assert store.variant_of(variant.run) == "baseline"
    assert [line.split()[0] for line in store.differences(own.recipe(), variant.recipe())] == [
        "training.temperature",
        "run",
    ]


def test_the_lines_that_read_an_export_read_it(tmp_path):
    snippet = next(code for code in python_snippets(paths.ROOT / "docs/how-to.md") if "ImageEncoder" in code)
    config = small_run()
    model = make_simclr(depth=config.depth, stem=config.stem, **dict(config.network))
    (tmp_path / "models.py").write_text(export.models_source(config), encoding="utf-8")
    save_file(model.state_dict(), tmp_path / export.FINAL_WEIGHTS)
    code = f"import torch\nimages = torch.rand(2, 3, 8, 8)\n{snippet}\nprint(tuple(features.shape))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"(2, {config.network.feature_dim})"
