"""What runs leave on disk: the folder of one run, its state, and the few files in which runs are published.

One's own runs lie in results/<profile>/<run>/seed<k>/, those that come with the project in
results/published/<profile>/; see results/README.md. All are read back as `Run`.
"""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from manyviews.config import paths
from manyviews.config.errors import is_full
from manyviews.config.files import (
    check_sums,
    clear_leftovers,
    damaged,
    read_json,
    replacing,
    write_json,
    write_sums,
)
from manyviews.config.runs import VARIANT, configure, deduplicate, run_specs
from manyviews.config.schema import ConfigError, Profile, RunConfig
from manyviews.config.surroundings import BUSY
from manyviews.probes.predictions import accuracies

CURVES = ("id_knn_accuracy", "id_linear_accuracy", "ood_knn_accuracy", "ood_linear_accuracy")
RAW_PIXELS = "raw_pixels"
RERUN = "rerun"  # a file in the folder of a run that is to be made again
FAILED = "failed.json"  # a file in the partial folder of one that cannot go on
TABLES = ("sweep", "neighbours", "feature_map")  # of the runs that are looked at from all sides
LAST_LOOK = 3  # epochs that the probes at the end of a run that is not brief take, about
KEYS = ["run", "seed"]  # of a published table
DIFFER = "{key} is {there} there and {here} here"


class RunBusy(ConfigError):
    """Another process is at work on a run."""


class RunState(Enum):
    """How far a run is; see state_of."""

    ABSENT = "not begun"
    BEGUN = "interrupted, or at work"
    FAILED = "cannot go on"
    COMPLETE = "complete"
    MARKED = "complete, but to be made again"

    @property
    def has_numbers(self) -> bool:
        """Whether the folder holds a whole run."""
        return self in (RunState.COMPLETE, RunState.MARKED)


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run. What its evaluation left out (evaluation.brief, no sweep) is None."""

    name: str
    seed: int
    config: RunConfig
    summary: dict[str, Any]  # final numbers: those of the last epoch, never the best over the epochs
    environment: dict[str, Any]  # what they were made with
    metrics: pd.DataFrame  # a row for each epoch, from 0 (initial weights)
    predictions: pd.DataFrame  # see probes/predictions.py
    initial_predictions: pd.DataFrame | None = None  # the same with the initial, random weights
    sweep: pd.DataFrame | None = None  # see probes.sweep, with a column `weights`
    neighbours: pd.DataFrame | None = None  # see probes.feature_space.example_neighbours
    feature_map: pd.DataFrame | None = None  # see probes.feature_space.feature_map

    def __repr__(self) -> str:
        measured = ", ".join(f"{measure} {self.summary[measure]:.3f}" for measure in CURVES)
        where = f"{self.config.profile}/{self.name}, seed {self.seed}"
        return f"<Run {where}, {self.config.training.epochs} epochs: {measured}>"

    @property
    def evaluated(self) -> pd.DataFrame:
        """The metrics of the epochs after which the probes were run."""
        return self.metrics.dropna(subset=list(CURVES))


Runs = dict[str, list[Run]]  # by name, the seeds of each in order; a run that is not there is missing


@dataclass(frozen=True, eq=False)
class Results:
    """Runs of a profile, and what the probes predict from raw pixels."""

    runs: Runs
    raw_pixels: pd.DataFrame | None
    published: bool  # come with the project; else one's own

    def table(self, name: str = "metrics", runs: Iterable[str] | None = None) -> pd.DataFrame:
        """A table of all runs (default) or some, that a `Run` has by this name, with columns run and seed.

        Runs that are the same training are there once, under the name that is first in runs.yaml.
        """
        chosen = self.runs if runs is None else {key: self.runs[key] for key in runs if key in self.runs}
        tables = ((run, getattr(run, name)) for run in each_once(chosen))
        return stacked((run.name, run.seed, table) for run, table in tables if table is not None)


def each_once(runs: Runs) -> list[Run]:
    """Every run and seed under its own name; what is the same run under another name is left out."""
    return [run for name, seeds in runs.items() for run in seeds if run.name == name]


def stacked(tables: Iterable[tuple[str, int, pd.DataFrame]]) -> pd.DataFrame:
    """Tables of runs and seeds as one, behind the columns run and seed."""
    parts = [table.assign(run=run, seed=seed)[[*KEYS, *table.columns]] for run, seed, table in tables]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=KEYS)


# ------------------------------------------------------------------------------------------------ tables


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write or replace a CSV file in one step; compressed if its name ends in .xz."""
    with replacing(path) as new:
        table.to_csv(new, index=False)


