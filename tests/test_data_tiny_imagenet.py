"""Claims about Tiny-ImageNet: the split, what is read from the zip, and the download."""

import functools
import hashlib
import io
import os
import shutil
import threading
import zipfile
from collections import defaultdict
from dataclasses import astuple
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manyviews.config.paths import ROOT
from manyviews.config.schema import DataConfig
from manyviews.data import dataset as room
from manyviews.data import tiny_imagenet
from manyviews.data.dataset import DataError, Split, load_dataset

OFFICIAL = Path(os.environ.get(tiny_imagenet.ZIP_VARIABLE) or ROOT / "../shared/data/tiny-imagenet-200.zip")
needs_official = pytest.mark.skipif(
    not OFFICIAL.is_file(),
    reason=f"needs the real zip: set {tiny_imagenet.ZIP_VARIABLE} to tiny-imagenet-200.zip",
)

WNIDS = ["n08", "n01", "n03", "n02", "n05", "n04"]  # sorted: classes n01 n03 n05, unseen n02 n04 n08
N_TRAIN, N_VAL = 12, 5
VAL_SHADE = 120  # added to the shade of an image in val/, so that no image there looks like one in train/


def picture(pixels, form="JPEG"):
    """An image file. JPEG keeps one shade of gray, PNG everything."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, quality=95)
    return file.getvalue()


def gray(shade, *shape):
    return picture(np.full(shape or (64, 64, 3), shade, np.uint8))


def members():
    """A small zip of the official layout; the shade, 10 x (class + 1) + number, tells the images apart."""
    files = {"wnids.txt": "\n".join(WNIDS), "words.txt": "n01\tgoldfish, carp\nn02\tnewt\nn03\tbee\n"}
    lines, ids = [], sorted(WNIDS)
    for k, wnid in enumerate(ids):
        if k % 2 == 0:  # like the zip used in development, without what is never read
            for i in reversed(range(N_TRAIN)):
                shape = (64, 64) if i == 1 else (64, 64, 3)  # some are stored in grayscale
                files[f"train/{wnid}/images/{wnid}_{i}.JPEG"] = gray(10 * (k + 1) + i, *shape)
    for i in range(N_VAL * len(ids)):
        k = i % len(ids)
        files[f"val/images/val_{i}.JPEG"] = gray(VAL_SHADE + 10 * (k + 1) + i // len(ids))
        lines.append(f"val_{i}.JPEG\t{ids[k]}\t0\t0\t62\t62")
    files["val/val_annotations.txt"] = "\n".join(lines) + "\n"
    return files


def write(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, contents in files.items():
            archive.writestr(f"tiny-imagenet-200/{name}", contents)
    return path


@pytest.fixture
def small_zip(tmp_path):
    return write(tmp_path / "small.zip", members())


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MANYVIEWS_DATA", str(tmp_path / "data"))
    monkeypatch.delenv(tiny_imagenet.ZIP_VARIABLE, raising=False)
    return tmp_path / "data"


def build(path, **limits):
    pieces, *names = tiny_imagenet.build(DataConfig(name="tiny-imagenet", path=str(path), **limits))
    splits = defaultdict(list)
    for split, piece in pieces:
        splits[split].append(piece)
    return {
        name: Split(*map(np.concatenate, zip(*map(astuple, of), strict=True))) for name, of in splits.items()
    }, *names


def shades(images):
    """The one shade of each image; it must be the same in all pixels, to within JPEG's rounding."""
    assert np.ptp(images.astype(int), axis=(1, 2, 3)).max() <= 1
    return np.rint(images.mean(axis=(1, 2, 3))).astype(int).tolist()


def test_every_second_sorted_class_is_trained_on_and_the_others_are_unseen(small_zip):
    splits, names, ood_names, _ = build(small_zip)
    train, val, ood = (splits[name] for name in ("train", "val", "ood"))
    assert train.labels.tolist() == [0] * N_TRAIN + [1] * N_TRAIN + [2] * N_TRAIN
    assert val.labels.tolist() == ood.labels.tolist() == [0] * N_VAL + [1] * N_VAL + [2] * N_VAL
    assert shades(train.images) == [10 * c + i for c in (1, 3, 5) for i in range(N_TRAIN)]
    assert shades(val.images) == [VAL_SHADE + 10 * c + i for c in (1, 3, 5) for i in range(N_VAL)]
    assert shades(ood.images) == [VAL_SHADE + 10 * c + i for c in (2, 4, 6) for i in range(N_VAL)]
    assert names == ["goldfish", "bee", "n05"]
    assert ood_names == ["newt", "n04", "n08"]


