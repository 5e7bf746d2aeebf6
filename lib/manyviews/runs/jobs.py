"""Many jobs side by side, by Dask: processes here, or workers on other machines; progress by epochs."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tqdm import tqdm

from manyviews.config import paths
from manyviews.config.errors import sentence
from manyviews.config.files import read_json
from manyviews.config.runs import configure, deduplicate, run_specs
from manyviews.config.schema import ConfigError, Profile, RunConfig
from manyviews.config.surroundings import TIME_IS_OVER, clean_room, cores, places, seconds_left
from manyviews.data.dataset import SPLITS, Dataset
from manyviews.runs.store import (
    LAST_LOOK,
    RunState,
    check_recipe,
    partial_folder,
    read_table,
    state_of,
    tidy,
)

if TYPE_CHECKING:
    from distributed import Client, Future

SECONDS_BETWEEN_LOOKS = 3  # at how far the runs are
SECONDS_TO_START = 8  # a process and its imports
SECONDS_TO_ANSWER = 10  # of a scheduler
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
LOCAL = {  # how Dask deals with our own workers
    "distributed.scheduler.allowed-failures": 0,  # what has killed a worker is not tried on the next
    "distributed.scheduler.worker-ttl": None,  # one that is silent computes
    "distributed.worker.daemon": False,  # so that it can have processes of its own: profile.devices
}
KILLED = "its process was killed, as happens when memory runs out; fewer --jobs need less"
LOST = "the scheduler is gone; start it again, then give this command again"


@dataclass(frozen=True)
class Job:
    """Something to do in a process of its own."""

    title: str
    work: Callable[[], str]  # picklable; gives why it failed, or nothing
    config: RunConfig | None = None  # of the run that it makes


def default_jobs(devices: int = 1) -> int:
    """Jobs at a time: $MANYVIEWS_JOBS, or one for each so many GPUs, or else cores; cores for jobs of no GPU.

    The small networks of a laptop's profiles leave a second thread idle for much of its time; two runs of one
    thread each were seen to do a fifth more work than one run of two, and to suffer less from other programs.
    """
    if given := os.environ.get("MANYVIEWS_JOBS"):
        if not (given.isdecimal() and int(given)):
            raise ConfigError(f"$MANYVIEWS_JOBS takes a whole number from 1, not '{given}'")
        return int(given)
    there = (gpus() if devices else 0) or cores()
    return max(1, there // max(1, devices))


def gpus() -> int:
    """How many this machine has for us."""
    import torch  # only here, so that what needs no GPU is quick to begin

    return torch.cuda.device_count()


def missing_runs(
    names: Sequence[str], profile: Profile, seeds: Sequence[int], force: bool = False
) -> list[RunConfig]:
    """The runs that are not complete, all seeds of one before the next; each recipe once.

    Args:
        names: of notebooks/runs.yaml.
        profile: what they share.
        seeds: each run is made once for each.
        force: also complete ones, of whatever configuration; see store.mark_for_rerun.
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
        if state_of(folder) is RunState.COMPLETE and not force:
            check_recipe(config, folder)
            tidy(folder)
        else:
            missing.append(config)
    return missing


def amount_of_training(config: RunConfig) -> float:
    """What a run takes beside others of its profile, about: views x layers x channels squared x pixels."""
    views = config.training.epochs * config.training.image_fraction * config.n_views
    return views * config.depth * config.network.width**2 * config.view_size**2


def estimate_seconds(configs: Sequence[RunConfig], dataset: Dataset, at_once: int) -> float:
    """How long runs will take here, from a few timed steps of each kind of network.

    Args:
        configs: of the runs.
        dataset: of all of them.
        at_once: runs at a time.
    """
    sizes = {name: len(getattr(dataset, name).labels) for name in SPLITS}
    of_view: dict[tuple, float] = {}  # seconds
    of_runs = []  # seconds
    for config in configs:
        kind = (config.depth, config.stem, config.network.width, config.view_size)
        if kind not in of_view:
            of_view[kind] = _seconds_of_a_view(config, dataset, at_once)
        training, epochs = config.training, config.training.epochs
        views = epochs * config.n_views * training.image_fraction * sizes["train"]
        # A forward pass is a third of a step; the probes take about as long again. The last evaluation, with
        # all further probes, was seen to take as long as twelve along the way.
        looks = epochs // config.evaluation.every_epochs + (2 if config.evaluation.brief else 13)
        of_runs.append(of_view[kind] * (views + looks * sum(sizes.values()) * 2 / 3) + SECONDS_TO_START)
    return max(sum(of_runs) / at_once, max(of_runs, default=0.0))


