"""One run from its configuration to its folder of results."""

import shutil
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from manyviews import paths, plots
from manyviews.config import RunConfig
from manyviews.data import Dataset, load_dataset, ood_split
from manyviews.environment import describe_environment, note_environment
from manyviews.evaluation import (
    Labels,
    LinearFits,
    accuracies,
    all_features,
    check_probes,
    few_label_accuracies,
    few_labels,
    final_predictions,
    ladder,
    raw_pixel_predictions,
    report_accuracies,
    split_tensors,
)
from manyviews.feature_space import example_neighbours, feature_map
from manyviews.files import read_json, replacing, write_json, write_table
from manyviews.models import count_multiply_adds, count_parameters
from manyviews.results import (
    Run,
    check_recipe,
    is_finished,
    load_run,
    partial_folder,
    raw_pixels_file,
    read_predictions,
    run_lock,
)
from manyviews.train import (
    Trainer,
    TrainingFailed,
    check_batches,
    first_of_each_class,
    make_model,
    repeatable,
    resolve_device,
    resolve_precision,
)

# Forward, gradient of the activations, gradient of the weights: each about as many multiply-adds.
PASSES_OF_A_TRAINING_STEP = 3


def run_experiment(config: RunConfig) -> Run:
    """Train and probe one run, or load it if it is finished, or resume it where it was interrupted.

    While it runs, its folder is called `<folder>.partial`; the last act is to rename it. So a folder
    without that ending is complete.

    Raises:
        ConfigError: the configuration cannot be run, or differs from the one that made what is there.
        DataError: the dataset is not usable.
        TrainingFailed: the loss is not finite, now or when it was last tried.
    """
    folder = paths.run_folder(config.profile, config.run, config.seed)
    with run_lock(folder):
        if not is_finished(folder):
            _run(config, folder)
        else:
            check_recipe(config, folder)
            print(f"{config.run} seed {config.seed}: finished before, kept")
        return load_run(folder)


def measure_floor(config: RunConfig, dataset: Dataset) -> pd.DataFrame:
    """What the probes predict from raw pixels, for the profile's report; kept if it is there already.

    Returns:
        See evaluation.final_predictions.
    """
    table, recipe = (raw_pixels_file(config.profile).with_suffix(suffix) for suffix in (".csv", ".json"))
    evaluation = config.evaluation.model_dump(mode="json")
    made_by = {"data_sha256": dataset.checksum, "evaluation": evaluation}
    if not (table.exists() and recipe.exists() and made_by.items() <= read_json(recipe).items()):
        recipe.unlink(missing_ok=True)  # from here on the table may be another's
        on_device = split_tensors(dataset, resolve_device(config.device))
        fits = LinearFits()
        with repeatable():
            write_table(raw_pixel_predictions(*on_device, config.evaluation, fits), table)
        write_json(recipe, made_by | fits.columns())
    return read_predictions(table)


def _run(config: RunConfig, folder: Path) -> None:
    partial = partial_folder(folder)
    if (partial / "config.json").exists():
        check_recipe(config, partial)
    if (partial / "failed.json").exists():
        raise TrainingFailed(
            f"{read_json(partial / 'failed.json')['reason']} To try again, delete {partial}, or use --force"
        )
    device = resolve_device(config.device)
    dataset = load_dataset(config.data)
    used = first_of_each_class(torch.from_numpy(dataset.train.labels), config.training.image_share)
    check_batches(len(used), config.training)
    check_probes(dataset, config.evaluation)
    write_json(partial / "config.json", config.model_dump(mode="json"))
    note_environment(
        partial / "environment.json",
        describe_environment(device, resolve_precision(config.training.precision, device))
        | {
            "dataset": dataset.name,
            "data_sha256": dataset.checksum,
            "seed": config.seed,
            "class_names": list(dataset.class_names),
            "ood_class_names": list(dataset.ood_class_names),
        },
    )

    images, labels = split_tensors(dataset, device)

    def evaluate(backbone: nn.Sequential) -> dict[str, Any]:
        features = all_features(backbone, images, config.evaluation.batch_size)["fc"]
        return report_accuracies(features, labels, config.evaluation)

    trainer = Trainer(config, images["train"], labels["train"], partial, evaluate)
    try:
        trainer.run()
    except TrainingFailed as error:
        write_json(partial / "failed.json", {"reason": str(error)})
        raise
    with repeatable():
        _finish(trainer, dataset, images, labels, partial)
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)
    (folder / trainer.checkpoint.name).unlink()  # last, for until the renaming it could still be needed


