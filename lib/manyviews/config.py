"""One frozen, validated configuration of a run; its defaults are the report's recipe.

A profile (notebooks/profiles/*.yaml) names only what departs from it.
"""

import ast
import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from manyviews import paths

NAME = r"^[a-z0-9][a-z0-9_.-]*$"  # of a folder under results/
# What a notebook sets, and no profile.
EXPERIMENT = frozenset({"run", "objective", "depth", "stem", "n_views"})
Seed = Annotated[int, Field(ge=0, lt=2**31)]
PositiveInt = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
MultiViewLoss = Literal["pairs", "outside", "inside"]  # see losses.multi_view_nt_xent


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names the key and the fix."""


class Section(BaseModel):
    """Base of all sections: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class DataConfig(Section):
    """Which images. A dataset is a folder with train.npz, val.npz and ood.npz."""

    name: Literal["fractals", "tiny-imagenet", "folder"] = "folder"
    path: str | None = None  # folder: where the .npz files are; tiny-imagenet: the zip file
    classes: PositiveInt | None = None  # None: all there are
    ood_classes: PositiveInt | None = None
    train_per_class: PositiveInt | None = None
    val_per_class: PositiveInt | None = None
    ood_per_class: PositiveInt | None = None
    image_size: Annotated[int, Field(ge=8)] = 64  # pixels, height and width
    seed: Annotated[int, Field(ge=0)] = 0  # of the fractals

    @model_validator(mode="after")
    def _complete(self) -> "DataConfig":
        if self.name == "folder" and self.path is None:
            raise ValueError("a dataset of name 'folder' needs data.path, the folder of its .npz files")
        sizes = ("classes", "ood_classes", "train_per_class", "val_per_class", "ood_per_class")
        missing = [size for size in sizes if getattr(self, size) is None]
        if self.name == "fractals" and missing:
            raise ValueError(f"fractals need data.{missing[0]}, a number of images or classes")
        return self


class NetworkConfig(Section):
    """Sizes shared by all runs; depth and stem belong to the experiment."""

    width: PositiveInt = 64  # channels of the first stage; 64 is the original ResNet
    feature_dim: PositiveInt = 1000  # the `fc` output, which the probes read
    projection_hidden: PositiveInt = 2048
    projection_dim: PositiveInt = 128
    projection_norm: bool = False  # BatchNorm in the projection head


class ViewConfig(Section):
    """Strengths of the random view transform, in the order in which they are applied."""

    crop_scale: tuple[Positive, Positive] = (0.2, 1.0)  # share of the image's area
    crop_ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)  # width / height
    flip_p: Probability = 0.5
    jitter_p: Probability = 0.8
    brightness: NonNegative = 0.4
    contrast: NonNegative = 0.4
    saturation: NonNegative = 0.4
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1  # turns of the colour wheel
    grayscale_p: Probability = 0.2
    blur_p: Probability = 0.5
    blur_sigma: tuple[Positive, Positive] = (0.1, 2.0)  # pixels
    blur_kernel: PositiveInt | None = None  # pixels, odd; None: 5, and 3 at 32 px and below
    size: Annotated[int, Field(ge=8)] | None = None  # pixels, height and width of a view; None: the image's
    frozen: bool = False  # views drawn once and reused every epoch

    @model_validator(mode="after")
    def _ordered(self) -> "ViewConfig":
        for name in ("crop_scale", "crop_ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must be [low, high], not [{low}, {high}]")
        if self.crop_scale[1] > 1:
            raise ValueError(f"crop_scale is a share of the area, at most 1, not {self.crop_scale[1]}")
        if self.blur_kernel is not None and self.blur_kernel % 2 == 0:
            raise ValueError(f"blur_kernel must be odd, not {self.blur_kernel}")
        return self


