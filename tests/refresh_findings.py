"""Write the numbers of docs/findings.md from the results: .venv/bin/python tests/refresh_findings.py"""

import itertools

import numpy as np
import pandas as pd
from refresh_docs import table
from refresh_readme import between

from manyviews.config import paths
from manyviews.config.files import write_text
from manyviews.config.profiles import load_profile
from manyviews.config.schema import Profile
from manyviews.probes.predictions import accuracies
from manyviews.report import text
from manyviews.report.tables import MAIN, accuracy_text, difference_text, in_markdown, percent, title
from manyviews.runs.store import Results, Run, load_published
from manyviews.stats.compare import accuracy_table, difference, no_gain, obstacle, relate
from manyviews.stats.dose import draws
from manyviews.stats.intervals import MIN_SEEDS, Estimate

FINDINGS = paths.ROOT / "docs" / "findings.md"
PROFILE = "tiny-imagenet-tenth"
BEGIN, END = "<!-- findings: written by tests/refresh_findings.py -->", "<!-- end of findings -->"
BASELINE = "baseline"
KINDS = {  # of a choice: the runs that make it, beside the baseline
    "Length": ("length_quarter", "length_half", "length_2", "length_4", "length_8"),
    "More views an epoch": ("views8", "resnet18_views8"),
    "Fewer distinct views": ("distinct2", "distinct4", "distinct8", "distinct16", "distinct32"),
    "Views that meet in one loss": ("joint", "k4_outside", "k8_outside"),
    "A larger network": ("resnet34", "resnet34_conv3"),
    "Another recipe": ("efficient", "efficient_4", "reported_optimizer"),
}


def choices(results: Results, margin: float) -> str:
    """What each choice costs and gains beside the baseline; what was not run is said so."""
    rows, missing = [], []
    for kind, names in KINDS.items():
        for name in names:
            if name in results.runs and results.runs[name][0].name == name:
                rows.append([kind, title(name), *beside_baseline(results, name, margin)])
            elif name not in results.runs:
                missing.append(title(name))
    headers = ["choice", "run", "passes of an image", "cost", "k-NN (%)", "points above the baseline"]
    parts = [table([*headers, "relation", "n"], rows)]
    if missing:
        pages = f"../results/published/{PROFILE}"
        others = f"[controls]({pages}/controls.md) and [scaling]({pages}/scaling.md) name the study's others"
        parts.append(f"Of these not run: {'; '.join(missing)}; {others}.")
    return "\n\n".join(parts)


def beside_baseline(results: Results, name: str, margin: float) -> list[str]:
    """Cells of a run's row: views of an image, cost, accuracy, difference and its relation, seeds."""
    run, reference = results.runs[name][0], results.runs[BASELINE][0]
    accuracy = accuracy_table(results.runs, [name], [MAIN]).iloc[0]
    note = obstacle(results.runs, [name, BASELINE])
    gap = None if note else difference(results.runs, name, BASELINE, MAIN)
    return [
        f"{draws(run) / 2:.0f}",
        f"{ratio(run, reference):.2f}",
        accuracy_text(accuracy),
        f"not compared: {note}" if gap is None else difference_text(vars(gap)),
        "" if gap is None else decided(gap, margin),
        f"{accuracy['n']:.0f}",
    ]


def decided(gap: Estimate, margin: float) -> str:
    """The relation of two runs; of too few seeds none."""
    return f"n below {MIN_SEEDS}: not judged" if gap.n < MIN_SEEDS else relate(gap, margin)


def budget(results: Results, margin: float) -> str:
    """For each choice that was run with enough seeds a sentence on what it buys."""
    runs, lines = results.runs, []
    lengths = [
        name
        for name in ("length_quarter", "length_half", BASELINE, "length_2", "length_4")
        if made(runs, name)
    ]
    whole = [(lengths[0], lengths[-1])] if len(lengths) > 2 else []
    for shorter, longer in (*itertools.pairwise(lengths), *whole):
        if obstacle(runs, [shorter, longer]):
            continue
        factor = runs[longer][0].summary["steps"] / runs[shorter][0].summary["steps"]
        gap = difference(runs, longer, shorter, MAIN)
        lines.append(
            f"**{factor:.1f} times the epochs**, from *{title(shorter)}* to *{title(longer)}*: "
            f"{difference_text(vars(gap))} points, {bought(gap, margin)}."
        )
    for name, words in {"resnet34": "A larger network", "efficient": "Another recipe"}.items():
        if made(runs, name) and not obstacle(runs, [name, BASELINE]):
            gap, cost = difference(runs, name, BASELINE, MAIN), ratio(runs[name][0], runs[BASELINE][0])
            lines.append(
                f"**{words}**, *{title(name)}*, for {cost:.2f} times the baseline's multiply-adds: "
                f"{difference_text(vars(gap))} points, {bought(gap, margin)}."
            )
    if {"length_2", "length_4"} & runs.keys() - set(lengths):
        lines.append(f"Longer trainings have fewer than {MIN_SEEDS} seeds: see the table.")
    return "\n".join(f"- {line}" for line in lines)


