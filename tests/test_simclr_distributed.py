"""One training on two and three processes is that of one process; one that is killed goes on.

On processors, by gloo. What GPUs have beside that, NCCL and synchronised BatchNorm, is not tested.
"""

import multiprocessing.forkserver
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from small import small_run
from torch import Tensor, nn
from torch.distributed.elastic.utils.distributed import get_free_port
from torch.multiprocessing import start_processes

from manyviews.config import paths
from manyviews.config.files import read_json
from manyviews.runs.jobs import Job, do_jobs, make_run
from manyviews.runs.run import assist, run
from manyviews.runs.store import partial_folder
from manyviews.simclr import processes, train
from manyviews.simclr.models import SimCLR, make_simclr
from manyviews.simclr.processes import is_first, joined, share
from manyviews.simclr.train import Recipe, Trainer

N = 23  # in batches of 8, 8 and 7: on two processes 4 + 4 and 4 + 3, on three 3 + 3 + 2 and 3 + 2 + 2
IMAGES = torch.randint(0, 256, (N, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
SEED = 5
PAIRS = Recipe(epochs=3, warmup_epochs=1, batch_size=8, learning_rate=1e-2, optimizer="sgd")
FOUR = replace(
    PAIRS, n_views=4, views_per_batch=4, batch_size=16, multi_view_loss="inside", joint_forward=True
)
CASES = {"pairs": PAIRS, "four views": FOUR, "supervised": PAIRS, "BatchNorm in evaluation": PAIRS}
CLOSE = {"rtol": 1e-9, "atol": 1e-12}  # float64, summed in another order

PYTHONPATH = f"{Path(__file__).parent}:{paths.ROOT / 'lib'}"

# Processes that begin with everything imported, as copies of one that does nothing else.
multiprocessing.set_forkserver_preload([__name__])


def on_processes(n: int, work: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """What a function gives in each of n processes that train together; its arguments are picklable."""
    with pytest.MonkeyPatch.context() as patch:  # from where Python before 3.12 imports what is preloaded
        patch.setenv("PYTHONPATH", PYTHONPATH)
        multiprocessing.forkserver.ensure_running()
    start_processes(_one_of, (n, get_free_port(), work, folder, arguments), n, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(n)]


def _one_of(rank: int, n: int, port: int, work: Callable[..., Any], folder: Path, arguments: tuple) -> None:
    """As torchrun has it."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n, "LOCAL_WORLD_SIZE": n, "MASTER_PORT": port}
    os.environ |= {name: str(number) for name, number in numbers.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test"}
    torch.set_num_threads(1)
    with joined("cpu"):
        torch.save(work(*arguments), folder / f"{rank}.pt")


def network(batch_norm: bool = False, **changes: Any) -> SimCLR:
    """In float64; without BatchNorm, or with one that has seen some images."""
    model = make_simclr(
        1, width=4, feature_dim=10, projection_hidden=16, projection_dim=8, **changes
    ).double()
    if batch_norm:
        model(torch.rand(9, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
        return model
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
    return model


def first_step(case: str, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """This process's images of a batch of the first pass, then the loss and its gradient by the weights."""
    labels = torch.arange(N) % 4 if case == "supervised" else None
    model = network("BatchNorm" in case, n_classes=None if labels is None else 4)
    made = Trainer(model, IMAGES, CASES[case], SEED, labels=labels)
    model.eval()  # for BatchNorm alone
    images, draws = list(made.sampler.batches(0))[batch]
    loss = made._step(images, draws, rate=0.0)
    return share(images), loss, torch.cat([p.grad.flatten() for p in model.parameters()])


def first_steps() -> dict[tuple[str, int], tuple[Tensor, Tensor, Tensor]]:
    """Of all cases, with a full batch and the last one."""
    return {(case, batch): first_step(case, batch) for case in CASES for batch in (0, 2)}


@pytest.fixture(scope="module")
def steps(tmp_path_factory) -> Callable[[int], list[dict]]:
    """What so many processes make of the same batches; they are started once."""
    return cache(lambda n: on_processes(n, first_steps, tmp_path_factory.mktemp("steps")))


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch", [0, 2], ids=["full", "last"])
def test_loss_and_gradient_are_those_of_one_process_on_the_whole_batch(steps, n, case, batch):
    """Oracle: the same code in this process. Each has its part of the images, and none has one of another."""
    images, loss, gradient = first_step(case, batch)
    parts = [of_process[case, batch] for of_process in steps(n)]
    assert torch.equal(torch.cat([part[0] for part in parts]), images)
    assert max(len(part[0]) for part in parts) - min(len(part[0]) for part in parts) <= 1
    assert gradient.abs().max() > 1e-3
    for _, its_loss, its_gradient in parts:
        torch.testing.assert_close(its_loss, loss, **CLOSE)
        torch.testing.assert_close(its_gradient, gradient, **CLOSE)


def trained(checkpoint: Path, until: int) -> tuple[list[float], Tensor]:
    """Train up to an epoch, from the checkpoint; gives the losses and the weights."""
    made, epoch = Trainer(network(), IMAGES, PAIRS, SEED, checkpoint=checkpoint), Trainer._epoch

    def stopping(bar) -> None:
        if made.progress.epoch == until:
            raise StopIteration
        epoch(made, bar)

    made._epoch = stopping
    with suppress(StopIteration):
        made.run()
    losses = [row["loss_nats"] for row in made.progress.metrics[1:]]
    return losses, torch.cat([p.detach().flatten() for p in made.model.parameters()])


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 3)])
def test_a_training_goes_on_with_another_number_of_processes(tmp_path, before, after):
    """Oracle: the training of one process that nothing stops."""
    losses, weights = trained(tmp_path / "whole.checkpoint", 3)
    for n, until in ((before, 1), (after, 3)):
        arguments = (tmp_path / "broken.checkpoint", until)
        ended = [trained(*arguments)] if n == 1 else on_processes(n, trained, tmp_path, *arguments)
        for its_losses, _ in ended:
            assert its_losses == pytest.approx(losses[:until], rel=1e-9)
    for _, its_weights in ended:
        torch.testing.assert_close(its_weights, weights, **CLOSE)


