"""Claims about the fractal images."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from manyviews.config.schema import DataConfig
from manyviews.data import fractals

GOLDEN = {
    "train": [[19.1, 25.6, 52.2], [27.7, 35.0, 60.8], [18.8, 28.8, 56.1], [23.3, 39.3, 71.9]],
    "val": [[45.3, 25.6, 15.0], [34.3, 15.3, 8.6], [62.0, 30.8, 15.5], [45.5, 19.0, 12.1]],
    "ood": [[59.3, 29.8, 25.2], [94.4, 58.1, 38.3], [77.1, 45.5, 36.0], [137.6, 97.7, 68.6]],
}
SIZES = {"classes": 3, "train_per_class": 5, "val_per_class": 4, "ood_classes": 2, "ood_per_class": 6}


def make(**changes):
    """{"train": Split, "val": Split, "ood": Split}"""
    config = DataConfig(name="fractals", **{**SIZES, "image_size": 16, "seed": 7, **changes})
    return dict(fractals.build(config).pieces)


@pytest.fixture(scope="module")
def ten_classes():
    """Ten classes at 32 pixels, enough to classify."""
    return make(classes=10, train_per_class=60, val_per_class=20, image_size=32, seed=0)


def test_train_and_val_are_drawn_from_the_same_systems_and_ood_from_others(monkeypatch):
    """Each image is replaced by the number of the system that it is drawn from."""
    systems = {}

    def numbered(system, rngs, image_size):
        number = systems.setdefault(system.maps.tobytes(), len(systems))
        return np.full((len(rngs), image_size, image_size, 3), number, np.uint8)

    monkeypatch.setattr(fractals, "draw_images", numbered)
    splits = make(classes=4, ood_classes=5, train_per_class=fractals.BATCH + 2)
    drawn = {}
    for name, n_classes, per_class in (("train", 4, fractals.BATCH + 2), ("val", 4, 4), ("ood", 5, 6)):
        split = splits[name]
        assert split.images.shape == (n_classes * per_class, 16, 16, 3)
        assert split.labels.tolist() == [label for label in range(n_classes) for _ in range(per_class)]
        drawn[name] = [set(split.images[split.labels == label].flat) for label in range(n_classes)]
    assert drawn["train"] == drawn["val"] == [{0}, {1}, {2}, {3}]
    assert drawn["ood"] == [{4}, {5}, {6}, {7}, {8}]


def test_a_seed_determines_every_image_and_no_image_is_drawn_twice():
    first, again, other = make(), make(), make(seed=8)
    every = [split.images.reshape(len(split.images), -1) for split in (*first.values(), *other.values())]
    assert len(np.unique(np.concatenate(every), axis=0)) == 2 * (3 * 5 + 3 * 4 + 2 * 6)
    for name in first:
        np.testing.assert_array_equal(first[name].images, again[name].images)
        assert (first[name].images.dtype, first[name].labels.dtype) == (np.uint8, np.int64)


def test_the_images_are_those_that_the_published_results_were_made_with():
    """Means of the first image's upper left, upper right, lower left and lower right, RGB, at RECIPE 2.

    A change of the images needs another RECIPE, so that no cache holds the old ones.
    """
    assert fractals.RECIPE == 2
    splits = make()
    for name, expected in GOLDEN.items():
        quarters = splits[name].images[0].reshape(2, 8, 2, 8, 3).mean(axis=(1, 3))
        np.testing.assert_allclose(quarters.reshape(4, 3), expected, atol=0.5)


def test_a_class_keeps_its_images_when_classes_or_images_are_added():
    few = make()
    sizes = {"classes": 4, "ood_classes": 3, "val_per_class": 9, "ood_per_class": 7}
    many = make(**sizes, train_per_class=fractals.BATCH + 3)
    for name, split in few.items():
        for label in range(split.n_classes):
            kept = split.images[split.labels == label]
            more = many[name].images[many[name].labels == label]
            np.testing.assert_array_equal(kept, more[: len(kept)])


def test_every_map_contracts_even_with_the_largest_jitter():
    """Oracle: spectral norms by SVD; a contracting system has one bounded attractor (Hutchinson 1981)."""
    rng = np.random.default_rng(0)
    for k in range(30):
        linear = fractals.sample_system(fractals.stream(0, "system", k)).maps[:, :, :2]
        for _ in range(20):
            corner = 1 + fractals.MAP_JITTER * rng.choice([-1, 1], linear.shape)
            assert np.linalg.norm(linear * corner, ord=2, axis=(1, 2)).max() < 1


def test_the_walks_draw_the_attractor():
    """Oracle: (x, y) lies on the right-angled Sierpinski triangle if no binary digit of both is 1."""
    corners = np.array([[0, 0], [0.5, 0], [0, 0.5]], dtype=np.float32)
    maps = np.stack([np.column_stack([np.eye(2) / 2, corner]) for corner in corners]).astype(np.float32)
    walks = np.random.default_rng(0).random((1, fractals.BURN_IN + fractals.KEPT, 200), dtype=np.float32)
    points = fractals.attractor(maps[None], np.full(3, 1 / 3, dtype=np.float32), walks)
    assert points.shape == (1, 2, 200 * fractals.KEPT)
    digits = np.floor(points[0] * 2**8).astype(int)
    assert not np.bitwise_and(digits[0], digits[1]).any()
    assert len(np.unique(digits // 2**4, axis=1).T) == 3**4  # all cells of the fourth generation


def test_a_histogram_counts_the_points_of_each_pixel():
    """Oracle: numpy.histogram2d, for points inside and outside of the canvas; y is the row."""
    points = np.random.default_rng(0).uniform(-1.3, 1.3, (3, 2, 500))
    for (x, y), counts in zip(points, fractals.histogram(points, 8), strict=True):
        np.testing.assert_array_equal(counts, np.histogram2d(y, x, bins=8, range=[[-1, 1]] * 2)[0])


def test_shape_tells_the_class_and_colour_does_not(ten_classes):
    """Oracle: scikit-learn's 5 nearest neighbours, on pixels and on mean colours; chance is 0.1."""
    train, val = ten_classes["train"], ten_classes["val"]

    def accuracy(describe):
        knn = KNeighborsClassifier(5).fit(describe(train.images), train.labels)
        return knn.score(describe(val.images), val.labels)

    def hue(images):  # of the mean colour, without its brightness
        colour = images.mean(axis=(1, 2))
        return colour / colour.sum(axis=1, keepdims=True)

    assert 0.3 < accuracy(lambda images: images.reshape(len(images), -1).astype(float)) < 0.8
    assert accuracy(hue) < 0.3


