"""Tables and sentences of the controls and of the scaling study, all computed from results."""

import numpy as np

from manyviews import paths
from manyviews.claims import Verdict
from manyviews.config import ClaimsConfig
from manyviews.controls import Contrast, contrasts, cost_to_reach, factorial_effects, same_run
from manyviews.intervals import CONFIDENCE, MIN_SEEDS, Estimate
from manyviews.readings import judgement_text
from manyviews.report import NOT_RUN, accuracy_text, difference_text, percent, table
from manyviews.results import ACCURACIES, Run, cost_table, final_accuracy
from manyviews.rows import PARTS, ROWS, STUDIES, members, rows_of
from manyviews.scaling import FITS, MIN_BUDGETS, Curve, PowerLaw, fit_power_law, foretell, law_intervals

MEASURE = "id_knn_accuracy"  # on which the studies decide, as the verdicts do


def found_text(study: str, runs: dict[str, list[Run]]) -> str:
    """How many runs of a study there are, of how many seeds, and on what images."""
    names = rows_of(study)
    there = [name for name in names if name in runs]
    if not there:
        return f"No run of this study is finished: {NOT_RUN}."
    seeds = [len(runs[name]) for name in there]
    few = min(seeds)
    images = (
        "**Synthetic** images: nothing here is evidence about photographs."
        if runs[there[0]][0].summary["synthetic"]
        else "Photographs."
    )
    n = f"{few}" if few == max(seeds) else f"{few} to {max(seeds)}"
    warning = (
        ""
        if few >= MIN_SEEDS
        else f" **n = {few} for some: differences may be chance, and nothing is decided.**"
    )
    made = sorted({run.environment["precision"] for name in there for run in runs[name]})
    mixed = f" They were computed in {' and '.join(made)}: machines differed." if len(made) > 1 else ""
    return f"{len(there)} of {len(names)} runs are there, with {n} seed(s) each. {images}{mixed}{warning}"


def part_markdown(part: str, runs: dict[str, list[Run]], config: ClaimsConfig) -> str:
    """What the runs of a part show: a sentence, and a table with accuracies, differences and costs."""
    found = contrasts(runs, part, MEASURE, config.margin)
    return f"{part_sentence(part, runs, found)}\n\n{part_table(part, runs, found)}"


def part_sentence(part: str, runs: dict[str, list[Run]], found: list[Contrast]) -> str:
    """Which runs of a part are equivalent to, above and below the one that they are compared with."""
    against = ROWS[PARTS[part].against].title
    if not found:
        return f"{PARTS[part].title}: {NOT_RUN}."
    words = {
        "higher": "higher",
        "lower": "lower",
        "equivalent": "equivalent",
        "inconclusive": "not decided",
    }
    groups = [
        f"{word}: "
        + ", ".join(
            f"{ROWS[one.run].title} ({100 * one.estimate.mean:+.1f})"
            for one in found
            if one.relation == relation
        )
        for relation, word in words.items()
        if any(one.relation == relation for one in found)
    ]
    n = min(one.estimate.n for one in found)
    return f"Beside {against}, in points (n = {n}) - {'; '.join(groups)}."


def part_table(part: str, runs: dict[str, list[Run]], found: list[Contrast]) -> str:
    """A row for each run of a part: its accuracies, how it compares, and what it cost."""
    by_run = {one.run: one for one in found}
    costs = cost_table({name: runs[name] for name in members(part) if name in runs})
    rows = []
    for name in members(part):
        if name not in runs:
            rows.append({"Run": ROWS[name].title, f"{ACCURACIES[MEASURE]} (%)": NOT_RUN})
            continue
        one, cost = by_run.get(name), costs.loc[name]
        linear, unseen = (
            percent(np.mean([run.summary[m] for run in runs[name]]))
            for m in ("id_linear_accuracy", "ood_knn_folds_accuracy")
        )
        rows.append(
            {
                "Run": ROWS[name].title,
                f"{ACCURACIES[MEASURE]} (%)": accuracy_text(final_accuracy(runs[name], MEASURE)),
                "difference (points)": difference_text(one.estimate) if one else "",
                "equivalence, p": ""
                if one is None or np.isnan(one.p_equivalence)
                else f"{one.p_equivalence:.3f}",
                "relation": one.relation if one else relation_of(name, part, runs),
                "linear (%)": linear,
                "unseen, k-NN in folds (%)": unseen,
                "epochs": f"{runs[name][0].summary['epoch']:.0f}",
                "steps": f"{cost['steps']:,.0f}",
                "views forwarded": f"{cost['images_forwarded']:,.0f}",
                "multiply-adds (G)": f"{cost['multiply_adds'] / 1e9:,.0f}",
                "seconds": f"{cost['wall_time_s']:,.0f}",
            }
        )
    return table(rows)


