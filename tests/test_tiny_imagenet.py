"""Claims about Tiny-ImageNet: the split, what is read from the zip, and the download."""

import hashlib
import io
import os
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manyviews import data, paths, tiny_imagenet
from manyviews.config import DataConfig
from manyviews.data import DataError, load_dataset

OFFICIAL = Path(
    os.environ.get(tiny_imagenet.ZIP_VARIABLE) or paths.ROOT / "../shared/data/tiny-imagenet-200.zip"
)
needs_official = pytest.mark.skipif(
    not OFFICIAL.is_file(),
    reason=f"needs the real zip: set {tiny_imagenet.ZIP_VARIABLE} to tiny-imagenet-200.zip",
)

WNIDS = ["n08", "n01", "n03", "n02", "n05", "n04"]  # sorted: classes n01 n03 n05, unseen n02 n04 n08
N_TRAIN, N_VAL = 12, 5


def jpeg(shade, mode="RGB", side=64):
    """A JPEG file of one shade of gray, which its compression keeps."""
    file = io.BytesIO()
    Image.new(mode, (side, side), (shade,) * len(mode)).save(file, "JPEG", quality=95)
    return file.getvalue()


def members():
    """A small zip of the official layout; the shade, 10 x (class + 1) + number, tells the images apart."""
    files = {"wnids.txt": "\n".join(WNIDS), "words.txt": "n01\tgoldfish, carp\nn02\tnewt\nn03\tbee\n"}
    lines, ids = [], sorted(WNIDS)
    for k, wnid in enumerate(ids):
        if k % 2 == 0:  # like the zip used in development, without what is never read
            for i in reversed(range(N_TRAIN)):
                mode = "L" if i == 1 else "RGB"
                files[f"train/{wnid}/images/{wnid}_{i}.JPEG"] = jpeg(10 * (k + 1) + i, mode)
    for i in range(N_VAL * len(ids)):
        k = i % len(ids)
        files[f"val/images/val_{i}.JPEG"] = jpeg(10 * (k + 1) + i // len(ids))
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
    monkeypatch.setattr(tiny_imagenet, "URL", "http://127.0.0.1:9/nothing-here.zip")
    return tmp_path / "data"


def shades(images):
    """The one shade of each image; it must be the same in all pixels, to within JPEG's rounding."""
    assert np.ptp(images.astype(int), axis=(1, 2, 3)).max() <= 1
    return np.rint(images.mean(axis=(1, 2, 3))).astype(int)


def test_every_second_sorted_class_is_trained_on_and_the_others_are_unseen(small_zip):
    splits, names, ood_names = tiny_imagenet.make_splits(small_zip)
    train, val, ood = (splits[split] for split in ("train", "val", "ood"))
    np.testing.assert_array_equal(train[1], np.repeat([0, 1, 2], N_TRAIN))
    np.testing.assert_array_equal(shades(train[0]), [10 * c + i for c in (1, 3, 5) for i in range(N_TRAIN)])
    np.testing.assert_array_equal(shades(val[0]), [10 * c + i for c in (1, 3, 5) for i in range(N_VAL)])
    np.testing.assert_array_equal(shades(ood[0]), [10 * c + i for c in (2, 4, 6) for i in range(N_VAL)])
    assert names == ["goldfish", "bee", "n05"]
    assert ood_names == ["newt", "n04", "n08"]


def test_the_first_images_by_number_are_taken(small_zip):
    """In the zip, as in a listing by name, _10 and _11 stand before _2."""
    splits, _, _ = tiny_imagenet.make_splits(
        small_zip,
        classes=2,
        ood_classes=1,
        train_per_class=3,
        val_per_class=2,
        ood_per_class=1,
        image_size=16,
    )
    assert splits["train"][0].shape == (6, 16, 16, 3)
    np.testing.assert_array_equal(shades(splits["train"][0]), [10, 11, 12, 30, 31, 32])
    np.testing.assert_array_equal(shades(splits["val"][0]), [10, 11, 30, 31])
    np.testing.assert_array_equal(shades(splits["ood"][0]), [20])


@pytest.mark.parametrize("n", [1, 2, 3, 7, 20, 33, 99, 100])
def test_fewer_classes_are_evenly_spaced(n):
    chosen = tiny_imagenet.evenly_spaced(list(range(100)), n)
    assert len(set(chosen)) == n
    assert chosen[0] == 0
    gaps = np.diff([*chosen, 100])
    assert set(gaps) <= {100 // n, 100 // n + 1}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"wnids.txt": None}, r"no wnids\.txt"),
        ({"words.txt": None}, r"words\.txt"),
        ({"val/val_annotations.txt": None}, r"val_annotations\.txt"),
        ({"val/val_annotations.txt": "val_0.JPEG n01\n"}, "is damaged or not"),
        ({"wnids.txt": "n01\n"}, "ask for fewer classes"),
        ({"train/n03/images/n03_4.JPEG": None}, "11 images, fewer than the 12 needed.*train_per_class"),
        ({"train/n03/images/n03_x.JPEG": b""}, "is damaged or not"),
        ({"train/n03/images/n03_4.JPEG": b"not a picture"}, r"n03_4\.JPEG is damaged"),
        ({"train/n03/images/n03_4.JPEG": jpeg(9)[:400]}, r"n03_4\.JPEG is damaged"),
        ({"train/n03/images/n03_4.JPEG": jpeg(9, side=32)}, r"n03_4\.JPEG has shape \(32, 32, 3\)"),
        ({"val/images/val_7.JPEG": None}, r"has no .*val_7\.JPEG"),
    ],
)
def test_a_zip_that_lacks_something_is_refused(tmp_path, changes, words):
    files = {name: contents for name, contents in {**members(), **changes}.items() if contents is not None}
    path = write(tmp_path / "other.zip", files)
    with pytest.raises(DataError, match=words) as error:
        tiny_imagenet.make_splits(path, train_per_class=N_TRAIN)
    assert str(path) in str(error.value)


