"""Execute the notebooks at their own, smoke, parameters, so that they show what today's code gives.

Run it after a change that is meant to alter results or outputs:  .venv/bin/python tests/refresh_notebooks.py
"""

import os
import tempfile

import nbformat
import papermill

from manyviews.config import paths
from manyviews.report.pages import clean


def main() -> None:
    with tempfile.TemporaryDirectory() as results:
        os.environ |= {"MANYVIEWS_RESULTS": results, "OMP_NUM_THREADS": "1"}  # as conftest.py has it
        for notebook in sorted(paths.NOTEBOOKS.glob("*.ipynb")):
            print(notebook.stem, flush=True)
            executed = papermill.execute_notebook(
                str(notebook), None, cwd=str(paths.NOTEBOOKS), kernel_name="python3", progress_bar=False
            )
            nbformat.write(clean(executed), notebook)


if __name__ == "__main__":
    main()
