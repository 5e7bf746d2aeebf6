"""Claims about folders of pictures: what is read, what is left out, what is refused."""

import csv
import shutil

import numpy as np
import pytest
from PIL import Image

from manyviews.config.profiles import load_profile
from manyviews.config.schema import LIMITS, DataConfig
from manyviews.data import dataset as room
from manyviews.data import images
from manyviews.data.dataset import SPLITS, DataError, load_dataset

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


@pytest.fixture
def imagenet(tmp_path, monkeypatch):
    """ImageNet as Kaggle has it: six classes, eight training and three validation pictures of each."""
    monkeypatch.setenv("MANYVIEWS_DATA", str(tmp_path / "data"))
    root, rng, lines, file = tmp_path / "imagenet", np.random.default_rng(0), ["ImageId,PredictionString"], 0
    for wnid in WNIDS:
        for name in [f"train/{wnid}/{wnid}_{i}.JPEG" for i in range(8)] + ["val"] * 3:
            if name == "val":
                name = f"val/ILSVRC2012_val_{(file := file + 1):08d}.JPEG"
                lines.append(f"{name[4:-5]},{wnid} 85 1 499 272 {wnid} 131 0 499 254 ")
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            noise = rng.integers(0, 256, [*rng.integers(64, 99, 2).tolist(), 3], dtype=np.uint8)
            Image.fromarray(noise).save(root / name)
    (root / "LOC_val_solution.csv").write_text("\n".join(lines))
    return root


WNIDS = [f"n0{i}" for i in range(6)]
ORIGINAL = {"classes": 2, "ood_classes": 3, "train_per_class": 5, "val_per_class": 2, "ood_per_class": 2}


def test_imagenet_is_brought_to_the_form_of_the_original(imagenet):
    """So many classes and so many pictures of each, drawn by the seed; the unseen ones from its val/."""
    flat = config(imagenet, **ORIGINAL, image_size=64, val_list="LOC_val_solution.csv")
    data = load_dataset(flat)
    assert [np.bincount(s.labels).tolist() for s in (data.train, data.val, data.ood)] == [
        [5] * 2,
        [2] * 2,
        [2] * 3,
    ]
    assert not {*data.class_names} & {*data.ood_class_names}
    for line in (imagenet / "LOC_val_solution.csv").read_text().splitlines()[1:]:
        file, wnid = line.split(" ")[0].split(",")
        (imagenet / "val" / wnid).mkdir(exist_ok=True)
        (imagenet / "val" / f"{file}.JPEG").rename(imagenet / "val" / wnid / f"{file}.JPEG")
    by_class = flat.model_copy(update={"val_list": None})
    assert load_dataset(by_class).checksum == data.checksum, "sorted by class, it is the same"
    assert load_dataset(by_class.model_copy(update={"seed": 1})).class_names != data.class_names


def test_the_classes_to_train_on_can_be_listed_too(pictures):
    data = load_dataset(config(pictures, seen=["é", "cat", "Cat"]))
    assert data.class_names == ("Cat", "cat", "é")
    assert len(data.ood_class_names) == 4
    assert not {*data.class_names} & {*data.ood_class_names}


def test_the_profile_for_imagenet_asks_for_the_form_of_the_original():
    """Oracle: the numbers of the original's files, see data/README.md."""
    data = load_profile("imagenet-200").data
    assert [getattr(data, limit) for limit in LIMITS] == [200, 200, 500, 50, 50]
    assert data.image_size == 64


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
        ("whole.tif", ("I", 20), "of floating point or 32-bit integers"),
    ],
)
def test_a_file_that_cannot_be_used_is_left_out_and_counted(pictures, name, contents, said, capsys):
    path = pictures / "zebra" / name
    if isinstance(contents, tuple) and contents[0] == "I":
        Image.new("I", (20, 20), 200).save(path)
    elif isinstance(contents, tuple):
        Image.new("L", contents).save(path)
    else:
        path.write_bytes((pictures / "cat" / "0.png").read_bytes()[:300] if contents is None else contents)
    load_dataset(config(pictures))
    assert f"files left out: 1 {said}" in capsys.readouterr().err


def test_what_the_disk_refuses_and_what_memory_lacks_is_not_called_broken():
    assert images.reason_of(PermissionError(13, "Permission denied")) == "not to be read (Permission denied)"
    assert images.reason_of(OSError("image file is truncated")) == "broken"
    with pytest.raises(MemoryError):
        images.reason_of(MemoryError())


def test_a_class_may_be_called_train_where_it_lies_in_train(pictures):
    (pictures / "cat").rename(pictures / "val")
    assert "val" not in images.list_classes(pictures, but=SPLITS)
    assert "val" in images.list_classes(pictures)


def test_classes_of_more_pictures_than_are_read_at_a_time_are_whole(pictures, monkeypatch):
    whole = load_dataset(config(pictures)).checksum
    monkeypatch.setattr(images, "CHUNK", 3)
    assert load_dataset(config(pictures, val_fraction=0.2001)).checksum == whole


def test_parts_of_other_names_and_classes_in_both_are_told(pictures, capsys):
    pictures.rename(pictures.parent / "train")
    (pictures / "valid").mkdir(parents=True)
    (pictures.parent / "train").rename(pictures / "train")
    for name in NAMES[:2]:
        (pictures / "ood" / name).mkdir(parents=True)
        Image.new("RGB", (20, 20), "white").save(pictures / "ood" / name / "0.png")
    load_dataset(config(pictures))
    said = capsys.readouterr().err
    assert "valid: not read; call it val/" in said
    assert "2 classes of ood/ are trained on too" in said


def test_a_list_is_utf_8_with_or_without_its_mark(pictures):
    (pictures / "list").write_bytes("\ufeff0.png x".encode())
    assert images.listed(pictures / "cat", pictures / "list") == {"x": [pictures / "cat" / "0.png"]}
    (pictures / "list").write_bytes("0.png é".encode("latin1"))
    with pytest.raises(DataError, match="list: is not UTF-8"):
        images.listed(pictures / "cat", pictures / "list")


def test_hidden_files_and_links_in_a_circle_are_passed_over(pictures, capsys):
    before = load_dataset(config(pictures)).checksum
    (pictures / "cat" / ".thumbnails").mkdir()
    shutil.copy(pictures / "cat" / "0.png", pictures / "cat" / ".thumbnails")
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
        (
            lambda root: None,
            {"seen": ["cat", "é"], "unseen": ["cat", "Cat"]},
            "'cat' is in data.seen and data.un",
        ),
        (lambda root: None, {"val_list": "labels.csv"}, r"labels.csv: no such file; data.val_list"),
        (lambda root: (root / "no.csv").write_text("a,b"), {"val_list": "no.csv"}, "no line `FILE CLASS`"),
        (lambda root: None, {"unseen_fraction": 0.1}, "its 8 classes give 1 unseen, not 2"),
        (lambda root: None, {"train_per_class": 9}, "8 pictures for train, not 9|pictures for train, not 9"),
        (lambda root: (root / "val" / "cat").mkdir(parents=True), {}, "it must have those of train"),
    ],
)
def test_what_cannot_be_divided_is_refused(pictures, harm, changes, words):
    harm(pictures)
    with pytest.raises(DataError, match=words):
        load_dataset(config(pictures, **changes))
