"""A dataset that torchvision has, and downloads: pictures in classes, of which some are set aside as unseen.

As with a folder of pictures: see images.py. torchvision's test or validation part is `val`.
"""

import hashlib
from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock

from manyviews.config.errors import is_full
from manyviews.config.paths import ROOT, data_root
from manyviews.config.schema import DataConfig
from manyviews.data import images
from manyviews.data.dataset import Built, DataError

RECIPE = 1  # counts changes of the arrays made from the same pictures
DETERMINED_BY = ("dataset", *(key for key in images.DETERMINED_BY if key not in ("path", "val_list")))
SYNTHETIC = False

TRAIN_OR_NOT = ({"train": True}, {"train": False})
TRAIN_TEST = ({"split": "train"}, {"split": "test"})
TRAINVAL_TEST = ({"split": "trainval"}, {"split": "test"})
PARTS: dict[str, tuple[dict[str, Any], ...]] = {  # arguments for `train` and, where there is one, `val`
    "CIFAR10": TRAIN_OR_NOT,
    "CIFAR100": TRAIN_OR_NOT,
    "Country211": ({"split": "train"}, {"split": "valid"}),
    "DTD": TRAIN_TEST,
    "EuroSAT": ({},),
    "FGVCAircraft": TRAINVAL_TEST,
    "FashionMNIST": TRAIN_OR_NOT,
    "Flowers102": TRAIN_TEST,
    "Food101": TRAIN_TEST,
    "MNIST": TRAIN_OR_NOT,
    "OxfordIIITPet": TRAINVAL_TEST,
    "STL10": TRAIN_TEST,
    "SUN397": ({},),
    "SVHN": TRAIN_TEST,
}


class Item(NamedTuple):
    """A picture of one of torchvision's datasets."""

    of: Any
    part: int  # of PARTS
    index: int

    def __str__(self) -> str:
        return f"{type(self.of).__name__}, {PARTS[type(self.of).__name__][self.part]}, {self.index}"


def build(config: DataConfig) -> Built:
    """The pictures as squares of data.image_size pixels.

    Raises:
        DataError: it is not there and cannot be downloaded, or has fewer classes or pictures than asked for.
    """
    name = str(config.dataset)
    root = ROOT / config.path if config.path else data_root() / "torchvision"
    parts = [by_class(get(name, root, options), i) for i, options in enumerate(PARTS[name])]
    return images.divide(parts[0], parts[1] if len(parts) > 1 else None, None, root / name, config, read_item)


def get(name: str, root: Any, options: dict[str, Any]) -> Any:
    """A part of a dataset, downloaded by torchvision unless it lies in the folder."""
    from torchvision import datasets  # slow to import, seldom needed

    root.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(root / ".lock"):  # others wait for the one that downloads
            return getattr(datasets, name)(str(root), download=True, **options)
    except (OSError, RuntimeError) as error:  # RuntimeError: another checksum, or no mirror left
        if is_full(error):
            raise
        fetch = "; ".join(f"{name}('FOLDER', download=True, **{of})" for of in PARTS[name])
        raise DataError(
            f"{root}: torchvision could not get {name} ({error}); run again, or where there is a network run "
            f'`python -c "from torchvision.datasets import *; {fetch}"` and let data.path name the FOLDER'
        ) from error


def by_class(of: Any, part: int) -> images.Classes:
    """Its pictures by name of the class."""
    labels = next(getattr(of, key) for key in ("targets", "labels", "_labels") if hasattr(of, key))
    found = defaultdict(list)
    for index, label in enumerate(np.asarray(labels).tolist()):
        found[label].append(Item(of, part, index))
    names = getattr(of, "classes", range(max(found) + 1))
    return {str(names[label]): found[label] for label in sorted(found)}


def read_item(item: Item, size: int, fit: str) -> tuple[np.ndarray | None, str, str]:
    """As images.read_picture does; the SHA-256 is of the pixels as they come."""
    checksum = ""
    try:
        picture = item.of[item.index][0]
        checksum = hashlib.sha256(picture.tobytes()).hexdigest()
        return images.fitted(picture, size, fit), checksum, ""
    except Exception as error:  # Pillow raises many kinds
        return None, checksum, images.reason_of(error)
