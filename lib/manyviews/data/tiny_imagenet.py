"""Tiny-ImageNet as a dataset of this project, read from its official zip without unpacking it.

The split is ours: of the 200 sorted class ids the 1st, 3rd, 5th, ... are the classes to train on (500
training images each; their 50 validation images are `val`), and the other hundred lend their 50 validation
images each to `ood`. The training images of those hundred are never read.
"""

import io
import os
import zipfile
from collections import defaultdict
from http.client import HTTPException
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image
from tqdm import tqdm

from manyviews.config.paths import ROOT, data_root
from manyviews.config.schema import DataConfig
from manyviews.data.dataset import DAMAGE, LIMITS, Built, DataError, Split, area_downsample, demand

RECIPE = 1  # counts changes of the arrays made from the same zip
DETERMINED_BY = (*LIMITS, "image_size")
SYNTHETIC = False

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
ZIP_NAME = "tiny-imagenet-200.zip"
ZIP_VARIABLE = "MANYVIEWS_TINY_IMAGENET"
TOP = "tiny-imagenet-200/"  # the folder in the zip that holds all else
SIDE = 64  # pixels, of every image in the zip


def build(config: DataConfig) -> Built:
    """Read the three splits from the zip, which find_zip looks for or fetches.

    Args:
        config: classes, ood_classes: fewer than 100 are evenly spaced among the sorted hundred, for
            neighbours in that order are near relatives. Images per class: the first so many. None: all.
            image_size: at most 64 pixels; smaller images are area averages.
    Returns:
        Images ordered by class.
    Raises:
        DataError: a broken zip, a missing member, or fewer classes, images or pixels than asked for.
    """
    demand(config.image_size <= SIDE, f"data.image_size is {config.image_size}, set it to {SIDE} or less")
    path = find_zip(config.path)
    try:
        with zipfile.ZipFile(path) as archive:
            members, class_names, ood_class_names = select(archive, config)
            splits = read_images(archive, members, config.image_size)
            return Built(splits.items(), class_names, ood_class_names)
    except DAMAGE as error:
        raise DataError(f"{path}: {error}; ask for less, or use the official {ZIP_NAME}, {URL}") from error


def select(archive: zipfile.ZipFile, config: DataConfig) -> tuple[dict[str, list], list[str], list[str]]:
    """Members of the zip, by split a list for each class; names of the classes and the unseen classes.

    Training images come in the order of their numbers, validation images in that of val_annotations.txt.
    """

    def lines(name: str) -> list[list[str]]:
        return [line.split("\t") for line in archive.read(f"{TOP}{name}").decode().splitlines()]

    ids = sorted(wnid for (wnid,) in lines("wnids.txt"))
    demand(len(set(ids)) == len(ids), "wnids.txt names a class twice")
    train_ids = evenly_spaced(ids[0::2], config.classes)
    ood_ids = evenly_spaced(ids[1::2], config.ood_classes)
    train, val = defaultdict(list), defaultdict(list)
    for member in archive.namelist():
        if member.startswith(f"{TOP}train/") and member.endswith(".JPEG"):
            train[member.split("/")[2]].append(member)
    for file, wnid, *_ in lines("val/val_annotations.txt"):
        val[wnid].append(f"{TOP}val/images/{file}")
    members = {
        "train": [sorted(train[wnid], key=_number)[: config.train_per_class] for wnid in train_ids],
        "val": [val[wnid][: config.val_per_class] for wnid in train_ids],
        "ood": [val[wnid][: config.ood_per_class] for wnid in ood_ids],
    }
    for split, classes in members.items():
        fewest, asked = min(map(len, classes)), getattr(config, f"{split}_per_class") or 1
        demand(fewest >= asked, f"{split} has {fewest} images of a class, fewer than {asked}")
    names = {wnid: words.split(",")[0] for wnid, words in lines("words.txt")}
    return members, [names.get(i, i) for i in train_ids], [names.get(i, i) for i in ood_ids]


def evenly_spaced(items: list[str], n: int | None) -> list[str]:
    """n of the items, evenly spaced from the first on; all of them if n is None."""
    n = len(items) if n is None else n
    demand(n <= len(items), f"wnids.txt has {len(items)} classes for a half of the split that needs {n}")
    return [items[len(items) * i // n] for i in range(n)]


def _number(member: str) -> int:
    """17 for n01443537_17.JPEG; by name, 10 would stand before 2."""
    number = member.rsplit("_", 1)[-1].removesuffix(".JPEG")
    demand(number.isdecimal(), f"{member} has no number in its name")
    return int(number)


def read_images(archive: zipfile.ZipFile, members: dict[str, list], image_size: int) -> dict[str, Split]:
    """Decode the members of all splits, one class at a time so that few images are held at full size."""
    splits = {}
    total = sum(len(of_class) for classes in members.values() for of_class in classes)
    with tqdm(total=total, desc="reading Tiny-ImageNet", unit="image", delay=2) as bar:
        for split, classes in members.items():
            images = []
            for of_class in classes:
                full = np.stack([read_image(archive, member) for member in of_class])
                images.append(area_downsample(full, image_size))
                bar.update(len(of_class))
            labels = np.repeat(np.arange(len(classes)), list(map(len, classes)))
            splits[split] = Split(np.concatenate(images), labels)
    return splits


def read_image(archive: zipfile.ZipFile, member: str) -> np.ndarray:
    """One member as RGB, shape (64, 64, 3) uint8; some are stored in grayscale."""
    contents = archive.read(member)
    try:
        with Image.open(io.BytesIO(contents)) as picture:
            pixels = np.asarray(picture.convert("RGB"))
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise DataError(f"{member} is damaged ({error})") from error
    demand(pixels.shape == (SIDE, SIDE, 3), f"{member} has shape {pixels.shape}, not {(SIDE, SIDE, 3)}")
    return pixels


def find_zip(path: str | None) -> Path:
    """The zip: the given path, else $MANYVIEWS_TINY_IMAGENET, else the data folder's, else a download.

    Only the download is held to the official MD5; of another file what is needed is checked as it is read.
    """
    given = ROOT / path if path else os.environ.get(ZIP_VARIABLE)
    if given:
        fix = f"data.path and ${ZIP_VARIABLE} must name {ZIP_NAME} or be left out"
        demand(Path(given).is_file(), f"{given}: no such file; {fix}")
        return Path(given)
    target = data_root() / ZIP_NAME
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{ZIP_NAME}.lock")):  # others wait for the one that fetches
        if not target.is_file():
            fetch(target)
    return target


def fetch(target: Path) -> None:
    """Download the official zip with a progress bar; it appears whole and with its MD5, else DataError."""
    from torchvision.datasets.utils import download_url  # slow to import, seldom needed

    part = target.with_name(f".{target.name}.part")
    try:
        download_url(URL, str(part.parent), part.name, MD5)
        part.replace(target)
    except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError: another MD5
        raise DataError(
            f"{URL}: not fetched ({error}); run again, or on a slow line fetch it in parts by "
            f"curl -L -C - -o '{target}' {URL} and compare its MD5 with {MD5}"
        ) from error
    finally:
        part.unlink(missing_ok=True)
