"""Datasets: a folder with train.npz, val.npz and ood.npz, each of `images` and `labels`.

images: (N, H, W, 3) uint8, red first, H = W; labels: (N,) integers 0 .. C - 1. train and val share their
classes; the classes of ood are others, numbered from 0 again. A dataset.json beside them may name it and its
classes.

A dataset that can be built is a module of this room (tiny-imagenet: tiny_imagenet.py) that has
    RECIPE         counts changes of the images that a configuration gives
    DETERMINED_BY  the fields of DataConfig that determine the images
    SYNTHETIC      whether the images are made by a program
    build(config)  draws or reads the splits; returns them and the names of the classes and the unseen classes
"""

import hashlib
import importlib
import json
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from filelock import FileLock

from manyviews.config.files import write_json
from manyviews.config.paths import ROOT, data_root
from manyviews.config.schema import DataConfig

if TYPE_CHECKING:
    import torch

SPLITS = ("train", "val", "ood")
LIMITS = ("classes", "ood_classes", "train_per_class", "val_per_class", "ood_per_class")  # in DataConfig
# What numpy, zipfile, json and Pillow raise on damaged or other files.
DAMAGE = (OSError, EOFError, zlib.error, BadZipFile, ValueError, TypeError, LookupError, AttributeError)
BATCH = 256  # images resized at once; changes memory, not results


class DataError(ValueError):
    """Data that cannot be used; the message names the file, what is wrong with it and the fix."""


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images."""

    images: np.ndarray  # (N, H, W, 3) uint8
    labels: np.ndarray  # (N,) int64, 0 .. C - 1

    @property
    def n_classes(self) -> int:
        """C, the number of classes."""
        return int(self.labels.max()) + 1

    def as_tensor(self) -> "torch.Tensor":
        """Images as a tensor (N, 3, H, W) uint8."""
        import torch  # only here, so that this module is quick to import

        return torch.from_numpy(self.images).permute(0, 3, 1, 2).contiguous()

    def first_of_each_class(self, classes: int, images: int) -> np.ndarray:
        """The first images of the first classes, or as many as there are: (classes, images, H, W, 3)."""
        classes = min(classes, self.n_classes)
        images = min(images, int(np.bincount(self.labels)[:classes].min()))
        return np.stack([self.images[self.labels == label][:images] for label in range(classes)])


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits; train and val are of the same classes, ood of others. `print` shows what is in it."""

    name: str
    synthetic: bool  # images made by a program, not photographs
    train: Split
    val: Split
    ood: Split
    checksum: str  # SHA-256 of all images and labels, hexadecimal
    class_names: tuple[str, ...]  # of train and val
    ood_class_names: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.name}{' (synthetic)' if self.synthetic else ''}"]
        for name in SPLITS:
            split = getattr(self, name)
            counts, (n, *shape) = np.bincount(split.labels), split.images.shape
            each = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
            lines.append(f"{name:6}{n:7} images {'x'.join(map(str, shape))}, {len(counts)} classes x {each}")
        return "\n".join([*lines, f"sha256 {self.checksum}"])


def load_dataset(config: DataConfig) -> Dataset:
    """Load the configured dataset; fractals and Tiny-ImageNet are first built into the cache if need be.

    Raises:
        DataError: the data are missing, damaged, or smaller than the configuration asks for.
    """
    if config.name == "folder":
        return load_folder(ROOT / config.path, config)
    folder = cache_folder(config)
    if not folder.exists():
        build(config, folder)
    return load_folder(folder)


