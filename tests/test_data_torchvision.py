"""Claims about torchvision's datasets; oracle: torchvision itself, on made-up files of the right layout."""

import json
import pickle
from typing import get_args

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError
from torchvision import datasets

from manyviews.config.schema import ConfigError, DataConfig, Profile, TorchvisionDataset
from manyviews.data import torchvision
from manyviews.data.dataset import DataError, load_dataset

NAMES = ["airplane", "bird", "cat", "deer"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MANYVIEWS_DATA", str(tmp_path / "data"))
    return tmp_path / "data" / "torchvision"


@pytest.fixture
def cifar10(folder, monkeypatch):
    """Of four classes, 20 training and 8 test images."""
    monkeypatch.setattr(datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": None})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["data_batch_1", None]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", None]])
    rng, base = np.random.default_rng(0), folder / "cifar-10-batches-py"
    base.mkdir(parents=True)
    for name, n in (("data_batch_1", 20), ("test_batch", 8)):
        pixels = rng.integers(0, 256, (n, 3 * 32 * 32), dtype=np.uint8)
        (base / name).write_bytes(pickle.dumps({"data": pixels, "labels": [i % 4 for i in range(n)]}))
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": NAMES}))
    return folder


def config(dataset, **changes):
    return DataConfig(**{"name": "torchvision", "dataset": dataset, "image_size": 32, **changes})


def test_cifar10_is_that_of_torchvision_with_classes_set_aside(cifar10):
    data = load_dataset(config("CIFAR10", unseen=["bird", "deer"]))
    assert (data.name, data.synthetic) == ("CIFAR10", False)
    assert (data.class_names, data.ood_class_names) == (("airplane", "cat"), ("bird", "deer"))
    assert [len(s.labels) for s in (data.train, data.val, data.ood)] == [10, 4, 4]
    for split, train, names in (
        (data.train, True, data.class_names),
        (data.ood, False, data.ood_class_names),
    ):
        oracle = datasets.CIFAR10(str(cifar10), train=train)
        expected = {(np.asarray(picture).tobytes(), NAMES[label]) for picture, label in oracle}
        got = {(image.tobytes(), names[k]) for image, k in zip(split.images, split.labels, strict=True)}
        assert got == {pair for pair in expected if pair[1] in names}


def test_unseen_classes_are_drawn_by_the_seed_and_images_limited(cifar10):
    drawn = [load_dataset(config("CIFAR10", seed=k, train_per_class=3, image_size=8)) for k in (0, 1, 1)]
    assert [np.bincount(data.train.labels).tolist() for data in drawn] == [[3, 3]] * 3
    assert drawn[0].checksum != drawn[1].checksum == drawn[2].checksum


def test_pictures_in_files_of_any_shape_are_read_too(folder):
    base = folder / "food-101"
    (base / "meta").mkdir(parents=True)
    for part, n in (("train", 3), ("test", 2)):
        files = {name: [f"{name}/{part}{i}" for i in range(n)] for name in NAMES}
        (base / "meta" / f"{part}.json").write_text(json.dumps(files))
        for file in (file for of_class in files.values() for file in of_class):
            (base / "images" / file).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (50, 40), (len(file), 9, 9)).save(base / "images" / f"{file}.jpg")
    data = load_dataset(config("Food101"))
    assert [len(s.labels) for s in (data.train, data.val, data.ood)] == [6, 4, 4]


def test_a_file_that_is_no_picture_is_left_out_and_counted(cifar10):
    class Broken:
        def __getitem__(self, index):
            raise UnidentifiedImageError("cannot identify image file")

    item = torchvision.Item(Broken(), 0, 0)
    assert torchvision.read_item(item, 8, "crop") == (None, "", "no pictures that Pillow reads")


def test_without_a_network_the_message_says_how_to_fetch_it_elsewhere(folder, monkeypatch):
    def no_network(*_, **__):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(datasets.utils.urllib.request, "urlopen", no_network)
    with pytest.raises(
        DataError,
        match=r"CIFAR10 \(.*CIFAR10\('FOLDER', download=True, .*True.*; CIFAR10\(.*data.path",
    ):
        load_dataset(config("CIFAR10"))


def test_larger_images_than_there_are_are_refused(cifar10):
    with pytest.raises(DataError, match=r"smaller than 64 pixels \(data.image_size\)"):
        load_dataset(config("CIFAR10", image_size=64))


def test_the_names_are_those_of_torchvision():
    assert get_args(TorchvisionDataset) == tuple(torchvision.PARTS)
    assert all(hasattr(datasets, name) for name in torchvision.PARTS)
    with pytest.raises(ConfigError, match=r"data.dataset.*'CIFAR10'.*got 'cifar10'"):
        Profile(profile="x", data={"name": "torchvision", "dataset": "cifar10"})
    with pytest.raises(ConfigError, match="`dataset: NAME`"):
        Profile(profile="x", data={"name": "torchvision"})
