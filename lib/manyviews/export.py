"""Write a finished run as the assignment behind the original wanted it handed in, or its network as ONNX."""

import inspect
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from manyviews import encoder
from manyviews.config.errors import Arguments, command
from manyviews.config.files import check_sums, read_json, replacing
from manyviews.config.schema import ConfigError, NetworkConfig, RunConfig, TrainingConfig, ViewConfig
from manyviews.runs.environment import number_format
from manyviews.runs.store import CURVES, Run, differences, load_run, partial_folder, recorded_config, state_of
from manyviews.simclr import models

MAX_WORDS = 500  # of report.md; the assignment's limit
WEIGHTS, FINAL_WEIGHTS = "model.safetensors", "final_model.safetensors"
NOTEBOOK, FINAL_NOTEBOOK = "notebook.ipynb", "CS461_Assignment1.ipynb"  # its evaluation refuses another name


def export(folder: Path, out: Path) -> None:
    """Write the submission of a run.

    Args:
        folder: of a finished run, with its weights and its executed notebook.
        out: new folder with models.py, final_model.safetensors, CS461_Assignment1.ipynb and report.md; made
            whole or not at all.
    Raises:
        ConfigError: the run cannot be exported, or `out` exists.
    """
    refuse_existing(out)
    config = read_config(folder)
    check_files(folder, config)
    report = report_text(load_run(folder))
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as beside:
        new = Path(beside) / out.name
        new.mkdir()
        (new / "models.py").write_text(models_source(config), encoding="utf-8")
        (new / "report.md").write_text(report, encoding="utf-8")
        shutil.copyfile(folder / NOTEBOOK, new / FINAL_NOTEBOOK)
        # The encoder's layers have the names of those that were trained.
        shutil.copyfile(folder / WEIGHTS, new / FINAL_WEIGHTS)
        new.rename(out)