def load_folder(folder: Path | str, limits: DataConfig | None = None) -> Dataset:
    """Load and check the three files of a folder.

    Args:
        folder: holds train.npz, val.npz and ood.npz.
        limits: take the first so many classes, and the first so many images of each, as area averages of
            so many pixels. None: all, as they are.
    Raises:
        DataError: a file is missing, damaged or of another format, the splits do not fit each other, or they
            have fewer classes, images or pixels than asked for.
    """
    folder, splits = Path(folder), {}
    for name in SPLITS:
        path = folder / f"{name}.npz"
        try:
            split = take_first(read_npz(path), name, limits) if limits else read_npz(path)
            check_fit(splits.get("train", split), split, same_classes=name == "val")
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        splits[name] = split
    about = read_about(folder / "dataset.json", splits["train"].n_classes, splits["ood"].n_classes)
    return Dataset(**about, **splits, checksum=checksum(splits))


def demand(condition: bool, problem: str) -> None:
    """DataError unless the condition holds; load_folder names the file."""
    if not condition:
        raise DataError(problem)


def read_npz(path: Path) -> Split:
    """The images and labels of one file; pickled contents are refused."""
    demand(path.is_file(), "no such file; a dataset is a folder with train.npz, val.npz and ood.npz")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in ("images", "labels") if key in file}
    except DAMAGE as error:
        fix = "make it again, or remove its folder if it lies in the cache"
        raise DataError(f"cannot be read as an .npz of plain arrays ({error}); {fix}") from error
    for key in ("images", "labels"):
        demand(key in arrays, f"has no '{key}'; save an array of that name")
    check_arrays(**arrays)
    return Split(arrays["images"], arrays["labels"].astype(np.int64))


def check_arrays(images: np.ndarray, labels: np.ndarray) -> None:
    """DataError unless the arrays have the format of a split."""
    shape, n = images.shape, images.shape[0] if images.ndim else 0
    square = images.ndim == 4 and shape[1] == shape[2] and shape[3] == 3
    demand(images.dtype == np.uint8, f"'images' is {images.dtype}; save it as uint8, 0 to 255")
    demand(square, f"'images' has shape {shape}; it must be (N, H, W, 3) with H = W, channels last")
    demand(n > 0, "'images' is empty; put images in it")
    demand(np.issubdtype(labels.dtype, np.integer), f"'labels' is {labels.dtype}; save it as integers")
    demand(labels.ndim == 1, f"'labels' has shape {labels.shape}; it must be (N,)")
    demand(len(labels) == n, f"'labels' has {len(labels)}, 'images' {n}; save one for each image")
    demand(labels.min() >= 0, f"'labels' goes down to {labels.min()}; number the classes from 0")
    present = np.unique(labels)
    gap = next((label for label, there in enumerate(present) if label != there), None)
    demand(gap is None, f"'labels' skips class {gap} of 0 to {present[-1]}; number them without gaps")


def check_fit(train: Split, split: Split, same_classes: bool) -> None:
    """DataError unless a split fits train.npz."""
    side, train_side = split.images.shape[1], train.images.shape[1]
    n, train_n = split.n_classes, train.n_classes
    demand(side == train_side, f"'images' is {side} pixels a side, train.npz {train_side}; save one size")
    fits = n == train_n or not same_classes
    demand(fits, f"'labels' has {n} classes, train.npz {train_n}; save the same classes in both")


def take_first(split: Split, name: str, limits: DataConfig) -> Split:
    """The first classes, the first images of each in the file's order, as area averages of fewer pixels."""
    images, labels, there, side = split.images, split.labels, split.n_classes, split.images.shape[1]
    n_classes = limits.ood_classes if name == "ood" else limits.classes
    per_class, size = getattr(limits, f"{name}_per_class"), limits.image_size
    demand((n_classes or 0) <= there, f"'labels' has {there} classes, not {n_classes}; ask for fewer")
    fewest = np.bincount(labels)[:n_classes].min()
    demand((per_class or 0) <= fewest, f"'images' has {fewest} of a class, not {per_class}; ask for fewer")
    # Enlarging adds no information.
    demand(size <= side, f"'images' has {side} pixels a side, fewer than data.image_size, {size}; lower it")
    if n_classes or per_class:
        of_classes = [np.flatnonzero(labels == label)[:per_class] for label in range(n_classes or there)]
        kept = np.sort(np.concatenate(of_classes))
        images, labels = images[kept], labels[kept]
    return Split(area_downsample(images, size), labels)