class TrainingConfig(Section):
    """Optimisation: warm-up, then the schedule."""

    epochs: PositiveInt = 50
    warmup_epochs: Annotated[int | float, Field(ge=0)] = 10  # to the nearest step or, so moved, epoch
    # cosine: towards 0 over all that follows the warm-up. constant: the peak rate, and over the last
    # decay_share of the training a straight line towards 0.
    schedule: Literal["cosine", "constant"] = "cosine"
    decay_share: Annotated[float, Field(ge=0, lt=1)] = 0.2  # of a constant schedule
    schedule_per: Literal["epoch", "step"] = "epoch"  # how often the learning rate moves
    batch_size: Annotated[int, Field(ge=2)] = 256  # pairs of views: a batch holds 2 * batch_size views
    # Of each image in a batch. More of them leave room for fewer images: the batch keeps its size.
    views_per_batch: Annotated[int, Field(ge=2)] = 2
    multi_view_loss: MultiViewLoss = "outside"  # all are NT-Xent for 2 views a batch
    image_share: Annotated[float, Field(gt=0, le=1)] = 1  # of each class; the probes are fitted on all
    temperature: Positive = 0.5
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Positive = 0.6
    weight_decay: NonNegative = 0.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # of sgd
    # All views of a batch in one forward pass, so in one BatchNorm batch. Apart, BatchNorm sees one view of
    # each image: 2 * batch_size / views_per_batch in all.
    joint_forward: bool = False
    # auto: bfloat16 where the processor has it. float64 is for regression checks: training amplifies rounding
    # a million times within tens of steps, so that float32 gives other accuracies on another processor.
    precision: Literal["auto", "bfloat16", "float32", "float64"] = "auto"

    @model_validator(mode="after")
    def _warm_up_ends(self) -> "TrainingConfig":
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs ({self.warmup_epochs}) must be fewer than epochs ({self.epochs})"
            )
        if self.schedule == "constant" and self.warmup_epochs / self.epochs + self.decay_share > 1:
            raise ValueError(
                f"decay_share ({self.decay_share}) must leave room for warmup_epochs ({self.warmup_epochs}) "
                f"in {self.epochs} epochs; lower one of them"
            )
        return self

    @model_validator(mode="after")
    def _whole_images(self) -> "TrainingConfig":
        size, views = self.batch_size, self.views_per_batch
        if views > size or 2 * size % views:
            raise ValueError(
                f"a batch holds 2 * batch_size ({2 * size}) views, and must be views_per_batch ({views}) of "
                f"each of two images or more; use a batch_size that is a multiple of "
                f"{views // math.gcd(2, views)} and at least {views}"
            )
        return self

    @property
    def images_per_batch(self) -> int:
        """Images in a full batch, each with views_per_batch views."""
        return 2 * self.batch_size // self.views_per_batch


class EvaluationConfig(Section):
    """The report's probes along the way, and what the final features are put to beyond them."""

    every_epochs: PositiveInt = 1  # the first and the last epoch are always evaluated
    neighbours: PositiveInt = 5
    linear_c: Positive = 1.0  # inverse strength of the L2 penalty
    linear_max_iter: PositiveInt = 1000
    ood_fit_share: Annotated[float, Field(gt=0, lt=1)] = 0.8  # the rest of the OOD images is scored
    ood_folds: Annotated[int, Field(ge=2)] = 5  # beside it: each OOD image is scored in one of so many folds
    few_label_draws: PositiveInt = 5  # of training images with as few labels a class as OOD has
    batch_size: PositiveInt = 512  # images; changes memory, not results
    brief: bool = False  # of the final features the accuracies only, and no weights kept: for controls
    ladder: bool = False  # further probes of the final features, see evaluation.ladder
    ladder_neighbours: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 5, 20, 200)
    ladder_c: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1e-3, 1e-2, 0.1, 1, 10, 100, 1e3)


class ClaimsConfig(Section):
    """What counts as a difference and as a plateau; fixed before the runs, and no part of them."""

    margin: Positive = 0.02  # share of images; a smaller difference is none
    plateau_window: Annotated[float, Field(gt=0, lt=1)] = 0.25  # last part of the training
    plateau_tolerance: Positive = 0.01  # share of images; a smaller change over the window is none