def read_table(path: Path) -> pd.DataFrame:
    """Content of a CSV file, its numbers equal to those that were written, to the last bit.

    Raises:
        ConfigError: cut short or otherwise damaged; names the file.
    """
    # From version 3 on pandas does so by itself, and warns of the option.
    exact = {"float_precision": "round_trip"} if pd.__version__.startswith("2.") else {}
    try:
        return pd.read_csv(path, **exact)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, EOFError) as error:
        raise damaged(path, f"damaged ({error})") from None


def _with_whole_numbers(predictions: pd.DataFrame) -> pd.DataFrame:
    """Predictions as read from a file, with missing values among whole numbers."""
    columns = predictions.columns.difference(["split", "run", "weights"])
    return predictions.astype(dict.fromkeys(columns, "Int64"))


# ------------------------------------------------------------------------------------- folders of one run


def partial_folder(folder: Path) -> Path:
    """What a run's folder is called until the run is finished."""
    return folder.with_name(f"{folder.name}.partial")


def replaced_folder(folder: Path) -> Path:
    """What a finished run's folder is called when a new one takes its place, until it is deleted."""
    return folder.with_name(f"{folder.name}.replaced")


def take_place(folder: Path) -> None:
    """Make a partial folder, which is whole by now, the run's. At any instant a folder is whole or away."""
    if folder.exists():
        _put_away(folder, replaced_folder(folder))
    partial_folder(folder).rename(folder)
    tidy(folder)


def _put_away(folder: Path, replaced: Path) -> None:
    """Rename a folder to what is deleted next: in one step, where to delete it could be cut short."""
    shutil.rmtree(replaced, ignore_errors=True)
    folder.rename(replaced)


def tidy(folder: Path) -> None:
    """Remove from a finished run what was needed to make it, and what a killed process left there."""
    (folder / "checkpoint.pt").unlink(missing_ok=True)
    clear_leftovers(folder)
    shutil.rmtree(replaced_folder(folder), ignore_errors=True)


def state_of(folder: Path) -> RunState:
    """How far the run of a folder is. The rename of its partial folder is what makes it complete."""
    if (folder / "summary.json").exists():
        return RunState.MARKED if (folder / RERUN).exists() else RunState.COMPLETE
    if (partial_folder(folder) / FAILED).exists():
        return RunState.FAILED
    return RunState.BEGUN if partial_folder(folder).exists() else RunState.ABSENT


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Keep other processes from a run.

    Raises:
        RunBusy: one is at work on it already.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f"{folder.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RunBusy(f"{folder}: {BUSY}; wait for it to end") from None
    except OSError as error:
        if is_full(error):
            raise
        problem = f"this file system has no locks ({error.strerror})"
        raise ConfigError(f"{folder}: {problem}; put results on another one with --results") from None
    try:
        yield
    finally:
        lock.release()


def mark_for_rerun(folder: Path) -> None:
    """Have a run begin anew. A finished one keeps its numbers until the new one replaces them."""
    with run_lock(folder):
        if partial_folder(folder).exists():
            _put_away(partial_folder(folder), replaced_folder(folder))
            shutil.rmtree(replaced_folder(folder), ignore_errors=True)
        if folder.exists():
            (folder / RERUN).touch()


def failures(profile: Profile) -> dict[str, str]:
    """Why runs of a profile cannot go on, by run and seed."""
    folders = sorted((paths.results_root() / profile.profile).glob(f"*/seed*.partial/{FAILED}"))
    return {f"{path.parent.parent.name}, {path.parent.stem}": read_json(path)["reason"] for path in folders}