def test_a_class_without_training_images_is_refused(tmp_path):
    files = {name: contents for name, contents in members().items() if not name.startswith("train/n05")}
    path = write(tmp_path / "other.zip", files)
    with pytest.raises(DataError, match="0 images, fewer than the 1 needed"):
        tiny_imagenet.make_splits(path)
    assert tiny_imagenet.make_splits(path, classes=2)[1] == ["goldfish", "bee"]


def test_a_damaged_zip_is_refused(small_zip):
    whole = small_zip.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    for contents in (whole[:-1000], bytes(flipped), b"", b"<html>not found</html>"):
        small_zip.write_bytes(contents)
        with pytest.raises(DataError, match=r"small\.zip.*fetch http"):
            tiny_imagenet.make_splits(small_zip)


@pytest.mark.parametrize("request_", [{"classes": 101}, {"ood_classes": 200}, {"image_size": 65}])
def test_more_than_there_is_is_refused_before_anything_is_fetched(cache, request_):
    with pytest.raises(DataError, match=next(iter(request_))):
        load_dataset(DataConfig(name="tiny-imagenet", **request_))


def test_the_zip_is_looked_for_in_the_stated_order(cache, tmp_path, monkeypatch):
    cache.mkdir()
    in_cache, in_variable, given = (
        write(path, {}) for path in (cache / tiny_imagenet.ZIP_NAME, tmp_path / "v.zip", tmp_path / "g.zip")
    )
    assert tiny_imagenet.find_zip(None) == in_cache
    monkeypatch.setenv(tiny_imagenet.ZIP_VARIABLE, str(in_variable))
    assert tiny_imagenet.find_zip(None) == in_variable
    assert tiny_imagenet.find_zip(given) == given
    in_variable.unlink()
    with pytest.raises(DataError, match=r"v\.zip: no such file; \$MANYVIEWS_TINY_IMAGENET"):
        tiny_imagenet.find_zip(None)


def test_a_dataset_is_built_once_and_then_needs_no_zip(cache, small_zip):
    config = DataConfig(name="tiny-imagenet", path=str(small_zip), image_size=16)
    dataset = load_dataset(config)
    small_zip.unlink()
    assert load_dataset(config).checksum == dataset.checksum
    assert (dataset.name, dataset.synthetic) == ("tiny-imagenet", False)
    assert dataset.train.images.shape == (3 * N_TRAIN, 16, 16, 3)
    assert dataset.class_names == ("goldfish", "bee", "n05")
    assert dataset.ood_class_names == ("newt", "n04", "n08")


