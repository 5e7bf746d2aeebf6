"""The few sentences whose wording depends on results: what the templates of templates/ are filled with."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from IPython.display import Markdown

from manyviews.config.runs import deduplicate, run_specs
from manyviews.config.schema import Profile
from manyviews.probes.predictions import accuracies
from manyviews.report.tables import (
    MAIN,
    MEASURE_TITLES,
    NOT_RUN,
    difference_text,
    in_markdown,
    percent,
    points_text,
    title,
)
from manyviews.runs.environment import number_format
from manyviews.runs.store import CURVES, Results, Runs, each_once
from manyviews.stats.compare import SAME_RUN, compare, holm, no_gain
from manyviews.stats.dose import FRESH, dose_curve, saturation
from manyviews.stats.frontier import cheapest_reaching, recipes
from manyviews.stats.intervals import CONFIDENCE, MIN_SEEDS

TEMPLATES = Path(__file__).parent / "templates"
DOSES = ("dose_4", "dose")  # comparisons, the longest first: there a dose can tell
INTERACTIONS = ("interaction", "interaction_4")


def template(name: str) -> jinja2.Template:
    """A template of templates/; a value that it is not given is an error."""
    loader = jinja2.FileSystemLoader(TEMPLATES)
    jinja = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True)
    jinja.filters |= {
        "percent": percent,
        "points": lambda fraction: f"{100 * fraction:.1f}",
        "difference": difference_text,
        "gap": lambda dose: points_text(dose["difference"], dose["low"], dose["high"]),
        "title": title,
        "name": in_markdown,
        "rows": lambda table: table.to_dict("records"),
    }
    return jinja.get_template(name)


def render(name: str, **values: Any) -> Markdown:
    """The Markdown of a template filled with values."""
    shared = {"confidence": CONFIDENCE, "min_seeds": MIN_SEEDS, "measure": MEASURE_TITLES[MAIN]}
    return Markdown(template(f"{name}.md.j2").render(**shared, **values).strip())


def state(
    results: Results, names: Sequence[str], profile: Profile, failures: Mapping[str, str] | None = None
) -> Markdown:
    """How many runs there are and of what, and what in them a reader must know before any number."""
    runs = {name: results.runs[name] for name in names if name in results.runs}
    every = [run for seeds in runs.values() for run in seeds]
    pixels = None if results.raw_pixels is None else accuracies(results.raw_pixels)[MAIN]
    finals, initials = (
        {name: np.mean([run.metrics[MAIN].iloc[epoch] for run in seeds]) for name, seeds in runs.items()}
        for epoch in (-1, 0)
    )
    stuck = {
        name: [str(run.seed) for run in seeds if not run.summary["linear_converged"]]
        for name, seeds in runs.items()
    }
    there, asked = _trainings(runs, names, profile)
    return render(
        "state",
        whose="published with the project" if results.published else "your own",
        asked=asked,
        there=there,
        seeds=sorted({len(seeds) for seeds in runs.values()}),
        synthetic=any(run.summary["synthetic"] for run in every),
        precisions=sorted({run.environment["precision"] for run in every}),
        devices=sorted({run.environment["device"] for run in every}),
        pixels=pixels,
        below_pixels=[title(name) for name in runs if pixels is not None and finals[name] < pixels],
        below_initial=[title(name) for name in runs if finals[name] < initials[name]],
        stuck={name: seeds for name, seeds in stuck.items() if seeds},
        failures=failures or {},
    )


def rules(profile: Profile, runs: Runs) -> Markdown:
    """How differences are judged, and whether the limits are those with which the runs were begun."""
    every = [run for seeds in runs.values() for run in seeds]
    changed = [run for run in every if run.config.claims != profile.claims]
    names = dict.fromkeys(f"{title(run.name)}, seed {run.seed}" for run in changed)
    return render("rules", claims=profile.claims, changed=list(names))


def provenance(runs: Runs) -> Markdown:
    """The footer of a page: code, seeds, hardware and cost of all runs, each counted once."""
    made = each_once(runs)

    def of(key: str) -> list[str]:
        return sorted({str(run.environment[key]) for run in made})

    return render(
        "provenance",
        commits=["of an unknown commit" if commit == "None" else commit[:10] for commit in of("git_commit")],
        dirty="True" in of("git_dirty"),
        seeds=sorted({run.seed for run in made}),
        devices=of("device"),
        precisions=sorted({number_format(run.environment) for run in made}),
        hours=_core_hours(runs),
    )


def answers(results: Results, profile: Profile, own: Results | None = None) -> Markdown:
    """Our five answers: identity, what the original compared, dose, interaction, and a fixed budget.

    Args:
        results: that they rest on.
        profile: of the results.
        own: one's own, of which the gain stands beside that of published results.
    """
    runs, margin, specs = results.runs, profile.claims.margin, run_specs()
    budget = recipes(runs, MAIN, "baseline")
    compared = set(budget["run"])
    views8, longer = (_row(budget, run) if run in compared else None for run in ("views8", "length_4"))
    n_views = specs.runs["views8"].n_views
    curves = [[dose_curve(runs, name, measure, margin) for measure in CURVES] for name in DOSES]
    families = [holm(compare(runs, name, [MAIN], margin)) for name in INTERACTIONS]
    not_met = _why_not(note for family in families for note in family["note"])
    families = [family[family["relation"].notna()] for family in families]
    beside = own is not None and results.published
    yours = _row(compare(own.runs, "original", [MAIN], margin, "resnet34"), "views8") if beside else None
    twice = _row(compare(runs, "length", [MAIN], margin, "length_half"), "baseline")
    epochs = {run: runs[run][0].config.training.epochs for run in specs.members("length") if run in runs}
    longest = max(epochs, key=epochs.__getitem__, default="baseline")
    further = _row(compare(runs, "length", [MAIN], margin), longest) if longest != "baseline" else None
    more = "" if further is None else further.note
    four_times = [("baseline", "length_quarter"), ("length_4", "baseline")]
    same = [(run, of, _row(compare(runs, "length", [MAIN], margin, of), run)) for run, of in four_times]
    larger = _row(compare(runs, "original", [MAIN], margin), "resnet34")
    there, asked = _trainings(runs, list(specs.runs), profile)
    return render(
        "answers",
        data=_about(runs),
        there=there,
        asked=asked,
        yours=None if yours is None or yours.note else yours,
        n_views=n_views,
        passes=n_views // 2,
        exact=deduplicate(["resnet18_views8"], profile).get("resnet18_views8") == "length_4",
        gain=_row(compare(runs, "original", [MAIN], margin, "resnet34"), "views8"),
        same=[row for row in same if not row[-1].note],
        epochs=epochs,
        longest=longest,
        further=None if more else further,
        more=_why_not([more]),
        doses=[(of[0], saturation(of[0]), _others(of[1:]), _why_no_dose(of[0])) for of in curves],
        not_met=not_met,
        no_budget=_why_not([twice.note, larger.note]),
        families=families,
        ways=sum(map(len, families)),
        seeds_of_ways=max((family["n"].max() for family in families if len(family)), default=0),
        gains=sum((family["relation"] == "higher").sum() for family in families),
        losses=sum((family["relation"] == "lower").sum() for family in families),
        undecided=any("undecided" in set(family["relation"]) for family in families),
        views8=views8,
        cheapest=None if views8 is None else cheapest_reaching(budget, views8["mean"]),
        longer=longer,
        twice=twice,
        no_longer=no_gain(twice, margin),
        larger=larger,
        no_larger=no_gain(larger, margin),
        larger_macs=_times(runs, "resnet34", "baseline"),
        lead=_row(compare(runs, "cost", [MAIN], margin, "views8"), "length_4"),
        margin=margin,
    )


def _about(runs: Runs) -> dict[str, Any] | None:
    """The images that all runs share and how long the baseline trains; None without runs."""
    for run in runs.get("baseline", [run for seeds in runs.values() for run in seeds])[:1]:
        about = {key: run.summary[key] for key in ("synthetic", "classes")}
        return about | {
            "name": run.environment["dataset"],
            "pixels": run.config.data.image_size,
            "epochs": run.config.training.epochs,
            "seeds": sorted({len(seeds) for seeds in runs.values()}),
            "hours": _core_hours(runs),
        }
    return None


def _core_hours(runs: Runs) -> float:
    """What the trainings took, each counted once."""
    return sum(run.environment["cpu_time_s"] for run in each_once(runs)) / 3600


def _row(compared: pd.DataFrame, run: str) -> pd.Series:
    return compared.set_index("run").loc[run]


def _trainings(runs: Runs, names: Sequence[str], profile: Profile) -> tuple[int, int]:
    """How many of the named runs are there and how many there can be, those of one training counted once."""
    there = {runs[name][0].name for name in names if name in runs}
    return len(there), len(there | set(deduplicate(names, profile).values()))


def _why_not(notes: Iterable[str]) -> str:
    """Why nothing is said of some runs: what keeps them from being compared, if it is not that they lack."""
    obstacles = (note for note in notes if note and not note.startswith((NOT_RUN, SAME_RUN, FRESH)))
    return next((f"not compared ({note})" for note in obstacles), NOT_RUN)


def _why_no_dose(curve: pd.DataFrame) -> str:
    """The same of a dose curve; empty if something is said of it."""
    return "" if (curve["note"] == "").any() else _why_not(curve["note"])


def _others(curves: Sequence[pd.DataFrame]) -> dict[str, list[str]]:
    """By what is said of the dose (a number, or why there is none): the accuracies by which it is said."""
    said: dict[str, list[str]] = {}
    for measure, curve in zip(CURVES[1:], curves, strict=True):
        saturated = saturation(curve)
        said.setdefault(str(saturated.dose or saturated.note), []).append(MEASURE_TITLES[measure])
    return said


def _times(runs: Runs, run: str, reference: str) -> float:
    """How many times the multiply-adds of another one training takes; NaN where one was not run."""
    of, of_reference = (
        runs[name][0].summary["macs"] if name in runs else np.nan for name in (run, reference)
    )
    return of / of_reference