def area_downsample(images: np.ndarray, size: int) -> np.ndarray:
    """Average each new pixel over the area that it covers, in any ratio of sizes; rounded half up.

    images: (N, H, H, 3) uint8, to (N, size, size, 3) uint8, size at most H pixels. By hand because Pillow's
    box filter rounds twice, once for rows and once for columns.
    """
    old = images.shape[1]
    if size == old:
        return images
    edges = np.arange(size + 1) * (old / size)
    pixel = np.arange(old)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)  # (size, H)
    weight = (np.clip(overlap, 0, None) * (size / old)).astype(np.float32)
    out = np.empty((len(images), size, size, 3), dtype=np.uint8)
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH].astype(np.float32)
        rows = np.tensordot(weight, batch, axes=(1, 1))  # (size, B, H, 3)
        both = np.tensordot(weight, rows, axes=(1, 2))  # (size of columns, size of rows, B, 3)
        out[start : start + BATCH] = np.floor(both.transpose(2, 1, 0, 3) + 0.5)
    return out


def checksum(splits: dict[str, Split]) -> str:
    """SHA-256 of the arrays as they are used, whatever file they came from; hexadecimal."""
    digest = hashlib.sha256()
    for name in SPLITS:
        for array in (splits[name].images, splits[name].labels.astype("<i8")):
            digest.update(f"{name} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def read_about(path: Path, n_classes: int, n_ood_classes: int) -> dict[str, Any]:
    """What dataset.json says of the name and the classes; numbered classes where there is no such file."""
    try:
        about = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        name, synthetic = about.get("name", path.parent.resolve().name), about.get("synthetic", False)
        known = {"name": name, "synthetic": synthetic}
        for key, n in (("class_names", n_classes), ("ood_class_names", n_ood_classes)):
            names = about.get(key, [f"class {i}" for i in range(n)])
            known[key] = tuple(str(names[i]) for i in range(n))
    except DAMAGE as error:
        lists = f"lists of {n_classes} class_names and {n_ood_classes} ood_class_names"
        raise DataError(f"{path}: is no JSON object with {lists} ({error}); mend or remove it") from error
    return known


def cache_folder(config: DataConfig) -> Path:
    """Where a built dataset lies: its name and a hash of all that determines its images."""
    text = json.dumps(_parameters(config), sort_keys=True)
    return data_root() / f"{config.name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def build(config: DataConfig, folder: Path) -> None:
    """Make a dataset at `folder`, which appears whole or not at all; one process builds, others wait."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial")
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if folder.exists():  # another process built it while we waited
            return
        shutil.rmtree(partial, ignore_errors=True)  # of a build that was killed
        try:
            _write(config, partial)
            partial.replace(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _builder(config: DataConfig) -> ModuleType:
    """The module that makes this dataset; loaded here because it imports this one."""
    return importlib.import_module(f"manyviews.data.{config.name.replace('-', '_')}")


def _parameters(config: DataConfig) -> dict[str, int | None]:
    """All that determines a built dataset. Not the path of a zip: every valid one holds the same images."""
    builder = _builder(config)
    return {"recipe": builder.RECIPE, **{key: getattr(config, key) for key in builder.DETERMINED_BY}}


def _write(config: DataConfig, folder: Path) -> None:
    builder = _builder(config)
    splits, class_names, ood_class_names = builder.build(config)
    folder.mkdir()
    for name, split in splits.items():
        np.savez(folder / f"{name}.npz", images=split.images, labels=split.labels)
    about = {
        "name": config.name,
        "synthetic": builder.SYNTHETIC,
        "parameters": _parameters(config),
        "class_names": class_names,
        "ood_class_names": ood_class_names,
    }
    write_json(folder / "dataset.json", about)