def export_onnx(folder: Path, out: Path) -> None:
    """Write the trained backbone of a run as ONNX, and see that onnxruntime gives its features.

    Args:
        folder: of a finished run, with its weights.
        out: new file: `images` (B, 3, H, W) float32 in [0, 1], for any B and the size that was trained on, to
            `features` (B, D).
    Raises:
        ConfigError: the run cannot be exported, `out` exists, or a package is missing.
    """
    import torch

    try:
        import onnxruntime
        import onnxscript  # noqa: F401 (torch writes with it)
    except ImportError as error:
        raise ConfigError(f"{out}: {error}; `pip install onnx onnxscript onnxruntime`") from None
    refuse_existing(out)
    config = read_config(folder)
    backbone, size = load_network(folder, config).backbone, config.data.image_size
    images = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    with replacing(out) as new, torch.no_grad():
        torch.onnx.export(
            backbone,
            (images[:2],),
            new,
            input_names=["images"],
            output_names=["features"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
            dynamo=True,
        )
        session = onnxruntime.InferenceSession(new, providers=["CPUExecutionProvider"])
        (features,) = session.run(None, {"images": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(features), backbone(images), rtol=1e-3, atol=1e-3)


def refuse_existing(out: Path) -> None:
    """ConfigError if there is something already where an export is to go."""
    if out.exists():
        raise ConfigError(f"{out}: exists already; delete it or choose another name")


def read_config(folder: Path) -> RunConfig:
    """The configuration of a finished run.

    Raises:
        ConfigError: the run is not finished or not of a kind that can be exported, or there is none.
    """
    unfinished = folder if folder.suffix == ".partial" else partial_folder(folder)
    if unfinished.is_dir() and (folder == unfinished or not state_of(folder).has_numbers):
        raise ConfigError(f"{unfinished}: the run is not finished; the command that began it goes on with it")
    path = folder / "config.json"
    if not path.exists():
        problem = "no config.json in it" if folder.is_dir() else "no such folder"
        raise ConfigError(f"{folder}: {problem}; give a run's, such as results/demo/baseline/seed0")
    config = recorded_config(folder)
    if config.objective != "nt_xent":
        raise ConfigError(f"{path}: '{config.objective}' trains no projections; export a run of 'nt_xent'")
    return config


def check_files(folder: Path, config: RunConfig) -> None:
    """See that a run has its weights, which fit its network, and its executed notebook; else ConfigError."""
    load_network(folder, config)
    notebook, command = folder / NOTEBOOK, command_of(config)
    if not notebook.exists():
        raise ConfigError(f"{notebook} is missing; `{command}` writes it without training again")
    if not any(cell.get("outputs") for cell in read_json(notebook).get("cells", [])):
        raise ConfigError(f"{notebook} shows nothing; delete it, and `{command}` writes it without training")


def command_of(config: RunConfig) -> str:
    """What makes a run."""
    return f"./run_all.sh --profile {config.profile} --runs {config.run} --seeds {config.seed}"


def load_network(folder: Path, config: RunConfig) -> models.SimCLR:
    """The trained network of a finished run, in evaluation mode; ConfigError if its weights are not whole."""
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    weights, command = folder / WEIGHTS, command_of(config)
    if config.evaluation.brief:
        raise ConfigError(f"{folder}: a run of the studies keeps no weights; export one of the original's")
    if not weights.exists():
        raise ConfigError(f"{weights} is missing; make the run anew with `{command} --force`")
    check_sums(folder)
    model = models.make_simclr(depth=config.depth, stem=config.stem, **dict(config.network))
    try:
        load_model(model, weights)
    except (RuntimeError, SafetensorError):
        raise ConfigError(
            f"{weights} is damaged, or not of the network in config.json; repeat it with `{command} --force`"
        ) from None
    return model.eval()


def models_source(config: RunConfig) -> str:
    """Text of a models.py that needs nothing of ours, whose `ImageEncoder()` fits the run's weights."""
    of = config.network
    constants = {"DEPTH": config.depth, "STEM": f'"{config.stem}"', "WIDTH": of.width}
    constants |= {"INPUT_DIM": config.data.image_size, "FEATURE_DIM": of.feature_dim}
    constants |= {"PROJ_HIDDEN": of.projection_hidden, "PROJ_DIM": of.projection_dim}
    constants |= {"PROJ_NORM": of.projection_norm}
    lines = [f"# Run `{config.run}`, seed {config.seed}, of profile `{config.profile}`."]
    lines += [f"{name} = {value}" for name, value in constants.items()]
    template = inspect.getsource(encoder.ImageEncoder)
    return "\n\n".join([inspect.getsource(models), "\n".join(lines), f"\n{template}"])


def report_text(run: Run) -> str:
    """The text of report.md, all of it from the run's results; see report/templates/submission.md.j2.

    Raises:
        RuntimeError: it has more than MAX_WORDS words, which no run should make it.
    """
    import pandas as pd

    from manyviews.report.tables import MEASURE_TITLES, NO_NUMBER, percent
    from manyviews.report.text import render
    from manyviews.stats.claims import window_start
    from manyviews.stats.compare import REPORTED

    curve = run.evaluated.set_index("epoch")
    before, rates = window_start(run, run.config.claims.plateau_window), run.metrics["learning_rate"].dropna()
    rows = {
        "the original": REPORTED.get(run.name, {}),
        "measured": run.summary,
        "initial weights": curve.iloc[0],
    }
    cells = {name: [percent(of[m]) if m in of else NO_NUMBER for m in CURVES] for name, of in rows.items()}
    table = pd.DataFrame(cells, [MEASURE_TITLES[name] for name in CURVES]).T.rename_axis("%")
    text = render(
        "submission",
        config=run.config,
        summary=run.summary,
        environment=run.environment | {"precision": number_format(run.environment)},
        departures=departures(run.config),
        table=table.to_markdown(disable_numparse=True),
        window_start=before,
        changes=[f"{100 * (curve[name].iloc[-1] - curve[name][before]):+.1f}" for name in CURVES],
        last_rate=f"{rates.iloc[-1] / rates.max():.0%}",
        notebook=FINAL_NOTEBOOK,
    ).data
    if len(text.split()) > MAX_WORDS:
        raise RuntimeError(f"report.md has more than {MAX_WORDS} words; shorten its template")
    return f"{text}\n"


def departures(config: RunConfig) -> list[str]:
    """Where a run departs from the original's recipe, which is what the configuration's defaults are."""
    sections = {"network": NetworkConfig(), "views": ViewConfig(), "training": TrainingConfig()}
    of_original = {name: section.model_dump() for name, section in sections.items()}
    return differences(of_original, config.model_dump(include=set(sections)), "`{key}` {here} ({there})")


def main(arguments: Sequence[str] | None = None) -> int:
    """Export what the command line names; see config.errors.command for the exit status."""
    parser = Arguments(prog="python -m manyviews.export", description=__doc__)
    parser.add_argument("folder", metavar="RUN_FOLDER", type=Path, help="such as results/demo/baseline/seed0")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to make, or file to write: NAME.onnx")

    def work() -> int:
        options = parser.parse_args(arguments)
        write = export_onnx if options.out.suffix == ".onnx" else export
        write(options.folder.resolve(), options.out.resolve())
        print(f"Exported: {options.out.resolve()}")
        return 0

    return command(parser.prog, work)


if __name__ == "__main__":
    sys.exit(main())
