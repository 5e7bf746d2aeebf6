"""Claims about datasets: what is refused, what is cut, what is built and when."""

import io
import json
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from small import full_disk

from manyviews.config.files import read_json, write_json
from manyviews.config.schema import DataConfig
from manyviews.data import dataset as room
from manyviews.data import fractals
from manyviews.data.dataset import DataError, Split, area_downsample, load_dataset, load_folder

SIZES = {"classes": 2, "ood_classes": 3, "train_per_class": 4, "val_per_class": 3, "ood_per_class": 5}
SMALL = DataConfig(name="fractals", **SIZES, image_size=8)


def random_images(n, side=12, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    """A valid dataset of the original's format: 3 classes x 4 and x 2, 4 unseen classes x 5, 12 pixels."""
    for seed, (split, n, per_class) in enumerate([("train", 3, 4), ("val", 3, 2), ("ood", 4, 5)]):
        labels = np.tile(np.arange(n), per_class)
        np.savez(tmp_path / f"{split}.npz", images=random_images(len(labels), seed=seed), labels=labels)
    return tmp_path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MANYVIEWS_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def change(folder, split, **changes):
    """Replace arrays of one file; None leaves an array out."""
    path = folder / f"{split}.npz"
    with np.load(path) as file:
        contents = {**file, **changes}
    np.savez(path, **{key: value for key, value in contents.items() if value is not None})


def limits(**values):
    return DataConfig(**{"path": "unused", "image_size": 12, **values})


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_files_of_the_originals_format_load_as_they_are_with_labels_of_any_integers(folder, dtype):
    change(folder, "train", labels=np.tile([2, 0, 1], 4).astype(dtype))
    dataset = load_folder(folder)
    for name in room.SPLITS:
        split = getattr(dataset, name)
        with np.load(folder / f"{name}.npz") as file:
            np.testing.assert_array_equal(split.images, file["images"])
            np.testing.assert_array_equal(split.labels, file["labels"])
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int64)
    assert (dataset.name, dataset.synthetic) == (folder.name, False)
    assert [getattr(dataset, name).n_classes for name in room.SPLITS] == [3, 3, 4]
    assert dataset.class_names == dataset.ood_class_names[:3] == ("class 0", "class 1", "class 2")


def test_printing_a_dataset_counts_what_is_in_it(folder):
    change(folder, "ood", images=random_images(9), labels=np.array([0, 0, 1, 1, 1, 1, 2, 2, 2]))
    assert str(load_folder(folder)).splitlines()[1:4] == [
        "train      12 images 12x12x3, 3 classes x 4",
        "val         6 images 12x12x3, 3 classes x 2",
        "ood         9 images 12x12x3, 3 classes x 2 to 4",
    ]


PIXELS = random_images(12)
LABELS = np.repeat([0, 1, 2], 4)


