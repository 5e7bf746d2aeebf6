"""Where things are: absolute paths, so that nothing depends on the working directory."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
NOTEBOOKS = ROOT / "notebooks"
PROFILES = NOTEBOOKS / "profiles"


def data_root() -> Path:
    """Folder of datasets: $MANYVIEWS_DATA, or data/ of the project."""
    return Path(os.environ.get("MANYVIEWS_DATA") or ROOT / "data").resolve()


def results_root() -> Path:
    """Folder of results: $MANYVIEWS_RESULTS, or results/ of the project."""
    return Path(os.environ.get("MANYVIEWS_RESULTS") or ROOT / "results").resolve()


def published_root() -> Path:
    """Folder of the results that come with the project; a user's own never go there."""
    return ROOT / "results" / "published"


def run_folder(profile: str, run: str, seed: int) -> Path:
    """Folder of one finished run: results/<profile>/<run>/seed<k>."""
    return results_root() / profile / run / f"seed{seed}"
