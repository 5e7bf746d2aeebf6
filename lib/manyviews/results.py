"""What finished runs left on disk, read back and summarised over seeds."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from scipy import stats

from manyviews import paths
from manyviews.config import EXPERIMENT, ConfigError, RunConfig
from manyviews.files import read_json, write_json

# The report's three runs, in its order, and how tables and figures call them.
RUNS = {
    "baseline": "ResNet-18, 2 views",
    "resnet34": "ResNet-34, 2 views",
    "views8": "ResNet-34, 8 views",
}

ACCURACIES = {
    "id_knn_accuracy": "k-NN, training classes",
    "id_linear_accuracy": "linear, training classes",
    "ood_knn_accuracy": "k-NN, unseen classes",
    "ood_linear_accuracy": "linear, unseen classes",
}

# Shares of images. The report calls ResNet-34 with 2 views "very similar to the baseline", without numbers.
REPORTED = {
    "baseline": dict(zip(ACCURACIES, (0.18, 0.20, 0.12, 0.19), strict=True)),
    "views8": dict(zip(ACCURACIES, (0.30, 0.32, 0.19, 0.24), strict=True)),
}

CONFIDENCE = 0.95
FLOOR = "raw_pixels.json"


@dataclass(frozen=True)
class Run:
    """A finished run.

    `metrics` has a row for each epoch, from 0 (initial weights); results/README.md explains the columns.
    """

    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    environment: dict[str, Any]
    metrics: pd.DataFrame

    @property
    def name(self) -> str:
        return self.config["run"]

    @property
    def evaluated(self) -> pd.DataFrame:
        """The metrics of the epochs after which the probes were run."""
        return self.metrics.dropna(subset=list(ACCURACIES))


def write_floor(profile: str, floor: dict[str, float]) -> None:
    """Keep the accuracies that raw pixels reach, for the report."""
    write_json(paths.results_root() / profile / FLOOR, floor)


def load_floor(profile: str) -> dict[str, float]:
    """Accuracies that raw pixels reach, by metric; empty where they were not measured."""
    path = paths.results_root() / profile / FLOOR
    return read_json(path) if path.exists() else {}


def partial_folder(folder: Path) -> Path:
    """What a run's folder is called until the run is finished."""
    return folder.with_name(f"{folder.name}.partial")


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Keep other processes from a run.

    Raises:
        ConfigError: one is at work on it already.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.with_name(f"{folder.name}.lock"), timeout=0):
            yield
    except Timeout:
        raise ConfigError(f"{folder}: another process is at work on this run; wait for it to end") from None


def is_finished(folder: Path) -> bool:
    """Whether a folder holds a whole run. One from the repository lacks the weights, so it does not."""
    return (folder / "summary.json").exists() and (folder / "model.safetensors").exists()


def forget(folder: Path) -> None:
    """Have a run begin anew. A finished one keeps its numbers until the new one replaces them."""
    with run_lock(folder):
        shutil.rmtree(partial_folder(folder), ignore_errors=True)
        (folder / "model.safetensors").unlink(missing_ok=True)


def check_recipe(config: RunConfig, folder: Path) -> None:
    """See that what lies in a run's folder was made by the same configuration.

    Raises:
        ConfigError: it was not; names what differs, and what to do.
    """
    there = RunConfig(**read_json(folder / "config.json")).recipe()
    differing = _differences(there, config.recipe())
    if differing:
        raise ConfigError(
            f"{folder} was made with another configuration: {'; '.join(differing)}. To replace it: "
            f"./run_all.sh --profile {config.profile} --runs {config.run} --seeds {config.seed} --force; to "
            "keep it: another `profile` name, or --results DIR"
        )


def _differences(there: dict[str, Any], here: dict[str, Any], prefix: str = "") -> list[str]:
    """Keys at which two configurations differ, with both values."""
    lines = []
    for key, value in here.items():
        if isinstance(value, dict):
            lines += _differences(there[key], value, f"{prefix}{key}.")
        elif there[key] != value:
            lines.append(f"{prefix}{key} is {there[key]} there and {value} here")
    return lines


