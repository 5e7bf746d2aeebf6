"""Tiny-ImageNet as a dataset of this project, from its zip, which is not unpacked, or from a folder.

The split is ours: of the 200 sorted class ids the 1st, 3rd, 5th, ... are the classes to train on (500
training images each; their 50 validation images are `val`), and the other hundred lend their 50 validation
images each to `ood`. The training images of those hundred are never read.
"""

import os
import zipfile
from collections import defaultdict
from http.client import HTTPException
from pathlib import Path
from typing import Any

from filelock import FileLock

from manyviews.config.errors import is_full
from manyviews.config.paths import ROOT, data_root
from manyviews.config.schema import LIMITS, DataConfig
from manyviews.data.dataset import DAMAGE, Built, DataError, demand
from manyviews.data.images import Plan, follow

RECIPE = 1  # counts changes of the arrays made from the same zip
DETERMINED_BY = (*LIMITS, "path", "image_size")
SYNTHETIC = False

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
ZIP_NAME = "tiny-imagenet-200.zip"
ZIP_VARIABLE = "MANYVIEWS_TINY_IMAGENET"
IDS, LIST = "wnids.txt", "val/val_annotations.txt"
FIX = f"ask for less, or use the official {ZIP_NAME}, {URL}"
SIDE = 64  # pixels, of every image in the zip

Files = dict[str, Any]  # Path or zipfile.Path


def build(config: DataConfig) -> Built:
    """Read the three splits from the zip or folder that find looks for or fetches.

    Args:
        config: classes, ood_classes: fewer than 100 are evenly spaced among the sorted hundred, for
            neighbours in that order are near relatives. Images per class: the first so many. None: all.
            image_size: at most 64 pixels; smaller images are area averages.
    Returns:
        Images ordered by class.
    Raises:
        DataError: a broken zip, a missing file, or fewer classes, images or pixels than asked for.
    """
    demand(config.image_size <= SIDE, f"data.image_size is {config.image_size}, set it to {SIDE} or less")
    path = find(config.path)
    try:
        plan, class_names, ood_class_names = select(list_files(path), config)
    except DAMAGE as error:
        raise DataError(f"{path}: {error}; {FIX}") from error
    return follow(plan, class_names, ood_class_names, path, config, fix=FIX)


def list_files(path: Path) -> Files:
    """The files of a folder or zip by their path beside wnids.txt, whatever folder that lies in."""
    if path.is_dir():
        files: Files = {file.relative_to(path).as_posix(): file for file in path.rglob("*")}
    else:
        archive = zipfile.ZipFile(path)
        files = {name: zipfile.Path(archive, name) for name in archive.namelist()}
    tops = [name.removesuffix(IDS) for name in files if name.rpartition("/")[2] == IDS]
    demand(len(tops) > 0, f"has no {IDS}")
    top = min(tops, key=len)  # of what some archives hold twice
    return {name.removeprefix(top): file for name, file in files.items() if name.startswith(top)}


def select(files: Files, config: DataConfig) -> tuple[Plan, list[str], list[str]]:
    """Which files to read; names of the classes and the unseen classes.

    Training images come in the order of their numbers, validation images in that of val_annotations.txt.
    Where people sorted these into a folder for each class and left out the list, their numbers count too.
    """

    def lines(name: str) -> list[list[str]]:
        return [line.split("\t") for line in files[name].read_text(encoding="utf-8").splitlines()]

    ids = sorted(wnid for (wnid,) in lines(IDS))
    demand(len(set(ids)) == len(ids), f"{IDS} names a class twice")
    train_ids = evenly_spaced(ids[0::2], config.classes)
    ood_ids = evenly_spaced(ids[1::2], config.ood_classes)
    pictures = [Path(name) for name in files if name.endswith(".JPEG") and "/." not in name]
    train, val = defaultdict(list), defaultdict(list)
    for picture in (picture for picture in pictures if picture.parts[0] == "train"):
        train[picture.parts[1]].append(picture)
    of_val = {picture.name: picture for picture in pictures if picture.parts[0] == "val"}
    listed = (
        lines(LIST) if LIST in files else [(p.name, p.parts[1]) for p in sorted(of_val.values(), key=_number)]
    )
    for file, wnid, *_ in listed:
        val[wnid].append(of_val[file])
    chosen = {
        "train": {wnid: sorted(train[wnid], key=_number)[: config.train_per_class] for wnid in train_ids},
        "val": {wnid: val[wnid][: config.val_per_class] for wnid in train_ids},
        "ood": {wnid: val[wnid][: config.ood_per_class] for wnid in ood_ids},
    }
    plan: Plan = []
    for split, classes in chosen.items():
        fewest, asked = min(map(len, classes.values())), getattr(config, f"{split}_per_class") or 1
        demand(fewest >= asked, f"{split} has {fewest} images of a class, fewer than {asked}")
        for label, (wnid, of_class) in enumerate(classes.items()):
            plan.append((wnid, [files[p.as_posix()] for p in of_class], [(split, label, len(of_class))]))
    names = {wnid: words.split(",")[0] for wnid, words in lines("words.txt")}
    return plan, [names.get(i, i) for i in train_ids], [names.get(i, i) for i in ood_ids]


def evenly_spaced(items: list[str], n: int | None) -> list[str]:
    """n of the items, evenly spaced from the first on; all of them if n is None."""
    n = len(items) if n is None else n
    demand(n <= len(items), f"wnids.txt has {len(items)} classes for a half of the split that needs {n}")
    return [items[len(items) * i // n] for i in range(n)]


def _number(picture: Path) -> int:
    """17 for n01443537_17.JPEG; by name, 10 would stand before 2."""
    number = picture.stem.rpartition("_")[2]
    demand(number.isdecimal(), f"{picture} has no number in its name")
    return int(number)


def find(path: str | None) -> Path:
    """The zip or folder: the given one, else $MANYVIEWS_TINY_IMAGENET, else in the data folder, or fetched.

    Only the download is held to the official MD5; of another file what is needed is checked as it is read.
    """
    given = ROOT / path if path else os.environ.get(ZIP_VARIABLE)
    if given:
        fix = f"data.path and ${ZIP_VARIABLE} must name {ZIP_NAME}, its folder, or be left out"
        demand(Path(given).exists(), f"{given}: no such file or folder; {fix}")
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
        if is_full(error):
            raise
        raise DataError(
            f"{URL}: not fetched ({error}); run again, or on a slow line fetch it in parts by "
            f"curl -L -C - -o '{target}' {URL} and compare its MD5 with {MD5}"
        ) from error
    finally:
        part.unlink(missing_ok=True)
