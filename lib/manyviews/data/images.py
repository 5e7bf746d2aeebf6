"""A folder of pictures, with a folder for each class, as a dataset of this project.

    PATH/CLASS/...                             val is drawn from each class
    PATH/train/CLASS/..., PATH/val/CLASS/...   torchvision's ImageFolder; ImageNet, sorted by class
    PATH/train/CLASS/..., PATH/val/FILE        with a list of the files' classes, data.val_list
    PATH/ood/CLASS/...                         beside any: the unseen classes; else some are set aside

Of classes that are set aside the pictures in val/ are used where there is one, as with Tiny-ImageNet. What is
drawn is drawn by data.seed. A file that cannot be used is left out and counted; the manifest names each.
"""

import hashlib
import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from manyviews.config.paths import ROOT
from manyviews.config.schema import LIMITS, DataConfig, suggest
from manyviews.config.surroundings import cores
from manyviews.data.dataset import SPLITS, Built, DataError, Split, area_downsample, demand, warn

RECIPE = 1  # counts changes of the arrays made from the same pictures
DETERMINED_BY = (*LIMITS, "path", "image_size", "seed", "seen", "unseen", "unseen_fraction", "val_fraction")
DETERMINED_BY += ("val_list", "fit")
SYNTHETIC = False

NOT_READ = ("valid", "validation", "test")  # what others call val/
NO_FOLDERS = ("__MACOSX",)  # and what begins with a dot
NO_PICTURES = ("Thumbs.db", "desktop.ini")  # and what begins with a dot
CHUNK = 512  # pictures decoded at a time
BLOCK = 2**20  # bytes read at a time
LARGEST = Image.MAX_IMAGE_PIXELS or 0
TOO_LARGE = f"larger than {LARGEST / 1e6:.0f} megapixels"

Classes = dict[str, list[Any]]  # what read_picture takes, by class
Quotas = list[tuple[str, int, int | None]]  # split, label, pictures; None: all that are left
Plan = list[tuple[str, list[Any], Quotas]]  # class, its files, where they go
FIX = "add some, ask for fewer or remove the class"


def build(config: DataConfig) -> Built:
    """The pictures as squares of data.image_size pixels, decoded on all cores while the pieces are taken.

    Raises:
        DataError: no such folder, another layout, or fewer classes or pictures than asked for.
    """
    root = ROOT / str(config.path)
    demand(root.is_dir(), f"{root}: no such folder; data.path must name one that has a folder for each class")
    parted = (root / "train").is_dir()
    # Beside classes, train/, val/ and ood/ are none.
    train = list_classes(root / "train") if parted else list_classes(root, but=SPLITS)
    others = [name for name in NOT_READ if (root / name).is_dir()]
    if parted and others and not (root / "val").is_dir():
        warn(f"{root / others[0]}: not read; call it val/ to validate on it, else a part of train/ is taken")
    ood = list_classes(root / "ood") if (root / "ood").is_dir() else None
    if config.val_list:
        val: Classes | None = listed(root / "val", root / config.val_list)
    else:
        val = list_classes(root / "val") if (root / "val").is_dir() else None
    return divide(train, val, ood, root, config)


def divide(
    train: Classes, val: Classes | None, ood: Classes | None, root: Path, config: DataConfig, read: Any = None
) -> Built:
    """Choose classes and draw pictures; `read` is of read_picture's form, and that by default."""
    seen, unseen = choose_classes(list(train), ood and list(ood), config)
    lacking = [name for name in seen if name not in (train if val is None else val)]
    demand(
        not lacking, f"{root / 'val'}: has no class '{', '.join(lacking[:1])}'; it must have those of train/"
    )
    plan: Plan = []
    for label, name in enumerate(seen):
        files, of_train = drawn(train[name], name, config.seed), ("train", label, config.train_per_class)
        if val is None:
            n_val = config.val_per_class or max(1, round(config.val_fraction * len(files)))
            plan.append((name, files, [("val", label, n_val), of_train]))
        else:
            plan.append((name, files, [of_train]))
            plan.append((name, drawn(val[name], name, config.seed), [("val", label, config.val_per_class)]))
    for label, name in enumerate(unseen):
        files = drawn((ood or val or train).get(name, []), name, config.seed)
        plan.append((name, files, [("ood", label, config.ood_per_class)]))
    return follow(plan, seen, unseen, root, config, read)


