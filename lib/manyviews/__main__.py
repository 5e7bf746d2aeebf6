"""What run_all.sh starts. A mistake in runs.yaml, which is read on import, is told without a traceback."""

import sys

from manyviews.config import ConfigError

try:
    from manyviews.options import parse_arguments
except ConfigError as error:
    sys.exit(f"run_all.sh: error: {error}")

parse_arguments()  # main does so again; here a wrong one is told before the imports, which take seconds

from manyviews.pipeline import main  # noqa: E402

sys.exit(main())
