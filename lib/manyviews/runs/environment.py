"""What a result was made with: code, libraries and machine."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from manyviews.config import paths
from manyviews.config.files import read_json, write_json
from manyviews.config.schema import ConfigError
from manyviews.simclr.numerics import by_rounding
from manyviews.simclr.processes import n_processes

MUST_NOT_CHANGE = ("data_sha256", "device_type", "precision")  # while a run is interrupted
LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "pandas")


def describe_environment(device: torch.device, precision: torch.dtype) -> dict[str, Any]:
    """Git commit, library versions and hardware, as plain data.

    Args:
        device: where the network ran.
        precision: of its products.
    """
    # Results themselves do not make the code another one.
    changes = _git("status", "--porcelain", "--", ".", ":(exclude)results")
    return {
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": None if changes is None else bool(changes),
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
        "device_type": device.type,
        "precision": dtype_name(precision),
        "rounded_products": by_rounding(precision, device),
        "processes": n_processes(),
        "batch_norm": "part of a batch" if n_processes() > 1 and device.type == "cpu" else "whole batch",
        "threads": torch.get_num_threads(),
        "logical_cores": os.cpu_count(),
    }


def check_same(here: dict[str, Any], there: dict[str, Any], where: str, fix: str) -> None:
    """See that two places give the same numbers.

    Args:
        here, there: their environments.
        where: what the other place is, in words.
        fix: what to do if they do not.
    Raises:
        ConfigError: other images, another kind of device or another precision.
    """
    for key in MUST_NOT_CHANGE:
        if there.get(key) != here[key]:
            raise ConfigError(f"{where} with {key} {there.get(key)}, here {here[key]}; {fix}")


def note_environment(path: Path, now: dict[str, Any]) -> None:
    """Write what a run begins with, or see that what resumes it gives the same numbers.

    A run resumed by other code, libraries, threads or processes gets the list `resumed_with`.

    Raises:
        ConfigError: the run was begun on other images, another kind of device or in another precision.
    """
    if not path.exists():
        write_json(path, now)
        return
    before = read_json(path)
    fix = "resume it where it was begun, or delete the folder to start anew"
    check_same(now, before, f"{path.parent}: begun", fix)
    changed = {key: value for key, value in now.items() if before.get(key, value) != value}
    if changed:
        write_json(path, before | {"resumed_with": [*before.get("resumed_with", []), changed]})


def dtype_name(dtype: torch.dtype) -> str:
    """As configurations have it: "float32"."""
    return str(dtype).removeprefix("torch.")


def number_format(environment: dict[str, Any]) -> str:
    """The type of a network's products, as described: "bfloat16", or "bfloat16 by rounding"."""
    rounded = environment.get("rounded_products", False)  # missing in results that are older than rounding
    return f"{environment['precision']} by rounding" if rounded else environment["precision"]


def processor_name() -> str:
    """Model name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    """Output of a git command in the project; None where there is no git or no repository of its own."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    variables["GIT_CEILING_DIRECTORIES"] = str(paths.ROOT.parent)  # a repository around it is another's
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=paths.ROOT, env=variables, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
