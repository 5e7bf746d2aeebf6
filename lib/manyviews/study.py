"""Many runs side by side: those of a study that are not there yet."""

import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partialmethod
from multiprocessing import Queue, get_context, parent_process
from typing import Any

import torch
from tqdm import tqdm

from manyviews import paths
from manyviews.config import EXPERIMENT, RunConfig
from manyviews.experiment import run_experiment
from manyviews.files import read_table
from manyviews.models import count_multiply_adds
from manyviews.results import RunBusy, check_recipe, has_numbers, is_forgotten, partial_folder
from manyviews.rows import configure, rows_of, same_runs
from manyviews.train import TrainingFailed, make_model

Job = tuple[str, int]  # name of a run, seed
BAR = "{desc}: {percentage:3.0f}% |{bar}| {elapsed}, left {remaining}"
SECONDS_BETWEEN_LOOKS = 5  # at how far the runs are


def default_jobs() -> int:
    """Runs at a time: $MANYVIEWS_JOBS, or one for each GPU, or else for each core; 0 makes none.

    The small networks of a laptop's profiles leave a second thread idle for much of its time; two runs of one
    thread each were seen to do a fifth more work than one run of two, and to suffer less from other programs.
    """
    return int(os.environ.get("MANYVIEWS_JOBS") or torch.cuda.device_count() or os.cpu_count() or 1)


def missing_jobs(names: Sequence[str], shared: Mapping[str, Any], seeds: Sequence[int]) -> list[Job]:
    """The runs whose numbers are not there, all seeds of one before the next.

    Raises:
        ConfigError: a run cannot be made in this profile, or was made with another configuration.
    """
    for name in names:
        configure(name, shared)  # same_runs leaves out what cannot be made
    jobs = []
    for name in dict.fromkeys(same_runs(names, shared).values()):
        for seed in seeds:
            config = configure(name, {**shared, "seed": seed})
            folder = paths.run_folder(config.profile, name, seed)
            if has_numbers(folder) and not is_forgotten(folder):
                check_recipe(config, folder)
            else:
                jobs.append((name, seed))
    return jobs


def run_study(study: str, config: RunConfig, at_once: int | None = None) -> list[str]:
    """Make the runs of a study that are missing; see run_jobs."""
    shared = config.model_dump(exclude=EXPERIMENT)
    jobs = missing_jobs(rows_of(study), shared, config.seeds)
    recipes, seeds = len(set(same_runs(rows_of(study), shared).values())), len(config.seeds)
    there = recipes * seeds - len(jobs)
    of = f"{recipes} recipes, {seeds} seed(s) each"
    print(
        f"Study '{study}' ({of}): {there} of {recipes * seeds} runs are there, {len(jobs)} to do.", flush=True
    )
    return run_jobs(jobs, shared, at_once)


def run_jobs(jobs: Sequence[Job], shared: Mapping[str, Any], at_once: int | None = None) -> list[str]:
    """Make runs, several at a time, each in a process with its share of the cores and one of the GPUs.

    Args:
        jobs: names and seeds.
        shared: what the profile says.
        at_once: runs at a time; default: default_jobs().
    Returns:
        Why runs failed, a sentence for each; a failed run does not keep the others from running. One that
        another process is at work on is left to it.
    """
    at_once = min(default_jobs() if at_once is None else at_once, len(jobs))
    if not at_once:
        return []
    context = get_context("spawn")  # a forked process could not use a GPU
    gpus = context.Queue()
    for worker in range(at_once):
        gpus.put(worker % max(1, torch.cuda.device_count()))
    threads = max(1, (os.cpu_count() or 1) // at_once)
    configs = {job: configure(job[0], {**shared, "seed": job[1]}) for job in jobs}
    with ProcessPoolExecutor(at_once, context, prepare_worker, (threads, gpus)) as pool:
        tasks = {pool.submit(run_job, config): job for job, config in configs.items()}
        try:
            return _follow(tasks, configs)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # what was begun goes on from there next time
            raise


def _follow(tasks: dict[Future, Job], configs: Mapping[Job, RunConfig]) -> list[str]:
    """Wait for runs, say which have ended and how far all are; gives why some failed."""
    of_runs = {config.run: config for config in configs.values()}
    work = {run: training_work(config) for run, config in of_runs.items()}
    done = {job: share_done(config) for job, config in configs.items()}
    failures = []

    def all_done() -> float:
        return sum(work[run] * share for (run, _), share in done.items())

    with tqdm(
        total=sum(work[run] for run, _ in configs),
        initial=all_done(),
        desc=f"training {len(configs)} runs",
        bar_format=BAR,
    ) as bar:
        while tasks:
            for task in wait(tasks, SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED).done:
                name, seed = job = tasks.pop(task)
                outcome, done[job] = _outcome(task), 1
                bar.clear()  # or the line would begin behind it
                number = f"[{len(configs) - len(tasks)}/{len(configs)}]"
                print(f"{number} {name} seed {seed}: {outcome or 'done'}", flush=True)
                failures += [f"{name} seed {seed}: {outcome}"] if outcome else []
            for job in tasks.values():
                done[job] = max(done[job], share_done(configs[job]))
            bar.n = all_done()  # without update, tqdm takes the pace since the start: epochs end in bursts
            bar.refresh()  # also if nothing has moved: the time has
    return failures


def _outcome(task: Future) -> str:
    """What a run ended with: nothing, or why it failed, which is no reason not to make the others.

    Raises:
        BrokenProcessPool: a worker was killed, and with it the pool.
    """
    try:
        return task.result()
    except BrokenProcessPool:
        raise
    except Exception as error:  # a damaged file, a full disk, no memory left, ...
        return f"{type(error).__name__}: {error}"


def prepare_worker(threads: int, gpus: Queue) -> None:
    """Make a process one of several: its threads, its GPU, and no life after its parent's."""
    os.environ["CUDA_VISIBLE_DEVICES"] = visible_gpu(gpus.get())
    tqdm.__init__ = partialmethod(tqdm.__init__, disable=True)  # bars of several would overwrite each other
    torch.set_num_threads(threads)
    threading.Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()


def visible_gpu(number: int) -> str:
    """The name of one of the GPUs that this process may use; there may be none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return str(number) if visible is None else visible.split(",")[number]


def run_job(config: RunConfig) -> str:
    """Make one run, in a worker; gives why it failed, or nothing."""
    try:
        run_experiment(config)
    except RunBusy:
        return ""
    except TrainingFailed as error:
        return str(error)
    return ""


def training_work(config: RunConfig) -> float:
    """Multiply-adds of a run's forward passes over one training image."""
    with torch.device("meta"):
        model = make_model(config, n_classes=2)
    per_view = count_multiply_adds(model, config.views.size or config.data.image_size)
    return per_view * config.training.epochs * config.n_views * config.training.image_share


def share_done(config: RunConfig) -> float:
    """How much of the training of an unfinished run is behind it: 0 to 1."""
    folder = partial_folder(paths.run_folder(config.profile, config.run, config.seed))
    try:
        epochs = len(read_table(folder / "metrics.csv")) - 1  # the first row is of the initial weights
    except (OSError, ValueError):  # not begun, just finished, or damaged, which the run itself will tell
        return 0.0
    return min(max(0, epochs) / config.training.epochs, 1)
