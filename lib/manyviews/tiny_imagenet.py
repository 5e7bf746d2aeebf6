"""Tiny-ImageNet as a dataset of this project, read from its official zip without unpacking it.

The split is ours: of the 200 sorted class ids the 1st, 3rd, 5th, ... are the classes to train on (500
training images each; their 50 validation images are `val`), and the other hundred lend their 50 validation
images each to `ood`. The training images of those hundred are never read.
"""

import hashlib
import http.client
import io
import os
import urllib.error
import urllib.request
import zipfile
import zlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image
from tqdm import tqdm

from manyviews import paths

RECIPE = 1  # counts changes of the arrays made from the same zip
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
ZIP_NAME = "tiny-imagenet-200.zip"
ZIP_VARIABLE = "MANYVIEWS_TINY_IMAGENET"
SIDE = 64  # pixels, of every image in the zip
MOST_CLASSES = 100  # in each half of the split
ATTEMPTS = 5  # of a download, each going on where the last one broke off
TIMEOUT = 30  # seconds without a byte
CHUNK = 1 << 20  # bytes
# What reading a damaged zip raises; a damaged picture is an OSError too.
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError)


class DataError(ValueError):
    """Data that cannot be used; the message names the file, what is wrong with it and the fix."""


@dataclass(frozen=True)
class Plan:
    """Which members of the zip make up a dataset; per split, one list of members for each class."""

    train: list[list[str]]
    val: list[list[str]]
    ood: list[list[str]]
    class_names: list[str]
    ood_class_names: list[str]


def make_splits(
    zip_path: Path,
    classes: int | None = None,
    ood_classes: int | None = None,
    train_per_class: int | None = None,
    val_per_class: int | None = None,
    ood_per_class: int | None = None,
    image_size: int = SIDE,
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], list[str], list[str]]:
    """Read the three splits from the zip.

    Args:
        zip_path: file of the official layout.
        classes, ood_classes: how many; fewer than 100 are taken evenly spaced from the sorted hundred, for
            neighbours in that order are near relatives. None: all.
        train_per_class, val_per_class, ood_per_class: the first so many of each class. None: all.
        image_size: height and width in pixels, at most 64; smaller ones are area averages.
    Returns:
        ({"train": (images, labels), "val": ..., "ood": ...}, class names, OOD class names) with images
        (N, H, W, 3) uint8 and labels (N,) int64, ordered by class.
    Raises:
        DataError: a broken zip, a missing member, or fewer classes, images or pixels than asked for.
    """
    check_request(classes, ood_classes, image_size)
    try:
        with zipfile.ZipFile(zip_path) as archive:
            plan = make_plan(archive, zip_path, classes, ood_classes)
            wanted = {"train": train_per_class, "val": val_per_class, "ood": ood_per_class}
            members = {s: _first(getattr(plan, s), n, s, zip_path) for s, n in wanted.items()}
            splits = _read_all(archive, zip_path, members, image_size)
    except DataError:
        raise
    except (*DAMAGE, ValueError) as error:  # ValueError: a name or a line of another form
        raise DataError(f"{zip_path}: is damaged or not {ZIP_NAME} ({error}); fetch {URL} again") from error
    return splits, plan.class_names, plan.ood_class_names


def check_request(classes: int | None, ood_classes: int | None, image_size: int) -> None:
    """DataError if Tiny-ImageNet has too few classes or pixels; before anything is fetched."""
    for key, n in (("classes", classes), ("ood_classes", ood_classes)):
        if n is not None and n > MOST_CLASSES:
            raise DataError(f"tiny-imagenet: {key} is {n}; the split has {MOST_CLASSES}, ask for no more")
    if image_size > SIDE:
        raise DataError(f"tiny-imagenet: image_size is {image_size}; the images have {SIDE} pixels a side")


