#!/usr/bin/env bash
# Runs the notebooks of a profile and writes the report. `./run_all.sh --help` lists the options.

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
python=$("$root/setup_env.sh")
exec "$python" -m manyviews.pipeline "$@"
