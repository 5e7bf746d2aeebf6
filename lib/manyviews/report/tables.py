"""What runs and statistics say, as tables to be read: accuracies in percent, differences in points."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from manyviews.config.runs import ORIGINAL, VARIANT, configure, run_specs
from manyviews.config.schema import NetworkConfig, Profile, TrainingConfig, ViewConfig
from manyviews.probes.predictions import accuracies as accuracies_of
from manyviews.runs import store
from manyviews.runs.environment import number_format
from manyviews.runs.store import CURVES, RAW_PIXELS, Results, Run, Runs, variant_of
from manyviews.stats.claims import INITIAL, Verdict
from manyviews.stats.compare import REPORTED, SAME_RUN, accuracy_table, final_accuracy
from manyviews.stats.intervals import FIELDS, Estimate, outer_ends
from manyviews.stats.scaling import LAWS

PERCENT = 100
NOT_RUN = "not run"
NO_NUMBER = "no number"  # of the original
MAIN = "id_knn_accuracy"  # on which the studies decide
MEASURE = "Measure"
MEASURE_TITLES = {
    "id_knn_accuracy": "k-NN, training classes",
    "id_linear_accuracy": "linear, training classes",
    "ood_knn_accuracy": "k-NN, unseen classes",
    "ood_linear_accuracy": "linear, unseen classes",
    "ood_knn_folds_accuracy": "k-NN, unseen classes, in folds",
    "ood_linear_folds_accuracy": "linear, unseen classes, in folds",
    "id_few_labels_knn_accuracy": "k-NN, training classes, few labels",
    "id_few_labels_linear_accuracy": "linear, training classes, few labels",
}
EQUAL_TERMS = tuple(MEASURE_TITLES)[4:]  # seen and unseen classes with as many labels
STEMS = {"conv3": "3 x 3", "conv7": "7 x 7"}  # the first layer
BASELINES = {RAW_PIXELS: "raw pixels", INITIAL: "random initialisation"}


def title(name: str) -> str:
    """What a run or a baseline is called."""
    return BASELINES.get(name) or run_specs().title(name)


def in_markdown(name: str) -> str:
    """A name that someone gave a class or dataset, as Markdown shows it unchanged."""
    return re.sub(r"([\\`*{}\[\]<>#|$~]|\b_|_\b)", r"\\\1", name)


def in_figure(name: str) -> str:
    """The same for matplotlib, which takes what lies between two `$` for a formula."""
    return name.replace("$", r"\$")


def percent(fraction: float) -> str:
    """A fraction as percent, with one digit; "not run" where there is none."""
    return NOT_RUN if pd.isna(fraction) else f"{PERCENT * fraction:.1f}"


def accuracy_text(estimate: Mapping[str, Any]) -> str:
    """An accuracy in percent, ± half of the wider of its intervals; one run has that over images only."""
    if pd.isna(estimate["mean"]):
        return NOT_RUN
    low, high = outer_ends(estimate)
    return percent(estimate["mean"]) + (
        "" if np.isnan(low) else f" ± {(PERCENT * high - PERCENT * low) / 2:.1f}"
    )


def difference_text(estimate: Mapping[str, Any]) -> str:
    """A difference in points, with the outer ends of its intervals; or why there is none."""
    if pd.isna(estimate["mean"]):
        return estimate.get("note") or NOT_RUN
    return points_text(estimate["mean"], *outer_ends(estimate))


def points_text(mean: float, low: float, high: float) -> str:
    """A difference in points with the ends of its interval, of three fractions."""
    ends = "" if np.isnan(low) else f" ({PERCENT * low:+.1f} to {PERCENT * high:+.1f})"
    return f"{PERCENT * mean:+.1f}{ends}"


# ---------------------------------------------------------------------------------------------- accuracies


def accuracies(results: Results, own: Results | None = None) -> pd.DataFrame:
    """Measured accuracies with the original's and one's own below, then the baselines; see accuracy_text.

    Args:
        results: that are shown.
        own: one's own, if the results are published ones.
    """
    rows = {}
    for name in run_specs().of_study(ORIGINAL):
        rows[title(name), _measured(results.runs, name, "ours")] = _final(results.runs, name, CURVES)
        if own is not None and results.published and name in own.runs:
            rows[title(name), _measured(own.runs, name, "yours")] = _final(own.runs, name, CURVES)
        if reported := REPORTED.get(name):
            rows[title(name), "the original"] = [percent(reported[measure]) for measure in CURVES]
    pixels = {} if results.raw_pixels is None else accuracies_of(results.raw_pixels)
    rows["Raw pixels", ""] = [percent(pixels.get(m, np.nan)) for m in CURVES]
    for seeds in (results.runs[name] for name in run_specs().of_study(ORIGINAL) if name in results.runs):
        network = f"Untrained ResNet-{seeds[0].config.depth}, {STEMS[seeds[0].config.stem]}"
        means = [percent(np.mean([run.metrics[m].iloc[0] for run in seeds])) for m in CURVES]
        rows.setdefault((network, ""), means)  # runs of one network share their initial weights
    index = pd.MultiIndex.from_tuples(rows, names=["Run", "Source"])
    return pd.DataFrame(list(rows.values()), index, [MEASURE_TITLES[m] for m in CURVES])


def _measured(runs: Runs, name: str, whose: str) -> str:
    return f"{whose}, n = {len(runs[name])}" if name in runs else whose


def equal_terms(runs: Runs) -> pd.DataFrame:
    """Accuracies on training and unseen classes, measured so that they can be compared."""
    names = run_specs().of_study(ORIGINAL)
    rows = [_final(runs, name, EQUAL_TERMS) for name in names]
    return pd.DataFrame(rows, _index(names), [MEASURE_TITLES[m] for m in EQUAL_TERMS])


def sweep(runs: Runs, task: str) -> pd.DataFrame:
    """Accuracies under other probes, in percent, means over the seeds; runs without a sweep are left out.

    Args:
        runs: see runs.store.load_results.
        task: "id" or "ood".
    Returns:
        A row for each probe; a column for each run, the first for the random weights of the first.
    """
    columns = {}
    for name in run_specs().of_study(ORIGINAL):
        tables = [run.sweep for run in runs.get(name, []) if run.sweep is not None]
        for weights in ("trained",) if columns else ("initial", "trained"):
            if tables:
                rows = pd.concat(tables).query("task == @task and weights == @weights")
                k = rows["neighbours"].map("{:.0f}".format, na_action="ignore").fillna("")
                by = rows.assign(k=k).groupby(["layer", "normalised", "probe", "k"], sort=False)
                of = title(name) if weights == "trained" else title(INITIAL)
                columns[of] = by["accuracy"].mean()
    return (PERCENT * pd.DataFrame(columns or {NOT_RUN: []})).round(1)


# ------------------------------------------------------------------------------- differences and verdicts


def comparison(runs: Runs, compared: pd.DataFrame) -> pd.DataFrame:
    """A row for each run of a comparison: its accuracies, how it differs from the reference, what it cost.

    Args:
        runs: see runs.store.load_results.
        compared: of one measure, see stats.compare.compare and holm.
    """
    reference, measure = compared[["reference", "measure"]].iloc[0]
    others = {"linear (%)": "id_linear_accuracy", "k-NN, unseen, in folds (%)": "ood_knn_folds_accuracy"}
    by_run, rows = compared.set_index("run"), []
    for name in [reference, *by_run.index]:
        row = {f"{MEASURE_TITLES[measure]} (%)": _final(runs, name, [measure])[0], "Difference (points)": ""}
        row["Relation"] = "reference"
        if name != reference:
            row["Difference (points)"] = difference_text(by_run.loc[name])
            row["Relation"] = by_run.loc[name, "relation"]
            if by_run.loc[name, "note"] == SAME_RUN:
                row["Difference (points)"] = f"the same run as {title(runs[reference][0].name)}"
        for run in runs.get(name, [])[:1]:
            of = {words: [one.summary[m] for one in runs[name]] for words, m in others.items()}
            row |= {words: percent(np.mean(values)) for words, values in of.items()}
            row |= _costs(run) | {"n": f"{len(runs[name])}"}
        rows.append(row)
    return pd.DataFrame(rows, _index([reference, *by_run.index])).fillna("")


def dose(curve: pd.DataFrame) -> pd.DataFrame:
    """Accuracy by distinct views of each image; see stats.dose.dose_curve."""
    rows = [
        {
            "Distinct views": f"{row.distinct:.0f}" + (" (fresh)" if row.note == "fresh" else ""),
            f"{MEASURE_TITLES[MAIN]} (%)": accuracy_text(row._asdict()),
            "Above fresh (points)": ""
            if pd.isna(row.difference)
            else points_text(row.difference, row.low, row.high),
            "Relation": "reference" if row.note == "fresh" else row.note or row.relation,
            "n": "" if pd.isna(row.n) else f"{row.n:.0f}",
        }
        for row in curve.itertuples()
    ]
    return pd.DataFrame(rows or [{"Distinct views": NOT_RUN}]).set_index("Distinct views")


def recipes(table: pd.DataFrame) -> pd.DataFrame:
    """The recipes on the frontier, cheapest first; see stats.frontier.recipes."""
    rows = {
        title(row.run): {
            "MACs of training (G)": f"{row.macs / 1e9:,.0f}",
            "Views of an image": f"{row.views:,.0f}",
            f"{MEASURE_TITLES[MAIN]} (%)": accuracy_text(row._asdict()),
            "n": f"{row.n:.0f}",
        }
        for row in table[table["frontier"]].itertuples()
    }
    return pd.DataFrame.from_dict(rows or {NOT_RUN: {}}, orient="index").rename_axis("Recipe")


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of estimates, to be read.

    Args:
        table: of stats.compare.compare, factorial_effects, or stats.claims.verdicts_table.
    """
    rows = [row for _, row in table.iterrows()]
    what = "Effect" if "effect" in table else "Difference of"
    columns = {what: table["effect"] if "effect" in table else [finding_title(row) for row in rows]}
    columns |= {MEASURE: table["measure"].map(MEASURE_TITLES)} if "measure" in table else {}
    columns["Points"] = [difference_text(row) for row in rows]
    columns |= {key.capitalize(): table[key] for key in ("relation", "outcome") if key in table}
    columns["n"] = table["n"].map("{:.0f}".format, na_action="ignore")
    if "judgement" in table:  # of what was not tested
        columns["Outcome"] = table["outcome"].where(table["run"].notna(), table["judgement"])
    keys = [key for key in ("claim", "compared") if key in table]
    return (
        pd.DataFrame(columns | {key: table[key] for key in keys}, dtype=object)
        .fillna("")
        .set_index([*keys, what])
    )


