"""What run_all.sh starts. A mistake in runs.yaml, which is read on import, is told without a traceback."""

import sys

from manyviews.config import ConfigError

try:
    from manyviews.pipeline import main
except ConfigError as error:
    sys.exit(f"run_all.sh: error: {error}")

sys.exit(main())
