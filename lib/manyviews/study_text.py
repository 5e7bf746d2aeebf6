"""Tables and sentences of the controls and of the scaling study, all computed from results."""

import numpy as np
import pandas as pd
from scipy import stats

from manyviews import paths
from manyviews.claims import Verdict, decide, limits
from manyviews.config import ClaimsConfig, RunConfig
from manyviews.controls import Contrast, contrasts, cost_curve, cost_to_reach, factorial_effects, same_run
from manyviews.evaluation import accuracies
from manyviews.intervals import CONFIDENCE, MIN_SEEDS, estimate_without_images
from manyviews.readings import judgement_text
from manyviews.report import NOT_RUN, accuracy_text, difference_text, percent, table
from manyviews.results import ACCURACIES, Run, common_scores, cost_table, final_accuracy
from manyviews.rows import PARTS, ROWS, STUDIES, members, rows_of
from manyviews.scaling import (
    FITS,
    LEAST_SPREAD,
    MIN_BUDGETS,
    Curve,
    Misses,
    PowerLaw,
    estimate_of,
    farther,
    fit_power_law,
    law_intervals,
    misses,
)

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


def pixels_text(runs: dict[str, list[Run]], raw_pixels: pd.DataFrame | None) -> str:
    """How many runs end below what k-NN says of the pixels themselves, without any training."""
    if raw_pixels is None or not runs:
        return f"Raw pixels: {NOT_RUN}."
    floor = accuracies(raw_pixels)[MEASURE]
    below = [name for name in runs if np.mean([run.summary[MEASURE] for run in runs[name]]) < floor]
    return (
        f"From raw pixels, without any training, {ACCURACIES[MEASURE]} is {percent(floor)} %; "
        f"{len(below)} of {len(runs)} runs end below that."
    )


def part_markdown(part: str, runs: dict[str, list[Run]], config: ClaimsConfig) -> str:
    """What the runs of a part show: a sentence, and a table with accuracies, differences and costs."""
    found = contrasts(runs, part, MEASURE, config.margin)
    return (
        f"{part_sentence(part, runs, found)} {untrained_text(part, runs)}\n\n{part_table(part, runs, found)}"
    )


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


def untrained_text(part: str, runs: dict[str, list[Run]]) -> str:
    """Which runs of a part training has left below their own initial weights."""
    below = [
        ROWS[name].title
        for name in members(part)
        if name in runs
        and np.mean([run.summary[MEASURE] for run in runs[name]]) < np.mean(initial(runs[name]))
    ]
    return f"**Below their own initial weights end: {', '.join(below)}.**" if below else ""