def beside_published(published: Runs, own: Runs) -> pd.DataFrame:
    """Published and own accuracies of the runs that are in both, and whether their intervals overlap."""
    rows, both = [], dict.fromkeys(run.name for run in store.each_once(own) if run.name in published)
    for name, measure in product(both, CURVES):
        a, b = (final_accuracy(runs[name], measure) for runs in (published, own))
        agree = "yes" if a.low <= b.high and b.low <= a.high else "no"
        texts = [accuracy_text(asdict(a)), accuracy_text(asdict(b)), f"{PERCENT * (b.mean - a.mean):+.1f}"]
        rows.append([title(name), MEASURE_TITLES[measure], *texts, agree])
    columns = ["Run", MEASURE, "published", "yours", "yours − published (points)", "agree"]
    return pd.DataFrame(rows, columns=columns).set_index(["Run", MEASURE])


def variants(profile: Profile, named: Runs, runs: Runs) -> pd.DataFrame:
    """Runs that a notebook gave a name: in what they depart from the run of that notebook, and its accuracy.

    Args:
        profile: of all of them.
        named: see runs.store.load_variants.
        runs: that they vary.
    """
    rows = []
    for name, seeds in named.items():
        varied, called = variant_of(name), name.split(VARIANT, 1)[1]
        beside = {run.seed: run for run in runs.get(varied, [])}
        for run in seeds:
            there = configure(varied, profile, run.seed)
            changed = store.differences(there.recipe(), run.config.recipe(), "{key}: {here}, not {there}")
            reference = beside[run.seed].summary[MAIN] if run.seed in beside else np.nan
            rows.append({
                "Run": title(varied), "Variant": called, "seed": run.seed,
                "what differs": "; ".join(line for line in changed if not line.startswith("run:")),
                f"{MEASURE_TITLES[MAIN]} (%)": percent(run.summary[MAIN]), "without (%)": percent(reference),
            })  # fmt: skip
    return pd.DataFrame(rows).set_index(["Run", "Variant"]) if rows else pd.DataFrame()