class RunConfig(Section):
    """All that determines a run's numbers, but for the machine."""

    run: Annotated[str, Field(pattern=NAME)]
    objective: Literal["nt_xent", "supervised"] = "nt_xent"  # supervised: cross-entropy with the labels
    depth: Literal[18, 34]
    stem: Literal["conv3", "conv7", "conv3_pool", "imagenet"]
    n_views: Annotated[int, Field(ge=2, multiple_of=2)]
    profile: Annotated[str, Field(pattern=NAME)]
    seed: Seed = 0
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)  # those that run_all.sh runs
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    data: DataConfig
    network: NetworkConfig = NetworkConfig()
    views: ViewConfig = ViewConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    claims: ClaimsConfig = ClaimsConfig()

    @field_validator("training")
    @classmethod
    def _whole_passes(cls, training: TrainingConfig, info: ValidationInfo) -> TrainingConfig:
        n_views = info.data.get("n_views", 0)  # not there if it is wrong itself
        if n_views % training.views_per_batch:
            fitting = [k for k in range(2, n_views + 1) if n_views % k == 0]
            raise ValueError(
                f"views_per_batch ({training.views_per_batch}) must divide n_views ({n_views}), so that an "
                f"epoch uses each view once; use one of {fitting}"
            )
        return training

    def __init__(self, **values: Any):
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(explain(error, RunConfig)) from None

    def recipe(self) -> dict[str, Any]:
        """The configuration as plain data, without what cannot change a run's numbers."""
        return self.model_dump(mode="json", exclude={"seeds", "device", "claims"})


def explain(error: ValidationError, of: type[BaseModel]) -> str:
    """All mistakes of a configuration, a line each, with the closest known name for unknown keys."""
    lines = []
    for mistake in error.errors():
        key = ".".join(str(part) for part in mistake["loc"]) or "configuration"
        if mistake["type"] == "extra_forbidden":
            lines.append(f"unknown parameter '{key}': {_known_names(mistake['loc'], of)}")
        elif mistake["type"] == "missing":
            lines.append(f"parameter '{key}' is missing")
        else:
            reason = mistake["msg"].removeprefix("Value error, ")
            lines.append(f"parameter '{key}': {reason} (got {mistake['input']!r})")
    return "\n".join(lines)


def _known_names(location: tuple[str | int, ...], section: type[BaseModel]) -> str:
    """Which name was probably meant, and which there are, for a key that is not known."""
    for part in location[:-1]:
        if str(part) in section.model_fields:
            section = section.model_fields[str(part)].annotation  # type: ignore[assignment]
        if get_origin(section) is dict:  # what follows is one of its keys
            section = get_args(section)[1]
    names = list(section.model_fields)
    return f"{suggest(str(location[-1]), names)}Known: {', '.join(names)}"


def suggest(name: str, known: Iterable[str]) -> str:
    """A question after a mistyped name; empty where none of the known ones is like it."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'? " if close else ""


def profile_names() -> list[str]:
    """The profiles there are."""
    return sorted(path.stem for path in paths.PROFILES.glob("*.yaml"))


def load_profile(name: str) -> dict[str, Any]:
    """Notebook parameters of a profile, ready for papermill; checked before anything is run.

    Raises:
        ConfigError: no such profile, or a value that no run can use; names the file and the key.
    """
    path, known = paths.PROFILES / f"{name}.yaml", profile_names()
    if name not in known:
        raise ConfigError(
            f"unknown profile '{name}'; {suggest(name, known)}choose one of: {', '.join(known)}"
        )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold `name: value` lines, such as `profile: {name}`")
    reserved = sorted(EXPERIMENT & values.keys())
    if reserved:
        raise ConfigError(f"{path}: '{reserved[0]}' belongs to the notebook, not to a profile: remove it")
    if values.get("profile") != name:
        raise ConfigError(f"{path}: write `profile: {name}`, the file's own name")
    # What a profile leaves out, papermill would leave at the notebook's own, smoke, values.
    missing = [
        name for name in RunConfig.model_fields if name not in {*values, *EXPERIMENT, "seed", "device"}
    ]
    if missing:
        raise ConfigError(f"{path}: '{missing[0]}' is missing; write `{missing[0]}: {{}}` for its defaults")
    try:
        RunConfig(run="check", depth=18, stem="conv3", n_views=2, **values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return values


def notebook_parameters(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a running notebook, those injected by papermill included.

    Papermill only warns of a parameter that the notebook does not know. Handing what it injected to
    RunConfig makes that an error.

    Args:
        namespace: the notebook's `globals()`.
    Returns:
        The value of each parameter that RunConfig knows, but for the experiment's own, and of each name
        that papermill assigned.
    """
    injected = [
        cell for cell in namespace.get("In", ()) if cell.startswith("# Parameters\n")
    ]  # papermill's mark
    statements = [node for cell in injected for node in ast.parse(cell).body if isinstance(node, ast.Assign)]
    names = {target.id for node in statements for target in node.targets if isinstance(target, ast.Name)}
    names |= RunConfig.model_fields.keys() - EXPERIMENT
    return {name: namespace[name] for name in sorted(names) if name in namespace}
