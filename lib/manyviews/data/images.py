"""A folder of pictures, with a folder for each class, as a dataset of this project.

    PATH/CLASS/...                             val is drawn from each class
    PATH/train/CLASS/..., PATH/val/CLASS/...   torchvision's ImageFolder; ImageNet, sorted by class
    PATH/train/CLASS/..., PATH/val/FILE        with a list of the files' classes, data.val_list
    PATH/ood/CLASS/...                         beside any: the unseen classes; else some are set aside

Of classes that are set aside the pictures in val/ are used where there is one, as with Tiny-ImageNet. What is
drawn is drawn by data.seed. A file that cannot be used is left out and counted; manifest.csv names each.
"""

import hashlib
import io
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
from manyviews.config.schema import DataConfig, suggest
from manyviews.data.dataset import LIMITS, Built, DataError, Split, area_downsample, demand, warn

RECIPE = 1  # counts changes of the arrays made from the same pictures
DETERMINED_BY = (*LIMITS, "path", "image_size", "seed", "seen", "unseen", "unseen_fraction", "val_fraction")
DETERMINED_BY += ("val_list", "fit")
SYNTHETIC = False

NO_CLASSES = ("__MACOSX", "train", "val", "ood")
NO_PICTURES = ("Thumbs.db", "desktop.ini")  # and what begins with a dot
CHUNK = 512  # pictures decoded at a time
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
    train = list_classes(root / "train" if (root / "train").is_dir() else root)
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


def list_classes(folder: Path) -> dict[str, list[Path]]:
    """Files by class, but for hidden ones; links that lead back up, or lie in a class, are not followed."""
    above, classes = (folder.resolve(), *folder.resolve().parents), {}
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        if inner.name.startswith(".") or inner.name in NO_CLASSES or inner.resolve() in above:
            continue
        classes[text(inner.name)] = list_pictures(inner)
    fix = "put the pictures of each class into one of its own, or those of val/ into a list, data.val_list"
    demand(len(classes) > 0, f"{folder}: has no folders; {fix}")
    return classes


def list_pictures(folder: Path) -> list[Path]:
    """All files in a folder and below, but for hidden ones and those of desktops, sorted."""
    found = [Path(at) / name for at, _, names in os.walk(folder) for name in names]
    return sorted(path for path in found if not path.name.startswith(".") and path.name not in NO_PICTURES)


def listed(folder: Path, path: Path) -> Classes:
    """Files of a flat folder by class, from lines that begin with FILE CLASS, as in Kaggle's ImageNet."""
    demand(path.is_file(), f"{path}: no such file; data.val_list must name one with lines `FILE CLASS`")
    files = {name: file for file in sorted(folder.glob("*")) for name in (file.name, file.stem)}
    classes = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
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
            demand(name in among, f"data.{key}: no class '{name}'; {suggest(name, among)}")
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
    plan: Plan, seen: list[str], unseen: list[str], root: Path, config: DataConfig, read: Any = None, fix=FIX
) -> Built:
    """A plan as a dataset that is read when its pieces are taken; `fix` ends the message if it cannot be."""
    manifest: list[dict[str, Any]] = []
    read = partial(read or read_picture, size=config.image_size, fit=config.fit)
    return Built(_pieces(plan, root, read, fix, manifest), seen, unseen, manifest)


def _pieces(
    plan: Plan, root: Path, read: Any, fix: str, manifest: list[dict[str, Any]]
) -> Iterator[tuple[str, Split]]:
    """Images of a class at a time; a file that cannot be used is replaced by the next of its class."""
    total = sum(min(len(files), sum(n or len(files) for *_, n in quotas)) for _, files, quotas in plan)
    reasons: Counter[str] = Counter()
    with (
        tqdm(total=total, desc=f"reading {text(root.name)}", unit="image", delay=2, file=sys.stdout) as bar,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        for name, files, quotas in plan:
            for split, label, n in quotas:
                images: list[np.ndarray] = []
                bad = ""
                while files and (n is None or len(images) < n):
                    size = min(CHUNK, CHUNK if n is None else n - len(images))
                    chunk, files = files[:size], files[size:]
                    for file, (pixels, checksum, reason) in zip(chunk, pool.map(read, chunk), strict=True):
                        row = {"split": "" if reason else split, "class": name}
                        row |= {"file": text(file), "sha256": checksum, "left_out": reason}
                        manifest.append(row)
                        if reason:
                            reasons[reason], bad = reasons[reason] + 1, f" ({text(file)}: {reason})"
                        else:
                            images.append(pixels)
                    bar.update(len(chunk))
                few = f"{root}: class '{name}' has {len(images)} pictures for {split}, not {n or 'one'}{bad}"
                demand(len(images) >= (n or 1), f"{few}; {fix}")
                yield split, Split(np.stack(images), np.full(len(images), label))
    if reasons:
        counted = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        warn(f"{root}: files left out: {counted}; manifest.csv, beside images that are built, names each")


def read_picture(path: Any, size: int, fit: str) -> tuple[np.ndarray | None, str, str]:
    """One picture as (size, size, 3) uint8, its file's SHA-256, and why it cannot be used, if so.

    path: in a folder, or in a zip (zipfile.Path).
    """
    checksum = ""
    try:
        demand(path.is_file(), "no files, or links to none")  # reading a pipe would never end
        contents = path.read_bytes()
        checksum = hashlib.sha256(contents).hexdigest()
        with Image.open(io.BytesIO(contents)) as picture:
            return fitted(picture, size, fit), checksum, ""
    except Image.DecompressionBombError:
        return None, checksum, TOO_LARGE
    except UnidentifiedImageError:
        return None, checksum, "no pictures that Pillow reads"
    except DataError as error:
        return None, checksum, str(error)
    except Exception:  # Pillow raises many kinds
        return None, checksum, "broken"


def fitted(picture: Image.Image, size: int, fit: str) -> np.ndarray:
    """A picture as (size, size, 3) uint8; DataError if it cannot be used."""
    pixels = to_rgb(picture, fit)
    demand(min(pixels.shape[:2]) >= size, f"smaller than {size} pixels (data.image_size)")
    return area_downsample(pixels[None], size)[0]


def to_rgb(picture: Image.Image, fit: str) -> np.ndarray:
    """The first frame as RGB (H, W, 3) uint8, upright, on white where it is transparent; H = W if cropped."""
    demand(picture.width * picture.height <= LARGEST, TOO_LARGE)
    picture = ImageOps.exif_transpose(picture)
    if fit == "crop":
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        picture = picture.crop((left, top, left + side, top + side))
    demand(picture.mode != "F", "of floating point, whose range is not known")
    if picture.mode.startswith("I"):  # 16 bits of gray, which Pillow would clip
        gray = np.clip(np.asarray(picture).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return np.asarray(picture.convert("RGB"))