MARKS = {"supported": "✓", "not supported": "✗", "mixed": "±", "not tested": ""}  # others: "?"


def verdicts(judged: Sequence[Verdict]) -> pd.DataFrame:
    """The outcome on each claim, whether the original's observation appears here, and what decides."""
    columns = {
        "The original's claim": [verdict.claim.claimed for verdict in judged],
        "Its own comparison": [verdict.as_reported.outcome for verdict in judged],
        "A fair one": [_marked(verdict) for verdict in judged],
        "What decides, in points": [deciding(verdict) for verdict in judged],
    }
    return pd.DataFrame(columns, pd.Index([verdict.claim.key for verdict in judged], name="Claim"))


def _marked(verdict: Verdict) -> str:
    by_construction = verdict.outcome == verdict.claim.by_construction
    return f"{'✗' if by_construction else MARKS.get(verdict.outcome, '?')} {verdict.outcome}".strip()


def deciding(verdict: Verdict) -> str:
    """The finding that decides a verdict: the first with its outcome, else the first there is.

    Of a verdict that is so by construction, the confound stands for what is compared.
    """
    judged = verdict.deciding
    if judged.findings.empty:
        return judged.note
    decisive = judged.findings[judged.findings["outcome"] == judged.outcome]
    row = (judged.findings if decisive.empty else decisive).iloc[0]
    measure = "" if row["measure"] == MAIN else f" ({MEASURE_TITLES[row['measure']]})"
    what = f"{finding_title(row)}{measure}:"
    if verdict.outcome == verdict.claim.by_construction:
        what = f"{verdict.claim.confound}, which gain"
    return f"{what} {difference_text(row)}, n = {row['n']:.0f}"


