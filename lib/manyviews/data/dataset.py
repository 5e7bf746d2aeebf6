"""Datasets: a folder with train.npz, val.npz and ood.npz, each of `images` and `labels`.

images: (N, H, W, 3) uint8, red first, H = W; labels: (N,) integers 0 .. C - 1. train and val share their
classes; the classes of ood are others, numbered from 0 again. A dataset.json beside them may name it and its
classes. In place of train.npz there may be train_images.npy and train_labels.npy, as in what is built here:
these are mapped into memory, not read, so that a dataset may be larger than memory.

A dataset that can be built is a module of this room (tiny-imagenet: tiny_imagenet.py) that has
    RECIPE         counts changes of the images that a configuration gives
    DETERMINED_BY  the fields of DataConfig that determine the images
    SYNTHETIC      whether the images are made by a program
    build(config)  draws or reads the images; returns them as Built
"""

import csv
import hashlib
import importlib
import io
import json
import mmap
import os
import shutil
import sys
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
from filelock import FileLock

from manyviews.config.files import naming, write_json
from manyviews.config.paths import ROOT, data_root
from manyviews.config.schema import ConfigError, DataConfig

if TYPE_CHECKING:
    import torch

SPLITS = ("train", "val", "ood")
# What numpy, zipfile and json raise on damaged or other files; RuntimeError: encrypted, or an unknown
# compression; MemoryError: a damaged header that asks for more than there is.
DAMAGE = (OSError, EOFError, zlib.error, BadZipFile, ValueError, TypeError, LookupError, AttributeError)
DAMAGE += (RuntimeError, MemoryError)
BATCH = 256  # images resized at once; changes memory, not results
AGAIN = " (if it lies in the cache, remove its folder, and it is built again)"
REPAIR = f"make it again{AGAIN}"


class DataError(ConfigError):
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
        """Images as a tensor (N, 3, H, W) uint8 that shares their memory, or their file."""
        import torch  # only here, so that this module is quick to import

        return torch.from_numpy(self.images).permute(0, 3, 1, 2)

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
    duplicates: dict[str, int] = field(
        default_factory=dict
    )  # how many images make accuracies too good, and how

    def __str__(self) -> str:
        lines = [f"{self.name}{' (synthetic)' if self.synthetic else ''}"]
        for name in SPLITS:
            split = getattr(self, name)
            counts, (n, *shape) = np.bincount(split.labels), split.images.shape
            each = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
            lines.append(f"{name:6}{n:7} images {'x'.join(map(str, shape))}, {len(counts)} classes x {each}")
        return "\n".join([*lines, f"sha256 {self.checksum}"])


class Built(NamedTuple):
    """What a builder gives; no piece need be made before the one before it is stored."""

    pieces: Iterable[tuple[str, Split]]  # name of a split, and the next images of it
    class_names: Sequence[str]
    ood_class_names: Sequence[str]
    manifest: Sequence[dict[str, Any]] = ()  # a row for each file, complete after the last piece


def load_dataset(config: DataConfig) -> Dataset:
    """Load the configured dataset; all but a folder of arrays are first built into the cache if need be.

    Says on stderr what makes accuracies too good: exact duplicates between what probes fit on and score.

    Raises:
        DataError: the data are missing, damaged, or smaller than the configuration asks for.
    """
    if config.name == "folder":
        dataset = load_folder(ROOT / config.path, config)
    else:
        folder = cache_folder(config)
        if not folder.exists():
            build(config, folder)
        dataset = load_folder(folder, built=True)
    for what, n in dataset.duplicates.items():
        if n:
            warn(f"{dataset.name}: {n} {what}, to the pixel; accuracies may be too good")
    return dataset


def warn(problem: str) -> None:
    """A line on stderr for what is no error; in a notebook it is shown, and not compared."""
    print(f"Warning: {problem}", file=sys.stderr, flush=True)


def duplicates(splits: dict[str, Split]) -> dict[str, int]:
    """Counts of images that are scored and equal, to the pixel, to one that the probes may be fitted on."""
    hashes = {name: [hash(i.tobytes()) for i in splits[name].images] for name in SPLITS}
    train, ood = set(hashes["train"]), hashes["ood"]
    return {
        "validation images are equal to training images": sum(h in train for h in hashes["val"]),
        "images of unseen classes are equal to others of them": len(ood) - len(set(ood)),
    }