def test_the_first_images_by_number_are_taken(small_zip):
    """In the zip, as in a listing by name, _10 and _11 stand before _2."""
    sizes = {"train_per_class": 3, "val_per_class": 2, "ood_per_class": 1}
    splits, *_ = build(small_zip, classes=2, ood_classes=1, **sizes, image_size=16)
    assert shades(splits["train"].images) == [10, 11, 12, 30, 31, 32]
    assert shades(splits["val"].images) == [130, 131, 150, 151]
    assert shades(splits["ood"].images) == [140]


@pytest.mark.parametrize("size", [64, 16])
def test_pixels_are_rgb_and_rows_come_before_columns(tmp_path, size):
    """Oracle: a picture whose quarters have four colours, none of which has as much red as blue."""
    colours = np.array([[[250, 120, 10], [200, 20, 90]], [[30, 180, 70], [60, 5, 220]]], np.uint8)
    large, expected = (colours.repeat(n, axis=0).repeat(n, axis=1) for n in (32, size // 2))
    files = {**members(), "train/n03/images/n03_0.JPEG": picture(large, "PNG")}
    image = build(write(tmp_path / "quarters.zip", files), image_size=size)[0]["train"].images[N_TRAIN]
    np.testing.assert_array_equal(image, expected)


def test_fewer_classes_are_evenly_spaced():
    for n in (1, 3, 7, 20, 33, 99, 100):
        chosen = tiny_imagenet.evenly_spaced(list(range(100)), n)
        assert len(set(chosen)) == n
        assert chosen[0] == 0
        assert set(np.diff([*chosen, 100])) <= {100 // n, 100 // n + 1}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"wnids.txt": None}, r"wnids\.txt"),
        ({"val/val_annotations.txt": "val_0.JPEG n01\n"}, "not enough values"),
        ({"wnids.txt": "n01\nn02\nn03\nn04\n"}, "2 classes for a half .* needs 3; ask for less"),
        ({"train/n03/images/n03_4.JPEG": None}, "11 images of a class, fewer than 12; ask for less"),
        ({f"train/n05/images/n05_{i}.JPEG": None for i in range(N_TRAIN)}, "train has 0 images of a class"),
        ({"train/n03/images/n03_x.JPEG": b""}, r"n03_x\.JPEG has no number"),
        ({"train/n03/images/plain.JPEG": b""}, r"plain\.JPEG has no number"),
        ({"wnids.txt": "n01\nn01\nn03\nn04\nn05\nn08\n"}, "names a class twice"),
        ({"train/n03/images/n03_4.JPEG": b"not a picture"}, r"n03_4\.JPEG: no pictures"),
        ({"val/images/val_7.JPEG": None}, r"val_7\.JPEG"),
    ],
)
def test_a_zip_that_lacks_something_is_refused(tmp_path, changes, words):
    """The message names the zip, what is wrong and where the right one is."""
    files = {name: contents for name, contents in {**members(), **changes}.items() if contents is not None}
    path = write(tmp_path / "other.zip", files)
    with pytest.raises(DataError, match=rf"{words}.*use the official tiny-imagenet-200\.zip") as error:
        build(path, classes=3, train_per_class=N_TRAIN)
    assert str(path) in str(error.value)


def test_a_damaged_zip_is_refused(small_zip):
    whole = small_zip.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    for contents in (whole[:-1000], bytes(flipped), b"", b"<html>not found</html>"):
        small_zip.write_bytes(contents)
        with pytest.raises(DataError, match=r"small\.zip.*use the official"):
            build(small_zip)


def test_the_zip_is_looked_for_in_the_stated_order(cache, tmp_path, monkeypatch):
    cache.mkdir()
    places = (cache / tiny_imagenet.ZIP_NAME, tmp_path / "v.zip", tmp_path / "g.zip")
    in_cache, in_variable, given = (write(path, {}) for path in places)
    assert tiny_imagenet.find(None) == in_cache
    monkeypatch.setenv(tiny_imagenet.ZIP_VARIABLE, str(in_variable))
    assert tiny_imagenet.find(None) == in_variable
    monkeypatch.setattr(tiny_imagenet, "ROOT", tmp_path)
    assert tiny_imagenet.find(str(given)) == tiny_imagenet.find("g.zip") == given
    in_variable.unlink()
    with pytest.raises(DataError, match=r"v\.zip: no such file or folder; .*\$MANYVIEWS_TINY_IMAGENET"):
        tiny_imagenet.find(None)
    with pytest.raises(
        DataError, match=r"data\.image_size is 65, set it to 64"
    ):  # before a zip is looked for
        build("nowhere.zip", image_size=65)


@pytest.fixture
def served(tmp_path, monkeypatch, cache):
    """The folder of a server whose file.zip is the official one, so far as tiny_imagenet knows."""
    folder = tmp_path / "served"
    folder.mkdir()
    content = write(folder / "file.zip", members()).read_bytes()

    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr(tiny_imagenet, "URL", f"http://127.0.0.1:{server.server_port}/file.zip")
    monkeypatch.setattr(tiny_imagenet, "MD5", hashlib.md5(content).hexdigest())
    yield folder
    server.shutdown()
    server.server_close()


def test_a_fetched_zip_becomes_a_dataset_and_is_not_needed_again(cache, served):
    config = DataConfig(name="tiny-imagenet", image_size=16)
    dataset = load_dataset(config)
    assert (dataset.name, dataset.synthetic) == ("tiny-imagenet", False)
    assert dataset.train.images.shape == (3 * N_TRAIN, 16, 16, 3)
    assert dataset.class_names == ("goldfish", "bee", "n05")
    assert dataset.ood_class_names == ("newt", "n04", "n08")
    assert (cache / tiny_imagenet.ZIP_NAME).read_bytes() == (served / "file.zip").read_bytes()
    (served / "file.zip").unlink()
    assert load_dataset(config.model_copy(update={"image_size": 32})).train.images.shape[1] == 32
    (cache / tiny_imagenet.ZIP_NAME).unlink()
    assert load_dataset(config).checksum == dataset.checksum


def test_what_is_not_the_official_file_is_refused_and_removed(cache, served):
    """Half of the file, another file, no file; the message says what to do by hand."""
    path = served / "file.zip"
    for contents in (path.read_bytes()[:5000], b"other", None):
        path.unlink() if contents is None else path.write_bytes(contents)
        with pytest.raises(DataError, match=f"run again.*curl .*MD5 with {tiny_imagenet.MD5}") as error:
            load_dataset(DataConfig(name="tiny-imagenet"))
        assert str(cache / tiny_imagenet.ZIP_NAME) in str(error.value)
        assert [file.name for file in cache.iterdir() if not file.name.endswith(".lock")] == []


def sort_val(folder):
    """As scripts do that make torchvision's ImageFolder of it."""
    for line in (folder / "val" / "val_annotations.txt").read_text().splitlines():
        file, wnid, *_ = line.split("\t")
        (folder / "val" / wnid / "images").mkdir(parents=True, exist_ok=True)
        (folder / "val" / "images" / file).rename(folder / "val" / wnid / "images" / file)
    (folder / "val" / "val_annotations.txt").unlink()


def litter(folder):
    """As a Mac does."""
    for name in ("._wnids.txt", "train/n03/images/._n03_4.JPEG", "__MACOSX/train/n03/images/._n03_4.JPEG"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\0")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("change", [lambda folder: None, sort_val, litter])
def test_unpacked_and_packed_again_it_is_the_same_dataset(small_zip, tmp_path, cache, packed, change):
    config = DataConfig(name="tiny-imagenet", path=str(small_zip), image_size=16)
    official = load_dataset(config).checksum
    shutil.rmtree(room.cache_folder(config))
    with zipfile.ZipFile(small_zip) as archive:
        archive.extractall(tmp_path / "unpacked" / "other name")
    change(tmp_path / "unpacked" / "other name" / "tiny-imagenet-200")
    path = tmp_path / "unpacked"
    if packed:
        path = shutil.make_archive(tmp_path / "again", "zip", tmp_path / "unpacked" / "other name")
    assert load_dataset(config.model_copy(update={"path": str(path)})).checksum == official


@needs_official
def test_the_real_zip_holds_the_whole_split():
    plan, names, ood_names = tiny_imagenet.select(
        tiny_imagenet.list_files(OFFICIAL), DataConfig(name="tiny-imagenet")
    )
    per_class = {"train": [], "val": [], "ood": []}
    for _, files, [(split, _, n)] in plan:
        per_class[split].append(n)
        assert n == len(files)
    assert per_class == {"train": [500] * 100, "val": [50] * 100, "ood": [50] * 100}
    assert len({str(file) for _, files, _ in plan for file in files}) == 60_000
    assert not set(names) & set(ood_names)
    assert names[:2] == ["goldfish", "bullfrog"]


@needs_official
def test_real_images_are_those_of_their_files(cache):
    """Oracle: Pillow opens the members named by the official layout."""
    sizes = {"classes": 4, "ood_classes": 5, "train_per_class": 20, "val_per_class": 3, "ood_per_class": 7}
    dataset = load_dataset(DataConfig(name="tiny-imagenet", path=str(OFFICIAL.resolve()), **sizes))
    with zipfile.ZipFile(OFFICIAL) as archive:
        ids = sorted(archive.read("tiny-imagenet-200/wnids.txt").decode().split())
        for i, label in enumerate(dataset.train.labels):
            wnid = ids[2 * 25 * label]  # evenly spaced among every second one
            with archive.open(f"tiny-imagenet-200/train/{wnid}/images/{wnid}_{i % 20}.JPEG") as file:
                np.testing.assert_array_equal(dataset.train.images[i], Image.open(file).convert("RGB"))
