"""Write the README's results from results/published/: .venv/bin/python tests/refresh_readme.py"""

from manyviews.config import paths
from manyviews.config.files import write_text
from manyviews.config.profiles import load_profile
from manyviews.config.runs import ORIGINAL, run_specs
from manyviews.report import tables, text
from manyviews.runs.store import load_published
from manyviews.stats.claims import verdicts

README = paths.ROOT / "README.md"
BEGIN, END = "<!-- results: written by tests/refresh_readme.py -->", "<!-- end of results -->"
PROFILES = {
    "demo": "Synthetic images: profile `demo`",
    "tiny-imagenet-quick": "Real images: profile `tiny-imagenet-quick`",
}


def results_text() -> str:
    """Tables and figure of the profiles whose results come with the project."""
    parts = []
    for name, heading in PROFILES.items():
        profile, specs = load_profile(name), run_specs()
        results = load_published(profile)
        judged = verdicts(results.runs, results.raw_pixels, profile.claims, specs)
        folder = f"results/published/{name}"
        parts += [
            f"### {heading}",
            text.state(results, specs.of_study(ORIGINAL)).data,
            tables.accuracies(results.runs, results.raw_pixels).reset_index().to_markdown(index=False),
            "After ± the half width of the 95 % interval over n seeds; in brackets that over test images.",
            tables.verdicts(judged).reset_index().to_markdown(index=False),
            text.rules(profile, results.runs).data,
            f"![Learning curves]({folder}/report_files/curves.png)",
            f"To be read whole: [our report]({folder}/report.md), [controls]({folder}/controls.md), "
            f"[scaling]({folder}/scaling.md).",
        ]
    return "\n\n".join(parts)


def with_results(readme: str) -> str:
    """The README with the results between its two marks."""
    before, after = readme.split(BEGIN)[0], readme.split(END)[1]
    return f"{before}{BEGIN}\n\n{results_text()}\n\n{END}{after}"


if __name__ == "__main__":
    write_text(README, with_results(README.read_text(encoding="utf-8")))
