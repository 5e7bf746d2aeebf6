"""Files that are whole at any instant, whatever interrupts their writing."""

import hashlib
import json
import os
import platform
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from manyviews.config.schema import ConfigError

_NEW = ".new."  # before the process and the name of what is being written
SUMS = "SHA256SUMS"  # of a folder's files, as `sha256sum --check` reads it


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` to write to; it takes the place of `path` if the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{_NEW}{os.getpid()}@{platform.node()}.{path.name}")
    try:
        with naming(path):
            yield new
            with new.open("rb") as file:
                os.fsync(file.fileno())  # else a power cut could leave the new name with no content
            new.replace(path)
    finally:
        new.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the block that name no file, such as that of a full disk, name this one."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def clear_leftovers(folder: Path) -> None:
    """Remove the temporary files in a folder, and below, of processes of this machine that are dead."""
    for path in folder.rglob(f"{_NEW}*"):
        if owner := re.match(rf"{_NEW}(\d+)@{re.escape(platform.node())}\.", path.name):
            try:
                os.kill(int(owner[1]), 0)
            except ProcessLookupError:
                path.unlink(missing_ok=True)
            except PermissionError:  # alive, and another user's
                pass


def sha256(path: Path) -> str:
    """Of a file's content, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_sums(folder: Path, names: Iterable[str]) -> None:
    """Note what files of a folder hold, for check_sums."""
    lines = [f"{sha256(folder / name)}  {name}\n" for name in sorted(names) if (folder / name).exists()]
    write_text(folder / SUMS, "".join(lines))


def check_sums(folder: Path, leave_out: str = "") -> None:
    """See that files are as they were when they were written; a folder without sums is older, and believed.

    Args:
        folder: of the files.
        leave_out: ending of names that are not checked.
    Raises:
        ConfigError: one is not; names it.
    """
    lines = (folder / SUMS).read_text(encoding="utf-8").splitlines() if (folder / SUMS).exists() else []
    for noted, _, name in (line.partition("  ") for line in lines):
        if not name:
            raise damaged(folder / SUMS, "cut short")
        if leave_out and name.endswith(leave_out):
            continue
        if not (folder / name).exists():
            raise damaged(folder / name, "missing")
        if sha256(folder / name) != noted:
            raise damaged(folder / name, f"not what was written (see {SUMS})")


def write_text(path: Path, text: str) -> None:
    """Write or replace a text file in one step."""
    with replacing(path) as new:
        new.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write or replace a JSON file in one step; a number that is not finite is an error."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Content of a JSON file.

    Raises:
        ConfigError: missing, or not JSON; names the file.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise damaged(path, "missing") from None
    except ValueError as error:
        raise damaged(path, f"damaged, not JSON ({error})") from None


def damaged(path: Path, problem: str) -> ConfigError:
    """A file of results that cannot be used, with what to do; no advice here loses more than one run."""
    return ConfigError(f"{path}: {problem}; restore it, or make its run again: ./run_all.sh with --force")
