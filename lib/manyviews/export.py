"""Write a finished run as the assignment behind the report wanted it handed in."""

import argparse
import inspect
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_model

from manyviews import models
from manyviews.claims import window_start
from manyviews.config import ConfigError, RunConfig
from manyviews.encoder import ImageEncoder
from manyviews.files import read_json
from manyviews.report import (
    OPTIMIZERS,
    data_text,
    departures_text,
    labels_text,
    percent,
    rates_text,
    table,
    views_text,
)
from manyviews.results import ACCURACIES, REPORTED, Run, load_run, partial_folder
from manyviews.train import make_model

MAX_WORDS = 500  # of report.md; the assignment's limit
WEIGHTS = "model.safetensors"
NOTEBOOK = "notebook.ipynb"


class ExportError(ValueError):
    """A run that cannot be exported; the message names the path and the fix."""


def export(folder: Path, out: Path) -> None:
    """Write the submission of a run.

    Args:
        folder: of a finished run, with its weights and its executed notebook.
        out: new folder with models.py, final_model.safetensors, notebook.ipynb and report.md; made whole or
            not at all.
    Raises:
        ExportError: the run cannot be exported, or `out` exists.
    """
    if out.exists():
        raise ExportError(f"{out}: exists already; delete it or choose another name")
    config = read_config(folder)
    check_files(folder, config)
    report = report_text(load_run(folder))
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as beside:
        new = Path(beside) / out.name
        new.mkdir()
        (new / "models.py").write_text(models_source(config), encoding="utf-8")
        (new / "report.md").write_text(report, encoding="utf-8")
        shutil.copyfile(folder / NOTEBOOK, new / NOTEBOOK)
        # The encoder's layers have the names of those that were trained.
        shutil.copyfile(folder / WEIGHTS, new / "final_model.safetensors")
        new.rename(out)


def read_config(folder: Path) -> RunConfig:
    """The configuration of a finished run.

    Raises:
        ExportError: the run is not finished or not of a kind that can be exported, or there is none.
    """
    unfinished = folder if folder.suffix == ".partial" else partial_folder(folder)
    if unfinished.is_dir() and (folder == unfinished or not folder.exists()):
        raise ExportError(f"{unfinished}: the run is not finished; the command that began it goes on with it")
    path = folder / "config.json"
    if not path.exists():
        problem = "no config.json in it" if folder.is_dir() else "no such folder"
        raise ExportError(f"{folder}: {problem}; give a run's, such as results/demo/baseline/seed0")
    values = read_json(path)
    objective = values.get("objective", "nt_xent")
    if objective != "nt_xent":
        raise ExportError(f"{path}: objective '{objective}' trains no projections; export a run of 'nt_xent'")
    try:
        return RunConfig(**values)
    except ConfigError as error:
        reason = str(error).replace("\n", "; ")
        raise ExportError(f"{path}: {reason}; repeat the run with this version") from None


def check_files(folder: Path, config: RunConfig) -> None:
    """See that a run has its weights, which fit its network, and its executed notebook.

    Raises:
        ExportError: not so.
    """
    weights, notebook = folder / WEIGHTS, folder / NOTEBOOK
    command = f"./run_all.sh --profile {config.profile} --runs {config.run} --seeds {config.seed}"
    if config.evaluation.brief:
        raise ExportError(
            f"{folder}: the run of a study, which keeps neither weights nor a notebook; export one of the "
            "report's"
        )
    if not weights.exists():
        raise ExportError(
            f"{weights} is missing, as in all runs that come with the repository; train anew with `{command} "
            "--results DIR` and export from there"
        )
    if not notebook.exists():
        raise ExportError(
            f"{notebook} is missing; `{command}`, with the --results that made the run if any, writes it "
            "without training again"
        )
    try:
        load_model(make_model(config), weights)
    except (RuntimeError, SafetensorError):
        raise ExportError(
            f"{weights} is damaged, or not of the network in config.json; repeat the run with `{command} "
            "--force`, and with the --results that made it if any"
        ) from None


def models_source(config: RunConfig) -> str:
    """Text of a models.py that needs nothing of ours, whose `ImageEncoder()` fits the run's weights."""
    network = config.network
    constants = {
        "DEPTH": config.depth,
        "STEM": f'"{config.stem}"',
        "WIDTH": network.width,
        "INPUT_DIM": config.data.image_size,
        "FEATURE_DIM": network.feature_dim,
        "PROJ_HIDDEN": network.projection_hidden,
        "PROJ_DIM": network.projection_dim,
        "PROJ_NORM": network.projection_norm,
    }
    lines = [f"# Run `{config.run}`, seed {config.seed}, of profile `{config.profile}`."]
    lines += [f"{name} = {value}" for name, value in constants.items()]
    return "\n\n".join([inspect.getsource(models), "\n".join(lines), f"\n{inspect.getsource(ImageEncoder)}"])