def _finish(
    trainer: Trainer, dataset: Dataset, images: dict[str, Tensor], labels: Labels, folder: Path
) -> None:
    """Write all that a finished run holds, but for the executed notebook."""
    progress, started = trainer.progress, time.perf_counter()
    brief = trainer.config.evaluation.brief
    if not brief:
        with replacing(folder / "model.safetensors") as new:
            save_file({name: value.contiguous() for name, value in trainer.model.state_dict().items()}, new)
    evaluate = _evaluate_briefly if brief else _evaluate_fully
    summary = _summary(trainer, dataset) | evaluate(trainer, dataset, images, labels, folder)
    environment = read_json(folder / "environment.json") | {
        "wall_time_s": round(progress.wall_time_s, 1),
        "cpu_time_s": round(progress.cpu_time_s, 1),
        "final_evaluation_time_s": round(time.perf_counter() - started, 1),
        "images_forwarded": progress.images_forwarded,
        "multiply_adds": summary["multiply_adds"],
    }
    write_json(folder / "environment.json", environment)
    write_json(folder / "summary.json", summary)
    if not brief:
        run = load_run(folder)
        plots.save_figure(plots.accuracy_plateau([run]), folder, "accuracy_plateau")
        plots.save_figure(plots.training_loss([run]), folder, "training_loss")
    for unfinished in folder.glob(".*.new"):  # left by a process that was killed while it wrote
        unfinished.unlink()


def _evaluate_briefly(
    trainer: Trainer, dataset: Dataset, images: dict[str, Tensor], labels: Labels, folder: Path
) -> dict[str, Any]:
    """Put the final features to the probes; write what they say of each image, and give the accuracies."""
    evaluation, fits = trainer.config.evaluation, LinearFits()
    features = all_features(trainer.model.backbone, images, evaluation.batch_size)["fc"]
    predictions = final_predictions(features, labels, evaluation, fits)
    write_table(predictions, folder / "predictions.csv")
    return accuracies(predictions) | fits.columns()


def _evaluate_fully(
    trainer: Trainer, dataset: Dataset, images: dict[str, Tensor], labels: Labels, folder: Path
) -> dict[str, Any]:
    """Put the final features, and those of the initial weights, to all tests; write what they give.

    Returns:
        The further accuracies, for the summary.
    """
    config, evaluation = trainer.config, trainer.config.evaluation
    n_classes = dataset.train.n_classes
    initial = make_model(config, n_classes).to(
        trainer.device, trainer.dtype, memory_format=torch.channels_last
    )
    backbones = {"trained": trainer.model.backbone, "initial": initial.backbone}
    tables, ladders, fits = {}, [], {weights: LinearFits() for weights in backbones}
    for weights, backbone in backbones.items():
        layers = all_features(backbone, images, evaluation.batch_size)
        tables[weights] = final_predictions(layers["fc"], labels, evaluation, fits[weights])
        if evaluation.ladder:
            rungs = ladder(layers, labels, evaluation, f"{config.run} seed {config.seed}, {weights} weights")
            ladders.append(rungs.assign(weights=weights))
        if weights == "trained":
            further = few_label_accuracies(layers["fc"], labels, evaluation, fits[weights])
            _look_at_features(layers["fc"], dataset, labels, evaluation.ood_fit_share, folder)
    write_table(tables["trained"], folder / "predictions.csv")
    write_table(tables["initial"], folder / "predictions_initial.csv")
    if ladders:
        write_table(pd.concat(ladders), folder / "ladder.csv")
    return (
        accuracies(tables["trained"])
        | further
        | fits["trained"].columns()
        | {
            "few_labels_per_class": few_labels(labels, evaluation),
            "initial": accuracies(tables["initial"]) | fits["initial"].columns(),
        }
    )


def _look_at_features(
    features: dict[str, Tensor], dataset: Dataset, labels: Labels, ood_fit_share: float, folder: Path
) -> None:
    """Write the neighbours of some images and the map of some classes, as tables and as figures."""
    neighbours = example_neighbours(features, labels, ood_fit_share)
    write_table(neighbours, folder / "neighbours.csv")
    plots.save_figure(plots.neighbours(neighbours, dataset), folder, "neighbours", suffixes=("png",))
    table = feature_map(features, labels)
    write_table(table, folder / "feature_map.csv")
    names = {"id": dataset.class_names, "ood": dataset.ood_class_names}
    plots.save_figure(plots.feature_map(table, names), folder, "feature_map", suffixes=("png",))


def _summary(trainer: Trainer, dataset: Dataset) -> dict[str, Any]:
    """Final numbers: those of the last epoch, never the best over the epochs."""
    config, progress = trainer.config, trainer.progress
    per_view = count_multiply_adds(trainer.model, config.views.size or config.data.image_size)
    fit, test = ood_split(len(dataset.ood.labels), config.evaluation.ood_fit_share)
    last = dict(progress.metrics[-1])
    del last["learning_rate"]
    return last | {
        "parameters": count_parameters(trainer.model),
        "multiply_adds_per_view": per_view,
        "multiply_adds": PASSES_OF_A_TRAINING_STEP * per_view * progress.images_forwarded,
        "synthetic": dataset.synthetic,
        "classes": dataset.train.n_classes,
        "ood_classes": dataset.ood.n_classes,
        "train_images": len(dataset.train.labels),
        "val_images": len(dataset.val.labels),
        "ood_fit_images": len(fit),
        "ood_test_images": len(test),
    }
