#!/usr/bin/env bash
# Runs the notebooks of a profile and writes the report. `./run_all.sh --help` tells more.

[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"  # called as `sh run_all.sh`

set -euo pipefail
unset CDPATH  # with it, cd prints where it goes

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)

for argument in "$@"; do
    if [ "$argument" = "--help" ] || [ "$argument" = "-h" ]; then
        cat <<HELP
Usage: ./run_all.sh [options]

Makes the runs of the study and writes our report; prints its path. Finished runs are kept, and
interrupted ones go on from their last epoch when the same command is given again. Makes .venv
if needed (see setup_env.sh).

  --profile NAME     scale of the study (default: demo):
                     $(cd "$root/notebooks/profiles" && echo *.yaml | sed 's/\.yaml//g')
  --data PATH        your images in place of the profile's: a folder of pictures by class, of train.npz,
                     val.npz and ood.npz, or Tiny-ImageNet's; results go to results/<profile>-<its name>/
  --runs A,B         which runs of notebooks/runs.yaml
                     (default: the original's: baseline,resnet34,views8,supervised)
  --study A,B        instead, all runs of a study: controls, scaling
  --jobs N           jobs at a time (default: one for each GPU, or else each core)
  --seeds 0,1        which seeds (default: those of the profile)
  --scheduler ADDR   make the runs on the workers of a Dask scheduler (docs/scale.md)
  --time-limit 9m    stop before so many seconds, minutes or hours (90s, 9m, 2.5h) are over, after
                     a whole epoch; the exit status is then 75, and the same command goes on
  --results DIR      where results go (default: results/)
  --force            repeat finished runs
  --report           only write our report, and the pages of --study, from the runs there are
  --pdf              write each page as .pdf too, by a Chromium, Chrome or Edge that is found
  --list-runs        only print the runs that are missing, a run and its seed on each line
  --publish          add your runs of the profile to results/published/ (for maintainers)

  ./run_all.sh
  ./run_all.sh --study controls,scaling
  ./run_all.sh --profile tiny-imagenet-tenth --seeds 0
  ./run_all.sh --profile tiny-imagenet-tenth --data ~/pictures --seeds 0
  ./run_all.sh --runs baseline,views8 --seeds 0 --results /tmp/try
HELP
        exit 0
    fi
done

python=$("$root/setup_env.sh")
exec "$python" -I -m manyviews "$@"  # -I: nothing of the current folder, nor of PYTHONPATH
