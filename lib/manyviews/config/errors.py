"""How a command ends: an expected failure in a sentence, another one with the path of its traceback."""

import argparse
import errno
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import NoReturn

from manyviews.config.schema import ConfigError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # see is_full


class Arguments(argparse.ArgumentParser):
    """The options of a command; a wrong one is refused as other wrong inputs are."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; `{self.prog} --help` lists the options")


def is_full(error: BaseException) -> bool:
    """Whether there was no room: on a disk, in a user's share of it, or in a file."""
    return getattr(error, "errno", None) in FULL


def sentence(error: Exception) -> str:
    """What a user reads of a failure. The traceback of one that nobody expected goes to a log, named here."""
    if type(error).__module__.startswith("manyviews."):  # our own say what to do
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        return f"{what}; make room there, and the same command goes on" if is_full(error) else what
    if isinstance(error, MemoryError) or "out of memory" in str(error) or "allocate memory" in str(error):
        return f"not enough memory ({error}); fewer --jobs, or smaller images or batches, need less"
    with tempfile.NamedTemporaryFile("w", prefix="manyviews-", suffix=".log", delete=False) as log:
        log.writelines(traceback.format_exception(error))
    return f"unexpected {type(error).__name__}: {error} (traceback: {log.name})"


def command(program: str, work: Callable[[], int], again: str = "the same command") -> int:
    """Do the work of a command.

    Args:
        program: its name.
        work: gives the exit status.
        again: what goes on with the work if it is stopped.
    Returns:
        Its exit status: what `work` gives; 2 for a wrong input, 1 for another failure, 130 if it was stopped.
        With $MANYVIEWS_DEBUG, failures are raised instead.
    """
    for stream in (sys.stdout, sys.stderr):  # names in any script, on a terminal of any encoding
        stream.reconfigure(errors="backslashreplace")
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup's stays
            signal.signal(number, signal.default_int_handler)
    try:
        return work()
    except KeyboardInterrupt:
        print(f"\n{program}: stopped; {again} goes on from here", file=sys.stderr)
        return 130
    except Exception as error:
        if os.environ.get("MANYVIEWS_DEBUG"):
            raise
        print(f"{program}: error: {sentence(error)}", file=sys.stderr)
        ours = type(error).__module__.startswith("manyviews.")
        return 2 if ours and isinstance(error, ValueError) else 1