def losses_in_bfloat16() -> list[float]:
    made = Trainer(network().float(), IMAGES, PAIRS, SEED, precision=torch.bfloat16)
    return [row["loss_nats"] for row in made.run().metrics[1:]]


def test_a_training_in_bfloat16_is_that_of_one_process_but_for_rounding(tmp_path):
    """By the hardware or by rounding, as the processor has it: outputs are exchanged in bfloat16."""
    losses = losses_in_bfloat16()
    for of_process in on_processes(2, losses_in_bfloat16, tmp_path):
        assert of_process == pytest.approx(losses, rel=0.01)


def test_a_batch_too_small_for_all_processes_is_refused(monkeypatch):
    monkeypatch.setattr(train, "n_processes", lambda: 4)
    with pytest.raises(ValueError, match=r"a batch of 7 images, too few for 4 processes .* use 3 at most"):
        train.check_batches(N, PAIRS)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    for name in ("TORCHELASTIC_RUN_ID", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(processes.NoDevice, match="3 processes, a machine with 2 GPUs"), joined("auto"):
        pass


# ---------------------------------------------------------------------------------------------- torchrun

# A module for torchrun: the command, with the small profile, and a second process that is killed once.
COMMAND = """
import os, signal
from pathlib import Path
from small import small_profile
from manyviews.runs import __main__ as entry
from manyviews.simclr.train import Trainer

entry.load_profile = lambda name: small_profile()
epoch, mark = Trainer._epoch, Path(__file__).with_suffix(".killed")

def killed_once(self, bar):
    if self.progress.epoch == 1 and os.environ["RANK"] == "1" and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    epoch(self, bar)

Trainer._epoch = killed_once
entry.main()
"""


def make_small_run(root: Path) -> None:
    """What the command does, in a process that is begun already."""
    os.environ |= {"MANYVIEWS_DATA": str(root / "data"), "MANYVIEWS_RESULTS": str(root / "whole")}
    if is_first():
        run(small_run())
    else:
        assist()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> pd.DataFrame:
    """Losses and accuracies of the small run, from two processes that nobody kills."""
    folder = tmp_path_factory.mktemp("whole")
    on_processes(2, make_small_run, folder, folder)
    return pd.read_csv(folder / "whole/small/baseline/seed0/metrics.csv")


def test_a_profile_says_how_many_devices_train_a_run(tmp_path, monkeypatch, whole):
    monkeypatch.setenv("MANYVIEWS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MANYVIEWS_RESULTS", str(tmp_path / "results"))
    config = small_run(devices=2)
    assert do_jobs([Job("the run", partial(make_run, config), config)]) == []
    folder = paths.run_folder("small", "baseline", 0)
    assert read_json(folder / "environment.json")["processes"] == 2
    pd.testing.assert_frame_equal(pd.read_csv(folder / "metrics.csv"), whole, rtol=1e-6)
    assert run(config).summary == run(small_run()).summary  # finished, and of the same recipe


def test_a_run_whose_second_process_is_killed_goes_on_by_the_same_command(tmp_path, monkeypatch, whole):
    """Then one process goes on from where the two were killed."""
    (tmp_path / "command.py").write_text(COMMAND, encoding="utf-8")
    monkeypatch.setenv("MANYVIEWS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MANYVIEWS_RESULTS", str(tmp_path / "killed"))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{PYTHONPATH}")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    once = [*torchrun, "-m", "command", "baseline"]
    killed = subprocess.run(once, capture_output=True, text=True)
    assert killed.returncode != 0
    assert "the same command goes on" in killed.stderr
    partial = partial_folder(paths.run_folder("small", "baseline", 0))
    assert not (partial / "failed.json").exists()
    shutil.copytree(tmp_path / "killed", tmp_path / "alone")

    again = subprocess.run(once, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "2 processes; BatchNorm sees the part of a batch" in again.stdout
    assert "resumed after epoch 1 of 2" in again.stdout
    assert "resumed_with" not in read_json(paths.run_folder("small", "baseline", 0) / "environment.json")
    metrics = pd.read_csv(paths.run_folder("small", "baseline", 0) / "metrics.csv")
    pd.testing.assert_frame_equal(metrics, whole, rtol=1e-6)

    monkeypatch.setenv("MANYVIEWS_RESULTS", str(tmp_path / "alone"))
    changed = run(small_run()).environment["resumed_with"]
    assert [(change["processes"], change["batch_norm"]) for change in changed] == [(1, "whole batch")]