def initial(seeds: list[Run]) -> list[float]:
    """An accuracy of the initial weights, by seed."""
    return [run.metrics[MEASURE].iloc[0] for run in seeds]


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
                "initial weights (%)": percent(np.mean(initial(runs[name]))),
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
    """How relations are decided, and how to read tables and figures."""
    margin = 100 * config.margin
    widest = margin * MIN_SEEDS**0.5 / stats.t.ppf(CONFIDENCE, MIN_SEEDS - 1)
    return (
        f"Differences are of {ACCURACIES[MEASURE]}, taken seed by seed and image by image; in brackets "
        f"{CONFIDENCE:.0%} intervals over seeds (t) and over test images (paired bootstrap). *Equivalent*: "
        f"two one-sided t tests over the seeds put the difference within {margin:.1f} points, p "
        f"below {1 - CONFIDENCE:.2f}, and so does the interval over images; with {MIN_SEEDS} seeds it takes "
        f"differences that scatter by less than {widest:.1f} points, so that it is rarely shown. *Higher* "
        f"and *lower*: both intervals are beyond 0, while the verdicts on the report's claims ask for "
        f"{margin:.1f} points. Fewer than {MIN_SEEDS} seeds decide nothing. The tests are not corrected for "
        "their number: of twenty differences that are none, one will seem to be one. Seconds are wall time "
        "with several runs side by side, so that equal work may differ by twice; multiply-adds count "
        "forward and backward passes.\n\nIn figures of differences a dot is the mean over the seeds, the "
        "thin line with caps the interval over seeds, the thick one that over test images, the grey field "
        "the margin. Learning curves are means over the seeds, which scatter as the tables' ± says."
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


TOLERANCES = {"nearly by absolute residuals": 0.2, "by least squares": 20.0}  # see scaling.misses


def law_markdown(curve: Curve | None, config: ClaimsConfig) -> str:
    """The law fitted to all lengths, and what law and trend foretell of the longest from the others."""
    if curve is None or len(curve.names) < MIN_BUDGETS:
        return f"The law of length: {NOT_RUN}, for it needs {MIN_BUDGETS} lengths."
    law, spread = fit_power_law(curve.x, curve.error, curve.spread), law_intervals(curve)
    found = {name: misses(curve, name) for name in FITS}
    missed = {name: estimate_of(one) for name, one in found.items()}
    others = {
        f"{name}, {how}": estimate_of(misses(curve, name, tolerance, resamples=0))
        for name in FITS
        for how, tolerance in TOLERANCES.items()
    }
    rows = [
        {
            "Fitted to all but the longest": name,
            "measured minus foretold accuracy (points)": difference_text(one),
        }
        for name, one in (missed | others).items()
    ]
    return (
        f"{law_text(law, spread)}\n\n{table(rows)}\n\nResiduals beyond {100 * curve.spread:.1f} points, by "
        "which the errors of one seed scatter, count as an outlier's; the lower rows show what another rule "
        f"would say.\n\n{winner_text(found, config)}"
    )


def law_text(law: PowerLaw, spread: dict[str, tuple[float, float]]) -> str:
    """The fitted law in words."""
    (floor_low, floor_high), (low, high) = spread["floor"], spread["exponent"]
    bound = (
        " The floor lies at its bound: the data bend the other way, and do not tell it."
        if floor_high < LEAST_SPREAD
        else ""
    )
    return (
        f"Fitted to all lengths: error = {100 * law.floor:.1f} % + {100 * law.scale:.1f} % times (views / "
        f"{law.x0:,.0f}) to the power of -{law.exponent:.2f}. Bootstrap over seeds and images, "
        f"{CONFIDENCE:.0%}: floor {100 * floor_low:.1f} to {100 * floor_high:.1f} %, exponent {low:.2f} to "
        f"{high:.2f}.{bound}"
    )


def winner_text(found: dict[str, Misses], config: ClaimsConfig) -> str:
    """Which fit foretold the longest run better, whether that is more than chance, and whether it is near."""
    missed = {name: estimate_of(one) for name, one in found.items()}
    best, *_, other = sorted(missed, key=lambda name: abs(missed[name].mean))
    apart = farther(found[other], found[best])
    said = (
        f"On the held-out longest run the {best} fit is the nearer one, off by "
        f"{100 * missed[best].mean:+.1f} points against {100 * missed[other].mean:+.1f} of the {other} fit, "
        f"which is farther off by {difference_text(apart)} points, fits to the same seeds compared."
    )
    if apart.n < MIN_SEEDS or apart.low <= 0:
        return f"{said} That does not tell the two apart: what can be claimed is a trend, not a law."
    near = decide(missed[best], *limits("foretold", config))
    shown = {"supported": "shown", "not supported": "refuted"}.get(near, "not decided")
    return (
        f"{said} So the two are told apart. That the nearer one is within {100 * config.margin:.1f} points "
        f"of what was measured is {shown}."
        + ("" if best == "power law" else " What can be claimed is a trend, not a power law.")
    )


def scale_text(runs: dict[str, list[Run]], part: str) -> str:
    """By how much a doubling of what a part scales moves the accuracy: a trend, with its spread."""
    names = [name for name in members(part) if name in runs]
    right = common_scores(runs, names, MEASURE)
    work = np.array([np.log2(runs[name][0].summary["multiply_adds"]) for name in right])
    if len(set(work)) < 2:
        return f"{PARTS[part].title}: {NOT_RUN}."
    by_seed = np.stack([scores.mean(axis=1) for scores in right.values()])  # (B, S)
    slopes = estimate_without_images(np.polyfit(work, by_seed, 1)[0])
    return (
        f"{PARTS[part].title}: {difference_text(slopes)} points for each doubling of the multiply-adds, a "
        f"trend over {len(set(work))} sizes, the largest {2 ** np.ptp(work):.0f} times the smallest."
    )


def annealing_markdown(runs: dict[str, list[Run]], constant: str, decayed: list[str], margin: float) -> str:
    """Whether accuracy jumps where the rate falls: runs that leave a constant rate beside it, at one step."""
    jumps = {}
    for name in (name for name in decayed if name in runs and constant in runs):
        there = {run.seed: run.evaluated.set_index("images_forwarded")[MEASURE] for run in runs[constant]}
        jumps[name] = [
            run.summary[MEASURE] - there[run.seed][run.summary["images_forwarded"]]
            for run in runs[name]
            if run.summary["images_forwarded"] in there.get(run.seed, ())
        ]
    found = {name: estimate_without_images(values) for name, values in jumps.items() if values}
    if not found:
        return f"Where the rate falls: {NOT_RUN}."
    rows = [
        {"Run": ROWS[name].title, "above the constant rate at the same step (points)": difference_text(one)}
        for name, one in found.items()
    ]
    outcomes = [decide(one, margin, float("inf")) for one in found.values()]
    n = len(outcomes)
    return (
        f"{table(rows)}\n\nDoes accuracy rise by more than {100 * margin:.1f} points as the rate falls? Yes "
        f"at {outcomes.count('supported')} of {n} lengths, no at {outcomes.count('not supported')}, not "
        f"decided at {outcomes.count('inconclusive')}."
    )


def cost_markdown(
    runs: dict[str, list[Run]], names: list[str], targets: list[str], measure: str = MEASURE
) -> str:
    """What each recipe paid until it first reached the final accuracy of some runs."""
    rows = []
    for target in (name for name in targets if name in runs):
        whole = cost_curve(runs[target]).iloc[-1]
        goal = whole[measure]
        for name in (name for name in names if name in runs):
            row = {
                f"To reach ({ACCURACIES[measure]})": f"{ROWS[target].title}: {percent(goal)} %",
                "Recipe": ROWS[name].title,
                "ends at (%)": accuracy_text(final_accuracy(runs[name], measure)),
            }
            paid = cost_to_reach(runs[name], measure, goal)
            if paid is None:
                rows.append(row | {"epochs": "not reached"})
                continue
            paid = paid.assign(share=paid["multiply_adds"] / whole["multiply_adds"])
            rows.append(
                row
                | {
                    "epochs": between(paid["epoch"], ".0f"),
                    "views forwarded": between(paid["images_forwarded"], ",.0f"),
                    "multiply-adds (G)": between(paid["multiply_adds"] / 1e9, ",.0f"),
                    "seconds": between(paid["seconds"], ",.0f"),
                    "multiply-adds, of the target's whole run": between(paid["share"], ".2f"),
                }
            )
    if not rows:
        return f"Cost to accuracy: {NOT_RUN}."
    return (
        f"{table(rows)}\n\nA run is measured a few times; its mean curve over the seeds first reaches the "
        f"other's final {ACCURACIES[measure]} between the two numbers given. Where the ends of two runs lie "
        "within each other's intervals, whether one reaches the other is chance."
    )


def between(values: pd.Series, form: str) -> str:
    """The first and the last of some numbers, or one where they are the same."""
    low, high = (f"{values.iloc[place]:{form}}" for place in (0, -1))
    return high if low == high else f"{low} to {high}"


def recipe_text(runs: dict[str, list[Run]], name: str, against: str) -> str:
    """What one run's configuration changes of another's, in this profile."""
    if not {name, against} <= runs.keys():
        return f"{ROWS[name].title}: {NOT_RUN}."
    one, other = (RunConfig(**runs[key][0].config).recipe() for key in (name, against))
    changes = [
        f"`{section}.{key}` {value} ({other[section][key]})"
        for section in ("network", "views", "training")
        for key, value in one[section].items()
        if value != other[section][key]
    ]
    return f"{ROWS[name].title}, beside {ROWS[against].title} (its value): {', '.join(changes)}."


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
                sentences = f"{part_sentence(name, runs, found)} {untrained_text(name, runs)}"
                lines.append(f"    - {part.title} ({name}). {sentences.strip()}")
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
