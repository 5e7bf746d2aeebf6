"""One run from its configuration to its folder of results."""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from manyviews.config import paths
from manyviews.config.files import SUMS, read_json, replacing, sha256, write_json, write_sums
from manyviews.config.schema import ConfigError, Profile, RunConfig
from manyviews.config.surroundings import TIME_IS_OVER, seconds_left
from manyviews.data.dataset import SPLITS, Dataset, load_dataset
from manyviews.probes.features import Features, split_features
from manyviews.probes.predictions import accuracies
from manyviews.probes.protocol import (
    Labels,
    check_probes,
    evaluate,
    few_label_accuracies,
    few_labels,
    ood_split,
    raw_pixel_features,
)
from manyviews.runs.environment import check_same, describe_environment, note_environment
from manyviews.runs.store import (
    CURVES,
    FAILED,
    LAST_LOOK,
    RAW_PIXELS,
    Run,
    RunState,
    check_recipe,
    load_run,
    partial_folder,
    read_table,
    run_lock,
    state_of,
    take_place,
    tidy,
    write_table,
)
from manyviews.simclr.models import SimCLR, count_macs, count_parameters, make_simclr
from manyviews.simclr.numerics import repeatable, resolve_device, resolve_precision
from manyviews.simclr.processes import from_first, is_first, joined, launch, n_processes
from manyviews.simclr.train import (
    Progress,
    Recipe,
    Trainer,
    TrainingFailed,
    check_batches,
)
from manyviews.simclr.views import ViewStrengths

# Forward, gradient of the activations, gradient of the weights: each about as many multiply-adds.
FORWARDS_OF_A_TRAINING_STEP = 3
Watch = Callable[[pd.DataFrame], None]  # what is shown of a training; see `run`


class Stopped(KeyboardInterrupt):
    """A training was interrupted; the message says how it goes on."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it, by IPython's hook: the sentence alone."""
        return [str(self)]


class OutOfTime(RuntimeError):
    """A training has stopped before its time was over; it goes on when it is run again."""


def run(config: RunConfig, watch: Watch = lambda metrics: None) -> Run:
    """Train and probe one run, or load it if it is finished, or resume it where it was interrupted.

    While it runs, its folder is called `<folder>.partial`; the last act is to rename it. So a folder
    without that ending is complete. Of several processes the first makes the run; the others `assist`.
    With `devices` above 1 in the configuration, they are started here.

    Args:
        watch: called after each epoch with the metrics until then, a row an epoch, such as
            report.figures.live_curve; not where processes are started for the run.
    Raises:
        ConfigError: the configuration cannot be run, or differs from the one that made what is there.
        DataError: the dataset is not usable.
        TrainingFailed: the loss is not finite, now or when it was last tried.
        OutOfTime: another epoch would end too late.
        ProcessLost: one of several processes was killed.
    """
    folder = paths.run_folder(config.profile, config.run, config.seed)
    if config.devices > 1 and n_processes() == 1 and state_of(folder) is not RunState.COMPLETE:
        try:
            failures = launch(config.devices, take_part, config)
        except KeyboardInterrupt:
            raise Stopped("Stopped; run this again to go on after the last whole epoch") from None
        for failure in failures:
            if failure is not None:  # the first process's, if it has one
                raise failure
    with run_lock(folder):
        if state_of(folder) is RunState.COMPLETE:
            check_recipe(config, folder)
            tidy(folder)
            print(f"{config.run} seed {config.seed}: finished before, kept")
            from_first(lambda: None)  # nothing to assist with
        else:
            _make(config, folder, watch)
        return load_run(folder)


def take_part(config: RunConfig) -> None:
    """Make a run as the only process, or as one of those that train it together; see run and assist."""
    with joined(config.device):
        if is_first():
            run(config)
        else:
            with suppress(TrainingFailed):  # which the first process finds as well, and tells
                assist()
        from_first(lambda: None)  # so that all end together


def assist() -> None:
    """Train along with the process that makes a run, of its configuration; nothing is written here.

    Raises:
        ConfigError: this process would give other numbers.
        DataError, TrainingFailed: see run.
    """
    begun = from_first(lambda: None)
    if begun is not None:
        config, environment = begun
        dataset = load_dataset(config.data)
        here = _environment(config, dataset)
        check_same(here, environment, "the first process began", "give all machines the same data and device")
        _make_trainer(config, dataset, *split_tensors(dataset, resolve_device(config.device))).run()