def make_plan(archive: zipfile.ZipFile, zip_path: Path, classes: int | None, ood_classes: int | None) -> Plan:
    """The members of the asked-for classes; training images by number, validation images as annotated."""
    names = archive.namelist()
    root = next((n.removesuffix("wnids.txt") for n in names if n.split("/")[-1] == "wnids.txt"), None)
    if root is None:
        raise DataError(f"{zip_path}: has no wnids.txt; it must be the official {ZIP_NAME}")
    ids = sorted(_text(archive, zip_path, root + "wnids.txt").split())
    if len(ids) < 2 * max(classes or 1, ood_classes or 1):
        raise DataError(f"{zip_path}: wnids.txt has {len(ids)} ids; ask for fewer classes or use {ZIP_NAME}")
    train_ids, ood_ids = evenly_spaced(ids[0::2], classes), evenly_spaced(ids[1::2], ood_classes)

    train = defaultdict(list)
    for name in names:
        parts = name.removeprefix(root).split("/")
        if len(parts) == 4 and parts[0] == "train" and parts[2] == "images" and name.endswith(".JPEG"):
            train[parts[1]].append(name)
    val = defaultdict(list)
    for line in _text(archive, zip_path, root + "val/val_annotations.txt").splitlines():
        file, wnid = line.split("\t")[:2]
        val[wnid].append(f"{root}val/images/{file}")
    words = dict(line.split("\t", 1) for line in _text(archive, zip_path, root + "words.txt").splitlines())

    return Plan(
        train=[sorted(train[wnid], key=_number) for wnid in train_ids],
        val=[val[wnid] for wnid in train_ids],
        ood=[val[wnid] for wnid in ood_ids],
        class_names=[words.get(wnid, wnid).split(",")[0] for wnid in train_ids],
        ood_class_names=[words.get(wnid, wnid).split(",")[0] for wnid in ood_ids],
    )