def test_every_class_uses_every_palette_red_first(monkeypatch):
    """Oracle: the median pixel, which is empty in most images, against the palettes' empty colours."""
    monkeypatch.setattr(fractals, "GAIN", 0)
    monkeypatch.setattr(fractals, "OFFSET", 0)
    split = make(classes=10, train_per_class=60, image_size=32, seed=0)["train"]
    empty = fractals.PALETTES[:, 0]  # (4, 3)
    median = np.median(split.images.reshape(len(split.images), -1, 3), axis=1)
    distance = np.abs(median[:, None] - empty).sum(axis=2)  # (N, 4)
    near = distance.min(axis=1) < 10  # with blue first, the last two palettes would be 16 and 20 away
    assert near.mean() > 0.7
    for label in range(10):
        assert set(distance[near & (split.labels == label)].argmin(axis=1)) == {0, 1, 2, 3}


def test_images_are_mirrored_and_lit_at_random(monkeypatch):
    """Half of them mirrored, brightness times 0.7 to 1.3 and up to 20 more or less, fitted."""
    lit = make(classes=1, train_per_class=200)["train"].images.astype(float)
    for name in ("GAIN", "OFFSET", "MIRRORED", "PIXEL_NOISE"):
        monkeypatch.setattr(fractals, name, 0)
    plain = make(classes=1, train_per_class=200)["train"].images.astype(float)
    mirrored, gains = [], []
    for image, before in zip(lit, plain, strict=True):
        fits = [np.polyfit(b.ravel(), image.ravel(), 1, full=True) for b in (before, before[:, ::-1])]
        best = int(np.argmin([residuals[0] for _, residuals, *_ in fits]))
        mirrored.append(best)
        gains.append(fits[best][0])
    gain, offset = np.array(gains).T
    assert 0.35 < np.mean(mirrored) < 0.65
    assert (gain.min(), gain.max()) == (pytest.approx(0.7, abs=0.1), pytest.approx(1.3, abs=0.15))
    assert (offset.min(), offset.max()) == (pytest.approx(-20, abs=8), pytest.approx(20, abs=8))
    assert abs(np.corrcoef(gain, offset)[0, 1]) < 0.4
