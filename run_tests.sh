#!/usr/bin/env bash
# Checks the project: lint, format, unit tests, notebooks. `./run_tests.sh --help` tells more.

set -euo pipefail
unset CDPATH  # with it, cd prints where it goes

if [ "${1:-}" = "--help" ] || [ "${1:-}" = "-h" ]; then
    cat <<'HELP'
Usage: ./run_tests.sh [pytest arguments]

Without arguments: ruff check, ruff format --check, the tests in tests/ and the examples in lib/ on up
to four cores, and every notebook of notebooks/ run again and compared with its saved outputs. With
arguments: only pytest, with these arguments; paths are relative to the project's folder. Makes .venv
if needed (see setup_env.sh).

  ./run_tests.sh
  ./run_tests.sh tests/test_simclr_losses.py -k double
  ./run_tests.sh --nbval notebooks/01_data.ipynb
HELP
    exit 0
fi

cd "$(dirname "${BASH_SOURCE[0]}")"
python=$(./setup_env.sh)

if [ $# -gt 0 ]; then
    exec "$python" -m pytest "$@"
fi

failed=()

step() {
    local name=$1
    shift
    printf '\n== %s\n' "$name"
    "$@" || failed+=("$name")
}

shopt -s nullglob
notebooks=(notebooks/*.ipynb)

step "lint" "$python" -m ruff check .
step "format" "$python" -m ruff format --check .
step "unit tests" "$python" -m pytest --numprocesses logical --maxprocesses 4 tests lib  # more need much memory
if [ ${#notebooks[@]} -gt 0 ]; then
    step "notebooks" "$python" -m pytest --nbval "${notebooks[@]}"
fi

echo
if [ ${#failed[@]} -gt 0 ]; then
    printf 'FAILED: %s\n' "${failed[@]}"
    exit 1
fi
echo "All checks passed: lint, format, unit tests, ${#notebooks[@]} notebooks."