def evenly_spaced(items: list[str], n: int | None) -> list[str]:
    """n of the items (no more than there are), evenly spaced from the first on; all of them if n is None."""
    n = len(items) if n is None else n
    return [items[len(items) * i // n] for i in range(n)]


def _number(member: str) -> int:
    """17 for n01443537_17.JPEG."""
    return int(member.rsplit("_", 1)[1].removesuffix(".JPEG"))


def _text(archive: zipfile.ZipFile, zip_path: Path, member: str) -> str:
    try:
        return archive.read(member).decode()
    except KeyError:
        raise DataError(f"{zip_path}: has no {member}; it must be the official {ZIP_NAME}") from None


def _first(members: list[list[str]], n: int | None, split: str, zip_path: Path) -> list[list[str]]:
    """The first n members of each class, or all of them; DataError where there are fewer."""
    fewest = min(len(of_class) for of_class in members)
    if fewest < (n or 1):
        raise DataError(
            f"{zip_path}: {split} has a class with {fewest} images, fewer than the {n or 1} needed; "
            f"lower data.{split}_per_class or use the official {ZIP_NAME}"
        )
    return [of_class[:n] for of_class in members]


def _read_all(
    archive: zipfile.ZipFile, zip_path: Path, members: dict[str, list[list[str]]], image_size: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Decode the members of all splits, one class at a time so that few images are held at full size."""
    splits = {}
    total = sum(len(of_class) for split in members.values() for of_class in split)
    with tqdm(total=total, desc="reading Tiny-ImageNet", unit="image", delay=2) as bar:
        for split, classes in members.items():
            images = []
            for of_class in classes:
                full = np.stack([_image(archive, zip_path, member) for member in of_class])
                images.append(area_downsample(full, image_size))
                bar.update(len(of_class))
            labels = np.repeat(np.arange(len(classes)), [len(of_class) for of_class in classes])
            splits[split] = (np.concatenate(images), labels)
    return splits


def _image(archive: zipfile.ZipFile, zip_path: Path, member: str) -> np.ndarray:
    """One member as RGB, shape (64, 64, 3) uint8; some are stored in grayscale."""
    try:
        with Image.open(io.BytesIO(archive.read(member))) as picture:
            pixels = np.asarray(picture.convert("RGB"))
    except KeyError:
        raise DataError(f"{zip_path}: has no {member}; use the official {ZIP_NAME}") from None
    except DAMAGE as error:
        raise DataError(f"{zip_path}: {member} is damaged ({error}); fetch {URL} again") from error
    if pixels.shape != (SIDE, SIDE, 3):
        raise DataError(f"{zip_path}: {member} has shape {pixels.shape}, not {(SIDE, SIDE, 3)}")
    return pixels


def area_downsample(images: np.ndarray, size: int) -> np.ndarray:
    """Average each new pixel over the area that it covers, in any ratio of sizes.

    Args:
        images: shape (N, H, H, 3) uint8.
        size: new height and width in pixels, at most H.
    Returns:
        Images, shape (N, size, size, 3) uint8, rounded half up.
    """
    old = images.shape[1]
    if size == old:
        return images
    edges = np.arange(size + 1) * (old / size)
    pixel = np.arange(old)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)  # (size, H)
    weight = (np.clip(overlap, 0, None) * (size / old)).astype(np.float32)
    out = np.empty((len(images), size, size, 3), dtype=np.uint8)
    for start in range(0, len(images), 256):  # in batches, for memory
        batch = images[start : start + 256].astype(np.float32)
        rows = np.tensordot(weight, batch, axes=(1, 1))  # (size, B, H, 3)
        both = np.tensordot(weight, rows, axes=(1, 2))  # (size of columns, size of rows, B, 3)
        out[start : start + 256] = np.floor(both.transpose(2, 1, 0, 3) + 0.5)
    return out


def find_zip(path: Path | None) -> Path:
    """The zip: the given path, else $MANYVIEWS_TINY_IMAGENET, else the data folder's, else a download.

    Only the download is held to the official MD5; of another file make_splits checks what it needs.
    """
    for given, origin in ((path, "data.path"), (os.environ.get(ZIP_VARIABLE), f"${ZIP_VARIABLE}")):
        if given:
            if not Path(given).is_file():
                raise DataError(f"{given}: no such file; {origin} must name {ZIP_NAME}, or be left out")
            return Path(given)
    target = paths.data_root() / ZIP_NAME
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{ZIP_NAME}.lock")):
            if not target.is_file():  # another process may have fetched it while we waited
                download(URL, target, MD5)
    return target


def download(url: str, target: Path, md5: str) -> None:
    """Fetch a file, going on where a broken connection or an earlier call left off.

    By hand because pooch 1.9 and torch.hub start from zero each time, and a slow server sends these 237 MB.

    Args:
        url: of a server that may or may not support resuming (an HTTP Range).
        target: the finished file; what has come so far is kept beside it as <name>.part.
        md5: hexadecimal; a file of another one is removed.
    Raises:
        DataError: broken off ATTEMPTS times, or another file than expected.
    """
    part = target.with_name(target.name + ".part")
    problem = None
    for _ in range(ATTEMPTS):
        try:
            _fetch_rest(url, part)
            break
        except (OSError, http.client.HTTPException) as error:  # URLError and time-outs are OSErrors
            problem = error
    else:
        raise DataError(
            f"{url}: not fetched after {ATTEMPTS} attempts ({problem}); run again to go on, or fetch it by "
            f"other means and put it at {target}"
        )
    found = _md5(part)
    if found != md5:
        part.unlink()
        raise DataError(f"{url}: MD5 is {found}, not {md5}; the file was removed, run again to fetch it anew")
    part.replace(target)


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _fetch_rest(url: str, part: Path) -> None:
    """Append to `part` what it lacks of the file; OSError if the connection ends early."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left to send; the MD5 tells whether it is the file
            return
        raise
    with response:
        if response.status != 206:  # the server sends all of it
            have = 0
        length = response.headers["Content-Length"]
        total = have + int(length) if length else None
        with (
            part.open("ab" if have else "wb") as file,
            tqdm(total=total, initial=have, desc=ZIP_NAME, unit="B", unit_scale=True) as bar,
        ):
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    if total and part.stat().st_size < total:
        raise ConnectionError(f"the connection ended at {part.stat().st_size} of {total} bytes")
