"""The runs of the study as data: notebooks/runs.yaml, and the configuration of each in a profile."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError

from manyviews import paths
from manyviews.config import ConfigError, RunConfig, Section, explain

FILE = paths.NOTEBOOKS / "runs.yaml"
STUDIES = ("controls", "scaling")
Multiple = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Part(Section):
    """A question that several runs answer together."""

    study: Literal["report", "controls", "scaling"]
    title: str
    against: str  # the run that the others are compared with
    claim: Literal["A", "B", "C", "D", "E"] | None = None  # of the report, that the answer bears on
    question: str = ""


class Row(Section):
    """One run of the study: in what it departs from the profile."""

    title: str
    parts: tuple[str, ...]
    objective: Literal["nt_xent", "supervised"] = "nt_xent"
    depth: Literal[18, 34]
    stem: Literal["conv3", "conv7", "conv3_pool", "imagenet"]
    n_views: int
    length: Multiple = 1  # times the profile's epochs, to the nearest whole one; the warm-up goes along
    width: Multiple = 1  # times the profile's width
    view_size: Multiple = 1  # times the profile's image size
    network: dict[str, Any] = Field(default_factory=dict)
    views: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    evaluation: dict[str, Any] = Field(default_factory=dict)


class Study(Section):
    """All runs by name, in the order in which they are done, and all parts by name."""

    parts: dict[str, Part]
    runs: dict[str, Row]


class UniqueKeys(yaml.SafeLoader):
    """YAML in which a name is given once; PyYAML alone would keep the last of two."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            names = [key.value for key, _ in node.value]
            twice = next(name for name in names if names.count(name) > 1)
            raise yaml.YAMLError(f"'{twice}' is there twice")
        return mapping


def read_study(text: str) -> Study:
    """The content of notebooks/runs.yaml.

    Raises:
        ConfigError: an unknown key, part or run, or a value of the wrong kind; names the file and the key.
    """
    try:
        study = Study(**yaml.load(text, UniqueKeys))
    except (yaml.YAMLError, TypeError) as error:
        raise ConfigError(f"{FILE}: not valid YAML with `parts` and `runs`: {error}") from None
    except ValidationError as error:
        raise ConfigError(f"{FILE}: {explain(error, Study)}") from None
    for name, row in study.runs.items():
        for part in set(row.parts) - study.parts.keys():
            raise ConfigError(f"{FILE}: run '{name}': unknown part '{part}'; known: {', '.join(study.parts)}")
    for name, part in study.parts.items():
        if part.against not in study.runs:
            raise ConfigError(f"{FILE}: part '{name}': against '{part.against}', which is no run of the file")
    return study


STUDY = read_study(FILE.read_text(encoding="utf-8"))
ROWS, PARTS = STUDY.runs, STUDY.parts


def members(part: str) -> list[str]:
    """Names of the runs of a part, first the one that the others are compared with."""
    against = PARTS[part].against
    return [against, *(name for name, row in ROWS.items() if part in row.parts and name != against)]


def rows_of(study: str) -> list[str]:
    """Names of the runs that a study needs, in the order of the file."""
    needed = {name for part in PARTS if PARTS[part].study == study for name in members(part)}
    return [name for name in ROWS if name in needed]


def configure(name: str, shared: Mapping[str, Any]) -> RunConfig:
    """The configuration of a run.

    Args:
        name: of a row.
        shared: what the profile says, and the seed; see config.load_profile and notebook_parameters.
    Raises:
        ConfigError: the profile cannot be run so; names the run and the key.
    """
    row = ROWS[name]
    experiment = {"run": name, **row.model_dump(include={"objective", "depth", "stem", "n_views"})}
    plain = RunConfig(**experiment, **shared)
    values = plain.model_dump()
    for section, changes in _scaled(row, plain).items():
        values[section] |= changes | getattr(row, section)
    try:
        return RunConfig(**values)
    except ConfigError as error:
        raise ConfigError(f"{FILE.name}: run '{name}' in profile '{plain.profile}': {error}") from None


def _scaled(row: Row, plain: RunConfig) -> dict[str, dict[str, Any]]:
    """What the multiples of a row change, by section, of the configuration without them."""
    epochs = max(1, round(row.length * plain.training.epochs))
    changes: dict[str, dict[str, Any]] = {
        "network": {"width": max(1, round(row.width * plain.network.width))},
        "views": {} if row.view_size == 1 else {"size": round(row.view_size * plain.data.image_size)},
        "training": {"epochs": epochs},
        "evaluation": {},
    }
    if row.length != 1:
        # As many points on the curve of a long run as on that of a short one.
        every = max(1, round(row.length * plain.evaluation.every_epochs))
        changes["evaluation"] |= {"every_epochs": every}
        # Runs that leave one constant rate share its first steps, and so its warm-up.
        if row.training.get("schedule") != "constant":
            warmup = plain.training.warmup_epochs * epochs / plain.training.epochs
            changes["training"] |= {"warmup_epochs": warmup}
    if "report" not in row.parts:
        changes["evaluation"] |= {"brief": True, "ladder": False}
    return changes


def same_runs(names: Iterable[str], shared: Mapping[str, Any]) -> dict[str, str]:
    """For each run the one that stands for it: the first of the file with the same recipe in this profile.

    A run that the profile cannot make is left out.
    """
    first: dict[str, str] = {}
    standing = {}
    for name in ROWS:  # all of them, so that the answer does not depend on which are asked for
        try:
            recipe = configure(name, shared).recipe()
        except ConfigError:
            continue
        for how_often in ("brief", "ladder", "every_epochs"):
            recipe["evaluation"].pop(how_often, None)
        key = repr([recipe[k] for k in sorted(recipe.keys() - {"run"})])
        standing[name] = first.setdefault(key, name)
    return {name: standing[name] for name in names if name in standing}