def raw_pixels(profile: Profile, dataset: Dataset) -> pd.DataFrame:
    """What the probes predict from raw pixels, a baseline of a profile; kept if it is there already.

    Returns:
        See probes/predictions.py.
    """
    path = paths.results_root() / profile.profile / f"{RAW_PIXELS}.csv"
    made_from = {"data_sha256": dataset.checksum, "evaluation": profile.evaluation.model_dump(mode="json")}
    note = path.with_suffix(".json")
    if path.exists() and note.exists():
        try:
            noted = read_json(note)
        except ConfigError:
            noted = {}
        if made_from.items() <= noted.items() and noted.get("sha256") in (sha256(path), None):  # None: older
            return read_table(path)
        print(f"{path}: damaged, or of other images or probes; measured again")
    note.unlink(missing_ok=True)  # from here on the table may be another's
    images, labels = split_tensors(dataset, resolve_device(profile.device))
    with repeatable():
        evaluation = evaluate(raw_pixel_features(images), labels, profile.evaluation, folds=True)
    write_table(evaluation.predictions, path)
    write_json(note, made_from | convergence(evaluation) | {"sha256": sha256(path)})
    return read_table(path)


def convergence(evaluation: Any) -> dict[str, Any]:
    """How the linear fits of an evaluation ended, as metrics and summary have it."""
    return {"linear_converged": evaluation.converged, "linear_gradient_norm": evaluation.gradient_norm}


def split_tensors(dataset: Dataset, device: torch.device) -> tuple[dict[str, Tensor], Labels]:
    """Images (N, 3, H, W) uint8 and labels (N,) of a dataset, by split, on a device."""
    images = {name: getattr(dataset, name).as_tensor().to(device) for name in SPLITS}
    labels = {name: torch.from_numpy(getattr(dataset, name).labels).to(device) for name in SPLITS}
    return images, labels


def first_of_each_class(labels: Tensor, fraction: float) -> Tensor:
    """Indices, in order, of the first images of each class: this fraction of them, and at least one.

    Args:
        labels: (N,) int64.
        fraction: above 0, up to 1.
    """
    of_classes = [(labels == label).nonzero()[:, 0] for label in labels.unique()]
    return torch.cat([rows[: max(1, round(fraction * len(rows)))] for rows in of_classes]).sort().values


def recipe_of(config: RunConfig) -> Recipe:
    """The part of a configuration that says how to train."""
    return Recipe(
        n_views=config.n_views,
        view_size=config.view_size,
        distinct=config.views.distinct,
        strengths=ViewStrengths(**config.views.model_dump(exclude={"size", "distinct"})),
        **config.training.model_dump(exclude={"image_fraction", "precision"}),
    )


def make_model(config: RunConfig, n_classes: int) -> SimCLR:
    """A run's network with its initial weights, on its device and in its type.

    Args:
        config: of the run.
        n_classes: of the training images; the head of a supervised run has that size.
    """
    device = resolve_device(config.device)
    precision = resolve_precision(config.training.precision)
    model = make_simclr(
        config.seed,
        depth=config.depth,
        stem=config.stem,
        n_classes=n_classes if config.objective == "supervised" else None,
        **config.network.model_dump(),
    )
    dtype = torch.float64 if precision == torch.float64 else torch.float32
    return model.to(device, dtype, memory_format=torch.channels_last)


def check(configs: Sequence[RunConfig], dataset: Dataset) -> None:
    """See that runs can be made on a dataset, before anything is trained.

    Raises:
        ConfigError: one cannot; names the key to change.
    """
    labels = torch.from_numpy(dataset.train.labels)
    for config in configs:
        try:
            resolve_device(config.device)
            n_images = len(first_of_each_class(labels, config.training.image_fraction))
            check_batches(n_images, recipe_of(config))
        except ValueError as error:
            raise ConfigError(f"profile '{config.profile}', run '{config.run}': {error}") from None
    for evaluation in {config.evaluation for config in configs}:
        check_probes(dataset, evaluation)