def bought(gap: Estimate, margin: float) -> str:
    """The relation of two runs, and whether it leaves room for a gain."""
    relation = relate(gap, margin)
    ruled_out = relation == "undecided" and no_gain(vars(gap), margin)
    return f"{relation}, but no gain of {100 * margin:.1f}" if ruled_out else relation


def made(runs: dict[str, list[Run]], name: str) -> bool:
    """Whether a run has enough seeds to decide something."""
    return len(runs.get(name, [])) >= MIN_SEEDS


def ratio(run: Run, reference: Run) -> float:
    """Multiply-adds of one training for one of another."""
    return run.summary["macs"] / reference.summary["macs"]


def yardsticks(results: Results) -> str:
    """What needs no views at all: chance, raw pixels, initial weights, and labels."""
    run = results.runs[BASELINE][0]
    initial = np.mean([one.metrics[MAIN].iloc[0] for one in results.runs[BASELINE]])
    rows = [["chance", percent(1 / run.summary["classes"])]]
    if results.raw_pixels is not None:
        rows.append(["raw pixels", percent(accuracies(results.raw_pixels)[MAIN])])
    rows.append(["the baseline's initial weights", percent(initial)])
    for name in (BASELINE, "supervised"):
        rows.append([title(name), accuracy_text(accuracy_table(results.runs, [name], [MAIN]).iloc[0])])
    return table(["yardstick", "k-NN (%)"], rows)


def scale(results: Results, original: Profile) -> str:
    """The original's study beside this one, as far as they differ."""
    run = results.runs[BASELINE][0]
    images = {
        "training classes": "classes",
        "unseen classes": "ood_classes",
        "training images": "train_images",
    }
    theirs = {"training classes": "200", "unseen classes": "200", "training images": "100,000"}
    rows = [["images", "ImageNet photographs", in_markdown(run.environment["dataset"])]]
    rows += [[words, theirs[words], f"{run.summary[key]:,}"] for words, key in images.items()]
    rows.append(["pixels", f"{original.data.image_size}", f"{run.config.data.image_size}"])
    for section in ("network", "views", "training"):
        here, there = getattr(run.config, section), getattr(original, section)
        rows += [
            [f"`{section}.{key}`", value, getattr(here, key)]
            for key, value in there
            if value != getattr(here, key)
        ]
    return table(["", "the original", "here"], rows)


def literature() -> str:
    """Published pairs of one source at equal view-epochs, and whether both schedules ended."""
    published = pd.read_csv(paths.NOTEBOOKS / "published.csv", keep_default_na=False)
    pairs = published.merge(
        published, on=["dataset", "measure", "source", "view_epochs"], suffixes=("", "_more")
    )
    pairs = pairs[pairs["views"] < pairs["views_more"]]
    rows = []
    for of in pairs.sort_values(["source", "dataset", "measure", "view_epochs"]).itertuples():
        fewer = f"{of.method}, {of.views}: {of.accuracy}"
        more = f"{of.method_more}, {of.views_more}: {of.accuracy_more}"
        both = "yes" if of.annealed == of.annealed_more == "yes" else "no"
        rows.append([of.source, of.dataset, of.measure, of.view_epochs, fewer, more, both])
    headers = ["source", "images", "probe", "view-epochs", "fewer views (%)", "more views (%)"]
    return "\n\n".join([
        f"Published pairs of one source at equal view-epochs: {len(pairs)}; of these, with both schedules "
        f"known to have run to their end: {sum(row[-1] == 'yes' for row in rows)}.",
        table([*headers, "both schedules ended"], rows),
    ])  # fmt: skip


def with_findings(page: str) -> str:
    """The page with all that depends on results."""
    profile = load_profile(PROFILE)
    results, margin = load_published(profile), profile.claims.margin
    content = [
        "## What was found",
        text.answers(results, profile).data,
        "## What each choice is worth",
        "Beside the baseline, seed by seed and image by image; a run of one seed, beside the baseline of "
        "that seed, not its mean. ±: half the width of the wider 95 % interval. *Passes of an image*: how "
        "often a pair of its views is trained on. *Cost*: multiply-adds of the training, the baseline's are "
        "1. Brackets and relations as above.",
        choices(results, margin),
        "Yardsticks, by the same accuracy:",
        yardsticks(results),
        "## What that means for a fixed budget",
        budget(results, margin),
        "## Beside the literature",
        literature(),
        "## In what this differs from the original",
        scale(results, load_profile("paper")),
    ]
    return between(page, BEGIN, END, "\n\n".join(content))


if __name__ == "__main__":
    write_text(FINDINGS, with_findings(FINDINGS.read_text(encoding="utf-8")))