def _seconds_of_a_view(config: RunConfig, dataset: Dataset, at_once: int) -> float:
    """Seconds that a training step takes for each of its views, as one of so many runs at a time."""
    import torch

    from manyviews.runs.run import make_model, recipe_of
    from manyviews.simclr.numerics import resolve_precision
    from manyviews.simclr.train import Trainer

    recipe = recipe_of(config)
    batch = recipe.images_per_batch  # a pass over so many images is one step
    short = replace(recipe, n_views=recipe.views_per_batch, epochs=4, warmup_epochs=0, distinct=None)
    short = replace(short, learning_rate=0.0)  # of a rate that needs its warm-up the loss could diverge
    images, threads = dataset.train.as_tensor()[:batch], torch.get_num_threads()
    torch.set_num_threads(max(1, cores() // at_once))
    model, times = make_model(config, dataset.train.n_classes), []
    precision = resolve_precision(config.training.precision)
    trainer = Trainer(model, images, short, precision=precision, name="")
    trainer.run(lambda progress: times.append(time.perf_counter()))
    torch.set_num_threads(threads)
    return (times[3] - times[0]) / 3 / (2 * recipe.batch_size)


def run_title(run: str, seed: int) -> str:
    """What a run is called in messages."""
    return f"{run_specs().title(run)} ({run}), seed {seed}"


def do_jobs(jobs: Sequence[Job], at_once: int | None = None, scheduler: str = "") -> list[str]:
    """Do jobs, several at a time; a job that fails, or is killed, does not keep the others from being done.

    Whatever ends this function ends the jobs.

    Args:
        jobs: in the order in which they are begun.
        at_once: jobs at a time here; default: default_jobs().
        scheduler: address of a Dask scheduler whose workers see the same results folder; default: none,
            processes of this machine.
    Returns:
        Why jobs failed, a sentence for each.
    Raises:
        ConfigError: no scheduler answers at that address.
    """
    if not jobs:
        return []
    from distributed import as_completed

    devices = max([0, *(job.config.devices for job in jobs if job.config is not None)])
    there = gpus() if devices and not scheduler else 0
    at_once = min(at_once or default_jobs(devices), len(jobs))
    waiting, begun, reasons = iter(jobs), {}, []
    with (
        _workers(at_once, scheduler) as client,
        _progress([job.config for job in jobs if job.config is not None]),
    ):
        done = as_completed()

        def begin() -> None:
            if job := next(waiting, None):
                future = client.submit(_do, job.work, _settings(), devices, there, pure=False)
                begun[future.key] = job
                done.add(future)

        for _ in jobs if scheduler else range(at_once):  # here none waits behind one that may be killed
            begin()
        for number, future in enumerate(done, 1):
            job, reason = begun[future.key], _reason(future)
            told = reason or f"done{_resumed_with(job.config)}"
            tqdm.write(f"[{number}/{len(jobs)}] {job.title}: {told}")  # above the bar
            reasons += [f"{job.title}: {reason}"] if reason else []
            begin()
    return reasons


@contextmanager
def _workers(at_once: int, scheduler: str) -> "Iterator[Client]":
    """Dask's client of so many processes of one thread each, or of the workers that a scheduler has."""
    import dask
    from distributed import Client, LocalCluster

    if scheduler:
        try:
            client = Client(scheduler, timeout=SECONDS_TO_ANSWER)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"--scheduler {scheduler}: no Dask scheduler answers there ({error}); start one with "
                f"`dask scheduler`, and workers with `dask worker ADDRESS --nthreads 1`"
            ) from None
        with client:
            yield client
        return
    threads = max(1, cores() // at_once)
    environment = PROCESS_SETTINGS | {"OMP_NUM_THREADS": str(threads)}
    own = {name: value for name, value in environment.items() if name not in os.environ}
    settings = {"memory_limit": 0, "dashboard_address": None, "silence_logs": logging.CRITICAL}
    settings["scheduler_kwargs"] = {"dashboard_address": ":0"}  # its server is there all the same: any port
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the processes inherit that: Ctrl-C is for us
    with (
        dask.config.set(LOCAL | {"distributed.nanny.pre-spawn-environ": own}),
        LocalCluster(n_workers=at_once, threads_per_worker=1, **settings) as cluster,
        Client(cluster) as client,
    ):
        signal.signal(signal.SIGINT, interrupt)
        yield client


def _settings() -> dict[str, str]:
    """What a worker, wherever it is, must know of our environment."""
    return {name: value for name, value in os.environ.items() if name.startswith("MANYVIEWS_")} | places()


def _do(work: Callable[[], str], settings: dict[str, str], devices: int, gpus: int) -> str:
    """What a worker does of a job: gives why it failed, or nothing.

    Args:
        work: the job.
        settings: of the environment.
        devices: GPUs that a job needs.
        gpus: how many there are for our own workers to share; other workers were given theirs.
    """
    from distributed import get_worker

    if gpus > 1:
        mine = [(get_worker().name * devices + k) % gpus for k in range(min(devices, gpus))]
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, mine))
    os.environ.update(settings)
    if seconds_left() <= 0:
        return f"{TIME_IS_OVER} before it was begun"
    try:
        with clean_room():
            return work()
    except Exception as error:  # a damaged file, a full disk, no memory left, ...
        return sentence(error)


