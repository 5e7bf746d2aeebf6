"""What run_all.sh starts: `python -m manyviews`."""

import sys

try:
    from manyviews.cli import main
except KeyboardInterrupt:  # nothing is begun yet
    sys.exit(130)

sys.exit(main())
