"""Claims about datasets: what is refused, what is cut, what is built and when."""

import json
import subprocess
import sys
import threading
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from PIL import Image

from manyviews import data, fractals, paths
from manyviews.config import DataConfig
from manyviews.data import DataError, load_dataset, load_folder
from manyviews.tiny_imagenet import area_downsample

SMALL = {
    "name": "fractals",
    "classes": 2,
    "ood_classes": 3,
    "train_per_class": 4,
    "val_per_class": 3,
    "ood_per_class": 5,
    "image_size": 8,
}


def arrays(n_classes, per_class, side=8, seed=0):
    images = np.random.default_rng(seed).integers(
        0, 256, (n_classes * per_class, side, side, 3), dtype=np.uint8
    )
    return {"images": images, "labels": np.tile(np.arange(n_classes), per_class)}


@pytest.fixture
def folder(tmp_path):
    """A valid dataset of the report's format: 3 classes x 4 and x 2, 4 unseen classes x 5, 8 pixels."""
    for seed, (split, sizes) in enumerate({"train": (3, 4), "val": (3, 2), "ood": (4, 5)}.items()):
        np.savez(tmp_path / f"{split}.npz", **arrays(*sizes, seed=seed))
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


def test_files_of_the_reports_format_load_as_they_are(folder):
    dataset = load_folder(folder)
    for split in data.SPLITS:
        part = getattr(dataset, split)
        with np.load(folder / f"{split}.npz") as file:
            np.testing.assert_array_equal(part.images, file["images"])
            np.testing.assert_array_equal(part.labels, file["labels"])
        assert part.images.dtype == np.uint8
        assert part.labels.dtype == np.int64
    assert (dataset.name, dataset.synthetic) == (folder.name, False)
    assert (dataset.train.n_classes, dataset.val.n_classes, dataset.ood.n_classes) == (3, 3, 4)
    assert dataset.class_names == ("class 0", "class 1", "class 2")
    assert len(dataset.ood_class_names) == 4


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_labels_may_be_any_integers(folder, dtype):
    before = load_folder(folder).checksum
    for split in data.SPLITS:
        with np.load(folder / f"{split}.npz") as file:
            labels = file["labels"].astype(dtype)
        change(folder, split, labels=labels)
    assert load_folder(folder).checksum == before


def test_a_dataset_cannot_be_changed_by_assignment(folder):
    dataset = load_folder(folder)
    with pytest.raises(FrozenInstanceError):
        dataset.name = "other"
    with pytest.raises(FrozenInstanceError):
        dataset.train.labels = dataset.val.labels


PIXELS = np.zeros((12, 8, 8, 3), np.uint8)
LABELS = np.repeat([0, 1, 2], 4)


@pytest.mark.parametrize(
    ("split", "changes", "key", "fix"),
    [
        ("train", {"images": None}, "images", "save an array of that name"),
        ("ood", {"labels": None}, "labels", "save an array of that name"),
        ("train", {"images": PIXELS.astype(np.float32)}, "images", "uint8"),
        ("train", {"images": np.moveaxis(PIXELS, 3, 1)}, "images", "channels last"),
        ("train", {"images": PIXELS[:, :6]}, "images", "H = W"),
        ("train", {"images": PIXELS[..., 0]}, "images", r"\(N, H, W, 3\)"),
        ("train", {"images": np.uint8(3)}, "images", r"\(N, H, W, 3\)"),
        ("train", {"labels": LABELS.astype(float)}, "labels", "integers"),
        ("train", {"labels": LABELS[:, None]}, "labels", r"\(N,\)"),
        ("train", {"labels": np.int64(0)}, "labels", r"\(N,\)"),
        ("train", {"labels": LABELS[:-1]}, "labels", "one per image"),
        ("train", {"labels": LABELS - 1}, "labels", "from 0"),
        ("train", {"labels": LABELS + 1}, "labels", "skips class 0"),
        ("train", {"labels": LABELS * 2}, "labels", "skips class 1"),
        ("train", {"images": PIXELS[:0], "labels": LABELS[:0]}, "images", "put images in it"),
        ("train", {"images": np.array([None, "code"], dtype=object)}, "allow_pickle", "make the file again"),
        ("val", {"labels": np.tile([0, 1], 3)}, "labels", "the same classes"),
        ("val", {"images": np.zeros((6, 4, 4, 3), np.uint8)}, "images", "one size"),
        ("ood", {"images": np.zeros((20, 4, 4, 3), np.uint8)}, "images", "one size"),
        ("train", {"images": PIXELS[:3], "labels": np.arange(3)}, "images", "k-NN needs 5"),
        ("ood", {"images": PIXELS[:5], "labels": np.array([0, 1, 0, 1, 0])}, "images", "k-NN needs 5"),
        ("ood", {"images": PIXELS, "labels": np.zeros(12, int)}, "labels", "of another"),
    ],
)
def test_a_file_of_another_format_is_refused(folder, split, changes, key, fix):
    """The message names the file, the array and the fix."""
    change(folder, split, **changes)
    with pytest.raises(DataError, match=fix) as error:
        load_folder(folder)
    assert str(folder / f"{split}.npz") in str(error.value)
    assert key in str(error.value)


