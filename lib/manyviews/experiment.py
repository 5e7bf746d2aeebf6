"""One run from its configuration to its folder of results."""

import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from manyviews import paths, plots
from manyviews.config import RunConfig
from manyviews.data import Dataset, load_dataset, ood_split
from manyviews.environment import describe_environment, note_environment
from manyviews.evaluation import check_probes, probe
from manyviews.files import read_json, replacing, write_json
from manyviews.models import count_multiply_adds, count_parameters
from manyviews.results import Run, check_recipe, is_finished, load_run, partial_folder, run_lock
from manyviews.train import Trainer, TrainingFailed, check_batches, resolve_device, resolve_precision

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
    check_batches(len(dataset.train.labels), config.training.batch_size)
    check_probes(dataset, config.evaluation)
    write_json(partial / "config.json", config.model_dump(mode="json"))
    note_environment(
        partial / "environment.json",
        describe_environment(device, resolve_precision(config.training.precision, device))
        | {"dataset": dataset.name, "data_sha256": dataset.checksum, "seed": config.seed},
    )

    images = {name: getattr(dataset, name).as_tensor() for name in ("train", "val", "ood")}
    trainer = Trainer(
        config,
        images["train"],
        partial,
        lambda backbone: vars(probe(backbone, dataset, images, config.evaluation)),
    )
    try:
        trainer.run()
    except TrainingFailed as error:
        write_json(partial / "failed.json", {"reason": str(error)})
        raise
    _finish(trainer, dataset, partial)
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)
    (folder / trainer.checkpoint.name).unlink()  # last, for until the renaming it could still be needed


def _finish(trainer: Trainer, dataset: Dataset, folder: Path) -> None:
    """Write all that a finished run holds, but for the executed notebook."""
    progress = trainer.progress
    with replacing(folder / "model.safetensors") as new:
        save_file({name: value.contiguous() for name, value in trainer.model.state_dict().items()}, new)
    summary = _summary(trainer, dataset)
    environment = read_json(folder / "environment.json") | {
        "wall_time_s": round(progress.wall_time_s, 1),
        "cpu_time_s": round(progress.cpu_time_s, 1),
        "images_forwarded": progress.images_forwarded,
        "multiply_adds": summary["multiply_adds"],
    }
    write_json(folder / "environment.json", environment)
    write_json(folder / "summary.json", summary)
    run = load_run(folder)
    plots.save_figure(plots.accuracy_plateau([run]), folder, "accuracy_plateau")
    plots.save_figure(plots.training_loss([run]), folder, "training_loss")
    for unfinished in folder.glob(".*.new"):  # left by a process that was killed while it wrote
        unfinished.unlink()


def _summary(trainer: Trainer, dataset: Dataset) -> dict[str, Any]:
    """Final numbers: those of the last epoch, never the best over the epochs."""
    config, progress = trainer.config, trainer.progress
    per_view = count_multiply_adds(trainer.model, config.data.image_size)
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