@pytest.mark.parametrize(
    ("split", "changes", "key", "fix"),
    [
        ("train", {"images": None}, "images", "save an array of that name"),
        ("ood", {"labels": None}, "labels", "save an array of that name"),
        ("train", {"images": PIXELS.astype(np.float32)}, "images", "uint8"),
        ("train", {"images": np.moveaxis(PIXELS, 3, 1)}, "images", "channels last"),
        ("train", {"images": PIXELS[:, :6]}, "images", "H = W"),
        ("train", {"labels": LABELS.astype(float)}, "labels", "integers"),
        ("train", {"labels": LABELS[:, None]}, "labels", r"\(N,\)"),
        ("train", {"labels": LABELS[:-1]}, "labels", "one for each image"),
        ("train", {"labels": LABELS - 1}, "labels", "from 0"),
        ("train", {"labels": LABELS + 1}, "labels", "skips class 0"),
        ("train", {"labels": LABELS * 2}, "labels", "skips class 1"),
        ("train", {"images": PIXELS[:0], "labels": LABELS[:0]}, "images", "put images in it"),
        ("train", {"images": np.array([None, "code"], dtype=object)}, "images", "make it again"),
        ("val", {"labels": np.array([None] * 6, dtype=object)}, "labels", "make it again"),
        ("train", {"images": PIXELS // 200}, "images", "save 0 to 255"),
        ("ood", {"images": random_images(20) * 0}, "images", "black"),
        ("ood", {"labels": np.zeros(20, int)}, "labels", "two or more"),
        ("val", {"labels": np.tile([0, 1], 3)}, "labels", "the same classes"),
        ("ood", {"images": random_images(20, side=8)}, "images", "one size"),
    ],
)
def test_a_file_of_another_format_is_refused(folder, split, changes, key, fix):
    """The message names the file, the array and the fix."""
    change(folder, split, **changes)
    with pytest.raises(DataError, match=fix) as error:
        load_folder(folder)
    assert str(error.value).startswith(f"{folder / split}.npz: ")
    assert key in str(error.value)


def test_a_missing_or_damaged_file_is_named(folder):
    path = folder / "val.npz"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[300] ^= 255  # in the pixels, so that only the zip's own checksum tells
    single = io.BytesIO()
    np.save(single, PIXELS)
    for contents in (whole[:-900], bytes(flipped), b"", b"not a zip", b"\x80\x04N.", single.getvalue()):
        path.write_bytes(contents)
        with pytest.raises(DataError, match=r"val\.npz: .*make it again"):
            load_folder(folder)
    path.unlink()
    with pytest.raises(DataError, match=r"val\.npz: no such file"):
        load_folder(folder)


def test_a_description_names_the_dataset_and_its_classes_and_is_refused_where_it_does_not(folder):
    names = {"class_names": list("abcd"), "ood_class_names": list("wxyz")}
    about = {"name": "shapes", "synthetic": True, **names}
    (folder / "dataset.json").write_text(json.dumps(about))
    dataset = load_folder(folder, limits(ood_classes=2))
    assert (dataset.name, dataset.synthetic) == ("shapes", True)
    assert (dataset.class_names, dataset.ood_class_names) == (("a", "b", "c"), ("w", "x"))
    wrong = (
        "{",
        "[]",
        '{"class_names": ["one"]}',
        '{"class_names": 3}',
        '{"synthetic": "false"}',
        '{"name": null}',
    )
    for text in wrong:
        (folder / "dataset.json").write_text(text)
        with pytest.raises(DataError, match=r"dataset\.json: .*remove it"):
            load_folder(folder)


def with_member(path, name, contents):
    """Replace a member of an .npz; what is written is no array."""
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for member, old in members.items():
            archive.writestr(member, contents if member == name else old)


def test_a_member_that_is_no_array_or_asks_for_more_than_memory_is_named(folder):
    huge = io.BytesIO()
    about = {"descr": "|u1", "fortran_order": False, "shape": (10**9, 64, 64, 3)}
    np.lib.format.write_array_header_1_0(huge, about)
    for contents in (b"no array", huge.getvalue()):
        with_member(folder / "val.npz", "images.npy", contents)
        with pytest.raises(DataError, match=r"val\.npz: 'images'"):
            load_folder(folder)


@pytest.mark.parametrize(("word", "at", "value"), [("encrypted", 6, 1), ("compression", 8, 9)])
def test_what_an_archiver_did_to_a_member_is_named(folder, word, at, value):
    """Flag 1 and method 9, Deflate64, of the zip format; the second header has both two bytes later."""
    contents = bytearray((folder / "val.npz").read_bytes())
    for header, place in ((b"PK\x03\x04", at), (b"PK\x01\x02", at + 2)):
        contents[contents.index(header) + place] = value
    (folder / "val.npz").write_bytes(contents)
    with pytest.raises(DataError, match=rf"val\.npz: 'images' .*{word}"):
        load_folder(folder)


def test_equal_images_that_are_fitted_on_and_scored_are_counted(folder, capsys):
    train, val = load_folder(folder).train.images, random_images(6, seed=1)
    val[:2] = train[5]
    ood = random_images(20, seed=2)
    ood[7] = ood[3]
    change(folder, "val", images=val)
    change(folder, "ood", images=ood)
    load_dataset(limits(path=str(folder)))
    said = capsys.readouterr().err
    assert "2 validation images are equal to training images" in said
    assert "1 images of unseen classes are equal" in said


def test_a_built_dataset_that_lacks_a_file_says_how_to_build_it_again(cache):
    load_dataset(SMALL)
    for name in ("train_labels", "val_images"):
        (room.cache_folder(SMALL) / f"{name}.npy").unlink()
        with pytest.raises(DataError, match=r"remove its folder, and it is built again"):
            load_dataset(SMALL)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells how a file is mapped")
def test_of_images_that_memory_cannot_keep_only_what_is_asked_for_is_read(tmp_path, monkeypatch):
    """The flag `rr`, read at random, of the mapping."""
    images = np.arange(48, dtype=np.uint8).reshape(4, 2, 2, 3)
    np.save(tmp_path / "images.npy", images)

    def flags(mapped: np.memmap) -> str:
        np.testing.assert_array_equal(mapped, images)
        maps = Path("/proc/self/smaps").read_text(encoding="utf-8")
        return maps.split(f"{tmp_path}/images.npy")[1].split("VmFlags:")[1].splitlines()[0]

    kept = room.map_images(tmp_path / "images.npy")
    assert " rr" not in flags(kept)
    del kept
    monkeypatch.setattr(room, "memory", lambda: images.nbytes)
    assert " rr" in flags(room.map_images(tmp_path / "images.npy"))


def test_built_images_are_mapped_and_are_those_of_the_builder(cache):
    dataset = load_dataset(SMALL)
    for name, split in fractals.build(SMALL).pieces:
        mapped = getattr(dataset, name)
        assert isinstance(mapped.images, np.memmap)
        np.testing.assert_array_equal(mapped.images, split.images)
        np.testing.assert_array_equal(mapped.labels, split.labels)


def test_limits_take_the_first_classes_and_the_first_images_of_each(folder):
    """The files' labels are 0, 1, 2, 0, 1, 2, ..., of ood 0, 1, 2, 3, 0, ...; the order stays."""
    whole = load_folder(folder)
    sizes = {"train_per_class": 3, "val_per_class": 1, "ood_per_class": 2}
    dataset = load_folder(folder, limits(classes=2, ood_classes=3, **sizes))
    kept = {"train": [0, 1, 3, 4, 6, 7], "val": [0, 1], "ood": [0, 1, 2, 4, 5, 6]}
    for name, indices in kept.items():
        np.testing.assert_array_equal(getattr(dataset, name).images, getattr(whole, name).images[indices])
        np.testing.assert_array_equal(getattr(dataset, name).labels, getattr(whole, name).labels[indices])


def test_more_than_there_is_cannot_be_asked_for(folder):
    too_many = {"classes": 4, "ood_classes": 5, "train_per_class": 5, "val_per_class": 3, "ood_per_class": 6}
    files = ("train", "ood", "train", "val", "ood")
    for (key, value), file in zip(too_many.items(), files, strict=True):
        load_folder(folder, limits(**{key: value - 1}))
        with pytest.raises(DataError, match=rf"{file}\.npz: .*not {value}; ask for fewer"):
            load_folder(folder, limits(**{key: value}))


def test_a_configured_folder_is_relative_to_the_project_and_cut_to_its_limits(folder, monkeypatch):
    monkeypatch.setattr(room, "ROOT", folder.parent)
    for path in (folder.name, str(folder)):
        dataset = load_dataset(DataConfig(path=path, classes=2, train_per_class=3, image_size=8))
        assert dataset.train.labels.tolist() == [0, 1] * 3
        assert (dataset.ood.images == area_downsample(load_folder(folder).ood.images, 8)).all()
    with pytest.raises(DataError, match=r"12 pixels a side, fewer than data\.image_size, 64"):
        load_dataset(DataConfig(path=str(folder)))


def test_a_tensor_has_the_channels_first_then_rows_then_columns():
    """Oracle: single pixels of images in which no two agree."""
    images = np.arange(2 * 5 * 5 * 3, dtype=np.uint8).reshape(2, 5, 5, 3)
    tensor = Split(images, np.array([0, 1])).as_tensor()
    assert tensor.shape == (2, 3, 5, 5)
    assert tensor[1, 2, 4, 3] == images[1, 4, 3, 2]
    assert tensor[0, 0, 1, 0] == images[0, 1, 0, 0]


def test_the_first_of_each_class_come_in_the_order_of_labels():
    images = np.arange(7, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    split = Split(images, np.array([2, 0, 1, 2, 0, 0, 1]))
    first = split.first_of_each_class(classes=2, images=9)[..., 7, 7, 2]  # of class 1 there are 2
    assert first.tolist() == [[1, 4], [2, 6]]


@pytest.mark.parametrize(("old", "new"), [(8, 4), (12, 4), (64, 32), (16, 16)])
def test_downsampling_by_a_whole_factor_averages_blocks(old, new):
    """Oracle: the mean over a reshaped array, rounded half up."""
    images = random_images(5, side=old)
    blocks = images.reshape(5, new, old // new, new, old // new, 3).mean(axis=(2, 4))
    np.testing.assert_array_equal(area_downsample(images, new), np.floor(blocks + 0.5))


def test_downsampling_by_any_factor_averages_areas():
    """Oracle: enlarge 8 pixels to 24 without loss, then average blocks of 4 down to 6."""
    images = random_images(room.BATCH + 5, side=8)
    enlarged = images.repeat(3, axis=1).repeat(3, axis=2)
    exact = enlarged.reshape(len(images), 6, 4, 6, 4, 3).mean(axis=(2, 4))
    assert np.abs(area_downsample(images, 6) - exact).max() <= 0.5 + 1e-3


def test_the_checksum_follows_contents_not_files(folder):
    before = load_folder(folder).checksum
    with np.load(folder / "val.npz") as file:
        images, labels = file["images"], file["labels"]
    np.savez_compressed(folder / "val.npz", images=images, labels=labels)
    assert load_folder(folder).checksum == before
    other = images.copy()
    other[0, 0, 0, 0] ^= 1
    for changes in ({"images": other}, {"images": images[..., ::-1]}, {"labels": labels[::-1]}):
        change(folder, "val", **{"images": images, "labels": labels, **changes})
        assert load_folder(folder).checksum != before


def test_fractals_are_built_once(cache):
    dataset = load_dataset(SMALL)
    (built,) = [path for path in cache.iterdir() if path.is_dir()]
    before = {path.name: path.stat().st_mtime_ns for path in built.iterdir()}
    assert load_dataset(SMALL).checksum == dataset.checksum
    assert {path.name: path.stat().st_mtime_ns for path in built.iterdir()} == before
    files = [f"{name}_{array}.npy" for name in ("ood", "train", "val") for array in ("images", "labels")]
    assert sorted(before) == ["dataset.json", *files]
    assert (dataset.name, dataset.synthetic) == ("fractals", True)
    assert [len(getattr(dataset, name).labels) for name in room.SPLITS] == [8, 6, 15]
    assert (dataset.class_names[1], dataset.ood_class_names[2]) == ("fractal 1", "unseen fractal 2")


def test_built_images_are_looked_at_once(cache, monkeypatch):
    """A later start reads no pixel: their sum and the duplicates stand in dataset.json."""
    dataset = load_dataset(SMALL)
    about = room.cache_folder(SMALL) / "dataset.json"
    assert dataset.duplicates == room.duplicates({name: getattr(dataset, name) for name in room.SPLITS})
    with monkeypatch.context() as closed:
        closed.setattr(room, "checksum", None)
        closed.setattr(room, "duplicates", None)
        again = load_dataset(SMALL)
    assert (again.checksum, again.duplicates) == (dataset.checksum, dataset.duplicates)
    old = {key: value for key, value in read_json(about).items() if key not in ("checksum", "duplicates")}
    write_json(about, old)
    assert load_dataset(SMALL).checksum == dataset.checksum, (
        "also of one that was built before these were kept"
    )


def test_what_determines_the_images_and_nothing_else_determines_the_folder(cache, monkeypatch):
    tiny = DataConfig(name="tiny-imagenet", **SIZES, image_size=16)
    for config, is_drawn in ((SMALL, True), (tiny, False)):  # the other lies at a path
        here = room.cache_folder(config)
        assert here.parent == cache
        for key in (*SIZES, "image_size"):
            assert room.cache_folder(config.model_copy(update={key: 9})) != here
        assert (room.cache_folder(config.model_copy(update={"seed": 1})) != here) == is_drawn
        assert (room.cache_folder(config.model_copy(update={"path": "elsewhere"})) == here) == is_drawn
    before = room.cache_folder(SMALL)
    monkeypatch.setattr(fractals, "RECIPE", fractals.RECIPE + 1)
    assert room.cache_folder(SMALL) != before


def test_a_broken_or_killed_build_leaves_nothing_to_load(cache, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(room, "write_pieces", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            load_dataset(SMALL)
    assert [path for path in cache.iterdir() if path.is_dir()] == []
    target = room.cache_folder(SMALL)
    remains = target.with_name(f".{target.name}.partial")  # what a killed build leaves
    remains.mkdir()
    (remains / "train.npz").write_bytes(b"half")
    assert load_dataset(SMALL).train.n_classes == 2
    assert not remains.exists()


def test_a_full_disk_is_told_with_the_folder_that_has_no_room(cache):
    with full_disk(1000), pytest.raises(OSError, match="File too large") as full:
        load_dataset(SMALL)
    assert full.value.filename == str(room.cache_folder(SMALL))
    assert [path for path in cache.iterdir() if path.is_dir()] == []


def test_builders_at_once_build_once(cache, monkeypatch):
    builds, original = [], fractals.build

    def counted(config):
        builds.append(config)
        return original(config)

    monkeypatch.setattr(fractals, "build", counted)
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(load_dataset, [SMALL] * 3))
    assert builds == [SMALL]
    assert load_dataset(SMALL).train.n_classes == 2


def test_the_format_is_imported_without_torch_and_pillow():
    """For a quick start of what only reads configurations and results."""
    code = "import sys, manyviews.data.dataset; print({'torch', 'PIL', 'pandas'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