def test_the_command_line_takes_the_zip_from_where_one_is(cache, small_zip, monkeypatch, capsys):
    monkeypatch.chdir(small_zip.parent)
    assert data.main(["tiny-imagenet", "out", "--path", small_zip.name]) == 0
    assert "36 images 64x64x3, 3 classes x 12" in capsys.readouterr().out
    assert data.main(["tiny-imagenet", "other", "--path", "nowhere.zip"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


# ------------------------------------------------------------------------------------------- the download


class Server(ThreadingHTTPServer):
    """Serves `content`; the first `breaks` answers end halfway through what was asked for."""

    def __init__(self, content, breaks=0, ranges=True):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.breaks, self.ranges = content, breaks, ranges
        self.asked = []  # the Range header of each request
        self.url = f"http://127.0.0.1:{self.server_port}/file.zip"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, asked = self.server, self.headers["Range"]
        server.asked.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.ranges else 0
        rest = server.content[start:]
        if start and not rest:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if len(server.asked) <= server.breaks:
            rest = rest[: len(rest) // 2]
        self.wfile.write(rest)

    def log_message(self, *args):
        pass


CONTENT = np.random.default_rng(0).bytes(3_000_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def serve():
    servers = []

    def start(*args, **kwargs):
        server = Server(*args, **kwargs)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_download_goes_on_where_the_connection_broke(serve, tmp_path):
    server = serve(CONTENT, breaks=2)
    tiny_imagenet.download(server.url, tmp_path / "file.zip", MD5)
    assert (tmp_path / "file.zip").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1500000-", "bytes=2250000-"]
    assert [path.name for path in tmp_path.iterdir()] == ["file.zip"]


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(serve, tmp_path, monkeypatch):
    server = serve(CONTENT, breaks=1)
    monkeypatch.setattr(tiny_imagenet, "ATTEMPTS", 1)
    with pytest.raises(DataError, match="run again to go on"):
        tiny_imagenet.download(server.url, tmp_path / "file.zip", MD5)
    assert not (tmp_path / "file.zip").exists()
    tiny_imagenet.download(server.url, tmp_path / "file.zip", MD5)
    assert (tmp_path / "file.zip").read_bytes() == CONTENT


def test_a_server_without_resuming_is_read_from_the_start(serve, tmp_path):
    server = serve(CONTENT, breaks=1, ranges=False)
    tiny_imagenet.download(server.url, tmp_path / "file.zip", MD5)
    assert (tmp_path / "file.zip").read_bytes() == CONTENT


def test_a_complete_part_needs_no_more(serve, tmp_path):
    (tmp_path / "file.zip.part").write_bytes(CONTENT)
    tiny_imagenet.download(serve(CONTENT).url, tmp_path / "file.zip", MD5)
    assert (tmp_path / "file.zip").read_bytes() == CONTENT


def test_another_file_is_removed(serve, tmp_path):
    with pytest.raises(DataError, match="MD5"):
        tiny_imagenet.download(serve(b"other").url, tmp_path / "file.zip", MD5)
    assert list(tmp_path.iterdir()) == []


def test_no_connection_says_where_to_put_the_file(cache):
    with pytest.raises(DataError, match="put it at") as error:
        load_dataset(DataConfig(name="tiny-imagenet"))
    assert str(cache / tiny_imagenet.ZIP_NAME) in str(error.value)


def test_a_fetched_zip_becomes_a_dataset(cache, small_zip, serve, monkeypatch):
    content = small_zip.read_bytes()
    monkeypatch.setattr(tiny_imagenet, "URL", serve(content, breaks=1).url)
    monkeypatch.setattr(tiny_imagenet, "MD5", hashlib.md5(content).hexdigest())
    assert load_dataset(DataConfig(name="tiny-imagenet")).train.n_classes == 3
    assert (cache / tiny_imagenet.ZIP_NAME).read_bytes() == content


# ------------------------------------------------------------------------------------------- the real zip


@needs_official
def test_the_real_zip_holds_the_whole_split():
    with zipfile.ZipFile(OFFICIAL) as archive:
        plan = tiny_imagenet.make_plan(archive, OFFICIAL, None, None)
    assert [len(of_class) for of_class in plan.train] == [500] * 100
    assert [len(of_class) for of_class in plan.val] == [50] * 100
    assert [len(of_class) for of_class in plan.ood] == [50] * 100
    used = [member for split in (plan.train, plan.val, plan.ood) for of_class in split for member in of_class]
    assert len(set(used)) == 60_000
    assert not set(plan.class_names) & set(plan.ood_class_names)
    assert plan.class_names[:2] == ["goldfish", "bullfrog"]


@needs_official
def test_real_images_are_those_of_their_files(cache):
    """Oracle: Pillow opens the members named by the official layout."""
    config = DataConfig(
        name="tiny-imagenet",
        path=str(OFFICIAL.resolve()),
        classes=4,
        ood_classes=4,
        train_per_class=20,
        val_per_class=5,
    )
    dataset = load_dataset(config)
    with zipfile.ZipFile(OFFICIAL) as archive:
        ids = sorted(archive.read("tiny-imagenet-200/wnids.txt").decode().split())
        for i, label in enumerate(dataset.train.labels):
            wnid = ids[2 * 25 * label]  # evenly spaced among every second one
            with archive.open(f"tiny-imagenet-200/train/{wnid}/images/{wnid}_{i % 20}.JPEG") as file:
                np.testing.assert_array_equal(dataset.train.images[i], Image.open(file).convert("RGB"))
    assert dataset.ood.images.shape == (200, 64, 64, 3)
    assert dataset.class_names[0] == "goldfish"