def report_text(run: Run) -> str:
    """The text of report.md, all of it from the run's results.

    Raises:
        RuntimeError: it has more than MAX_WORDS words, which no run should make it.
    """
    sections = {
        "What was trained": f"{training_text(run)}\n\n{departures_text(run)}",
        "Data": data_text(run),
        "Results": results_text(run),
        "How the curves ended": ending_text(run),
        "Limits": limits_text(run),
        "Files": (
            "`models.py`: `ImageEncoder`, with `get_features(x)` and, of unit length, `forward(x)`. "
            "`final_model.safetensors`: its weights. `notebook.ipynb`: the executed run."
        ),
    }
    text = f"# SimCLR: ResNet-{run.config['depth']}, {run.config['n_views']} views\n"
    text += "".join(f"\n## {title}\n\n{body}\n" for title, body in sections.items())
    words = len(text.split())
    if words > MAX_WORDS:
        raise RuntimeError(f"report.md has {words} words, more than {MAX_WORDS}; shorten report_text")
    return text


def training_text(run: Run) -> str:
    """The network, its training, the code and the machine."""
    c, s, e = run.config, run.summary, run.environment
    changes = " with uncommitted changes" if e["git_dirty"] else ""
    return (
        f"Run `{run.name}`, seed {c['seed']}, profile `{c['profile']}`: a ResNet-{c['depth']} with stem "
        f"`{c['stem']}`, width {c['network']['width']} and {s['parameters'] / 1e6:.2f} million parameters, "
        f"projection head included. It learned without labels from {views_text(c)}: NT-Xent loss, "
        f"{OPTIMIZERS[c['training']['optimizer']]}, {s['epoch']} "
        f"epochs, {s['steps']:,} steps. That took {e['wall_time_s']:,.0f} s on {e['device']} in "
        f"{e['precision']}, from code {e['git_commit'] or 'of an unknown commit'}{changes}."
    )


def results_text(run: Run) -> str:
    """The four final accuracies beside the reported ones and those of the initial weights."""
    evaluation = run.config["evaluation"]
    rows = [
        {
            "Accuracy (%)": label,
            "Reported": percent(REPORTED[run.name][metric]) if run.name in REPORTED else "no number",
            "Measured": percent(run.summary[metric]),
            "Initial weights": percent(run.evaluated.iloc[0][metric]),
        }
        for metric, label in ACCURACIES.items()
    ]
    return (
        f"{table(rows)}\n\nMeasured after the last epoch, by {evaluation['neighbours']} nearest neighbours "
        f"and logistic regression (C = {evaluation['linear_c']:g}) on the features. Reported on 200 "
        "ImageNet classes; levels on other data and schedules cannot be compared."
    )


def ending_text(run: Run) -> str:
    """How much the accuracies moved over the last part of the training, and the learning rate by then."""
    curve = run.evaluated.set_index("epoch")
    before, last = window_start(run, run.config["claims"]["plateau_window"]), curve.index[-1]
    changes = ", ".join(f"{100 * (curve[name][last] - curve[name][before]):+.1f}" for name in ACCURACIES)
    return (
        f"From epoch {before} to {last}, the last, these accuracies changed by {changes} points. "
        f"{rates_text([run])}"
    )


def limits_text(run: Run) -> str:
    """What the run cannot tell, as far as its results say so."""
    converged = "converged" if run.summary["linear_converged"] else "**did not converge**"
    lines = [
        "n = 1: a difference to another run may be chance.",
        labels_text(run),
        f"The final linear probes {converged}.",
    ]
    if "resumed_with" in run.environment:
        lines.append("It was resumed with other code, libraries or threads.")
    if run.summary["synthetic"]:
        lines.append("The images are synthetic: nothing here is evidence about photographs.")
    return "\n".join(f"- {line}" for line in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Export what the command line names; the exit status is 0 if that went well, else 2."""
    parser = argparse.ArgumentParser(prog="python -m manyviews.export", description=__doc__)
    parser.add_argument("folder", metavar="RUN_FOLDER", type=Path, help="such as results/demo/baseline/seed0")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to make")
    options = parser.parse_args(arguments)
    try:
        export(options.folder.resolve(), options.out.resolve())
    except (OSError, ValueError) as error:  # a file that cannot be used, or a place that cannot be written
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    print(f"Exported: {options.out.resolve()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
