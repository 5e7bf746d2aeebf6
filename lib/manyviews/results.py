"""What finished runs left on disk, read back and summarised over seeds and test images."""

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from manyviews import paths
from manyviews.config import EXPERIMENT, ConfigError, RunConfig
from manyviews.evaluation import MEASURES, correct
from manyviews.files import read_json, read_table
from manyviews.intervals import Estimate, estimate, estimate_without_images
from manyviews.rows import ROWS, configure, rows_of, same_runs

CEILING = "supervised"
# The report's three runs and the ceiling, in its order, and how tables and figures call them; without the
# ceiling.
TITLES = {name: ROWS[name].title for name in rows_of("report")}
RUNS = {name: title for name, title in TITLES.items() if name != CEILING}

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

# What other measures are called, beside the four that the report has.
FURTHER = {
    "ood_knn_folds_accuracy": "k-NN, unseen classes, in folds",
    "ood_linear_folds_accuracy": "linear, unseen classes, in folds",
    "id_few_labels_knn_accuracy": "k-NN, training classes, as few labels as OOD",
    "id_few_labels_linear_accuracy": "linear, training classes, as few labels as OOD",
}
PROBES = {
    "knn": "k-NN",
    "weighted_knn": "weighted k-NN",
    "linear": "linear, C as the report's",
    "linear_swept": "linear, C chosen",
}
FORGOTTEN = "forgotten"  # a file in the folder of a run that is to be repeated
RAW_PIXELS = "raw_pixels.csv"
CONFUSED = 8  # classes that the confusion figure shows


class RunBusy(ConfigError):
    """Another process is at work on a run."""


@dataclass(frozen=True)
class Run:
    """A finished run. What its evaluation left out, evaluation.brief or without a ladder, is None.

    `metrics` has a row for each epoch, from 0 (initial weights); results/README.md explains the columns.
    """

    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    environment: dict[str, Any]
    metrics: pd.DataFrame
    predictions: pd.DataFrame  # see evaluation.final_predictions
    initial_predictions: pd.DataFrame | None  # the same with the initial, random weights
    ladder: pd.DataFrame | None  # see evaluation.ladder
    neighbours: pd.DataFrame | None  # see feature_space.example_neighbours
    feature_map: pd.DataFrame | None  # see feature_space.feature_map

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def name(self) -> str:
        return self.config["run"]

    def class_names(self, measure: str) -> list[str]:
        """Names of the classes that a measure is about."""
        return self.environment["class_names" if measure.startswith("id") else "ood_class_names"]

    @property
    def evaluated(self) -> pd.DataFrame:
        """The metrics of the epochs after which the probes were run."""
        return self.metrics.dropna(subset=list(ACCURACIES))


def read_predictions(path: Path) -> pd.DataFrame:
    """A file of evaluation.final_predictions."""
    table = read_table(path)
    return table.astype(dict.fromkeys(table.columns[1:], "Int64"))


def raw_pixels_file(profile: str) -> Path:
    """Where the predictions from raw pixels lie."""
    return paths.results_root() / profile / RAW_PIXELS


def load_raw_pixels(profile: str) -> pd.DataFrame | None:
    """Predictions from raw pixels; None where they were not made."""
    path = raw_pixels_file(profile)
    return read_predictions(path) if path.exists() else None


def partial_folder(folder: Path) -> Path:
    """What a run's folder is called until the run is finished."""
    return folder.with_name(f"{folder.name}.partial")


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Keep other processes from a run.

    Raises:
        RunBusy: one is at work on it already.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.with_name(f"{folder.name}.lock"), timeout=0):
            yield
    except Timeout:
        raise RunBusy(f"{folder}: another process is at work on this run; wait for it to end") from None


def has_numbers(folder: Path) -> bool:
    """Whether a folder holds all numbers of a run, with or without its weights."""
    return (folder / "summary.json").exists()


def is_forgotten(folder: Path) -> bool:
    """Whether a run is to be repeated; see forget."""
    return (folder / FORGOTTEN).exists()


def is_finished(folder: Path) -> bool:
    """Whether a folder holds a whole run. One from the repository lacks the weights, so it does not, unless
    it is of those that keep none.
    """
    if not has_numbers(folder) or is_forgotten(folder):
        return False
    brief = read_json(folder / "config.json")["evaluation"].get("brief", False)
    return brief or (folder / "model.safetensors").exists()


