"""Datasets: a folder with train.npz, val.npz and ood.npz, each of `images` and `labels`.

images: (N, H, W, 3) uint8 with H = W; labels: (N,) integers 0 .. C - 1. train and val share their classes;
the classes of ood are others, numbered from 0 again. A dataset.json beside them may name it and its classes.
"""

import argparse
import hashlib
import json
import shutil
import sys
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from pydantic import ValidationError

from manyviews import fractals, paths, tiny_imagenet
from manyviews.config import DataConfig
from manyviews.tiny_imagenet import DataError, area_downsample

SPLITS = ("train", "val", "ood")
PROBE_NEIGHBOURS = 5  # the k-NN probe must find as many images to fit on
OOD_FIT_SHARE = 0.8  # of the OOD images; the probes score the rest
OOD_SEED = 42  # of the permutation that chooses them
# What numpy.load raises on damaged, pickled or other files.
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, TypeError, AttributeError)
REMAKE = "make the file again; a folder in the cache is made again once you remove it"
LIMITS = ("classes", "ood_classes", "train_per_class", "val_per_class", "ood_per_class")


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images."""

    images: np.ndarray  # (N, H, W, 3) uint8
    labels: np.ndarray  # (N,) int64, 0 .. C - 1

    @property
    def n_classes(self) -> int:
        return int(self.labels.max()) + 1

    def as_tensor(self) -> torch.Tensor:
        """Images as a tensor (N, 3, H, W) uint8."""
        return torch.from_numpy(self.images).permute(0, 3, 1, 2).contiguous()

    def first_of_each_class(self, classes: int, images: int) -> np.ndarray:
        """The first images of the first classes, or as many as there are: (classes, images, H, W, 3)."""
        classes = min(classes, self.n_classes)
        images = min(images, int(np.bincount(self.labels)[:classes].min()))
        return np.stack([self.images[self.labels == label][:images] for label in range(classes)])


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits; train and val are of the same classes, ood of others."""

    name: str
    synthetic: bool  # images made by a program, not photographs
    train: Split
    val: Split
    ood: Split
    checksum: str  # SHA-256 of all images and labels, hexadecimal
    class_names: tuple[str, ...]  # of train and val
    ood_class_names: tuple[str, ...]


def load_dataset(config: DataConfig) -> Dataset:
    """Load the configured dataset; fractals and Tiny-ImageNet are first built into the cache if need be.

    Raises:
        DataError: the data are missing, damaged, or smaller than the configuration asks for.
    """
    if config.name == "folder":
        limits = {key: getattr(config, key) for key in LIMITS}
        return load_folder(paths.ROOT / config.path, image_size=config.image_size, **limits)
    folder = cache_folder(config)
    if not folder.exists():
        build(config, folder)
    return load_folder(folder)


def load_folder(
    folder: Path,
    classes: int | None = None,
    ood_classes: int | None = None,
    train_per_class: int | None = None,
    val_per_class: int | None = None,
    ood_per_class: int | None = None,
    image_size: int | None = None,
) -> Dataset:
    """Load and validate the three files of a folder.

    Args:
        folder: holds train.npz, val.npz and ood.npz.
        classes, ood_classes: take the first so many classes of train and val, and of ood. None: all.
        train_per_class, val_per_class, ood_per_class: take the first so many images of each class.
        image_size: height and width in pixels; smaller than the files' are area averages. None: as they are.
    Raises:
        DataError: a file is missing, damaged or of another format, the splits do not fit each other, they
            are too small for the probes, or they have fewer classes, images or pixels than asked for.
    """
    folder = Path(folder)
    splits = {}
    for split in SPLITS:
        path = folder / f"{split}.npz"
        n_classes = ood_classes if split == "ood" else classes
        per_class = {"train": train_per_class, "val": val_per_class, "ood": ood_per_class}[split]
        images, labels = limit(*read_npz(path), n_classes, per_class, path)
        splits[split] = Split(resize(images, image_size, path), labels)
    check_together(folder, **splits)
    about = read_about(folder)
    return Dataset(
        name=about.get("name", folder.resolve().name),
        synthetic=about.get("synthetic", False),
        **splits,
        checksum=checksum(splits),
        class_names=_names(about, "class_names", splits["train"].n_classes, folder),
        ood_class_names=_names(about, "ood_class_names", splits["ood"].n_classes, folder),
    )