def list_classes(folder: Path, but: Sequence[str] = ()) -> dict[str, list[Path]]:
    """Files by class, but for hidden ones; links that lead back up, or lie in a class, are not followed."""
    above, classes = (folder.resolve(), *folder.resolve().parents), {}
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        if inner.name in but or not _is_shown(inner.name) or inner.resolve() in above:
            continue
        classes[text(inner.name)] = list_pictures(inner)
    fix = "put the pictures of each class into one of its own, or those of val/ into a list, data.val_list"
    demand(len(classes) > 0, f"{folder}: has no folders; {fix}")
    return classes


def list_pictures(folder: Path) -> list[Path]:
    """All files in a folder and below, but for hidden ones and those of desktops, sorted."""
    found = []
    for at, folders, names in os.walk(folder):
        folders[:] = filter(_is_shown, folders)  # into the others it does not go
        found += [Path(at) / name for name in names if _is_shown(name) and name not in NO_PICTURES]
    return sorted(found)


def _is_shown(name: str) -> bool:
    return not name.startswith(".") and name not in NO_FOLDERS


def listed(folder: Path, path: Path) -> Classes:
    """Files of a flat folder by class, from lines that begin with FILE CLASS, as in Kaggle's ImageNet."""
    demand(path.is_file(), f"{path}: no such file; data.val_list must name one with lines `FILE CLASS`")
    files = {name: file for file in sorted(folder.glob("*")) for name in (file.name, file.stem)}
    classes = defaultdict(list)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 ({error}); write data.val_list as UTF-8") from None
    for line in lines:
        file, name = (*re.split(r"[\s,;]+", line, maxsplit=2), "")[:2]
        if file in files:
            classes[name].append(files[file])
    demand(len(classes) > 0, f"{path}: no line `FILE CLASS` names a file of {folder}; mend data.val_list")
    return dict(classes)


def text(name: object) -> str:
    """A file's name, or one that can be written where it is not UTF-8."""
    return os.fsencode(str(name)).decode(errors="backslashreplace")


def drawn(items: Sequence[Any], key: str, seed: int) -> list[Any]:
    """Items in an order that depends on nothing but how many they are, the key and the seed."""
    return [items[i] for i in np.random.default_rng([seed, *key.encode()]).permutation(len(items))]


def choose_classes(
    classes: list[str], ood: list[str] | None, config: DataConfig
) -> tuple[list[str], list[str]]:
    """Classes to train on and unseen ones, each sorted: those listed or of ood/, else drawn by the seed."""
    of_unseen = classes if ood is None else ood
    for key, names, among in (("seen", config.seen, classes), ("unseen", config.unseen, of_unseen)):
        for name in names or ():
            some = f"there are {', '.join(sorted(among)[:5])}{', …' if len(among) > 5 else ''}"
            demand(name in among, f"data.{key}: no class '{name}'; {suggest(name, among) or some}")
    both = sorted({*(config.seen or ())} & {*(config.unseen or ())})
    demand(not both or ood is not None, f"class '{', '.join(both[:1])}' is in data.seen and data.unseen")
    order = drawn(classes, "", config.seed)
    if ood is None:
        n_unseen = config.ood_classes or round(config.unseen_fraction * len(order))
        rest = [name for name in order if name not in (config.seen or ())]
        unseen = list(config.unseen or rest[:n_unseen])
        seen = list(config.seen or [name for name in order if name not in unseen])
    else:
        seen, unseen = list(config.seen or order), list(config.unseen or drawn(ood, "", config.seed))
    seen, unseen = seen[: config.classes], unseen[: config.ood_classes]
    if twice := sorted({*seen} & {*unseen}):
        warn(f"{config.path}: {len(twice)} classes of ood/ are trained on too, by their names: {twice[0]}, …")
    for kind, chosen, asked in (
        ("to train on", seen, config.classes),
        ("unseen", unseen, config.ood_classes),
    ):
        least = max(2, asked or 2)
        few = (
            f"{config.path}: its {len({*classes, *of_unseen})} classes give {len(chosen)} {kind}, not {least}"
        )
        fix = f"add some, ask for fewer, or change data.unseen_fraction, {config.unseen_fraction}"
        demand(len(chosen) >= least, f"{few}; {fix}")
    return sorted(set(seen)), sorted(set(unseen))