def forget(folder: Path) -> None:
    """Have a run begin anew. A finished one keeps its numbers until the new one replaces them."""
    with run_lock(folder):
        shutil.rmtree(partial_folder(folder), ignore_errors=True)
        if folder.exists():
            (folder / FORGOTTEN).touch()


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

    def table(name: str, read: Callable[[Path], pd.DataFrame] = read_table) -> pd.DataFrame | None:
        return read(folder / name) if (folder / name).exists() else None

    return Run(
        folder=folder,
        # Read as a configuration, which fills in what is newer than the run with the value that it had then.
        config=RunConfig(**read_json(folder / "config.json")).model_dump(mode="json"),
        summary=read_json(folder / "summary.json"),
        environment=read_json(folder / "environment.json"),
        metrics=read_table(folder / "metrics.csv"),
        predictions=read_predictions(folder / "predictions.csv"),
        initial_predictions=table("predictions_initial.csv", read_predictions),
        ladder=table("ladder.csv"),
        neighbours=table("neighbours.csv"),
        feature_map=table("feature_map.csv"),
    )


def load_runs(config: RunConfig, names: Iterable[str] = TITLES) -> dict[str, list[Run]]:
    """Finished runs of a profile by name, each with its seeds in order; a run that is not there is missing.

    Args:
        config: its profile and all that the runs share; experiment and seed do not matter.
        names: of rows. One that comes out like another in this profile has the other's runs.
    Raises:
        ConfigError: some run was made with another configuration, so that they cannot be compared.
    """
    shared = config.model_dump(exclude=EXPERIMENT)
    runs: dict[str, list[Run]] = {}
    for name, standing in same_runs(names, shared).items():
        folders = (paths.results_root() / config.profile / standing).glob("seed*")
        finished = [f for f in folders if f.name[4:].isdigit() and has_numbers(f)]
        for folder in sorted(finished, key=lambda f: int(f.name[4:])):
            check_recipe(configure(standing, shared | {"seed": int(folder.name[4:])}), folder)
            runs.setdefault(name, []).append(load_run(folder))
    return runs


def reason_of(folder: Path) -> str:
    """Why a run could not go on; empty if nothing says so."""
    mark = partial_folder(folder) / "failed.json"
    return read_json(mark)["reason"] if mark.exists() else ""


def load_failures(profile: str) -> list[str]:
    """Why runs of a profile could not go on, a sentence for each."""
    marks = sorted((paths.results_root() / profile).glob("*/seed*.partial/failed.json"))
    return [
        f"`{mark.parent.parent.name}` {mark.parent.stem} failed: {read_json(mark)['reason']}"
        for mark in marks
    ]


def final_accuracy(seeds: list[Run], measure: str) -> Estimate:
    """Final accuracy of a run over its seeds; a measure of evaluation.MEASURES, or another of the summary."""
    if measure not in MEASURES:
        return estimate_without_images([run.summary[measure] for run in seeds])
    return estimate(np.stack([correct(run.predictions, measure) for run in seeds]).astype(float))


def common_scores(runs: dict[str, list[Run]], names: Iterable[str], measure: str) -> dict[str, np.ndarray]:
    """Whether each scored image was classified right by some runs, for the seeds that all of them have.

    Returns:
        (S, M), of 0 and 1, by name; empty where no seed is in all.
    """
    of_runs = {name: {run.seed: run for run in runs.get(name, [])} for name in names}
    seeds = sorted(set.intersection(*map(set, of_runs.values()))) if of_runs else []
    if not seeds:
        return {}
    return {
        name: np.stack([correct(by_seed[seed].predictions, measure) for seed in seeds]).astype(float)
        for name, by_seed in of_runs.items()
    }


def difference(a: dict[int, pd.DataFrame], b: dict[int, pd.DataFrame], measure: str) -> Estimate | None:
    """By how much one accuracy exceeds another on the same images, paired by seed and by image.

    Args:
        a, b: predictions by seed.
        measure: one of evaluation.MEASURES.
    Returns:
        The estimate over the seeds that both have; None where there is none.
    """
    scores = score_differences(a, b, measure)
    return None if scores is None else estimate(scores)


def score_differences(
    a: dict[int, pd.DataFrame], b: dict[int, pd.DataFrame], measure: str
) -> np.ndarray | None:
    """The same for each seed and image: (S, M), of -1, 0 and 1; None where no seed is in both."""
    seeds = sorted(a.keys() & b.keys())
    if not seeds:
        return None
    pairs = [(correct(a[seed], measure).astype(float), correct(b[seed], measure)) for seed in seeds]
    return np.stack([of_a - of_b for of_a, of_b in pairs])


def predictions_of(
    name: str, runs: dict[str, list[Run]], raw_pixels: pd.DataFrame | None, floor_of: str = ""
) -> dict[int, pd.DataFrame]:
    """Predictions by seed.

    Args:
        name: of a run; or "raw_pixels" or "initial" (random weights), the floors of the run `floor_of`.
        runs: see load_runs.
        raw_pixels: see load_raw_pixels.
    Returns:
        Empty where there are none.
    """
    if name == "raw_pixels":
        return {} if raw_pixels is None else {run.seed: raw_pixels for run in runs.get(floor_of, [])}
    if name == "initial":
        return {run.seed: run.initial_predictions for run in runs.get(floor_of, [])}
    return {run.seed: run.predictions for run in runs.get(name, [])}