def relation_of(name: str, part: str, runs: dict[str, list[Run]]) -> str:
    """Why a run of a part is compared with nothing."""
    against = PARTS[part].against
    if name == against:
        return "compared with"
    return "the same run" if same_run(runs, name, against) else "no seed in common"


def rules_text(config: ClaimsConfig) -> str:
    """How relations are decided."""
    return (
        f"Differences are of {ACCURACIES[MEASURE]}, taken seed by seed and image by image; in brackets "
        f"{CONFIDENCE:.0%} intervals over seeds (t) and over test images (paired bootstrap). *Equivalent*: "
        f"two one-sided t tests over the seeds put the difference within {100 * config.margin:.1f} points, p "
        f"below {1 - CONFIDENCE:.2f}, and so does the interval over images. *Higher* and *lower*: both "
        f"intervals are beyond 0. Fewer than {MIN_SEEDS} seeds decide nothing. The tests are not corrected "
        "for their number. Seconds are wall time with several runs side by side, and compare only roughly; "
        "multiply-adds count forward and backward passes."
    )


def effects_markdown(runs: dict[str, list[Run]], part: str) -> str:
    """Main effects and interactions of the factorial part."""
    found = factorial_effects(runs, part, MEASURE)
    if not found:
        return f"Effects: {NOT_RUN}, for a cell is missing."
    rows = [{"Effect": name, "points": difference_text(one)} for name, one in found.items()]
    largest = max(found, key=lambda name: abs(found[name].mean))
    return (
        f"{table(rows)}\n\nA main effect is the mean difference between a factor's two levels, over all "
        "levels of the others; an interaction says by how much it depends on them. The largest is that of "
        f"{largest}, {100 * found[largest].mean:+.1f} points."
    )


def law_markdown(curve: Curve | None, config: ClaimsConfig) -> str:
    """The law fitted to all lengths, and what law and trend foretell of the longest from the others."""
    if curve is None or len(curve.names) < MIN_BUDGETS:
        return f"The law of length: {NOT_RUN}, for it needs {MIN_BUDGETS} lengths."
    law, spread = fit_power_law(curve.x, curve.error), law_intervals(curve)
    missed = {name: foretell(curve, name) for name in FITS}
    rows = [
        {
            "Fitted to all but the longest": name,
            "measured minus foretold accuracy (points)": difference_text(one),
        }
        for name, one in missed.items()
    ]
    return f"{law_text(law, spread)}\n\n{table(rows)}\n\n{winner_text(missed, config)}"


def law_text(law: PowerLaw, spread: dict[str, tuple[float, float]]) -> str:
    """The fitted law in words."""
    (floor_low, floor_high), (low, high) = spread["floor"], spread["exponent"]
    return (
        f"Fitted to all lengths: error = {100 * law.floor:.1f} % + {100 * law.scale:.1f} % times (views / "
        f"{law.x0:,.0f}) to the power of -{law.exponent:.2f}. Bootstrap over seeds and images, "
        f"{CONFIDENCE:.0%}: floor {100 * floor_low:.1f} to {100 * floor_high:.1f} %, exponent {low:.2f} to "
        f"{high:.2f}."
    )


def winner_text(missed: dict[str, Estimate], config: ClaimsConfig) -> str:
    """Which fit foretold the longest run better, and whether that can be told apart from chance."""
    ranked = sorted(missed, key=lambda name: abs(missed[name].mean))
    best, other = ranked[0], ranked[-1]
    close = abs(missed[best].mean) < config.margin
    overlap = missed[best].low <= missed[other].mean <= missed[best].high or missed[best].n < MIN_SEEDS
    said = (
        f"On the held-out longest run the {best} fit is the nearer one, off by "
        f"{100 * missed[best].mean:+.1f} points against {100 * missed[other].mean:+.1f} of the {other} fit."
    )
    if overlap:
        return f"{said} The intervals do not tell the two apart: what can be claimed is a trend, not a law."
    return f"{said} " + (
        f"It is within the margin of {100 * config.margin:.1f} points."
        if close
        else f"That is beyond the margin of {100 * config.margin:.1f} points: neither foretells it."
    )