def finding_title(row: Mapping[str, Any]) -> str:
    """What a difference is taken of; empty where there is none."""
    run, reference = row["run"], row["reference"]
    if pd.isna(run):
        return ""
    if reference in LAWS:
        return f"{title(run)} − what a {reference} forecasts"
    return f"{title(run)} {'since' if reference.startswith('epoch ') else '−'} {title(reference)}"


def numbers(estimates: Mapping[str, Estimate | None]) -> pd.DataFrame:
    """Estimates by name, in their own unit; None where there is none."""
    rows = {name: asdict(one) for name, one in estimates.items() if one is not None}
    return pd.DataFrame(rows or {NOT_RUN: dict.fromkeys(FIELDS, "")}).T.round(3)


# ------------------------------------------------------------------------------------------ cost and facts


def cost(runs: Runs, names: Iterable[str]) -> pd.DataFrame:
    """What each run cost; times are means over the seeds, without the final evaluation."""
    rows = {}
    for name in (name for name in names if name in runs):
        run, times = runs[name][0], {"Wall time (s)": "wall_time_s", "CPU time (s)": "cpu_time_s"}
        row = {"Parameters (M)": f"{run.summary['parameters'] / 1e6:.2f}"} | _costs(run)
        row["Views forwarded"] = f"{run.summary['views_forwarded']:,.0f}"
        row["MACs of a view (M)"] = f"{run.summary['macs_per_view'] / 1e6:,.1f}"
        means = {words: np.mean([one.environment[key] for one in runs[name]]) for words, key in times.items()}
        rows[title(name)] = row | {words: f"{value:,.0f}" for words, value in means.items()}
    return pd.DataFrame.from_dict(rows or {NOT_RUN: {}}, orient="index")