def _make(config: RunConfig, folder: Path, watch: Watch) -> None:
    """Train, from wherever the run stands, and put the final features to the probes."""
    partial = partial_folder(folder)
    if (partial / "config.json").exists():
        check_recipe(config, partial)
    if (partial / FAILED).exists():
        reason = read_json(partial / FAILED)["reason"]
        raise TrainingFailed(f"{reason} To try again, delete {partial}, or use --force")
    dataset = load_dataset(config.data)
    check([config], dataset)
    write_json(partial / "config.json", config.model_dump(mode="json"))
    environment = _environment(config, dataset)
    note_environment(partial / "environment.json", environment)
    if n_processes() > 1:
        print(f"{n_processes()} processes; BatchNorm sees the {environment['batch_norm']}")

    images, labels = split_tensors(dataset, resolve_device(config.device))
    from_first(lambda: (config, environment))  # from here on the others assist
    trainer = _make_trainer(config, dataset, images, labels)
    if done := trainer.progress.epoch:
        print(f"{trainer.name}: resumed after epoch {done} of {config.training.epochs}")

    watches = [watch, *_tensorboard(config)]

    def after_epoch(progress: Progress) -> None:
        metrics = pd.DataFrame(progress.metrics)
        write_table(metrics, partial / "metrics.csv")
        for each in watches:
            each(metrics)
        if progress.epoch > done:  # else, resumed for the last probes, it would never begin them
            _stop_in_time(progress, config.training.epochs)

    try:
        trainer.run(after_epoch)
    except TrainingFailed as error:
        write_json(partial / FAILED, {"reason": str(error)})
        raise
    except KeyboardInterrupt:
        during = (
            f"epoch {min(trainer.progress.epoch + 1, config.training.epochs)} of {config.training.epochs}"
        )
        raise Stopped(f"Stopped in {during}; run this again to go on after the last whole epoch") from None
    print(f"{trainer.name}: trained; now the final features are put to all probes")
    with repeatable():
        _finish(trainer, config, dataset, images, labels, partial)
    take_place(folder)


def _tensorboard(config: RunConfig) -> list[Watch]:
    """What shows each epoch's numbers in TensorBoard, where $MANYVIEWS_TENSORBOARD names a folder."""
    root = os.environ.get("MANYVIEWS_TENSORBOARD")
    if not root:
        return []
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(f"$MANYVIEWS_TENSORBOARD is set: {error}; `pip install tensorboard`") from None
    writer = SummaryWriter(Path(root) / config.profile / config.run / f"seed{config.seed}")

    def show(metrics: pd.DataFrame) -> None:
        last = metrics.iloc[-1].dropna()  # accuracies are measured after some epochs only
        for name, value in last.drop("epoch").items():
            writer.add_scalar(name, float(value), int(last["epoch"]))
        writer.flush()

    return [show]


def _stop_in_time(progress: Progress, epochs: int) -> None:
    """OutOfTime if the next epoch, or after the last one all probes, would end too late."""
    seconds = progress.wall_time_s / max(1, progress.epoch)
    if seconds_left() < seconds * (LAST_LOOK if progress.epoch == epochs else 1):
        raise OutOfTime(f"{TIME_IS_OVER} after epoch {progress.epoch} of {epochs}; run this again to go on")


def _environment(config: RunConfig, dataset: Dataset) -> dict[str, Any]:
    """What a run on a dataset is made with here."""
    device = resolve_device(config.device)
    precision = resolve_precision(config.training.precision)
    return describe_environment(device, precision) | {
        "dataset": dataset.name,
        "data_sha256": dataset.checksum,
        "seed": config.seed,
        "class_names": list(dataset.class_names),
        "ood_class_names": list(dataset.ood_class_names),
    }


def _make_trainer(config: RunConfig, dataset: Dataset, images: dict[str, Tensor], labels: Labels) -> Trainer:
    """The training of a run, from what is saved in its folder."""
    folder = partial_folder(paths.run_folder(config.profile, config.run, config.seed))
    used = first_of_each_class(labels["train"], config.training.image_fraction)
    every = len(used) == len(images["train"])  # which are then not copied
    return Trainer(
        make_model(config, dataset.train.n_classes),
        images["train"] if every else images["train"][used],
        recipe_of(config),
        config.seed,
        labels=labels["train"][used] if config.objective == "supervised" else None,
        precision=resolve_precision(config.training.precision),
        checkpoint=folder / "checkpoint.pt",
        evaluate=lambda model, epoch: _evaluate(model, epoch, config, images, labels, folder),
        every_epochs=config.evaluation.every_epochs,
        name=f"{config.run} seed {config.seed}",
    )


