"""Claims about the fractal images."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from manyviews import fractals

SIZES = {
    "classes": 3,
    "train_per_class": 5,
    "val_per_class": 4,
    "ood_classes": 2,
    "ood_per_class": 6,
    "image_size": 16,
    "seed": 7,
}


def make(**changes):
    return fractals.make_splits(**{**SIZES, **changes})


@pytest.fixture(scope="module")
def ten_classes():
    """Ten classes at 32 pixels, enough to classify."""
    return make(classes=10, train_per_class=60, val_per_class=20, image_size=32, seed=0)


def test_counts_shapes_and_types_are_as_asked():
    splits = make()
    for split, n_classes, per_class in (("train", 3, 5), ("val", 3, 4), ("ood", 2, 6)):
        images, labels = splits[split]
        assert images.shape == (n_classes * per_class, 16, 16, 3)
        assert images.dtype == np.uint8
        assert labels.dtype == np.int64
        np.testing.assert_array_equal(np.bincount(labels), [per_class] * n_classes)


def test_a_seed_determines_every_image():
    first, again, other = make(), make(), make(seed=8)
    for split in first:
        np.testing.assert_array_equal(first[split][0], again[split][0])
        assert not np.array_equal(first[split][0], other[split][0])


def test_no_global_random_state_is_read_or_moved():
    np.random.seed(1)  # noqa: NPY002
    first, state = make(), np.random.get_state()[1].copy()  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    np.testing.assert_array_equal(first["train"][0], make()["train"][0])
    np.random.seed(1)  # noqa: NPY002
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # noqa: NPY002


def test_a_class_keeps_its_images_when_classes_or_images_are_added():
    few = make()
    many = make(
        classes=4, train_per_class=fractals.BATCH + 3, val_per_class=9, ood_classes=3, ood_per_class=7
    )
    for split, (images, labels) in few.items():
        more_images, more_labels = many[split]
        for label in np.unique(labels):
            kept = images[labels == label]
            np.testing.assert_array_equal(kept, more_images[more_labels == label][: len(kept)])


def test_no_image_is_drawn_twice():
    splits = make(train_per_class=20, val_per_class=20, ood_per_class=20)
    every = np.concatenate([images.reshape(len(images), -1) for images, _ in splits.values()])
    assert len(np.unique(every, axis=0)) == len(every)


def test_classes_are_different_systems_and_none_is_shared_with_ood():
    systems = [
        fractals.sample_system(fractals.stream(0, kind, k))
        for kind in ("system", "ood_system")
        for k in range(20)
    ]
    assert len({system.maps.tobytes() for system in systems}) == 40


def test_every_map_contracts_even_with_the_largest_jitter():
    """Oracle: spectral norms by SVD; a contracting system has one bounded attractor (Hutchinson 1981)."""
    rng = np.random.default_rng(0)
    for k in range(50):
        linear = fractals.sample_system(fractals.stream(0, "system", k)).maps[:, :, :2]
        for _ in range(20):
            corner = 1 + fractals.MAP_JITTER * rng.choice([-1, 1], linear.shape)
            assert np.linalg.norm(linear * corner, ord=2, axis=(1, 2)).max() < 1


def test_every_class_is_neither_dust_nor_a_blot():
    """Oracle: one long walk in plain Python, which fills a little more or less than the many short ones."""
    rng = np.random.default_rng(0)
    for k in range(5):
        system = fractals.sample_system(fractals.stream(0, "system", k))
        point, points = np.zeros(2), []
        for step in range(4100):
            chosen = system.maps[
                rng.choice(len(system.maps), p=system.weights / system.weights.sum(dtype=float))
            ]
            point = chosen[:, :2] @ point + chosen[:, 2]
            if step >= 100:
                points.append(point)
        points = np.array(points)
        points -= (points.max(axis=0) + points.min(axis=0)) / 2
        points /= np.abs(points).max()
        filled = np.histogram2d(*points.T, bins=32, range=[[-1, 1]] * 2)[0].astype(bool).mean()
        assert fractals.FILL[0] - 0.05 <= filled <= fractals.FILL[1] + 0.05


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
    """Oracle: numpy.histogram2d, for points inside and outside of the canvas."""
    points = np.random.default_rng(0).uniform(-1.3, 1.3, (3, 2, 500))
    for image, counts in zip(points, fractals.histogram(points, 8), strict=True):
        x, y = image
        oracle = np.histogram2d(y, x, bins=8, range=[[-1, 1]] * 2)[0]
        np.testing.assert_array_equal(counts, oracle)


def test_larger_images_are_as_dense():
    small, large = (make(image_size=size, train_per_class=20)["train"][0] for size in (16, 48))
    assert abs(small.mean() - large.mean()) < 0.2 * small.mean()


def test_shape_tells_the_class_and_colour_does_not(ten_classes):
    """Oracle: scikit-learn's 5 nearest neighbours, on pixels and on mean colours; chance is 0.1."""
    (train, labels), (val, val_labels) = ten_classes["train"], ten_classes["val"]

    def accuracy(describe):
        return KNeighborsClassifier(5).fit(describe(train), labels).score(describe(val), val_labels)

    def hue(images):  # of the mean colour, without its brightness
        colour = images.mean(axis=(1, 2))
        return colour / colour.sum(axis=1, keepdims=True)

    assert 0.3 < accuracy(lambda images: images.reshape(len(images), -1).astype(float)) < 0.8
    assert accuracy(hue) < 0.3


def test_every_class_uses_every_palette(ten_classes):
    images, labels = ten_classes["train"]
    empty = fractals.PALETTES[:, 0]  # RGB of an empty pixel, (4, 3)
    background = np.median(images.reshape(len(images), -1, 3), axis=1)
    palette = np.abs(background[:, None] - empty).sum(axis=2).argmin(axis=1)
    for label in range(10):
        assert set(palette[labels == label]) == {0, 1, 2, 3}
