"""Write the README's results from results/: .venv/bin/python tests/refresh_readme.py"""

import os
import re

from manyviews import paths, readings, report
from manyviews.claims import verdicts
from manyviews.config import RunConfig, load_profile
from manyviews.evaluation import accuracies
from manyviews.files import write_text
from manyviews.pipeline import PAGES
from manyviews.results import TITLES, load_raw_pixels, load_runs
from manyviews.rows import ROWS

README = paths.ROOT / "README.md"
BEGIN, END = "<!-- results: written by tests/refresh_readme.py -->", "<!-- end of results -->"
PROFILES = {
    "demo": "Synthetic images: profile `demo`",
    "tiny-imagenet-quick": "Real images: profile `tiny-imagenet-quick`",
}


def results_text() -> str:
    """Tables and figures of the profiles whose results are in the repository."""
    parts = []
    for profile, title in PROFILES.items():
        config = RunConfig(run="readme", depth=18, stem="conv3", n_views=2, **load_profile(profile))
        every_run, raw_pixels = load_runs(config, ROWS), load_raw_pixels(profile)
        runs = {name: seeds for name, seeds in every_run.items() if name in TITLES}
        if not runs or raw_pixels is None:
            raise FileNotFoundError(f"results/{profile} is not whole; ./run_all.sh --profile {profile}")
        floor = accuracies(raw_pixels)
        parts += [
            f"### {title}",
            report.data_text(report.any_run(runs)),
            report.accuracy_markdown(runs, floor),
            report.floor_text(floor, runs, config.data.image_size),
            f"![Learning curves](results/{profile}/report_files/plateaus.png)",
            report.comparison_markdown(runs),
            readings.verdicts_table(verdicts(every_run, raw_pixels, config.claims)),
            f"![The differences behind the verdicts](results/{profile}/report_files/claims.png)",
            readings.rules_text(config.claims, every_run),
            pages_text(profile),
        ]
    return "\n\n".join(parts)


def pages_text(profile: str) -> str:
    """Where the report and the studies of a profile can be read whole."""
    pages = [f"results/{profile}/{name}.md" for name in PAGES]
    there = [page for page in reversed(pages) if (paths.ROOT / page).exists()]
    return f"To be read whole: {', '.join(f'[{page}]({page})' for page in there)}."


def with_results(readme: str) -> str:
    """The README with its results replaced by the present ones."""
    between = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    return between.sub(lambda _: f"{BEGIN}\n\n{results_text()}\n\n{END}", readme)


if __name__ == "__main__":
    os.environ.pop("MANYVIEWS_RESULTS", None)
    write_text(README, with_results(README.read_text(encoding="utf-8")))