def _evaluate(
    model: SimCLR, epoch: int, config: RunConfig, images: dict[str, Tensor], labels: Labels, folder: Path
) -> dict[str, Any]:
    """Accuracies along the way; what the probes say of each image is kept of the first and the last epoch."""
    kept = {0: "predictions_initial.csv", config.training.epochs: "predictions.csv"}
    features = split_features(model.backbone, images, config.evaluation.batch_size)["fc"]
    evaluation = evaluate(features, labels, config.evaluation, folds=epoch in kept)
    if epoch in kept:
        write_table(evaluation.predictions, folder / kept[epoch])
    measured = accuracies(evaluation.predictions)
    return {measure: measured[measure] for measure in CURVES} | convergence(evaluation)


def _finish(
    trainer: Trainer,
    config: RunConfig,
    dataset: Dataset,
    images: dict[str, Tensor],
    labels: Labels,
    folder: Path,
) -> None:
    """Write all else that a finished run holds."""
    progress, started = trainer.progress, time.perf_counter()
    summary = _summary(trainer, config, dataset, folder)
    if not config.evaluation.brief:
        from safetensors.torch import save

        weights = {name: value.contiguous() for name, value in trainer.model.state_dict().items()}
        with replacing(folder / "model.safetensors") as new:
            new.write_bytes(save(weights))  # save_file would let others not read it
        summary |= _look_closely(trainer.model, config, dataset, images, labels, folder)
    environment = read_json(folder / "environment.json") | {
        "wall_time_s": round(progress.wall_time_s, 1),
        "cpu_time_s": round(progress.cpu_time_s, 1),
        "final_evaluation_time_s": round(time.perf_counter() - started, 1),
        "views_forwarded": progress.views_forwarded,
        "macs": summary["macs"],
    }
    write_json(folder / "environment.json", environment)
    write_json(folder / "summary.json", summary)
    files = [path.name for path in folder.iterdir() if path.name[0] != "." and path.name != "checkpoint.pt"]
    write_sums(folder, [name for name in files if name != SUMS])


def _summary(trainer: Trainer, config: RunConfig, dataset: Dataset, folder: Path) -> dict[str, Any]:
    """Final numbers: those of the last epoch, never the best over the epochs."""
    per_view = count_macs(trainer.model, config.view_size)
    fit, test = ood_split(len(dataset.ood.labels), config.evaluation.ood_fit_fraction)
    last = dict(trainer.progress.metrics[-1])
    del last["learning_rate"]
    return (
        last
        | accuracies(read_table(folder / "predictions.csv"))
        | {
            "initial": accuracies(read_table(folder / "predictions_initial.csv")),
            "parameters": count_parameters(trainer.model),
            "macs_per_view": per_view,
            "macs": FORWARDS_OF_A_TRAINING_STEP * per_view * trainer.progress.views_forwarded,
            "synthetic": dataset.synthetic,
            "classes": dataset.train.n_classes,
            "ood_classes": dataset.ood.n_classes,
            "train_images": len(dataset.train.labels),
            "val_images": len(dataset.val.labels),
            "ood_fit_images": len(fit),
            "ood_test_images": len(test),
        }
    )


def _look_closely(
    model: SimCLR,
    config: RunConfig,
    dataset: Dataset,
    images: dict[str, Tensor],
    labels: Labels,
    folder: Path,
) -> dict[str, Any]:
    """Few labels, other probes, neighbours and a map of the final features; gives what the summary takes."""
    from manyviews.probes.feature_space import example_neighbours, feature_map
    from manyviews.probes.sweep import probe_sweep

    settings = config.evaluation
    layers = split_features(model.backbone, images, settings.batch_size)
    features: Features = layers["fc"]
    write_table(example_neighbours(features, labels, settings.ood_fit_fraction), folder / "neighbours.csv")
    write_table(feature_map(features, labels), folder / "feature_map.csv")
    if settings.sweep:
        initial = make_model(config, dataset.train.n_classes)
        by_weights = {
            "initial": split_features(initial.backbone, images, settings.batch_size),
            "trained": layers,
        }
        tables = [
            probe_sweep(of_weights, labels, settings, f"{config.run} seed {config.seed}, {weights}").assign(
                weights=weights
            )
            for weights, of_weights in by_weights.items()
        ]
        write_table(pd.concat(tables), folder / "sweep.csv")
    return few_label_accuracies(features, labels, settings) | {
        "few_labels_per_class": few_labels(labels, settings)
    }
