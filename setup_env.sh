#!/usr/bin/env bash
# Makes the Python environment ready and prints the path of its Python.
#
#   ./setup_env.sh                       # make or complete .venv
#   python=$(./setup_env.sh) || exit     # in a script: the path on stdout, progress on stderr
#
# Which Python:
#   1. that of the activated virtual or conda environment, if manyviews of this checkout is
#      installed in it (nothing is changed there);
#   2. else that of .venv, made here with $PYTHON (default: python3, 3.10 or newer) from
#      requirements.txt. Takes no time when nothing has changed; can be stopped at any time.
#
# Without an NVIDIA GPU, the CUDA libraries of the Linux build of torch are dead weight. To leave
# them out, activate an environment of your own, install a CPU build of the torch and torchvision
# versions in requirements.txt, and then `pip install -c requirements.txt -e ".[test]"`.

set -euo pipefail
unset CDPATH  # with it, cd prints where it goes

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
venv=$root/.venv
stamp=$venv/manyviews.stamp             # what .venv was made from; written last
unfinished=$venv/manyviews.unfinished   # there while an installation is going on
log=$root/.venv.log

exec 3>&1 1>&2  # only the path of Python goes to stdout

die() {
    echo "setup_env.sh: $*" >&2
    exit 1
}

finish() {
    echo "$1" >&3
    exit 0
}

# True if the Python $1 imports manyviews from this checkout.
has_this_project() {
    "$1" -I - "$root/lib/manyviews" <<'PYTHON' 2>/dev/null
import importlib.util, os, sys
spec = importlib.util.find_spec("manyviews")
sys.exit(not (spec and spec.origin and os.path.samefile(os.path.dirname(spec.origin), sys.argv[1])))
PYTHON
}

# What .venv depends on, as one string.
wanted() {
    echo "$root"
    cat "$root/requirements.txt" "$root/pyproject.toml" "$root/setup_env.sh" | cksum
}

is_current() {
    [ ! -e "$unfinished" ] && [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$(wanted)" ]
}

version() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

# True if the user names a Python of another version than .venv has.
other_python_asked() {
    [ -n "${PYTHON:-}" ] && [ "$(version "$PYTHON")" != "$(version "$venv/bin/python")" ]
}

# The interpreter to make .venv with. Inside a virtual environment this is the one behind it,
# because that environment may be the .venv that is about to be replaced.
base_python() {
    local python=${PYTHON:-python3}
    command -v "$python" >/dev/null ||
        die "'$python' not found. Install Python 3.10 or newer, or name one: PYTHON=/path/to/python3 $0"
    "$python" - <<'PYTHON' || die "set PYTHON=/path/to/python3 (3.10 or newer, with venv) and try again."
import sys
if sys.version_info < (3, 10):
    sys.exit("%s is Python %d.%d; 3.10 or newer is needed." % ((sys.executable,) + sys.version_info[:2]))
try:
    import ensurepip, venv
except ImportError:
    sys.exit("%s lacks the module venv; on Debian and Ubuntu: apt install python3-venv" % sys.executable)
print(getattr(sys, "_base_executable", None) or sys.executable)
PYTHON
}

# Runs pip, its output in the log; shows now and then what it is at.
run_pip() {
    local status=0
    (
        while sleep 15 && kill -0 $$ 2>/dev/null; do
            now=$(grep -E '^ *(Collecting|Downloading|Processing|Building|Installing) ' "$log" | tail -n 1 || true)
            size=$(du -sh "$venv" 2>/dev/null | cut -f 1 || true)  # files come and go
            echo "  $((SECONDS / 60)) min $((SECONDS % 60)) s, $size on disk: ${now:0:60}"
        done
    ) 3>&- 9>&- &
    local ticker=$!
    "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off --timeout 60 \
        --retries 10 "$@" >>"$log" 2>&1 3>&- </dev/null || status=$?
    kill "$ticker" 2>/dev/null || true
    wait "$ticker" 2>/dev/null || true
    if [ "$status" -ne 0 ]; then
        echo "The installation failed or was stopped. The last lines of $log:"
        tail -n 10 "$log" | cut -c 1-200 | sed 's/^/  | /'
        die "call it again to start afresh; what pip has in its cache is not downloaded again."
    fi
}

for active in "${VIRTUAL_ENV:-}" "${CONDA_PREFIX:-}"; do
    [ -n "$active" ] && [ -x "$active/bin/python" ] || continue
    [ "$active" -ef "$venv" ] && break
    has_this_project "$active/bin/python" && finish "$active/bin/python"
done

is_current && ! other_python_asked && finish "$venv/bin/python"

python=$(base_python)

# One at a time: the lock is held by file descriptor 9 until this script and its pip have ended.
exec 9>"$root/.venv.lock"
"$python" - <<'PYTHON'
import fcntl
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("Another set-up of .venv is under way; waiting for it.", flush=True)
    fcntl.flock(9, fcntl.LOCK_EX)
except OSError:
    pass  # a file system without locks
PYTHON
is_current && ! other_python_asked && finish "$venv/bin/python"

: >"$log"
made_for=$(head -n 1 "$stamp" 2>/dev/null || true)
if [ -e "$unfinished" ] || [ ! -x "$venv/bin/python" ] || [ "${made_for:-$root}" != "$root" ] ||
    other_python_asked; then
    [ ! -e "$venv" ] || echo "$venv is unfinished, moved or of another Python; it is made anew."
    rm -rf "$venv.old"
    [ ! -e "$venv" ] || mv "$venv" "$venv.old" # in one step: deleted by half it could pass for whole
    rm -rf "$venv.old"
    mkdir "$venv"
    : >"$unfinished"
    "$python" -m venv "$venv" >>"$log" 2>&1 || { tail -n 10 "$log"; die "could not make $venv with $python"; }
elif [ -e "$stamp" ]; then
    : >"$unfinished"  # never for an environment that someone else made: it is not ours to make anew
fi

echo "Installing the packages of requirements.txt into $venv ($("$venv/bin/python" -V))."
echo "The first time takes 2 to 4 minutes and a download: 3.2 GB on Linux (6 GB on disk), less on macOS."
echo "Log: $log"
run_pip -r "$root/requirements.txt"
run_pip --no-deps --no-build-isolation -e "$root"  # built by the setuptools of requirements.txt
# Threads of a kernel opened by hand sleep while they wait. Else training beside a busy core is several times slower.
"$venv/bin/python" -m ipykernel install --sys-prefix --env OMP_WAIT_POLICY PASSIVE >>"$log" 2>&1 ||
    die "could not set up the kernel of the notebooks; see $log"
# JupyterLab opens the start page, shows Markdown as it reads, asks no server for news, and writes a notebook only when
# asked to save it: those of the project are under version control.
mkdir -p "$venv/etc/jupyter" "$venv/share/jupyter/lab/settings"
echo '{"LabApp": {"default_url": "/lab/tree/notebooks/README.md"}}' >"$venv/etc/jupyter/jupyter_lab_config.json"
echo '{"@jupyterlab/docmanager-extension:plugin":
  {"autosave": false, "defaultViewers": {"markdown": "Markdown Preview"}},
  "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false}}' \
    >"$venv/share/jupyter/lab/settings/overrides.json"
wanted >"$stamp.new"
mv "$stamp.new" "$stamp"
rm -f "$unfinished"
echo "Ready after $((SECONDS / 60)) min $((SECONDS % 60)) s."
finish "$venv/bin/python"