def _costs(run: Run) -> dict[str, str]:
    steps, macs = run.summary["steps"], run.summary["macs"]
    return {"Steps": f"{steps:,.0f}", "MACs of training (G)": f"{macs / 1e9:,.0f}"}


def data_facts(runs: Runs) -> pd.DataFrame:
    """The images and labels that all runs share, and what chance would give."""
    run = next((seeds[0] for seeds in runs.values()), None)
    if run is None:
        return pd.DataFrame({NOT_RUN: []})
    s, pixels = run.summary, run.config.data.image_size
    source = "synthetic: drawn by a program" if s["synthetic"] else "photographs"
    about = f"{run.environment['dataset']} ({source}), {pixels} x {pixels} pixels"
    of = {"training classes": ("classes", "train_images", "val_images")}
    of["unseen classes"] = ("ood_classes", "ood_fit_images", "ood_test_images")
    rows = {name: [s[key] for key in keys] for name, keys in of.items()}
    table = pd.DataFrame(rows, ["classes", "images to fit the probes on", "images to score"]).T
    table["labels of a class"] = (table.iloc[:, 1] / table["classes"]).round(1)
    return table.assign(chance=[f"{percent(1 / n)} %" for n in table["classes"]]).rename_axis(about)


def settings(runs: Runs, names: Iterable[str]) -> pd.DataFrame:
    """The settings in which some run departs from the original's recipe: its value, then that of each run."""
    sections = {"network": NetworkConfig(), "views": ViewConfig(), "training": TrainingConfig()}
    columns = {
        "the original": {f"{s}.{key}": _plain(value) for s, of in sections.items() for key, value in of}
    }
    for name in (name for name in names if name in runs):
        config = runs[name][0].config
        column = {key: str(getattr(config, key)) for key in ("objective", "depth", "stem", "n_views")}
        column |= {f"{s}.{key}": _plain(value) for s in sections for key, value in getattr(config, s)}
        columns[title(name)] = column | {"seeds": ", ".join(str(run.seed) for run in runs[name])}
    table = pd.DataFrame(columns).fillna("")
    return table[table.nunique(axis=1) > 1].rename_axis("Setting")


def _plain(value: Any) -> str:
    """As text, 1.0 like 1."""
    return str(value).removesuffix(".0")


def environment(runs: Runs) -> pd.DataFrame:
    """Code, libraries and machine; several values where the runs differ."""
    skipped = ("seed", "class_names", "time_s", "views_forwarded", "macs", "resumed_with", "rounded_products")
    of_runs = [
        run.environment | {"precision": number_format(run.environment)}
        for seeds in runs.values()
        for run in seeds
    ]
    keys = [key for key in (of_runs[0] if of_runs else {}) if not key.endswith(skipped)]
    values = {key: ", ".join(dict.fromkeys(str(one.get(key)) for one in of_runs)) for key in keys}
    return pd.DataFrame({"": values or {"environment": NOT_RUN}})


def _final(runs: Runs, name: str, measures: Sequence[str]) -> list[str]:
    return [accuracy_text(row) for _, row in accuracy_table(runs, [name], measures).iterrows()]


def _index(names: Iterable[str]) -> pd.Index:
    return pd.Index([title(name) for name in names], name="Run")
