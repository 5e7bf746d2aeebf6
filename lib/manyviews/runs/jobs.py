"""Many jobs side by side, each with its part of the cores and one of the GPUs; progress by epochs."""

import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from queue import SimpleQueue

from tqdm import tqdm

from manyviews.config import paths
from manyviews.config.errors import sentence
from manyviews.config.files import read_json
from manyviews.config.runs import configure, deduplicate, run_specs
from manyviews.config.schema import Profile, RunConfig
from manyviews.config.surroundings import clean_room
from manyviews.data.dataset import SPLITS, Dataset
from manyviews.runs.store import (
    RunState,
    check_recipe,
    mark_for_rerun,
    partial_folder,
    read_table,
    state_of,
    tidy,
)

SECONDS_BETWEEN_LOOKS = 3  # at how far the runs are
SECONDS_TO_START = 8  # a process and its imports
BAR = "{desc}: {percentage:3.0f}% |{bar}| {elapsed}, left {remaining}"
PROCESS_SETTINGS = {  # read from the environment when a process starts
    # Threads that wait for each other sleep: training beside one other program is several times faster so.
    "OMP_WAIT_POLICY": "PASSIVE",
    # Memory once used is kept for the next step. By default glibc gives large tensors back to the system,
    # which then clears each page of the next one: up to a sixth of a step's time.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**62),
    "TQDM_DISABLE": "1",  # bars of several would overwrite each other; ours is made before
}


@dataclass(frozen=True)
class Job:
    """Something to do in a process of its own."""

    title: str
    work: Callable[[], str]  # picklable; gives why it failed, or nothing
    config: RunConfig | None = None  # of the run that it makes


def default_jobs() -> int:
    """Jobs at a time: $MANYVIEWS_JOBS, or one for each GPU, or else for each core.

    The small networks of a laptop's profiles leave a second thread idle for much of its time; two runs of one
    thread each were seen to do a fifth more work than one run of two, and to suffer less from other programs.
    """
    import torch

    return int(os.environ.get("MANYVIEWS_JOBS") or torch.cuda.device_count() or os.cpu_count() or 1)


def missing_runs(
    names: Sequence[str], profile: Profile, seeds: Sequence[int], force: bool = False
) -> list[RunConfig]:
    """The runs that are not complete, all seeds of one before the next; each recipe once.

    Args:
        names: of notebooks/runs.yaml.
        profile: what they share.
        seeds: each run is made once for each.
        force: have complete ones made again.
    Raises:
        ConfigError: a run cannot be made in this profile, or was made with another configuration.
    """
    for name in names:
        configure(name, profile, seeds[0])  # deduplicate leaves out what cannot be made
    workers = dict.fromkeys(deduplicate(names, profile).values())
    configs = [configure(name, profile, seed) for name in workers for seed in seeds]
    missing = []
    for config in configs:
        folder = paths.run_folder(config.profile, config.run, config.seed)
        if force:
            mark_for_rerun(folder)
        if state_of(folder) is RunState.COMPLETE:
            check_recipe(config, folder)
            tidy(folder)
        else:
            missing.append(config)
    return missing


def estimate_seconds(configs: Sequence[RunConfig], dataset: Dataset, at_once: int) -> float:
    """How long runs will take here, from a few timed steps of each kind of network.

    Args:
        configs: of the runs.
        dataset: of all of them.
        at_once: runs at a time.
    """
    sizes = {name: len(getattr(dataset, name).labels) for name in SPLITS}
    of_view: dict[tuple, float] = {}  # seconds
    total = 0.0
    for config in configs:
        kind = (config.depth, config.stem, config.network.width, config.view_size)
        if kind not in of_view:
            of_view[kind] = _seconds_of_a_view(config, dataset, at_once)
        training, epochs = config.training, config.training.epochs
        views = epochs * config.n_views * training.image_fraction * sizes["train"]
        # A forward pass is a third of a step; the probes take about as long again. The last evaluation, with
        # all further probes, was seen to take as long as twelve along the way.
        looks = epochs // config.evaluation.every_epochs + (2 if config.evaluation.brief else 13)
        total += of_view[kind] * (views + looks * sum(sizes.values()) * 2 / 3) + SECONDS_TO_START
    return total / min(at_once, len(configs)) if configs else 0.0


def _seconds_of_a_view(config: RunConfig, dataset: Dataset, at_once: int) -> float:
    """Seconds that a training step takes for each of its views, as one of so many runs at a time."""
    import torch

    from manyviews.runs.run import make_model, recipe_of
    from manyviews.simclr.train import Trainer, resolve_precision

    recipe = recipe_of(config)
    batch = recipe.images_per_batch  # a pass over so many images is one step
    short = replace(recipe, n_views=recipe.views_per_batch, epochs=4, warmup_epochs=0, distinct=None)
    images, threads = dataset.train.as_tensor()[:batch], torch.get_num_threads()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // at_once))
    model, times = make_model(config, dataset.train.n_classes), []
    precision = resolve_precision(config.training.precision, next(model.parameters()).device)
    trainer = Trainer(model, images, short, precision=precision, name="timing some steps")
    trainer.run(lambda progress: times.append(time.perf_counter()))
    torch.set_num_threads(threads)
    return (times[3] - times[0]) / 3 / (2 * recipe.batch_size)


def run_title(run: str, seed: int) -> str:
    """What a run is called in messages."""
    return f"{run_specs().title(run)} ({run}), seed {seed}"


