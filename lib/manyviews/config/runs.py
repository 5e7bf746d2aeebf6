"""The runs of the study as data: notebooks/runs.yaml, and the configuration of each in a profile."""

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from manyviews.config import paths
from manyviews.config.profiles import load_profile, notebook_parameters, read_yaml
from manyviews.config.schema import NAME, ConfigError, Profile, RunConfig, Section, Views, explain

FILE = paths.NOTEBOOKS / "runs.yaml"
STUDIES = ("controls", "scaling")
VARIANT = "-"  # between a run and what a variant of it is called; no run of the file has it
ORIGINAL = "original"  # the study of the original's three runs and the supervised baseline
Multiple = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Comparison(Section):
    """A question that several runs answer together."""

    study: Literal["original", "controls", "scaling"]
    title: str
    reference: str  # the run that the others are compared with
    claim: Literal["A", "B", "C", "D", "E", "F"] | None = None  # that the answer bears on
    question: str = ""


class RunSpec(Section):
    """One run of the study: in what it departs from the profile."""

    title: str
    comparisons: tuple[str, ...]
    objective: Literal["nt_xent", "supervised"] = "nt_xent"
    depth: Literal[18, 34]
    stem: Literal["conv3", "conv7"]
    n_views: Views
    length: Multiple = 1  # times the profile's epochs, to the nearest whole one; the warm-up goes along
    width: Multiple = 1  # times the profile's width
    view_size: Multiple = 1  # times the profile's image size
    network: dict[str, Any] = Field(default_factory=dict)
    views: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    evaluation: dict[str, Any] = Field(default_factory=dict)

    @property
    def passes(self) -> float:
        """Pairs of views of each image, as a multiple of those of two views for the profile's epochs."""
        return self.length * self.n_views / 2


class RunSpecs(Section):
    """All runs by name, in the order in which they are shown, and all comparisons by name."""

    comparisons: dict[str, Comparison]
    runs: dict[Annotated[str, Field(pattern=NAME)], RunSpec]

    def members(self, comparison: str) -> list[str]:
        """Names of the runs of a comparison, first the one that the others are compared with."""
        reference = self.comparisons[comparison].reference
        others = [name for name, spec in self.runs.items() if comparison in spec.comparisons]
        return [reference, *(name for name in others if name != reference)]

    def of_study(self, study: str) -> list[str]:
        """Names of the runs that a study needs, in the order of the file."""
        asked = [name for name, comparison in self.comparisons.items() if comparison.study == study]
        needed = {run for name in asked for run in self.members(name)}
        return [name for name in self.runs if name in needed]

    def title(self, run: str) -> str:
        """How tables and figures call a run."""
        return self.runs[run].title if run in self.runs else run


def read_run_specs(path: Path) -> RunSpecs:
    """The content of a file such as notebooks/runs.yaml.

    Raises:
        ConfigError: an unknown key, comparison or run, or a wrong value; names the file and the key.
    """
    values = read_yaml(path, "`comparisons` and `runs`")
    try:
        specs = RunSpecs(**values)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, RunSpecs)}") from None
    for name, spec in specs.runs.items():
        for unknown in set(spec.comparisons) - specs.comparisons.keys():
            known = ", ".join(specs.comparisons)
            raise ConfigError(f"{path}: run '{name}': unknown comparison '{unknown}'; known: {known}")
    for name, comparison in specs.comparisons.items():
        if comparison.reference not in specs.runs:
            raise ConfigError(
                f"{path}: comparison '{name}': reference '{comparison.reference}' is no run of the file"
            )
    return specs


@cache
def run_specs() -> RunSpecs:
    """The runs of notebooks/runs.yaml; see read_run_specs."""
    return read_run_specs(FILE)


def configure(run: str, profile: Profile, seed: int) -> RunConfig:
    """The configuration of a run.

    Args:
        run: a name of notebooks/runs.yaml.
        profile: what the run shares with all others.
        seed: of weights, order and views.
    Raises:
        ConfigError: the profile cannot be run so; names the run and the key.
    """
    spec = run_specs().runs[run]
    values = profile.model_dump()
    for section, changes in _scaled(spec, profile).items():
        values[section] |= changes | getattr(spec, section)
    experiment = spec.model_dump(include={"objective", "depth", "stem", "n_views"})
    try:
        return RunConfig(run=run, seed=seed, **experiment, **values)
    except ConfigError as error:
        raise ConfigError(f"{FILE.name}: run '{run}' in profile '{profile.profile}': {error}") from None


def notebook_config(run: str, namespace: Mapping[str, Any]) -> RunConfig:
    """The configuration of a run from a notebook's `profile`, `seed`, `overrides` and `variant`.

    A variant is a run of its own beside the profile's, `<run>-<variant>`.

    Args:
        run: a name of notebooks/runs.yaml.
        namespace: the notebook's `globals()`.
    Raises:
        ConfigError: a parameter, key or value that is not known, with the closest that is.
    """
    parameters = notebook_parameters(namespace)
    config = configure(run, load_profile(parameters.profile, parameters.overrides), parameters.seed)
    if not parameters.variant:
        return config
    return config.model_copy(update={"run": f"{run}{VARIANT}{parameters.variant}"})


def deduplicate(names: Iterable[str], profile: Profile) -> dict[str, str]:
    """For each run the one that does its work: the first of the file that is the same training here.

    A run that the profile cannot make is left out.
    """
    first: dict[str, str] = {}
    worker = {}
    for name in run_specs().runs:  # all of them, so that the answer does not depend on which are asked for
        try:
            training = configure(name, profile, seed=0).canonical()
        except ConfigError:
            continue
        worker[name] = first.setdefault(repr(training), name)
    return {name: worker[name] for name in names if name in worker}


def _scaled(spec: RunSpec, profile: Profile) -> dict[str, dict[str, Any]]:
    """What the multiples of a run change, by section of the profile."""
    training = profile.training
    epochs = max(1, round(spec.length * training.epochs))
    changes: dict[str, dict[str, Any]] = {
        "network": {"width": max(1, round(spec.width * profile.network.width))},
        "views": {} if spec.view_size == 1 else {"size": round(spec.view_size * profile.data.image_size)},
        "training": {"epochs": epochs},
        "evaluation": {},
    }
    every = spec.length * profile.evaluation.every_epochs  # as many points on a long curve as on a short one
    # Runs that leave one constant rate share its first steps, and so its warm-up.
    if spec.length != 1 and spec.training.get("schedule") != "constant":
        changes["training"]["warmup_epochs"] = training.warmup_epochs * epochs / training.epochs
    if ORIGINAL not in spec.comparisons:
        every *= 2  # of controls, half the points do
        changes["evaluation"] |= {"brief": True, "sweep": False}
    changes["evaluation"]["every_epochs"] = max(1, round(every))
    return changes
