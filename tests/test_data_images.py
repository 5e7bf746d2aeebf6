"""Claims about folders of pictures: what is read, what is left out, what is refused."""

import csv

import numpy as np
import pytest
from PIL import Image

from manyviews.config.schema import DataConfig
from manyviews.data import dataset as room
from manyviews.data import images
from manyviews.data.dataset import DataError, load_dataset

QUARTERS = np.array([[[250, 120, 10], [200, 20, 90]], [[30, 180, 70], [60, 5, 220]]], np.uint8)
NAMES = ("a b", "é", "$x^2$", "p|q", "🙂", "Cat", "cat", "zebra")


def large(pixels, times=8):
    return pixels.repeat(times, axis=0).repeat(times, axis=1)


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Eight classes of odd names, ten noise pictures of 16 x 20 pixels each."""
    monkeypatch.setenv("MANYVIEWS_DATA", str(tmp_path / "data"))
    rng = np.random.default_rng(0)
    for name in NAMES:
        (tmp_path / "mine" / name).mkdir(parents=True)
        for i in range(10):
            noise = rng.integers(0, 256, (16, 20, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / "mine" / name / f"{i}.png")
    return tmp_path / "mine"


def config(path, **changes):
    return DataConfig(**{"name": "images", "path": str(path), "image_size": 8, **changes})


def read(path, fit="crop"):
    pixels, _, reason = images.read_picture(path, 2, fit)
    assert reason == ""
    return pixels


def test_classes_and_pictures_are_divided_without_overlap_and_the_same_way_each_time(pictures):
    data = load_dataset(config(pictures))
    assert sorted((*data.class_names, *data.ood_class_names)) == sorted(NAMES)
    assert [np.bincount(s.labels).tolist() for s in (data.train, data.val, data.ood)] == [
        [8] * 4,
        [2] * 4,
        [10] * 4,
    ]
    with (room.cache_folder(config(pictures)) / "manifest.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len({row["file"] for row in rows}) == len(rows) == 80
    assert load_dataset(config(pictures, val_fraction=0.2001)).checksum == data.checksum
    assert load_dataset(config(pictures, seed=1)).checksum != data.checksum


def test_unseen_classes_come_from_a_list_or_from_ood(pictures):
    assert load_dataset(config(pictures, unseen=["é", "cat"])).ood_class_names == ("cat", "é")
    (pictures / "ood").mkdir()
    for name in ("Cat", "zebra"):
        (pictures / name).rename(pictures / "ood" / name)
    data = load_dataset(config(pictures, seed=1))
    assert (data.ood_class_names, len(data.class_names)) == (("Cat", "zebra"), 6)


def test_val_is_taken_where_there_is_one(pictures):
    root = pictures.parent / "split"
    root.mkdir()
    pictures.rename(root / "train")
    for name in NAMES:
        (root / "val" / name).mkdir(parents=True)
        for i in range(3):
            (root / "train" / name / f"{i}.png").rename(root / "val" / name / f"{i}.png")
    data = load_dataset(config(root))
    assert [len(s.labels) for s in (data.train, data.val, data.ood)] == [28, 12, 12]


def save_16_bit(path):
    Image.fromarray(large(QUARTERS[..., 0]).astype(np.uint16) << 8).save(path)


def save_turned(path):
    exif = Image.Exif()
    exif[0x112] = 6  # to be turned by a quarter, clockwise
    Image.fromarray(np.rot90(large(QUARTERS))).save(path, exif=exif)


def save_transparent(path):
    alpha = large(np.array([[255, 0], [255, 255]], np.uint8))
    Image.fromarray(np.dstack([large(QUARTERS), alpha])).save(path)


GRAY = QUARTERS[..., :1].repeat(3, axis=2)
ON_WHITE = QUARTERS.copy()
ON_WHITE[0, 1] = 255


@pytest.mark.parametrize(
    ("save", "expected"),
    [
        (save_16_bit, GRAY),
        (save_turned, QUARTERS),
        (save_transparent, ON_WHITE),
        (lambda path: Image.fromarray(large(QUARTERS)).quantize(4).save(path), QUARTERS),
        (lambda path: Image.fromarray(large(QUARTERS[..., 0])).save(path), GRAY),
    ],
)
def test_every_mode_becomes_rgb_upright(tmp_path, save, expected):
    save(tmp_path / "x.png")
    np.testing.assert_array_equal(read(tmp_path / "x.png"), expected)


def test_animated_pictures_give_their_first_frame_and_cmyk_is_read(tmp_path):
    frames = [Image.fromarray(large(QUARTERS)), Image.new("RGB", (16, 16))]
    frames[0].save(tmp_path / "x.webp", save_all=True, append_images=frames[1:], lossless=True)
    np.testing.assert_array_equal(read(tmp_path / "x.webp"), QUARTERS)
    frames[0].convert("CMYK").save(tmp_path / "x.tif")
    assert np.abs(read(tmp_path / "x.tif").astype(int) - QUARTERS).max() <= 2


def test_the_centre_is_cropped_or_the_whole_squeezed(tmp_path):
    Image.fromarray(
        np.hstack([np.zeros((16, 8, 3), np.uint8), large(QUARTERS), np.zeros((16, 8, 3), np.uint8)])
    ).save(tmp_path / "x.png")
    np.testing.assert_array_equal(read(tmp_path / "x.png"), QUARTERS)
    np.testing.assert_array_equal(read(tmp_path / "x.png", "squeeze"), (QUARTERS + 1) // 2)


@pytest.mark.parametrize(
    ("name", "contents", "said"),
    [
        ("empty.jpg", b"", "no pictures that Pillow reads"),
        ("notes.txt", b"some words", "no pictures that Pillow reads"),
        ("cut.png", None, "broken"),
        ("small.png", (7, 30), "smaller than 8 pixels"),
        ("huge.png", (10_000, 9_000), "larger than 89 megapixels"),
    ],
)
def test_a_file_that_cannot_be_used_is_left_out_and_counted(pictures, name, contents, said, capsys):
    path = pictures / "zebra" / name
    if isinstance(contents, tuple):
        Image.new("L", contents).save(path)
    else:
        path.write_bytes((pictures / "cat" / "0.png").read_bytes()[:300] if contents is None else contents)
    load_dataset(config(pictures))
    assert f"files left out: 1 {said}" in capsys.readouterr().err


def test_hidden_files_and_links_in_a_circle_are_passed_over(pictures, capsys):
    before = load_dataset(config(pictures)).checksum
    for name in (".DS_Store", "Thumbs.db", "._0.png"):
        (pictures / "cat" / name).write_bytes(b"\0")
    (pictures / "__MACOSX").mkdir()
    (pictures / "loop").symlink_to(pictures)
    (pictures / "cat" / "loop").symlink_to(pictures)
    assert load_dataset(config(pictures, val_fraction=0.2001)).checksum == before
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("harm", "changes", "words"),
    [
        (lambda root: [p.unlink() for p in (root / "cat").iterdir()], {}, "class 'cat' has 0 pictures"),
        (
            lambda root: [p.unlink() for p in sorted((root / "é").iterdir())[1:]],
            {"unseen": ["cat", "Cat"]},
            "'é' has 0",
        ),
        (lambda root: root.rename(root.with_name("moved")), {}, "no such folder; data.path"),
        (lambda root: [p.rename(root.parent / p.name) for p in root.iterdir()], {}, "has no folders"),
        (lambda root: None, {"unseen": ["cats", "Cat"]}, "no class 'cats'; did you mean 'cat'"),
        (lambda root: None, {"unseen_fraction": 0.1}, "1 unseen classes, not 2"),
        (lambda root: None, {"train_per_class": 9}, "8 pictures for train, not 9|pictures for train, not 9"),
        (lambda root: (root / "val" / "cat").mkdir(parents=True), {}, "it must have those of train"),
    ],
)
def test_what_cannot_be_divided_is_refused(pictures, harm, changes, words):
    harm(pictures)
    with pytest.raises(DataError, match=words):
        load_dataset(config(pictures, **changes))
