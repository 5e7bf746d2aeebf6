"""Write the README's results from results/published/: .venv/bin/python tests/refresh_readme.py"""

import re

from manyviews.config import paths
from manyviews.config.files import write_text
from manyviews.config.profiles import load_profile
from manyviews.config.runs import ORIGINAL, run_specs
from manyviews.report import text
from manyviews.report.tables import title
from manyviews.runs.store import load_published
from manyviews.stats.intervals import MIN_SEEDS

README = paths.ROOT / "README.md"
BEGIN, END = "<!-- results: written by tests/refresh_readme.py -->", "<!-- end of results -->"
NOT_RUN = "ot run"  # at the beginning of a sentence or in it
PAGES = {"our report": "report", "controls": "controls", "scaling": "scaling", "literature": "literature"}
PROFILES = {  # in this order, as far as they are published
    "tiny-imagenet-tenth": "Photographs: profile `tiny-imagenet-tenth`",
    "demo": "Synthetic images: profile `demo`",
}


def results_text() -> str:
    """For each profile whose results come with the project answers, a figure, and where the rest is.

    The first profile gives all its answers, a further one those that were not run before it, or with too few
    seeds.
    """
    parts: list[str] = []
    answered: set[str] = set()
    for name, heading in PROFILES.items():
        if not (paths.published_root() / name / "runs.json").exists():
            continue
        profile, folder = load_profile(name), f"results/published/{name}"
        pages = list(PAGES.items())[: 1 if parts else None]
        links = ", ".join(f"[{words}]({folder}/{page}.md)" for words, page in pages)
        results = load_published(profile)
        answers = text.answers(results, profile).data
        figure = (
            "![k-NN accuracy of our runs of the original's comparison, against epochs and against what"
            f" training costs]({folder}/report_files/plateau.png)"
        )
        left = [title(run) for run in run_specs().of_study(ORIGINAL) if run not in results.runs]
        caption = "Supervised training sees the labels." + f" Of these not run: {', '.join(left)}." * bool(
            left
        )
        shown = [_further(answers, answered)] if parts else [answers, figure, caption]
        parts += [f"### {heading}", *shown, f"In full: {links}."]
        answered |= {line[:2] for line in answers.splitlines() if _is_answer(line)}
    return "\n\n".join(parts) or "No results are published: not run."


def _is_answer(line: str) -> bool:
    """Whether an answer's runs were made, those of its first number with seeds enough."""
    seeds = re.search(r"n = (\d+)", line)
    return NOT_RUN not in line and (seeds is None or int(seeds[1]) >= MIN_SEEDS)


def _further(answers: str, answered: set[str]) -> str:
    """The heading of five answers, and the first sentences of those that are not answered yet."""
    heading, *lines = answers.splitlines()
    new = [line for line in lines if re.match(r"\d\. ", line) and line[:2] not in answered]
    return f"{heading}\n\n" + "\n".join(f"- {line[3:].split('. ')[0].rstrip('.')}." for line in new)


def between(page: str, begin: str, end: str, content: str) -> str:
    """A page with other content between its two marks."""
    before, rest = page.split(begin)
    return f"{before}{begin}\n\n{content}\n\n{end}{rest.split(end)[1]}"


def with_results(readme: str) -> str:
    """The README with the results between its two marks."""
    return between(readme, BEGIN, END, results_text())


if __name__ == "__main__":
    write_text(README, with_results(README.read_text(encoding="utf-8")))