def load_run(folder: Path) -> Run:
    """Read a finished run.

    Raises:
        FileNotFoundError: the folder holds no finished run.
    """
    return Run(
        folder=folder,
        config=read_json(folder / "config.json"),
        summary=read_json(folder / "summary.json"),
        environment=read_json(folder / "environment.json"),
        metrics=pd.read_csv(folder / "metrics.csv", float_precision="round_trip"),
    )


def load_runs(config: RunConfig) -> dict[str, list[Run]]:
    """Finished runs of a profile by name, each with its seeds in order; a run that is not there is missing.

    Args:
        config: its profile and all that the runs share; experiment and seed do not matter.
    Raises:
        ConfigError: some run was made with another configuration, so that they cannot be compared.
    """
    runs: dict[str, list[Run]] = {}
    for name in RUNS:
        folders = (paths.results_root() / config.profile / name).glob("seed*")
        finished = [f for f in folders if f.name[4:].isdigit() and (f / "summary.json").exists()]
        for folder in sorted(finished, key=lambda f: int(f.name[4:])):
            run = load_run(folder)
            own = {key: run.config[key] for key in (*EXPERIMENT, "seed")}
            check_recipe(config.model_copy(update=own), folder)
            runs.setdefault(name, []).append(run)
    return runs


def load_failures(profile: str) -> list[str]:
    """Why runs of a profile could not go on, a sentence for each."""
    marks = sorted((paths.results_root() / profile).glob("*/seed*.partial/failed.json"))
    return [
        f"`{mark.parent.parent.name}` {mark.parent.stem} failed: {read_json(mark)['reason']}"
        for mark in marks
    ]


def mean_interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % t interval over seeds; the latter is NaN for one value."""
    if len(values) < 2:
        return float(np.mean(values)), float("nan")
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values)
    return float(np.mean(values)), float(half)


def accuracy_table(runs: dict[str, list[Run]]) -> pd.DataFrame:
    """Final accuracies: a row for each of the report's runs and metric.

    Columns: run, metric, reported, mean, half_width (of the interval over seeds), n (seeds). What was not
    reported or not run is NaN, with n = 0.
    """
    rows = []
    for name in RUNS:
        for metric in ACCURACIES:
            values = [run.summary[metric] for run in runs.get(name, [])]
            mean, half_width = mean_interval(values) if values else (float("nan"), float("nan"))
            reported = REPORTED.get(name, {}).get(metric, float("nan"))
            rows.append(
                {
                    "run": name,
                    "metric": metric,
                    "reported": reported,
                    "mean": mean,
                    "half_width": half_width,
                    "n": len(values),
                }
            )
    return pd.DataFrame(rows)


def paired_differences(runs: dict[str, list[Run]], a: str, b: str, metric: str) -> list[float]:
    """Final accuracy of run a minus that of run b, for each seed that both have."""
    of_a, of_b = ({run.config["seed"]: run.summary[metric] for run in runs.get(name, [])} for name in (a, b))
    return [of_a[seed] - of_b[seed] for seed in sorted(of_a.keys() & of_b.keys())]


def cost_table(runs: dict[str, list[Run]]) -> pd.DataFrame:
    """What each run cost, as the mean over its seeds, a row for each run that is there."""
    columns = ("steps", "images_forwarded", "parameters", "multiply_adds_per_view", "multiply_adds")
    rows = {
        name: {column: seeds[0].summary[column] for column in columns}
        | {key: float(np.mean([s.environment[key] for s in seeds])) for key in ("wall_time_s", "cpu_time_s")}
        for name, seeds in runs.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def seed_curves(runs: list[Run], metric: str, x: str) -> pd.DataFrame:
    """A metric along the training of several seeds of one run.

    Args:
        runs: seeds of one run.
        metric: column of the metrics.
        x: "epoch" or "images_forwarded".
    Returns:
        Columns x, mean, low and high (smallest and largest over the seeds).
    """
    rows = pd.concat([run.evaluated for run in runs])
    return rows.groupby(x)[metric].agg(mean="mean", low="min", high="max").reset_index()