def do_jobs(jobs: Sequence[Job], at_once: int | None = None) -> list[str]:
    """Do jobs, several at a time; a job that fails, or is killed, does not keep the others from being done.

    Whatever ends this function ends the jobs.

    Args:
        jobs: in the order in which they are begun.
        at_once: jobs at a time; default: default_jobs().
    Returns:
        Why jobs failed, a sentence for each.
    """
    at_once = min(at_once or default_jobs(), len(jobs))
    if not at_once:
        return []
    slots: SimpleQueue[int] = SimpleQueue()
    for slot in range(at_once):
        slots.put(slot)
    processes: list[subprocess.Popen] = []

    def do(job: Job) -> str:
        slot = slots.get()
        try:
            with _process(slot, at_once) as process:
                processes.append(process)
                return _answer(process, job)
        finally:
            slots.put(slot)

    reasons = []
    with (
        clean_room(),
        ThreadPoolExecutor(at_once) as pool,
        _progress([job.config for job in jobs if job.config is not None]) as say,
    ):
        futures = {pool.submit(do, job): job for job in jobs}
        try:
            for done, future in enumerate(as_completed(futures), 1):
                title, reason = futures[future].title, future.result()
                resumed = "" if reason else _resumed_with(futures[future].config)
                say(f"[{done}/{len(jobs)}] {title}: {reason or 'done'}{resumed}")
                reasons += [f"{title}: {reason}"] if reason else []
        finally:  # where we are stopped, nothing new begins
            pool.shutdown(wait=False, cancel_futures=True)
            while any(future.running() for future in futures):
                for process in processes:
                    process.kill()
                time.sleep(0.05)
    return reasons


def _resumed_with(config: RunConfig | None) -> str:
    """What was another when a run was resumed than when it was begun, such as threads; for its line."""
    path = config and paths.run_folder(config.profile, config.run, config.seed) / "environment.json"
    if not path or not path.exists():
        return ""
    others = {key for change in read_json(path).get("resumed_with", []) for key in change}
    return f" (resumed with other {', '.join(sorted(others))})" if others else ""


def _process(slot: int, at_once: int) -> subprocess.Popen:
    """A process for one job, with its part of the cores and, where there are several GPUs, one of its own."""
    import torch

    threads = max(1, (os.cpu_count() or 1) // at_once)
    variables = PROCESS_SETTINGS | {"OMP_NUM_THREADS": str(threads)} | os.environ
    if torch.cuda.device_count() > 1:
        variables["CUDA_VISIBLE_DEVICES"] = str(slot % torch.cuda.device_count())
    return subprocess.Popen(
        [sys.executable, "-c", "from manyviews.runs.jobs import _serve; _serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=variables,
        cwd=paths.ROOT / "lib",  # the folder that Python searches first
        start_new_session=True,  # Ctrl-C reaches us alone
    )


def _answer(process: subprocess.Popen, job: Job) -> str:
    """Have a process do a job; gives why it failed, or nothing."""
    with suppress(BrokenPipeError):  # it is dead already, which its exit status tells
        process.stdin.write(pickle.dumps(job.work))
        process.stdin.flush()
    reason = process.stdout.read().decode()
    if process.wait() < 0:
        return "its process was killed, as happens when memory runs out; fewer --jobs need less"
    return reason or (f"its process ended with status {process.returncode}" if process.returncode else "")


def _serve() -> None:
    """What each process does: one job, or nothing more when the process that began it is gone."""
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a job prints is none of its answer
    work = pickle.load(sys.stdin.buffer)
    threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
    try:
        reason = work()
    except Exception as error:  # a damaged file, a full disk, no memory left, ...
        reason = sentence(error)
    with answer:
        answer.write(reason)
    os._exit(0)  # at once: to take the libraries down would take seconds


def make_run(config: RunConfig) -> str:
    """Make one run, in a process of do_jobs. One that another process is making is left to it."""
    from manyviews.runs.run import run
    from manyviews.runs.store import RunBusy

    with suppress(RunBusy):
        run(config)
    return ""


@contextmanager
def _progress(configs: Sequence[RunConfig]):
    """A bar that follows the epochs of runs while others make them; gives a function that prints above it."""
    work = [config.training.epochs * config.n_views * config.depth for config in configs]  # about
    ended = threading.Event()
    with tqdm(total=sum(work) or None, desc=f"{len(configs)} runs", bar_format=BAR, disable=not work) as bar:

        def follow() -> None:
            while not ended.wait(SECONDS_BETWEEN_LOOKS):
                bar.n = sum(share * fraction_done(c) for share, c in zip(work, configs, strict=True))
                bar.refresh()

        watcher = threading.Thread(target=follow, daemon=True)
        watcher.start()
        try:
            yield lambda line: tqdm.write(line)
        finally:
            ended.set()
            watcher.join()


def fraction_done(config: RunConfig) -> float:
    """How much of the training of a run is behind it: 0 to 1."""
    folder = paths.run_folder(config.profile, config.run, config.seed)
    if state_of(folder) is RunState.COMPLETE:
        return 1.0
    try:
        epochs = len(read_table(partial_folder(folder) / "metrics.csv")) - 1  # the first: initial weights
    except (OSError, ValueError):  # not begun, just finished, or damaged, which the run itself will tell
        return 0.0
    return min(max(0, epochs) / config.training.epochs, 1)
