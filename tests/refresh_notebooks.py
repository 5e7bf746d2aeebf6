"""Execute the notebooks at their own, smoke, parameters and write what they show and the reference numbers.

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


def execute_notebooks(results: str) -> None:
    """Run all notebooks in place, with their results in a folder that holds none yet."""
    os.environ["MANYVIEWS_RESULTS"] = results
    for notebook in sorted(paths.NOTEBOOKS.glob("*.ipynb")):
        print(notebook.stem, flush=True)
        run_notebook(notebook.stem, notebook, {}, Path(results) / "log.ipynb")


def main() -> None:
    write_json(REFERENCE, {})  # the first time there is nothing to compare with
    with tempfile.TemporaryDirectory() as results:
        execute_notebooks(results)
        smoke = RunConfig(run="smoke", depth=18, stem="conv3", n_views=2, **load_profile("smoke"))
        write_json(REFERENCE, make_reference([seeds[0] for seeds in load_runs(smoke).values()]))
    with tempfile.TemporaryDirectory() as results:
        execute_notebooks(results)


if __name__ == "__main__":
    main()