def recorded_config(folder: Path) -> RunConfig:
    """The configuration of the run in a folder.

    Raises:
        ConfigError: it is missing, damaged or another version's; names the file.
    """
    path = folder / "config.json"
    values = read_json(path)
    try:
        return RunConfig(**values)
    except ConfigError as error:
        raise damaged(path, f"of another version ({error})") from None


def check_recipe(config: RunConfig, folder: Path) -> None:
    """See that what lies in a run's folder was made by the same configuration.

    Raises:
        ConfigError: it was not; names what differs, and what to do.
    """
    there = recorded_config(folder)
    differing = differences(there.recipe(), config.recipe())
    if differing:
        force = "" if variant_of(config.run) else " (run_all.sh: --force)"
        raise ConfigError(
            f"{folder} was made with another configuration: {'; '.join(differing)}. To keep it, name this "
            'one: in a notebook `variant = "b"`, in a profile file another `profile`. To replace it, delete '
            f"that folder{force}"
        )


def differences(
    there: dict[str, Any], here: dict[str, Any], words: str = DIFFER, prefix: str = ""
) -> list[str]:
    """Keys at which two configurations differ, with both values."""
    lines = []
    for key, value in here.items():
        if isinstance(value, dict):
            lines += differences(there[key], value, words, f"{prefix}{key}.")
        elif there[key] != value:
            lines.append(words.format(key=f"{prefix}{key}", there=there[key], here=value))
    return lines


def load_run(folder: Path) -> Run:
    """Read a finished run, but for its weights.

    Raises:
        ConfigError: a file is missing, or not what the run wrote; names it.
    """
    check_sums(folder, leave_out=".safetensors")

    def table(name: str) -> pd.DataFrame | None:
        path = folder / f"{name}.csv"
        return read_table(path) if path.exists() else None

    config = recorded_config(folder)
    run = Run(
        config.run,
        config.seed,
        config,
        summary=read_json(folder / "summary.json"),
        environment=read_json(folder / "environment.json"),
        metrics=read_table(folder / "metrics.csv"),
        predictions=_with_whole_numbers(read_table(folder / "predictions.csv")),
        initial_predictions=_with_whole_numbers(read_table(folder / "predictions_initial.csv")),
        **{name: table(name) for name in TABLES},
    )
    if any(run.summary[name] != accuracy for name, accuracy in accuracies(run.predictions).items()):
        raise damaged(folder / "summary.json", "its accuracies are not those of the predictions")
    return run


# ----------------------------------------------------------------------------------- all runs of a profile


def load_own(profile: Profile) -> Results:
    """One's own finished runs of a profile; one with the recipe of another has the other's.

    Raises:
        ConfigError: some run was made with another configuration, so that they cannot be compared.
    """
    root, made = paths.results_root() / profile.profile, {}
    workers = deduplicate(run_specs().runs, profile)
    for worker in set(workers.values()):
        for folder in finished_seeds(root / worker):
            check_recipe(configure(worker, profile, int(folder.name[4:])), folder)
            made.setdefault(worker, []).append(load_run(folder))
    runs = {name: made[worker] for name, worker in workers.items() if worker in made}
    path = root / f"{RAW_PIXELS}.csv"
    whole = path.exists() and path.with_suffix(".json").exists()  # else it is being measured again
    return Results(runs, _with_whole_numbers(read_table(path)) if whole else None, published=False)


def load_variants(profile: Profile) -> Runs:
    """One's own finished runs of this profile that a notebook gave a name of their own, `<run>-<variant>`."""
    folders = sorted((paths.results_root() / profile.profile).glob(f"*{VARIANT}*"))
    named = {of.name: finished_seeds(of) for of in folders if variant_of(of.name)}
    return {name: list(map(load_run, seeds)) for name, seeds in named.items() if seeds}


def finished_seeds(folder: Path) -> list[Path]:
    """The folders of a run's finished seeds, in order."""
    seeds = sorted(folder.glob("seed*"), key=lambda path: (len(path.name), path.name))
    return [path for path in seeds if path.name[4:].isdigit() and state_of(path).has_numbers]


