"""The few sentences whose wording depends on results: what the templates of templates/ are filled with."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from IPython.display import Markdown

from manyviews.config.runs import run_specs
from manyviews.config.schema import ClaimsConfig, Profile
from manyviews.probes.protocol import accuracies
from manyviews.report.tables import MAIN, MEASURE_TITLES, percent, title
from manyviews.runs.store import Results, Run, Runs
from manyviews.stats.intervals import CONFIDENCE, MIN_SEEDS

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> Markdown:
    """A template of templates/ filled with values; a value that it lacks is an error."""
    loader = jinja2.FileSystemLoader(TEMPLATES)
    jinja = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True)
    jinja.filters |= {"percent": percent, "points": lambda fraction: f"{100 * fraction:.1f}"}
    shared = {"confidence": CONFIDENCE, "min_seeds": MIN_SEEDS, "measure": MEASURE_TITLES[MAIN]}
    return Markdown(jinja.get_template(f"{template}.md.j2").render(**shared, **values).strip())


def state(results: Results, names: Sequence[str], failures: Mapping[str, str] | None = None) -> Markdown:
    """How many runs there are and of what, and what in them a reader must know before any number."""
    runs = {name: results.runs[name] for name in names if name in results.runs}
    every = [run for seeds in runs.values() for run in seeds]
    pixels = None if results.raw_pixels is None else accuracies(results.raw_pixels)[MAIN]
    finals, initials = (
        {name: np.mean([run.metrics[MAIN].iloc[epoch] for run in seeds]) for name, seeds in runs.items()}
        for epoch in (-1, 0)
    )
    return render(
        "state",
        asked=len(names),
        there=len(runs),
        seeds=sorted({len(seeds) for seeds in runs.values()}),
        synthetic=any(run.summary["synthetic"] for run in every),
        precisions=sorted({run.environment["precision"] for run in every}),
        pixels=pixels,
        below_pixels=[title(name) for name in runs if pixels is not None and finals[name] < pixels],
        below_initial=[title(name) for name in runs if finals[name] < initials[name]],
        stuck=[_name(run) for run in every if not run.summary["linear_converged"]],
        failures=failures or {},
    )


def rules(profile: Profile, runs: Runs) -> Markdown:
    """How differences are judged, and whether the limits are those with which the runs were begun."""
    every = [run for seeds in runs.values() for run in seeds]
    changed = dict.fromkeys(_name(run) for run in every if run.config.claims != profile.claims)
    return render("rules", claims=profile.claims, changed=list(changed))


def plateau(runs: Runs, names: Iterable[str], claims: ClaimsConfig) -> Markdown:
    """When a curve counts as level, and how far the learning rate had fallen by then."""
    rates = [runs[name][0].metrics["learning_rate"].dropna() for name in names if name in runs]
    last = sorted({f"{rate.iloc[-1] / rate.max():.0%}" for rate in rates})
    return render("plateau", claims=claims, last=last)


def _name(run: Run) -> str:
    return f"{run_specs().title(run.name)}, seed {run.seed}"