def test_one_class_is_too_few_for_the_linear_probe(folder):
    change(folder, "train", labels=np.zeros(12, int))
    change(folder, "val", labels=np.zeros(6, int))
    with pytest.raises(DataError, match=r"train\.npz: 'labels' leaves one class"):
        load_folder(folder)


@pytest.mark.parametrize("split", data.SPLITS)
def test_a_missing_file_is_named(folder, split):
    (folder / f"{split}.npz").unlink()
    with pytest.raises(DataError, match=rf"{split}\.npz: no such file"):
        load_folder(folder)


def test_a_damaged_file_is_named(folder):
    path = folder / "val.npz"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[300] ^= 255  # in the pixels, so that only the zip's own checksum tells
    for contents in (whole[: len(whole) // 2], bytes(flipped), b"", b"not a zip", b"\x80\x04N."):
        path.write_bytes(contents)
        with pytest.raises(DataError, match=r"val\.npz: .*make the file again"):
            load_folder(folder)


def test_a_single_array_is_no_split(folder):
    with (folder / "val.npz").open("wb") as file:
        np.save(file, PIXELS)
    with pytest.raises(DataError, match=r"val\.npz"):
        load_folder(folder)


@pytest.mark.parametrize("text", ["{", "[]", '{"class_names": ["one"]}', '{"class_names": 3}'])
def test_a_damaged_description_is_named(folder, text):
    (folder / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=r"dataset\.json"):
        load_folder(folder)


def test_limits_take_the_first_classes_and_the_first_images_of_each(folder):
    """Oracle: a loop over the images."""
    whole = load_folder(folder)
    dataset = load_folder(
        folder, classes=2, ood_classes=3, train_per_class=3, val_per_class=1, ood_per_class=4
    )
    for split, n_classes, per_class in (("train", 2, 3), ("val", 2, 1), ("ood", 3, 4)):
        kept, seen = [], dict.fromkeys(range(n_classes), 0)
        for i, label in enumerate(getattr(whole, split).labels):
            if label < n_classes and seen[label] < per_class:
                seen[label] += 1
                kept.append(i)
        np.testing.assert_array_equal(getattr(dataset, split).images, getattr(whole, split).images[kept])
        np.testing.assert_array_equal(getattr(dataset, split).labels, getattr(whole, split).labels[kept])
    assert len(dataset.class_names) == 2


@pytest.mark.parametrize(
    ("limits", "file"),
    [
        ({"classes": 4}, "train"),
        ({"ood_classes": 5}, "ood"),
        ({"train_per_class": 5}, "train"),
        ({"val_per_class": 3}, "val"),
        ({"image_size": 9}, "train"),
    ],
)
def test_more_than_there_is_cannot_be_asked_for(folder, limits, file):
    with pytest.raises(DataError, match=rf"{file}\.npz"):
        load_folder(folder, **limits)


@pytest.mark.parametrize(("old", "new"), [(8, 4), (12, 4), (64, 32), (16, 16)])
def test_downsampling_by_a_whole_factor_averages_blocks(old, new):
    """Oracle: the mean over a reshaped array."""
    images = arrays(2, 3, side=old)["images"]
    blocks = images.reshape(6, new, old // new, new, old // new, 3).mean(axis=(2, 4))
    np.testing.assert_array_equal(area_downsample(images, new), np.floor(blocks + 0.5))


def test_downsampling_agrees_with_pillows_box_filter():
    """Oracle: Pillow, which rounds once for the rows and once for the columns."""
    images = arrays(2, 3, side=64)["images"]
    ours = area_downsample(images, 16).astype(int)
    pillow = np.stack(
        [np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BOX)) for image in images]
    )
    assert np.abs(ours - pillow).max() <= 1


def test_downsampling_by_any_factor_averages_areas():
    """Oracle: enlarge 8 pixels to 24 without loss, then average blocks of 4 down to 6."""
    images = arrays(2, 3)["images"]
    enlarged = images.repeat(3, axis=1).repeat(3, axis=2)
    exact = enlarged.reshape(6, 6, 4, 6, 4, 3).mean(axis=(2, 4))
    assert np.abs(area_downsample(images, 6) - exact).max() <= 0.5 + 1e-3


def test_the_checksum_follows_contents_not_files(folder, tmp_path):
    before = load_folder(folder).checksum
    with np.load(folder / "val.npz") as file:
        np.savez_compressed(folder / "val.npz", **file)
    assert load_folder(folder).checksum == before
    assert load_folder(folder, train_per_class=3).checksum != before
    with np.load(folder / "val.npz") as file:
        images = file["images"].copy()
    images[0, 0, 0, 0] ^= 1
    change(folder, "val", images=images)
    assert load_folder(folder).checksum != before


def test_a_configured_folder_is_relative_to_the_project_and_cut_to_its_limits(folder, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", folder.parent)
    for path in (folder.name, str(folder)):
        dataset = load_dataset(DataConfig(path=path, classes=2, train_per_class=3, image_size=8))
        assert dataset.train.images.shape == (6, 8, 8, 3)
        assert dataset.val.n_classes == 2
    with pytest.raises(DataError, match=r"8 pixels a side, fewer than data\.image_size, 64"):
        load_dataset(DataConfig(path=str(folder)))


def test_fractals_are_built_once(cache):
    config = DataConfig(**SMALL)
    dataset = load_dataset(config)
    (built,) = [path for path in cache.iterdir() if path.is_dir()]
    before = {path.name: path.stat().st_mtime_ns for path in built.iterdir()}
    assert load_dataset(config).checksum == dataset.checksum
    assert {path.name: path.stat().st_mtime_ns for path in built.iterdir()} == before
    assert sorted(before) == ["dataset.json", "ood.npz", "train.npz", "val.npz"]
    assert (dataset.name, dataset.synthetic) == ("fractals", True)
    assert dataset.train.images.shape == (8, 8, 8, 3)
    assert dataset.ood.n_classes == 3


def test_other_parameters_are_another_dataset(cache):
    folders = {data.cache_folder(DataConfig(**{**SMALL, key: 9})) for key in SMALL if key != "name"}
    folders |= {data.cache_folder(DataConfig(**SMALL, seed=1)), data.cache_folder(DataConfig(**SMALL))}
    assert len(folders) == 8
    assert all(folder.parent == cache for folder in folders)


def test_a_broken_build_leaves_nothing_to_load(cache, monkeypatch):
    config = DataConfig(**SMALL)
    with monkeypatch.context() as broken:
        broken.setattr(np, "savez", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            load_dataset(config)
    assert [path for path in cache.iterdir() if path.is_dir()] == []
    load_dataset(config)


def test_a_killed_build_does_not_stop_the_next(cache):
    config = DataConfig(**SMALL)
    target = data.cache_folder(config)
    remains = target.with_name(f".{target.name}.partial")
    remains.mkdir(parents=True)
    (remains / "train.npz").write_bytes(b"half")
    load_dataset(config)
    assert not remains.exists()


def test_two_builders_at_once_build_once(cache, monkeypatch):
    builds, make_splits = [], fractals.make_splits

    def counted(**sizes):
        builds.append(sizes)
        return make_splits(**sizes)

    monkeypatch.setattr(fractals, "make_splits", counted)
    config = DataConfig(**SMALL)
    folder = data.cache_folder(config)
    threads = [threading.Thread(target=data.build, args=(config, folder)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builds) == 1
    assert load_folder(folder).train.n_classes == 2


def test_the_command_line_builds_and_checks(tmp_path, capsys):
    out = tmp_path / "new" / "fractals"
    sizes = ["--classes", "2", "--ood-classes", "2", "--train-per-class", "3", "--val-per-class", "1"]
    sizes += ["--ood-per-class", "5", "--image-size", "8", "--seed", "3"]
    assert data.main(["fractals", str(out), *sizes]) == 0
    built = capsys.readouterr().out
    assert "6 images 8x8x3, 2 classes x 3" in built
    assert data.main(["check", str(out)]) == 0
    assert capsys.readouterr().out == built
    assert json.loads((out / "dataset.json").read_text())["parameters"]["seed"] == 3


def test_the_command_line_explains_errors_with_exit_code_2(folder, capsys):
    (folder / "val.npz").unlink()
    wrong = (["check", str(folder)], ["fractals", str(folder)], ["fractals", "--classes", "0"])
    for arguments, words in zip(wrong, ("val.npz", "exists already", "classes"), strict=True):
        assert data.main(arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert words in captured.err


def test_the_module_runs_as_a_command_without_a_traceback(tmp_path):
    command = [sys.executable, "-m", "manyviews.data", "check", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
