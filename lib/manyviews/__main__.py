"""What run_all.sh starts: `python -m manyviews`."""

import os
import sys

try:
    from manyviews.cli import main
except KeyboardInterrupt:  # nothing is begun yet
    sys.exit(130)

status = main()
sys.stdout.flush()
os._exit(status)  # at once: to take the libraries down would take seconds
