"""The README tells what is in the repository, and its examples run."""

import re

import numpy as np
import torch
from refresh_readme import BEGIN, PROFILES, README, with_results

from manyviews.config import paths
from manyviews.config.profiles import profile_names

TEXT = README.read_text(encoding="utf-8")


def test_its_numbers_are_those_of_the_published_results():
    assert BEGIN in TEXT
    assert with_results(TEXT) == TEXT, "run tests/refresh_readme.py"
    assert sorted(PROFILES) == sorted(path.name for path in (paths.ROOT / "results/published").iterdir())


def test_its_links_and_those_of_contributing_lead_somewhere():
    for text in (TEXT, (paths.ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")):
        links = re.findall(r"\]\(([^)#]+)\)", text)
        assert [link for link in links if not (paths.ROOT / link).exists()] == []


def test_its_picture_and_that_of_contributing_show_the_rooms_there_are():
    rooms = {path.parent.name for path in (paths.ROOT / "lib/manyviews").glob("*/__init__.py")}
    for text in (TEXT, (paths.ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")):
        line = next(line for line in text.splitlines() if line.startswith("config ──►"))
        assert set(re.findall(r"\w+", line.split("cli")[0])) == rooms
    files = re.findall(r"\| `([\w/]+\.py)` \|", TEXT)
    assert len(files) >= 7
    assert [file for file in files if not (paths.ROOT / "lib/manyviews" / file).exists()] == []


def test_it_lists_every_profile_and_every_notebook():
    notebooks = [path.stem for path in paths.NOTEBOOKS.glob("*.ipynb")]
    assert [name for name in (*profile_names(), *notebooks) if f"`{name}`" not in TEXT] == []


def test_its_twenty_lines_train_on_an_array_of_ones_own_images(capsys):
    """Images of two kinds, dark and bright at random: even so short a training leaves them apart."""
    snippet = next(code for code in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if "Trainer" in code)
    labels = torch.arange(130) % 2
    noise = np.random.default_rng(0).integers(0, 100, (130, 3, 8, 8))
    images = torch.from_numpy((noise + 120 * labels.numpy()[:, None, None, None]).astype(np.uint8))
    torch.manual_seed(0)
    exec(snippet, {"images": images, "labels": labels})
    assert float(re.search(r"tensor\((.+)\)", capsys.readouterr().out).group(1)) > 0.8