def accuracy_table(runs: dict[str, list[Run]]) -> pd.DataFrame:
    """Final accuracies: a row for each of the report's runs, and the ceiling, and each accuracy.

    Columns: run, measure, reported, and the fields of intervals.Estimate. What was not reported or not run is
    NaN, with n = 0.
    """
    rows = []
    for name in TITLES:
        for metric in ACCURACIES | FURTHER:
            found = final_accuracy(runs[name], metric).as_dict() if name in runs else {"n": 0}
            reported = REPORTED.get(name, {}).get(metric, float("nan"))
            rows.append({"run": name, "measure": metric, "reported": reported, **found})
    return pd.DataFrame(rows, columns=["run", "measure", "reported", *Estimate.__dataclass_fields__])


def ladder_table(runs: dict[str, list[Run]], task: str) -> pd.DataFrame:
    """Accuracies of the ladder's rungs as means over the seeds.

    Args:
        runs: see load_runs; those without a ladder are left out.
        task: "id" or "ood".
    Returns:
        A row for each rung, by its name; a column for each run, and one for the random weights of the first.
    """
    columns = {}
    for name, seeds in runs.items():
        ladders = [run.ladder for run in seeds if run.ladder is not None]
        if not ladders:
            continue
        rungs = pd.concat(ladders)
        for weights in ("trained",) if columns else ("initial", "trained"):
            rows = rungs[(rungs["task"] == task) & (rungs["weights"] == weights)]
            title = TITLES[name] if weights == "trained" else f"{TITLES[name]}, random weights"
            keys = ["layer", "normalised", "probe", "neighbours"]
            columns[title] = rows.groupby(keys, dropna=False, sort=False)["accuracy"].mean()
    table = pd.DataFrame(columns)
    return table if table.empty else table.set_axis([rung_name(*rung) for rung in table.index])


def rung_name(layer: str, normalised: bool, probe: str, neighbours: float) -> str:
    """What a rung of the ladder is called."""
    k = "" if pd.isna(neighbours) else f", k = {neighbours:.0f}"
    return f"{layer}, {'length 1' if normalised else 'raw'}: {PROBES[probe]}{k}"


def cost_table(runs: dict[str, list[Run]]) -> pd.DataFrame:
    """What each run cost, as the mean over its seeds, a row for each run that is there."""
    columns = ("steps", "images_forwarded", "parameters", "multiply_adds_per_view", "multiply_adds")
    rows = {
        name: {column: seeds[0].summary[column] for column in columns}
        | {key: float(np.mean([s.environment[key] for s in seeds])) for key in ("wall_time_s", "cpu_time_s")}
        for name, seeds in runs.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def class_accuracies(seeds: list[Run], measure: str) -> pd.Series:
    """Final accuracy of each class, by its number, as the mean over the seeds."""
    split = MEASURES[measure][0]
    of_seeds = []
    for run in seeds:
        rows = run.predictions[run.predictions["split"] == split].set_index("image")
        of_seeds.append(correct(run.predictions, measure).groupby(rows["label"]).mean())
    return pd.concat(of_seeds, axis=1).mean(axis=1)


def confusion_matrix(seeds: list[Run], measure: str) -> np.ndarray:
    """Share of the images of each class (row) that are taken for each class (column); the mean over seeds."""
    split, column = MEASURES[measure]
    tables = [run.predictions[run.predictions["split"] == split].dropna(subset=column) for run in seeds]
    n_classes = len(seeds[0].class_names(measure))
    pairs = [table.groupby(["label", column]).size().reset_index(name="n") for table in tables]
    counts = np.zeros((n_classes, n_classes))
    for of_seed in pairs:
        counts[of_seed["label"].astype(int), of_seed[column].astype(int)] += of_seed["n"]
    return counts / counts.sum(axis=1, keepdims=True)


def most_confused(matrix: np.ndarray, most: int = CONFUSED) -> list[int]:
    """The classes of the most confused pairs, partners beside each other, until there are `most`."""
    pairs = np.stack(np.triu_indices(len(matrix), k=1), axis=1)
    either_way = matrix[pairs[:, 0], pairs[:, 1]] + matrix[pairs[:, 1], pairs[:, 0]]
    chosen: list[int] = []
    for pair in pairs[np.argsort(-either_way, kind="stable")].tolist():
        new = [label for label in pair if label not in chosen]
        if len(chosen) + len(new) <= most:
            chosen += new
    return chosen


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