def load_folder(folder: Path | str, limits: DataConfig | None = None, built: bool = False) -> Dataset:
    """Load and check the three files of a folder.

    Args:
        folder: holds train.npz, val.npz and ood.npz.
        limits: take the first so many classes, and the first so many images of each, as area averages of
            so many pixels. None: all, as they are.
        built: what was found when it was built is taken from dataset.json, so that no image is read.
    Raises:
        DataError: a file is missing, damaged or of another format, the splits do not fit each other, or they
            have fewer classes, images or pixels than asked for.
    """
    folder, splits = Path(folder), {}
    for name in SPLITS:
        mapped = folder / f"{name}_images.npy"
        path = mapped if mapped.exists() else folder / f"{name}.npz"
        try:
            split = read_npy(path, trusted=built) if path == mapped else read_npz(path)
            split = take_first(split, name, limits) if limits else split
            check_fit(splits.get("train", split), split, same_classes=name == "val")
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        splits[name] = split
    about = read_about(folder / "dataset.json", splits["train"].n_classes, splits["ood"].n_classes)
    if not built or about["checksum"] is None:  # None: built before these were kept
        about |= {"checksum": checksum(splits), "duplicates": duplicates(splits)}
    return Dataset(**about, **splits)


def demand(condition: bool, problem: str) -> None:
    """DataError unless the condition holds; load_folder names the file."""
    if not condition:
        raise DataError(problem)


def read_npz(path: Path) -> Split:
    """The images and labels of one file; pickled contents are refused."""
    demand(path.is_file(), f"no such file; a dataset is a folder with train.npz, val.npz and ood.npz{AGAIN}")
    arrays, key = {}, "images"
    try:
        with np.load(path, allow_pickle=False) as file:
            for key in ("images", "labels"):
                demand(key in file, f"has no '{key}'; save an array of that name")
                arrays[key] = file[key]
                demand(isinstance(arrays[key], np.ndarray), f"'{key}' is no array")
    except DataError:
        raise
    except DAMAGE as error:
        raise DataError(f"'{key}' cannot be read as a plain array of an .npz ({error}); {REPAIR}") from error
    return checked(arrays["images"], arrays["labels"])


def read_npy(path: Path, trusted: bool = False) -> Split:
    """Images mapped from `<split>_images.npy`, labels from the file beside it; see checked."""
    beside = path.with_name(path.name.replace("images", "labels"))
    try:
        return checked(map_images(path), np.load(beside, allow_pickle=False), trusted)
    except DataError:
        raise
    except DAMAGE as error:
        raise DataError(f"cannot be read, with {beside.name}, as plain arrays ({error}); {REPAIR}") from error


def map_images(path: Path) -> np.memmap:
    """An .npy file mapped into memory, its changes kept from the file.

    Of one that memory could not keep, only what is asked for is read: images come one by one, in any order,
    and some systems read megabytes after each. One that memory can keep is best read ahead.
    """
    images = np.load(path, mmap_mode="c", allow_pickle=False)
    if images.nbytes > memory() / 4:  # other programs, and runs, need their part
        images._mmap.madvise(mmap.MADV_RANDOM)
    return images


def memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def checked(images: np.ndarray, labels: np.ndarray, trusted: bool = False) -> Split:
    """The arrays as a split; DataError unless they have its format. `trusted`: their pixels are not read."""
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
    brightest = 255 if trusted else max(int(images[at : at + BATCH].max()) for at in range(0, n, BATCH))
    demand(brightest > 1, f"'images' goes up to {brightest}, so all are black; save 0 to 255, not 0 to 1")
    return Split(images, labels.astype(np.int64))