def variant_of(name: str) -> str:
    """The run of which a name is a variant; empty if it is none."""
    run = name.split(VARIANT)[0]
    return run if name not in run_specs().runs and run in run_specs().runs else ""


def publish(results: Results, folder: Path) -> None:
    """Write runs, their own and no aliases, to the files from which load_published reads."""
    runs = each_once(results.runs)
    about = [
        {
            "run": run.name,
            "seed": run.seed,
            "config": run.config.model_dump(mode="json"),
            "summary": run.summary,
            "environment": run.environment,
        }
        for run in runs
    ]
    write_json(folder / "runs.json", about)

    write_table(results.table("metrics"), folder / "metrics.csv")
    predictions = [(run.name, run.seed, run.predictions.assign(weights="trained")) for run in runs]
    predictions += [
        (run.name, run.seed, run.initial_predictions.assign(weights="initial"))
        for run in runs
        if run.initial_predictions is not None
    ]
    if results.raw_pixels is not None:
        predictions.append((RAW_PIXELS, 0, results.raw_pixels.assign(weights="none")))
    write_table(stacked(predictions), folder / "predictions.csv.xz")
    for name in TABLES:
        if len(table := results.table(name)):
            write_table(table, folder / f"{name}.csv")
    tables = (f"{name}.csv" for name in ("metrics", *TABLES))
    write_sums(folder, ["runs.json", "predictions.csv.xz", *tables])


def load_published(profile: Profile) -> Results:
    """The runs that come with the project, as far as this profile still is what they were made with."""
    folder = paths.published_root() / profile.profile
    if not (folder / "runs.json").exists():
        return Results({}, None, published=True)
    check_sums(folder)

    def parts(name: str) -> dict[tuple[Any, ...], pd.DataFrame]:
        path = folder / name
        if not path.exists():
            return {}
        table = read_table(path)
        keys = [*KEYS, "weights"] if "predictions" in name else KEYS
        groups = table.groupby(keys, sort=False)
        return {key: rows.drop(columns=keys).reset_index(drop=True) for key, rows in groups}

    metrics, predictions = parts("metrics.csv"), parts("predictions.csv.xz")
    predictions = {key: _with_whole_numbers(table) for key, table in predictions.items()}
    further = {name: parts(f"{name}.csv") for name in TABLES}
    made: Runs = {}
    for about in read_json(folder / "runs.json"):
        name, seed = about["run"], about["seed"]
        try:
            config, today = RunConfig(**about["config"]), configure(name, profile, seed)
        except (ConfigError, KeyError):  # of a run, or with a key, that there is no longer
            continue
        if config.recipe() == today.recipe():
            run = Run(
                name,
                seed,
                config,
                about["summary"],
                about["environment"],
                metrics[name, seed],
                predictions[name, seed, "trained"],
                predictions.get((name, seed, "initial")),
                **{key: tables.get((name, seed)) for key, tables in further.items()},
            )
            made.setdefault(name, []).append(run)
    workers = deduplicate(run_specs().runs, profile)
    runs = {name: made[worker] for name, worker in workers.items() if worker in made}
    return Results(runs, predictions.get((RAW_PIXELS, 0, "none")), published=True)


def merge(published: Results, own: Results) -> Results:
    """What is to be published: what there is, and one's own runs, which replace those of the same seed."""
    runs: Runs = {}
    for name in [name for name in run_specs().runs if name in published.runs or name in own.runs]:
        by_seed = {run.seed: run for of in (published, own) for run in of.runs.get(name, [])}
        runs[name] = [by_seed[seed] for seed in sorted(by_seed)]
    raw_pixels = published.raw_pixels if own.raw_pixels is None else own.raw_pixels
    return Results(runs, raw_pixels, published=True)


def load_results(profile: Profile) -> Results:
    """What a report is about: the published runs, unless one's own have each of them with as many seeds."""
    published, own = load_published(profile), load_own(profile)
    own_is_whole = all(len(own.runs.get(name, [])) >= len(seeds) for name, seeds in published.runs.items())
    return own if own_is_whole else published