def _reason(future: "Future") -> str:
    """Why a job failed, or nothing."""
    from distributed import KilledWorker

    if future.status == "finished":
        return future.result()
    if future.status == "error":
        error = future.exception()
        return KILLED if isinstance(error, KilledWorker) else sentence(error)
    return LOST


def _resumed_with(config: RunConfig | None) -> str:
    """What was another when a run was resumed than when it was begun, such as threads; for its line."""
    path = config and paths.run_folder(config.profile, config.run, config.seed) / "environment.json"
    if not path or not path.exists():
        return ""
    others = {key for change in read_json(path).get("resumed_with", []) for key in change}
    return f" (resumed with other {', '.join(sorted(others))})" if others else ""


def make_run(config: RunConfig) -> str:
    """Make one run, in a process of do_jobs."""
    from manyviews.runs.run import run

    run(config)
    return ""


@contextmanager
def _progress(configs: Sequence[RunConfig]) -> Iterator[None]:
    """A bar that follows the epochs of runs while others make them."""
    work = list(map(amount_of_training, configs))
    ended = threading.Event()
    with tqdm(total=sum(work) or None, desc=f"{len(configs)} runs", bar_format=BAR, disable=not work) as bar:

        def follow() -> None:
            while not ended.wait(SECONDS_BETWEEN_LOOKS):
                bar.n = sum(share * fraction_done(c) for share, c in zip(work, configs, strict=True))
                bar.refresh()

        watcher = threading.Thread(target=follow, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()


def fraction_done(config: RunConfig) -> float:
    """How much of a run is behind it: 0 to 1."""
    folder = paths.run_folder(config.profile, config.run, config.seed)
    if state_of(folder) is RunState.COMPLETE:
        return 1.0
    try:
        epochs = len(read_table(partial_folder(folder) / "metrics.csv")) - 1  # the first: initial weights
    except (OSError, ValueError):  # not begun, just finished, or damaged, which the run itself will tell
        return 0.0
    all_epochs = config.training.epochs + (0 if config.evaluation.brief else LAST_LOOK)
    return min(max(0, epochs) / all_epochs, 1)
