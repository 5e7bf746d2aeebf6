"""One frozen, validated configuration of a run; its defaults are the original's recipe.

A profile (notebooks/profiles/*.yaml) names only what departs from it, and a run (notebooks/runs.yaml) only
what departs from its profile.
"""

import difflib
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

NAME = r"^[a-z0-9][a-z0-9_.-]*$"  # of a folder under results/
Whole = Annotated[int, Field(strict=True)]  # True, "3" and 3.0 are mistakes
Seed = Annotated[Whole, Field(ge=0, lt=2**31)]
PositiveInt = Annotated[Whole, Field(ge=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Pixels = Annotated[Whole, Field(ge=8, le=4096)]
Views = Annotated[Whole, Field(ge=2, multiple_of=2)]  # pairs of them meet
Temperature = Annotated[float, Field(ge=1e-3, allow_inf_nan=False)]  # far below, float32 overflows
TorchvisionDataset = Literal[
    "CIFAR10",
    "CIFAR100",
    "Country211",
    "DTD",
    "EuroSAT",
    "FGVCAircraft",
    "FashionMNIST",
    "Flowers102",
    "Food101",
    "MNIST",
    "OxfordIIITPet",
    "STL10",
    "SUN397",
    "SVHN",
]
LIMITS = ("classes", "ood_classes", "train_per_class", "val_per_class", "ood_per_class")  # of DataConfig
LOOKS = ("brief", "sweep", "every_epochs")  # of the evaluation: what does not make a run another one
MultiViewLoss = Literal["pairs", "outside", "inside"]  # see simclr.losses.multi_view_nt_xent


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names the key and the fix."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it, by IPython's hook: the sentence alone."""
        return [f"{type(self).__name__}: {self}"]


class Section(BaseModel):
    """Base of all sections: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """What is shown of it: all that differs from the defaults."""
        for name, value in super().__repr_args__():
            field = type(self).model_fields.get(name or "")
            if field is None or value != field.get_default(call_default_factory=True):
                yield name, value


class DataConfig(Section):
    """Which images. A dataset is a folder with train.npz, val.npz and ood.npz."""

    name: Literal["fractals", "tiny-imagenet", "images", "torchvision", "folder"] = "folder"
    # folder: of the .npz files; images: of the classes; tiny-imagenet: zip or folder; torchvision: downloads
    path: str | None = None
    dataset: TorchvisionDataset | None = None  # torchvision: which
    classes: PositiveInt | None = None  # None: all there are
    ood_classes: PositiveInt | None = None
    train_per_class: PositiveInt | None = None
    val_per_class: PositiveInt | None = None
    ood_per_class: PositiveInt | None = None
    image_size: Pixels = 64  # pixels, height and width
    seed: Annotated[Whole, Field(ge=0)] = 0  # of the fractals, and of all that is drawn from pictures
    seen: tuple[str, ...] | None = None  # of pictures: classes to train on; None: drawn
    unseen: tuple[str, ...] | None = None  # of pictures: classes to set aside; None: drawn
    unseen_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.5  # images: of the classes, without ood_classes
    # images: where val/ has no folders, a file in data.path with lines `FILE CLASS`, such as ImageNet's
    val_list: str | None = None
    # images: of a class, without val/ and val_per_class
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    fit: Literal["crop", "squeeze"] = "crop"  # images: the central square, or all of it

    @model_validator(mode="after")
    def _complete(self) -> "DataConfig":
        if self.name in ("folder", "images") and self.path is None:
            raise ValueError(f"a dataset of name '{self.name}' needs data.path, its folder")
        if (self.name == "torchvision") != (self.dataset is not None):
            raise ValueError("write `name: torchvision` and `dataset: NAME`, both or neither")
        missing = [limit for limit in LIMITS if getattr(self, limit) is None]
        if self.name == "fractals" and missing:
            raise ValueError(f"fractals need data.{missing[0]}, a number of images or classes")
        return self

    @property
    def title(self) -> str:
        """What the images are called: torchvision's name, or that of a folder of pictures."""
        return self.dataset or (Path(str(self.path)).name if self.name == "images" else self.name)


class NetworkConfig(Section):
    """Sizes shared by all runs; depth and stem belong to the experiment."""

    width: PositiveInt = 64  # channels of the first stage; 64 is the original ResNet
    feature_dim: PositiveInt = 1000  # the `fc` output, which the probes read
    projection_hidden: PositiveInt = 2048
    projection_dim: PositiveInt = 128
    projection_norm: bool = False  # BatchNorm in the projection head


class ViewConfig(Section):
    """Strengths of the random view transform, in the order in which they are applied."""

    crop_scale: tuple[Positive, Positive] = (0.2, 1.0)  # fraction of the image's area
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
    size: Pixels | None = None  # pixels, height and width of a view; None: the image's
    # Different views of each image over the whole training, drawn once and paired anew in each round over
    # them; a multiple of training.views_per_batch. None: fresh views for ever.
    distinct: Annotated[Whole, Field(ge=2)] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> "ViewConfig":
        for name in ("crop_scale", "crop_ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must be [low, high], not [{low}, {high}]")
        if self.crop_scale[1] > 1:
            raise ValueError(f"crop_scale is a fraction of the area, at most 1, not {self.crop_scale[1]}")
        if self.blur_kernel is not None and self.blur_kernel % 2 == 0:
            raise ValueError(f"blur_kernel must be odd, not {self.blur_kernel}")
        return self


class TrainingConfig(Section):
    """Optimisation: warm-up, then the schedule."""

    epochs: PositiveInt = 50
    warmup_epochs: Annotated[int | float, Field(ge=0)] = 10  # to the nearest step or, so moved, epoch
    # cosine: towards 0 over all that follows the warm-up. constant: the peak rate, and over the last
    # decay_fraction of the training a straight line towards 0.
    schedule: Literal["cosine", "constant"] = "cosine"
    decay_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2  # of a constant schedule
    schedule_per: Literal["epoch", "step"] = "epoch"  # how often the learning rate moves
    batch_size: Annotated[Whole, Field(ge=2)] = 256  # pairs of views: a batch holds 2 * batch_size views
    # Of each image in a batch. More of them leave room for fewer images: the batch keeps its size.
    views_per_batch: Annotated[Whole, Field(ge=2)] = 2
    multi_view_loss: MultiViewLoss = "outside"  # all are NT-Xent for 2 views a batch
    image_fraction: Annotated[float, Field(gt=0, le=1)] = 1  # of each class; the probes are fitted on all
    temperature: Temperature = 0.5
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Positive = 0.6
    weight_decay: NonNegative = 0.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # of sgd
    # All views of a batch in one forward pass, so in one BatchNorm batch. Apart, BatchNorm sees one view of
    # each image: 2 * batch_size / views_per_batch in all.
    joint_forward: bool = False
    # auto: bfloat16, by rounding where a device lacks it. float64 is for regression checks: training
    # magnifies what is rounded off a million times within tens of steps, so that in any other format another
    # processor gives other accuracies.
    precision: Literal["auto", "bfloat16", "float32", "float64"] = "auto"

    @model_validator(mode="after")
    def _warm_up_ends(self) -> "TrainingConfig":
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs ({self.warmup_epochs}) must be fewer than epochs ({self.epochs})"
            )
        if self.schedule == "constant" and self.warmup_epochs / self.epochs + self.decay_fraction > 1:
            raise ValueError(
                f"decay_fraction ({self.decay_fraction}) must leave room for "
                f"warmup_epochs ({self.warmup_epochs}) in {self.epochs} epochs; lower one of them"
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


class EvaluationConfig(Section):
    """The report's probes along the way, and what the final features are put to beyond them."""

    every_epochs: PositiveInt = 1  # the first and the last epoch are always evaluated
    neighbours: PositiveInt = 5
    linear_c: Positive = 1.0  # inverse strength of the L2 penalty
    linear_max_iter: PositiveInt = 1000
    ood_fit_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.8  # the rest of the OOD images is scored
    ood_folds: Annotated[Whole, Field(ge=2)] = 5  # beside it: each image is scored in one of so many folds
    few_label_draws: PositiveInt = 5  # of training images with as few labels a class as OOD has
    batch_size: PositiveInt = 512  # images at a time; fewer need less memory
    brief: bool = False  # of the final features the accuracies only, and no weights kept: for controls
    sweep: bool = False  # further probes of the final features, see probes.sweep.probe_sweep
    sweep_neighbours: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 5, 20, 200)
    sweep_c: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1e-3, 1e-2, 0.1, 1, 10, 100, 1e3)


