"""One run on one or several devices: `torchrun --nproc-per-node N -m manyviews.runs RUN`."""

import os
import sys
from collections.abc import Sequence

from manyviews.config import paths
from manyviews.config.errors import Arguments, command
from manyviews.config.profiles import load_profile
from manyviews.config.runs import configure, run_specs
from manyviews.config.schema import RunConfig, check_name


def parse_arguments(arguments: Sequence[str] | None = None) -> RunConfig:
    """The run that is asked for.

    Raises:
        ConfigError: a wrong option or value; lists the valid ones.
    """
    parser = Arguments("manyviews.runs", description="Makes one run, or goes on with it.")
    # Not --run: torchrun takes it for the beginning of an option of its own.
    parser.add_argument("run", help="a name of notebooks/runs.yaml")
    parser.add_argument("--profile", default="demo", metavar="NAME")
    parser.add_argument("--seed", type=int, default=0, metavar="K")
    options = parser.parse_args(arguments)
    check_name(options.run, "run", list(run_specs().runs))
    return configure(options.run, load_profile(options.profile), options.seed)


def make(arguments: Sequence[str] | None = None) -> int:
    """Make the run, as the only process or as one of those that torchrun has started."""
    config = parse_arguments(arguments)
    from manyviews.runs.run import take_part

    take_part(config)
    if os.environ.get("RANK", "0") == "0":
        print(f"Finished: {paths.run_folder(config.profile, config.run, config.seed)}")
    return 0


def main() -> None:
    """The command; see config.errors.command for its exit status."""
    status = command("manyviews.runs", make)
    sys.stdout.flush()
    os._exit(status)  # at once: to take the libraries down would take seconds


if __name__ == "__main__":
    main()