# ---------------------------------------------------------------------------------------------- reading


def read_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The images (N, H, W, 3) uint8 and labels (N,) int64 of one file; pickled contents are refused."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; a dataset is a folder with train.npz, val.npz and ood.npz")
    arrays = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for key in ("images", "labels"):
                if key not in file:
                    raise DataError(f"{path}: has {sorted(file)} but no '{key}'; save an array of that name")
                arrays[key] = file[key]
    except DataError:
        raise
    except DAMAGE as error:
        raise DataError(f"{path}: cannot be read as an .npz of plain arrays ({error}); {REMAKE}") from error
    check_arrays(path, **arrays)
    return arrays["images"], arrays["labels"].astype(np.int64)


def check_arrays(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """DataError unless the arrays have the format of a split."""
    n_images, shape = len(images) if images.ndim else 0, images.shape

    def demand(condition: bool, key: str, problem: str, fix: str) -> None:
        if not condition:
            raise DataError(f"{path}: '{key}' {problem}; {fix}")

    demand(images.dtype == np.uint8, "images", f"is {images.dtype}", "save it as uint8, 0 to 255")
    square = images.ndim == 4 and shape[1] == shape[2] and shape[3] == 3
    demand(square, "images", f"has shape {shape}", "it must be (N, H, W, 3) with H = W, channels last")
    demand(np.issubdtype(labels.dtype, np.integer), "labels", f"is {labels.dtype}", "save it as integers")
    demand(labels.ndim == 1, "labels", f"has shape {labels.shape}", "it must be (N,)")
    demand(n_images > 0, "images", "is empty", "put images in it")
    demand(len(labels) == n_images, "labels", f"has {len(labels)}, 'images' {n_images}", "save one per image")
    demand(labels.min() >= 0, "labels", f"goes down to {labels.min()}", "number the classes from 0")
    present = np.unique(labels)
    missing = np.flatnonzero(present != np.arange(len(present)))
    demand(
        not len(missing),
        "labels",
        f"skips class {missing[0] if len(missing) else ''} of 0 to {present[-1]}",
        "number the classes from 0 without gaps",
    )


def limit(
    images: np.ndarray, labels: np.ndarray, n_classes: int | None, per_class: int | None, path: Path
) -> tuple[np.ndarray, np.ndarray]:
    """The first n_classes classes and the first per_class images of each, in the file's order."""
    there = int(labels.max()) + 1
    if n_classes is not None and n_classes > there:
        raise DataError(f"{path}: 'labels' has {there} classes, not the {n_classes} asked for; ask for fewer")
    counts = np.bincount(labels)[:n_classes]
    if per_class is not None and counts.min() < per_class:
        raise DataError(
            f"{path}: 'images' has {counts.min()} of class {counts.argmin()}, not the {per_class} asked for; "
            "ask for fewer per class"
        )
    if n_classes is None and per_class is None:
        return images, labels
    order = np.argsort(labels, kind="stable")
    rank = np.empty(len(labels), dtype=np.int64)  # of an image within its class
    rank[order] = np.arange(len(labels)) - np.searchsorted(labels[order], labels[order])
    keep = (labels < (n_classes or there)) & (rank < (per_class or len(labels)))
    return images[keep], labels[keep]


def resize(images: np.ndarray, image_size: int | None, path: Path) -> np.ndarray:
    """Area averages of image_size; enlarging is refused, for it adds no information."""
    side = images.shape[1]
    if image_size is not None and image_size > side:
        raise DataError(
            f"{path}: 'images' has {side} pixels a side, fewer than data.image_size, {image_size}; "
            f"set data.image_size to {side} or less"
        )
    return area_downsample(images, image_size or side)


def check_together(folder: Path, train: Split, val: Split, ood: Split) -> None:
    """DataError unless the splits fit each other and suffice for the probes."""
    if train.n_classes != val.n_classes:
        raise DataError(
            f"{folder / 'val.npz'}: 'labels' has {val.n_classes} classes, train.npz {train.n_classes}; "
            "both must hold the same classes"
        )
    for split, part in (("val", val), ("ood", ood)):
        if part.images.shape[1:] != train.images.shape[1:]:
            raise DataError(
                f"{folder / split}.npz: 'images' is {part.images.shape[1]} pixels a side, train.npz "
                f"{train.images.shape[1]}; save all in one size"
            )
    fit, test = ood_split(len(ood.labels), OOD_FIT_SHARE)
    fitted = {"train": train.labels, "ood": ood.labels[fit]}
    for split, labels in fitted.items():
        path = folder / f"{split}.npz"
        if len(labels) < PROBE_NEIGHBOURS:
            raise DataError(
                f"{path}: 'images' leaves {len(labels)} to fit the probes on; k-NN needs {PROBE_NEIGHBOURS}, "
                "add images"
            )
        if len(np.unique(labels)) < 2:
            raise DataError(f"{path}: 'labels' leaves one class to fit the probes on; add images of another")
    if len(test) == 0:
        raise DataError(f"{folder / 'ood.npz'}: 'images' leaves none to score the probes on; add images")


def ood_split(n: int, fit_share: float) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the OOD images to fit the probes on and to score, as the report draws them."""
    order = np.random.RandomState(OOD_SEED).permutation(n)
    held_out = int(round(1 - fit_share, 9) * n)  # rounded, for 1 - 0.8 is a little less than 0.2
    return np.flatnonzero(order >= held_out), np.flatnonzero(order < held_out)


def checksum(splits: dict[str, Split]) -> str:
    """SHA-256 of the arrays as they are used, whatever file they came from; hexadecimal."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for array in (splits[split].images, splits[split].labels.astype("<i8")):
            digest.update(f"{split} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def read_about(folder: Path) -> dict[str, Any]:
    """The folder's dataset.json, or {} where there is none, as with files from elsewhere."""
    path = folder / "dataset.json"
    if not path.exists():
        return {}
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); remove it") from error
    if not isinstance(about, dict):
        raise DataError(f"{path}: is not a JSON object; remove it")
    return about


def _names(about: dict[str, Any], key: str, n_classes: int, folder: Path) -> tuple[str, ...]:
    names = about.get(key, [f"class {i}" for i in range(n_classes)])
    if not isinstance(names, list) or len(names) < n_classes:
        raise DataError(f"{folder / 'dataset.json'}: '{key}' must be a list of {n_classes} names or more")
    return tuple(map(str, names[:n_classes]))


# --------------------------------------------------------------------------------------------- building


def cache_folder(config: DataConfig) -> Path:
    """Where a built dataset lies: its name and a hash of all that determines its images."""
    text = json.dumps(parameters(config), sort_keys=True)
    return paths.data_root() / f"{config.name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def parameters(config: DataConfig) -> dict[str, int | None]:
    """All that determines a built dataset. Not the path of the zip: every valid one holds the same images."""
    if config.name == "fractals":
        recipe, keys = fractals.RECIPE, (*LIMITS, "image_size", "seed")
    else:
        recipe, keys = tiny_imagenet.RECIPE, (*LIMITS, "image_size")
    return {"recipe": recipe, **{key: getattr(config, key) for key in keys}}


def build(config: DataConfig, folder: Path) -> None:
    """Make a dataset at `folder`, which appears whole or not at all; one process builds, others wait."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial")
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if folder.exists():  # another process built it while we waited
            return
        shutil.rmtree(partial, ignore_errors=True)  # of a build that was killed
        partial.mkdir()
        try:
            _write(config, partial)
            partial.replace(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _write(config: DataConfig, folder: Path) -> None:
    sizes = {key: getattr(config, key) for key in (*LIMITS, "image_size")}
    if config.name == "fractals":
        splits = fractals.make_splits(**sizes, seed=config.seed)
        names = [f"fractal {i}" for i in range(config.classes)]
        ood_names = [f"unseen fractal {i}" for i in range(config.ood_classes)]
    else:
        tiny_imagenet.check_request(config.classes, config.ood_classes, config.image_size)
        zip_path = tiny_imagenet.find_zip(paths.ROOT / config.path if config.path else None)
        splits, names, ood_names = tiny_imagenet.make_splits(zip_path, **sizes)
    for split, (images, labels) in splits.items():
        np.savez(folder / f"{split}.npz", images=images, labels=labels)
    about = {
        "name": config.name,
        "synthetic": config.name == "fractals",
        "parameters": parameters(config),
        "images": {split: len(labels) for split, (_, labels) in splits.items()},
        "class_names": names,
        "ood_class_names": ood_names,
    }
    text = json.dumps(about, indent=1, ensure_ascii=False) + "\n"
    (folder / "dataset.json").write_text(text, encoding="utf-8")


# ----------------------------------------------------------------------------------------- command line


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `python -m manyviews.data`; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        folder = options.folder if options.command == "check" else _build_command(options)
        print(summary(folder, load_folder(folder)))
    except ValidationError as error:
        first = error.errors()[0]
        print(f"error: {'.'.join(map(str, first['loc']))}: {first['msg']}", file=sys.stderr)
        return 2
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _build_command(options: argparse.Namespace) -> Path:
    values = {key: value for key, value in vars(options).items() if key not in ("command", "out")}
    config = DataConfig(name=options.command, **values)
    folder = options.out or cache_folder(config)
    if options.out and folder.exists():
        raise DataError(f"{folder}: exists already; remove it or name another folder")
    if not folder.exists():
        build(config, folder)
    return folder


def _absolute(path: str) -> str:
    """In a configuration a relative path starts at the project's root; in a terminal, where one is."""
    return str(Path(path).absolute())


def summary(folder: Path, dataset: Dataset) -> str:
    """A few lines on a dataset, for the terminal."""
    lines = [f"{dataset.name}{' (synthetic)' if dataset.synthetic else ''} in {folder}"]
    for split in SPLITS:
        part = getattr(dataset, split)
        counts = np.bincount(part.labels)
        each = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
        shape = "x".join(map(str, part.images.shape[1:]))
        lines.append(f"{split:6}{len(part.labels):7} images {shape}, {part.n_classes} classes x {each}")
    return "\n".join([*lines, f"sha256 {dataset.checksum}"])


def parser() -> argparse.ArgumentParser:
    """Its options are named as the fields of DataConfig."""
    top = argparse.ArgumentParser(prog="python -m manyviews.data", description="Build or check a dataset.")
    commands = top.add_subparsers(dest="command", required=True)
    fractal = commands.add_parser("fractals", help="draw fractal images; no download")
    tiny = commands.add_parser("tiny-imagenet", help="read Tiny-ImageNet from its zip, fetched if need be")
    check = commands.add_parser("check", help="validate a folder and count what is in it")
    check.add_argument("folder", type=Path)
    some, every = dict(zip(LIMITS, (40, 40, 100, 25, 50), strict=True)), dict.fromkeys(LIMITS)
    for command, sizes, side in ((fractal, some, 32), (tiny, every, tiny_imagenet.SIDE)):
        command.add_argument("out", nargs="?", type=Path, help="new folder; default: the cache in data/")
        for key, size in sizes.items():
            flag, shown = f"--{key.replace('_', '-')}", "all" if size is None else size
            command.add_argument(flag, type=int, default=size, metavar="N", help=f"default: {shown}")
        shown = f"default: {side}"
        command.add_argument("--image-size", type=int, default=side, metavar="PIXELS", help=shown)
    fractal.add_argument("--seed", type=int, default=0, help="default: 0")
    tiny.add_argument(
        "--path", type=_absolute, metavar="ZIP", help="tiny-imagenet-200.zip, if it lies elsewhere"
    )
    return top


if __name__ == "__main__":
    sys.exit(main())