class ClaimsConfig(Section):
    """What counts as a difference and as a plateau; fixed before the runs, and no part of them."""

    margin: Positive = 0.02  # fraction of images; a smaller difference is none
    plateau_window: Annotated[float, Field(gt=0, lt=1)] = 0.25  # last part of the training
    plateau_tolerance: Positive = 0.01  # fraction of images; a smaller change over the window is none


class Profile(Section):
    """What all runs of a study share: images, sizes, recipe, probes, and what counts as a difference."""

    profile: Annotated[str, Field(pattern=NAME)]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)  # those that run_all.sh runs
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    devices: PositiveInt = 1  # that train one run together: GPUs, or processes on a processor
    data: DataConfig
    network: NetworkConfig = NetworkConfig()
    views: ViewConfig = ViewConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    claims: ClaimsConfig = ClaimsConfig()

    def __init__(self, **values: Any):
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(explain(error, type(self))) from None


class RunConfig(Profile):
    """All that determines a run's numbers, but for the machine."""

    run: Annotated[str, Field(pattern=NAME)]
    objective: Literal["nt_xent", "supervised"] = "nt_xent"  # supervised: cross-entropy with the labels
    depth: Literal[18, 34]
    stem: Literal["conv3", "conv7"]
    n_views: Views
    seed: Seed = 0

    @model_validator(mode="after")
    def _whole_passes(self) -> "RunConfig":
        per_batch, distinct = self.training.views_per_batch, self.views.distinct
        if self.n_views % per_batch:
            fitting = [k for k in range(2, self.n_views + 1) if self.n_views % k == 0]
            raise ValueError(
                f"training.views_per_batch ({per_batch}) must divide n_views ({self.n_views}), so that an "
                f"epoch uses each view once; use one of {fitting}"
            )
        if distinct is not None and distinct % per_batch:
            raise ValueError(
                f"views.distinct ({distinct}) must be a multiple of training.views_per_batch ({per_batch}), "
                f"so that a round uses each view once; use {(distinct // per_batch + 1) * per_batch}"
            )
        return self

    @model_validator(mode="after")
    def _blur_fits(self) -> "RunConfig":
        kernel, size = self.views.blur_kernel or 1, self.view_size
        if kernel // 2 >= size:  # reflected once at an end, it must not reach beyond the other
            raise ValueError(
                f"views.blur_kernel ({kernel}) is too wide for views of {size} pixels; use {2 * size - 1} "
                "at most"
            )
        return self

    @property
    def view_size(self) -> int:
        """Height and width of a view, pixels."""
        return self.views.size or self.data.image_size

    def recipe(self) -> dict[str, Any]:
        """The configuration as plain data, without what cannot change a run's numbers."""
        return self.model_dump(mode="json", exclude={"seeds", "device", "devices", "claims"})

    def canonical(self) -> dict[str, Any]:
        """The recipe in a form that is the same for equal trainings, whatever their epochs are called.

        An epoch is a number of passes over the images: lengths are counted in passes, and the number of views
        in an epoch matters only where the learning rate moves once an epoch. Settings that are not used,
        names, and how often a run is looked at are left out.
        """
        recipe, training = self.recipe(), self.training
        passes = self.n_views // training.views_per_batch  # of an epoch
        of_training, of_views = recipe["training"], recipe["views"]
        of_training["passes"] = passes * of_training.pop("epochs")
        of_training["warmup_passes"] = float(passes * of_training.pop("warmup_epochs"))
        of_training["passes_between_moves"] = passes if of_training.pop("schedule_per") == "epoch" else None
        if self.views.distinct and self.views.distinct >= of_training["passes"] * training.views_per_batch:
            of_views["distinct"] = None
        unused = {"decay_fraction": training.schedule == "cosine", "momentum": training.optimizer == "adamw"}
        unused |= {"multi_view_loss": training.views_per_batch == 2}
        for key in ("run", "n_views"):
            del recipe[key]
        for key in [key for key, skipped in unused.items() if skipped]:
            del of_training[key]
        for key in LOOKS:
            del recipe["evaluation"][key]
        return recipe


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


def check_name(name: str, kind: str, known: Sequence[str]) -> str:
    """The name, if it is one of the known ones; else ConfigError with the nearest and all of them."""
    if name not in known:
        hint = suggest(name, known)
        raise ConfigError(f"unknown {kind} '{name}'; {hint}choose among: {', '.join(known)}")
    return name
