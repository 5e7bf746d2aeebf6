"""What a result was made with: code, libraries and machine."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from manyviews import paths

LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "pandas")


def describe_environment(device: torch.device, precision: torch.dtype) -> dict[str, Any]:
    """Git commit, library versions and hardware, as plain data.

    Args:
        device: where the network ran.
        precision: of its products.
    """
    return {
        "git_commit": _git("rev-parse", "HEAD"),
        # Results themselves do not make the code another one.
        "git_dirty": bool(_git("status", "--porcelain", "--", ".", ":(exclude)results")),
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
        "device_type": device.type,
        "precision": str(precision).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "logical_cores": os.cpu_count(),
    }


def processor_name() -> str:
    """Model name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    """Output of a git command in the project; None where there is no git or no repository."""
    try:
        done = subprocess.run(["git", *arguments], cwd=paths.ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
