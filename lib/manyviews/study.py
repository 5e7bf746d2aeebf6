"""Many runs side by side: those of a study that are not there yet."""

import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import Queue, get_context, parent_process
from typing import Any

import torch
from tqdm import tqdm

from manyviews import paths
from manyviews.config import EXPERIMENT, RunConfig
from manyviews.experiment import run_experiment
from manyviews.models import count_multiply_adds
from manyviews.results import RunBusy, check_recipe, has_numbers, is_forgotten
from manyviews.rows import configure, rows_of, same_runs
from manyviews.train import TrainingFailed, make_model

Job = tuple[str, int]  # name of a run, seed
BAR = "{desc}: {percentage:3.0f}% |{bar}| {elapsed}, left {remaining}"


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
    total = len(set(same_runs(rows_of(study), shared).values())) * len(config.seeds)
    print(f"Study '{study}': {total - len(jobs)} of {total} runs are there, {len(jobs)} to do.", flush=True)
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
    os.environ["TQDM_DISABLE"] = "1"  # in the workers, whose bars would overwrite each other
    context = get_context("spawn")  # a forked process could not use a GPU
    gpus = context.Queue()
    for worker in range(at_once):
        gpus.put(worker % max(1, torch.cuda.device_count()))
    threads = max(1, (os.cpu_count() or 1) // at_once)
    work = {name: training_work(name, shared) for name, _ in dict(jobs).items()}
    failures = []
    with (
        ProcessPoolExecutor(at_once, context, prepare_worker, (threads, gpus)) as pool,
        tqdm(total=sum(work[name] for name, _ in jobs), desc=f"{len(jobs)} runs", bar_format=BAR) as bar,
    ):
        tasks = {pool.submit(run_job, *job, shared): job for job in jobs}
        try:
            for number, task in enumerate(as_completed(tasks), 1):
                name, seed = tasks[task]
                outcome = _outcome(task)
                bar.clear()  # or the line would begin behind it
                print(f"[{number}/{len(jobs)}] {name} seed {seed}: {outcome or 'done'}", flush=True)
                failures += [f"{name} seed {seed}: {outcome}"] if outcome else []
                bar.update(work[name])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # what was begun goes on from there next time
            raise
        finally:
            del os.environ["TQDM_DISABLE"]
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
    torch.set_num_threads(threads)
    threading.Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()


def visible_gpu(number: int) -> str:
    """The name of one of the GPUs that this process may use; there may be none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return str(number) if visible is None else visible.split(",")[number]


def run_job(name: str, seed: int, shared: Mapping[str, Any]) -> str:
    """Make one run, in a worker; gives why it failed, or nothing."""
    try:
        run_experiment(configure(name, {**shared, "seed": seed}))
    except RunBusy:
        return ""
    except TrainingFailed as error:
        return str(error)
    return ""


def training_work(name: str, shared: Mapping[str, Any]) -> float:
    """Multiply-adds of a run's forward passes over one training image."""
    config = configure(name, shared)
    with torch.device("meta"):
        model = make_model(config, n_classes=2)
    per_view = count_multiply_adds(model, config.views.size or config.data.image_size)
    return per_view * config.training.epochs * config.n_views * config.training.image_share