def check_fit(train: Split, split: Split, same_classes: bool) -> None:
    """DataError unless a split fits train.npz."""
    side, train_side = split.images.shape[1], train.images.shape[1]
    n, train_n = split.n_classes, train.n_classes
    demand(n > 1, "'labels' has one class; the probes tell two or more apart")
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

    images: (N, H, W, 3) uint8, to (N, size, size, 3) uint8, size at most H and W pixels. By hand because
    Pillow's box filter rounds twice, once for rows and once for columns.
    """
    if images.shape[1:3] == (size, size):
        return images
    of_rows, of_columns = (_overlap(old, size) for old in images.shape[1:3])
    out = np.empty((len(images), size, size, 3), dtype=np.uint8)
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH].astype(np.float32)
        rows = np.tensordot(of_rows, batch, axes=(1, 1))  # (size, B, W, 3)
        both = np.tensordot(of_columns, rows, axes=(1, 2))  # (size of columns, size of rows, B, 3)
        out[start : start + BATCH] = np.floor(both.transpose(2, 1, 0, 3) + 0.5)
    return out


def _overlap(old: int, new: int) -> np.ndarray:
    """The part of each new pixel that each old one fills: (new, old) float32, rows sum to 1."""
    edges = np.arange(new + 1) * (old / new)
    pixel = np.arange(old)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return (np.clip(overlap, 0, None) * (new / old)).astype(np.float32)


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
        known: dict[str, Any] = {
            "name": about.get("name", path.parent.resolve().name),
            "synthetic": about.get("synthetic", False),
            "checksum": about.get("checksum"),
            "duplicates": about.get("duplicates", {}),
        }
        demand(isinstance(known["name"], str), "'name' is no text")
        demand(isinstance(known["synthetic"], bool), "'synthetic' is neither true nor false")
        for key, n in (("class_names", n_classes), ("ood_class_names", n_ood_classes)):
            names = about.get(key, [f"class {i}" for i in range(n)])
            known[key] = tuple(str(names[i]) for i in range(n))
    except DAMAGE as error:
        lists = f"lists of {n_classes} class_names and {n_ood_classes} ood_class_names"
        raise DataError(f"{path}: is no JSON object with {lists} ({error}); mend or remove it") from error
    return known


def recognised(path: Path) -> str:
    """The data.name of what lies at a path.

    Raises:
        DataError: none that is known; lists what was looked for.
    """
    if path.is_dir():
        if any((path / f"train{ending}").is_file() for ending in (".npz", "_images.npy")):
            return "folder"
        if any(path.glob("wnids.txt")) or any(path.glob("*/wnids.txt")):
            return "tiny-imagenet"
        if any(inner.is_dir() and not inner.name.startswith(".") for inner in path.iterdir()):
            return "images"
    elif zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                if any(name.endswith("wnids.txt") for name in archive.namelist()):
                    return "tiny-imagenet"
        except BadZipFile as error:
            raise DataError(f"{path}: a damaged zip ({error}); fetch it again") from None
    raise DataError(
        f"{path}: {'has none' if path.exists() else 'is not there; it must have one'} of these: a folder "
        "for each class, of pictures; train.npz, val.npz and ood.npz; wnids.txt of Tiny-ImageNet, or its zip"
    )


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
            with naming(folder):
                _write(config, partial)
            partial.replace(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _builder(config: DataConfig) -> ModuleType:
    """The module that makes this dataset; loaded here because it imports this one."""
    return importlib.import_module(f"manyviews.data.{config.name.replace('-', '_')}")


def _parameters(config: DataConfig) -> dict[str, int | None]:
    """All that determines a built dataset, but for what the files at its path hold."""
    builder = _builder(config)
    return {"recipe": builder.RECIPE, **{key: getattr(config, key) for key in builder.DETERMINED_BY}}


def _write(config: DataConfig, folder: Path) -> None:
    builder = _builder(config)
    folder.mkdir()
    built: Built = builder.build(config)
    write_pieces(built.pieces, folder)
    if built.manifest:
        with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, built.manifest[0])
            table.writeheader()
            table.writerows(built.manifest)
    about = {
        "name": config.title,
        "synthetic": builder.SYNTHETIC,
        "parameters": _parameters(config),
        "class_names": list(built.class_names),
        "ood_class_names": list(built.ood_class_names),
    }
    write_json(folder / "dataset.json", about)
    dataset = load_folder(folder)  # checks it, and looks at all images this once
    write_json(
        folder / "dataset.json", about | {key: getattr(dataset, key) for key in ("checksum", "duplicates")}
    )


def write_pieces(pieces: Iterable[tuple[str, Split]], folder: Path) -> None:
    """Append the images of each split to its file as they come; how many there are is known at the end."""
    labels: dict[str, list[np.ndarray]] = {name: [] for name in SPLITS}
    with ExitStack() as stack:
        files = {name: stack.enter_context((folder / f"{name}_images.npy").open("wb")) for name in SPLITS}
        for name, piece in pieces:
            if not labels[name]:
                _write_header(files[name], 0, piece)
            files[name].write(np.ascontiguousarray(piece.images).data)
            labels[name].append(piece.labels)
        for name, of_pieces in labels.items():
            of_split = np.concatenate(of_pieces)
            files[name].seek(0)
            _write_header(files[name], len(of_split), piece)
            whole = io.BytesIO()
            np.save(whole, of_split)  # to memory: its error of a full disk tells no cause
            (folder / f"{name}_labels.npy").write_bytes(whole.getbuffer())


def _write_header(file: Any, n: int, piece: Split) -> None:
    """The header of an .npy; numpy leaves room in it for any number of images."""
    about = {"descr": "|u1", "fortran_order": False, "shape": (n, *piece.images.shape[1:])}
    np.lib.format.write_array_header_1_0(file, about)
