"""Profiles: a study at one scale, from a file of notebooks/profiles/, and what a notebook overrides."""

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from manyviews.config import paths
from manyviews.config.files import write_text
from manyviews.config.schema import NAME, ConfigError, Profile, RunConfig, Section, check_name, explain


class NotebookParameters(Section):
    """What the parameters cell of a notebook holds."""

    profile: str
    seed: int = 0
    # of the profile, such as {"training": {"epochs": 20}}
    overrides: dict[str, Any] = Field(default_factory=dict)
    variant: Annotated[str, Field(pattern=f"^$|{NAME}")] = ""  # what a run with other values is called


class UniqueKeys(yaml.SafeLoader):
    """YAML in which a name is given once, and in its own place; PyYAML alone would keep the last of two."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.YAMLError("'<<' is not read; write the names and values out")
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            names = [key.value for key, _ in node.value]
            twice = next(name for name in names if names.count(name) > 1)
            raise yaml.YAMLError(f"'{twice}' is there twice")
        return mapping


def read_yaml(path: Any, hint: str) -> dict[str, Any]:
    """The names and values of a YAML file.

    Args:
        path: of the file.
        hint: what the file must hold, for the message.
    Raises:
        ConfigError: not YAML, or no mapping; names the file.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), UniqueKeys)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML in UTF-8: {error}") from None
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ConfigError(f"{path}: must hold {hint}")
    return values


def profile_names() -> list[str]:
    """The profiles there are."""
    return sorted(path.stem for path in paths.PROFILES.glob("*.yaml"))


def load_profile(name: str, overrides: Mapping[str, Any] | None = None) -> Profile:
    """A profile, checked before anything is run.

    Args:
        name: of a file of notebooks/profiles/, or of one that keep_profile wrote.
        overrides: values in place of the profile's, such as {"training": {"epochs": 20}}; keys within a
            section that are not named stay.
    Raises:
        ConfigError: no such profile, or a value that no run can use; names the file and the key.
    """
    path, known = paths.PROFILES / f"{name}.yaml", profile_names()
    if name not in known:
        path = _kept(name)
    if not path.exists():
        check_name(str(name), "profile", known)
    values = read_yaml(path, f"`name: value` lines, such as `profile: '{name}'`")
    of_runs = sorted((RunConfig.model_fields.keys() - Profile.model_fields.keys()) & values.keys())
    if of_runs:
        raise ConfigError(f"{path}: '{of_runs[0]}' belongs to a run, not to a profile: remove it")
    if values.get("profile") != name:
        raise ConfigError(f"{path}: write `profile: '{name}'`, the file's own name")
    try:
        profile = Profile(**values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    merged = profile.model_dump()
    for key, value in (overrides or {}).items():
        of_section = isinstance(merged.get(key), dict) and isinstance(value, Mapping)
        merged[key] = merged[key] | dict(value) if of_section else value
    return Profile(**merged)  # another error than above: it is not the file's


def _kept(name: str) -> Path:
    return paths.results_root() / name / "profile.yaml"


def with_data(profile: Profile, name: str, path: Path) -> Profile:
    """A profile of other images, called `<profile>-<their name>`; of all of them, unless of its own kind.

    Args:
        profile: of which only the images change.
        name: data.name of the images.
        path: where they are.
    """
    of = path.stem if path.is_file() else path.name
    called = f"{profile.profile}-{re.sub('[^a-z0-9_.-]+', '-', of.lower()).strip('-.') or 'data'}"
    data = profile.data.model_dump() if profile.data.name == name else {"image_size": profile.data.image_size}
    values = {"profile": called, "data": data | {"name": name, "path": str(path)}}
    return type(profile)(**profile.model_dump() | values)


def keep_profile(profile: Profile) -> None:
    """Write a profile beside its results, where load_profile, and so every notebook, finds it by name.

    Raises:
        ConfigError: a profile of that name is there, of images elsewhere.
    """
    path = _kept(profile.profile)
    there = read_yaml(path, "a profile").get("data", {}).get("path") if path.exists() else profile.data.path
    if there != profile.data.path:
        raise ConfigError(
            f"{path}: is of the images at {there}, not of those at {profile.data.path}; give another "
            "--results, or rename the folder of the images"
        )
    values = profile.model_dump(mode="json", exclude_defaults=True)
    write_text(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def notebook_parameters(namespace: Mapping[str, Any]) -> NotebookParameters:
    """The parameters of a running notebook, those injected by papermill included.

    Papermill only warns of a parameter that the notebook does not know; here it is an error, and so is a name
    in the parameters cell that means nothing.

    Args:
        namespace: the notebook's `globals()`.
    Raises:
        ConfigError: a name that is no parameter, with the closest one that is, or a value of the wrong type.
    """
    cells = [cell for cell in namespace.get("In", ()) if cell.startswith("# Parameters")]
    nodes = [node for cell in cells for node in ast.walk(ast.parse(cell))]
    names = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    names |= NotebookParameters.model_fields.keys()
    values = {name: namespace[name] for name in sorted(names) if name in namespace}
    try:
        return NotebookParameters.model_validate(values, strict=True)
    except ValidationError as error:
        raise ConfigError(explain(error, NotebookParameters)) from None


def notebook_profile(namespace: Mapping[str, Any]) -> Profile:
    """The profile of a running notebook, from its `profile` and `overrides`; see notebook_parameters."""
    parameters = notebook_parameters(namespace)
    return load_profile(parameters.profile, parameters.overrides)
