"""What run_all.sh starts: `python -m manyviews`."""

import sys

from manyviews.cli import main

sys.exit(main())
