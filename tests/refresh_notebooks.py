"""Execute the notebooks at their own, smoke, parameters and commit what they show and the reference numbers.

Run it after a change that is meant to alter results:  .venv/bin/python tests/refresh_notebooks.py
"""

import os
import tempfile
from pathlib import Path

from manyviews import paths
from manyviews.config import RunConfig, load_profile
from manyviews.files import write_json
from manyviews.pipeline import run_notebook
from manyviews.reference import REFERENCE, make_reference
from manyviews.results import load_runs


def main() -> None:
    with tempfile.TemporaryDirectory() as results:
        os.environ["MANYVIEWS_RESULTS"] = results
        names = sorted(path.stem for path in paths.NOTEBOOKS.glob("*.ipynb"))
        write_json(REFERENCE, {})
        for name in names:  # the first time without a reference, to make one
            print(name, flush=True)
            run_notebook(name, paths.NOTEBOOKS / f"{name}.ipynb", {}, Path(results) / "log.ipynb")
        config = RunConfig(run="smoke", depth=18, stem="conv3", n_views=2, **load_profile("smoke"))
        write_json(REFERENCE, make_reference([seeds[0] for seeds in load_runs(config).values()]))
        for name in names:
            run_notebook(name, paths.NOTEBOOKS / f"{name}.ipynb", {}, Path(results) / "log.ipynb")


if __name__ == "__main__":
    main()