def follow(
    plan: Plan,
    seen: list[str],
    unseen: list[str],
    root: Path,
    config: DataConfig,
    read: Any = None,
    fix: str = FIX,
    named: str = "manifest.csv, beside the built images, names each",
) -> Built:
    """A plan as a dataset that is read when its pieces are taken.

    Args:
        plan, seen, unseen, root, config, read: see divide.
        fix: ends the message if it cannot be read.
        named: ends the message of how many files were left out.
    """
    manifest: list[dict[str, Any]] = []
    read = partial(read or read_picture, size=config.image_size, fit=config.fit)
    return Built(_pieces(plan, root, read, fix, named, manifest), seen, unseen, manifest)


def _pieces(
    plan: Plan, root: Path, read: Any, fix: str, named: str, manifest: list[dict[str, Any]]
) -> Iterator[tuple[str, Split]]:
    """Images of one class, CHUNK at most; a file that cannot be used is replaced by the next of its class."""
    total = sum(min(len(files), sum(n or len(files) for *_, n in quotas)) for _, files, quotas in plan)
    reasons: Counter[str] = Counter()
    with (
        tqdm(total=total, desc=f"reading {text(root.name)}", unit="image", delay=2, file=sys.stdout) as bar,
        ThreadPoolExecutor(cores()) as pool,
    ):
        for name, files, quotas in plan:
            for split, label, n in quotas:
                found, bad = 0, ""
                while files and (n is None or found < n):
                    size = min(CHUNK, CHUNK if n is None else n - found)
                    chunk, files, images = files[:size], files[size:], []
                    for file, (pixels, checksum, reason) in zip(chunk, pool.map(read, chunk), strict=True):
                        row = {"split": "" if reason else split, "class": name}
                        row |= {"file": text(file), "sha256": checksum, "left_out": reason}
                        manifest.append(row)
                        if reason:
                            reasons[reason], bad = reasons[reason] + 1, f" ({text(file)}: {reason})"
                        else:
                            images.append(pixels)
                    bar.update(len(chunk))
                    if images:
                        yield split, Split(np.stack(images), np.full(len(images), label))
                    found += len(images)
                few = f"{root}: class '{name}' has {found} pictures for {split}, not {n or 'one'}{bad}"
                demand(found >= (n or 1), f"{few}; {fix}")
    if reasons:
        counted = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        warn(f"{root}: files left out: {counted}; {named}")


def read_picture(path: Any, size: int, fit: str) -> tuple[np.ndarray | None, str, str]:
    """One picture as (size, size, 3) uint8, its file's SHA-256, and why it cannot be used, if so.

    path: in a folder, or in a zip (zipfile.Path).
    """
    checksum = ""
    try:
        demand(path.is_file(), "no files, or links to none")  # reading a pipe would never end
        with path.open("rb") as file:  # which may be a film of gigabytes
            digest = hashlib.sha256()
            while block := file.read(BLOCK):
                digest.update(block)
            checksum = digest.hexdigest()
            file.seek(0)
            with Image.open(file) as picture:
                return fitted(picture, size, fit), checksum, ""
    except Exception as error:  # Pillow raises many kinds
        return None, checksum, reason_of(error)


def reason_of(error: Exception) -> str:
    """Why a picture cannot be used; what is no fault of the picture's is raised."""
    if isinstance(error, MemoryError):
        raise error
    if isinstance(error, Image.DecompressionBombError):
        return TOO_LARGE
    if isinstance(error, UnidentifiedImageError):
        return "no pictures that Pillow reads"
    if isinstance(error, OSError) and error.strerror:  # of the disk, not of Pillow
        return f"not to be read ({error.strerror})"
    return str(error) if isinstance(error, DataError) else "broken"


def fitted(picture: Image.Image, size: int, fit: str) -> np.ndarray:
    """A picture as (size, size, 3) uint8; DataError if it cannot be used."""
    pixels = to_rgb(picture, fit)
    demand(min(pixels.shape[:2]) >= size, f"smaller than {size} pixels (data.image_size)")
    return area_downsample(pixels[None], size)[0]


def to_rgb(picture: Image.Image, fit: str) -> np.ndarray:
    """The first frame as RGB (H, W, 3) uint8, upright, on white where it is transparent; H = W if cropped."""
    demand(picture.width * picture.height <= LARGEST, TOO_LARGE)
    ranged = picture.mode != "F" and (picture.mode != "I" or picture.format == "PNG")
    demand(ranged, "of floating point or 32-bit integers, whose range is not known")
    picture = ImageOps.exif_transpose(picture)
    if fit == "crop":
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        picture = picture.crop((left, top, left + side, top + side))
    if picture.mode.startswith("I"):  # 16 bits of gray, which Pillow would clip
        gray = np.clip(np.asarray(picture).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return np.asarray(picture.convert("RGB"))