def scale_text(runs: dict[str, list[Run]], part: str) -> str:
    """By how much a doubling of what a part scales moves the accuracy; a trend, for two or three points."""
    points = [
        (run.summary["multiply_adds"], run.summary[MEASURE])
        for name in members(part)
        for run in runs.get(name, [])
    ]
    work = np.log2([p[0] for p in points]) if points else np.array([])
    if len(set(work)) < 2:
        return f"{PARTS[part].title}: {NOT_RUN}."
    slope = np.polyfit(work, [p[1] for p in points], 1)[0]
    return (
        f"{PARTS[part].title}: {100 * slope:+.1f} points for each doubling of the multiply-adds, a trend "
        f"over {len(set(work))} sizes."
    )


def cost_markdown(
    runs: dict[str, list[Run]], names: list[str], targets: list[str], measure: str = MEASURE
) -> str:
    """What each recipe paid until it first reached the final accuracy of some runs."""
    rows = []
    for target in (name for name in targets if name in runs):
        goal = float(np.mean([run.summary[measure] for run in runs[target]]))
        paid = {name: cost_to_reach(runs[name], measure, goal) for name in names if name in runs}
        reference = paid.get(target)
        for name, cost in paid.items():
            row = {"To reach": f"{ROWS[target].title}: {100 * goal:.1f} %", "Recipe": ROWS[name].title}
            if cost is None:
                best = 100 * float(np.mean([run.summary[measure] for run in runs[name]]))
                rows.append(row | {"epoch": f"not reached, ends at {best:.1f} %"})
                continue
            share = cost["multiply_adds"] / reference["multiply_adds"] if reference is not None else np.nan
            rows.append(
                row
                | {
                    "epoch": f"{cost['epoch']:.0f}",
                    "views forwarded": f"{cost['images_forwarded']:,.0f}",
                    "multiply-adds (G)": f"{cost['multiply_adds'] / 1e9:,.0f}",
                    "seconds": f"{cost['seconds']:,.0f}",
                    "multiply-adds, of the target's": f"{share:.2f}",
                }
            )
    if not rows:
        return f"Cost to accuracy: {NOT_RUN}."
    return (
        f"{table(rows)}\n\nThe first measured epoch at which a run's mean curve over its seeds reaches the "
        f"other's final {ACCURACIES[measure]}; curves are measured at few epochs, so true costs are somewhat "
        "lower."
    )


def pages_text(profile: str) -> str:
    """Where the tables and curves of the studies are, as far as they were written."""
    folder = paths.results_root() / profile
    links = [f"[{study}]({study}.md)" for study in STUDIES if (folder / f"{study}.md").exists()]
    if not links:
        return f"Tables and curves of the studies: {NOT_RUN}."
    return f"Their tables and curves, against epochs and against cost: {', '.join(links)}."


def answers_markdown(verdicts: list[Verdict], runs: dict[str, list[Run]], config: ClaimsConfig) -> str:
    """The controls' answer to each claim: the verdict, and a sentence on each part that bears on it."""
    lines = []
    for verdict in verdicts:
        claim = verdict.claim
        lines.append(
            f"- **{claim.key}, {claim.claimed}: {verdict.outcome}.** With {claim.control}, "
            f"{judgement_text(verdict.controlled, claim.controlled, config)}"
        )
        for name, part in PARTS.items():
            if part.claim == claim.key:
                found = contrasts(runs, name, MEASURE, config.margin)
                lines.append(f"    - {part.title} ({name}). {part_sentence(name, runs, found)}")
    return "\n".join(lines)


def time_text(runs: dict[str, list[Run]]) -> str:
    """How long all runs took together, each counted once."""
    folders = {run.folder: run.environment for seeds in runs.values() for run in seeds}
    total = sum(e["wall_time_s"] + e.get("final_evaluation_time_s", 0) for e in folders.values())
    cpu = sum(e["cpu_time_s"] for e in folders.values())
    return (
        f"{len(folders)} runs, each seed counted: {total / 3600:.1f} hours of wall time one after the other, "
        f"with the final evaluations; {cpu / 3600:.1f} hours of processor time in training."
    )


def contrasts_of(study: str, runs: dict[str, list[Run]], config: ClaimsConfig) -> list[Contrast]:
    """All contrasts of a study's parts, in each accuracy, to be stored beside the report."""
    return [
        one
        for name, part in PARTS.items()
        if part.study == study
        for measure in ACCURACIES
        for one in contrasts(runs, name, measure, config.margin)
    ]
