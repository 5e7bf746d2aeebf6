"""Probes against scikit-learn."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from manyviews import probes


def clusters(
    n: int, n_classes: int, dims: int, spread: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Features of overlapping classes that span fewer dimensions than they have, as a network's do."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % n_classes
    centres = np.random.default_rng(99).normal(size=(n_classes, dims))
    low = centres[labels] + spread * rng.normal(size=(n, dims)) * np.linspace(0.1, 3, dims)
    return (low @ np.random.default_rng(98).normal(size=(dims, 3 * dims)) + 5).astype(np.float32), labels


def sklearn_optimum(x: np.ndarray, y: np.ndarray, c: float) -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an oracle that did not converge would be none
        return LogisticRegression(C=c, max_iter=100_000, tol=1e-6).fit(x.astype(np.float64), y)


def objective(log_p: np.ndarray, y: np.ndarray, weights: np.ndarray, c: float) -> float:
    return c * -log_p[np.arange(len(y)), y].sum() + 0.5 * (weights**2).sum()


@pytest.mark.parametrize("c", [0.01, 1.0, 10.0])
@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_linear_probe_reaches_scikit_learns_optimum(c, n_classes):
    """Oracle: LogisticRegression fitted to the end. Same objective to 1e-4, same accuracy to 0.2 points."""
    x, y = clusters(400, n_classes, 12, 1.0)
    test_x, test_y = clusters(1000, n_classes, 12, 1.0, seed=1)
    theirs = sklearn_optimum(x, y, c)
    rotated, rotated_test = (torch.from_numpy(z) for z in probes.principal_axes(x, test_x))
    ours = probes.fit_linear(rotated, torch.from_numpy(y), c, 1000)
    assert ours.converged
    log_p = torch.log_softmax(rotated @ ours.weights + ours.intercepts, dim=1).numpy()
    expected = theirs.predict_log_proba(x.astype(np.float64))
    np.testing.assert_allclose(np.exp(log_p), np.exp(expected), atol=2e-3)
    if n_classes > 2:  # of two, scikit-learn fits only the difference
        reached = objective(log_p, y, ours.weights.numpy(), c)
        assert reached == pytest.approx(objective(expected, y, theirs.coef_, c), rel=1e-4)
    accuracy = (ours.predict(rotated_test).numpy() == test_y).mean()
    assert accuracy == pytest.approx(theirs.score(test_x.astype(np.float64), test_y), abs=0.002)


def test_linear_probe_says_when_it_did_not_converge():
    x, y = clusters(200, 5, 10, 1.0)
    assert probes.linear_accuracy(x, y, x, y, c=1.0, max_iter=2)[1] is False
    assert probes.linear_accuracy(x, y, x, y, c=1.0, max_iter=1000)[1] is True


def test_principal_axes_keep_distances_and_drop_what_does_not_vary():
    x, _ = clusters(50, 5, 4, 1.0)
    test, _ = clusters(20, 5, 4, 1.0, seed=1)
    a, b = probes.principal_axes(x, test)
    assert a.shape[1] == 4 < x.shape[1]
    apart = np.linalg.norm(x[:20].astype(np.float64) - test, axis=1)
    np.testing.assert_allclose(np.linalg.norm(a[:20] - b, axis=1), apart, rtol=1e-5)
    products = a.T @ a
    np.testing.assert_allclose(products, np.diag(np.diag(products)), atol=1e-6 * products.max())


def test_knn_on_hand_made_neighbours():
    """The two nearest of [0] are of class 0, the third of class 1; at 9 it is the other way round."""
    fit = np.array([[0.0], [1.0], [8.0], [9.0], [10.0]])
    labels = np.array([0, 0, 1, 1, 1])
    assert probes.knn_accuracy(fit, labels, np.array([[0.2], [9.2]]), np.array([0, 1]), 3) == 1.0
    assert probes.knn_accuracy(fit, labels, np.array([[0.2], [9.2]]), np.array([1, 1]), 3) == 0.5


@pytest.mark.parametrize("n_classes", [2, 10])
@pytest.mark.parametrize("neighbours", [1, 5, 20])
def test_knn_predicts_what_scikit_learn_does(n_classes, neighbours):
    """Oracle: KNeighborsClassifier. Labels shifted by one let no prediction differ unnoticed."""
    x, y = clusters(600, n_classes, 12, 2.0)
    test, _ = clusters(3000, n_classes, 12, 2.0, seed=1)
    predicted = KNeighborsClassifier(neighbours, algorithm="brute").fit(x, y).predict(test)
    assert probes.knn_accuracy(x, y, test, predicted, neighbours) == 1.0
    assert probes.knn_accuracy(x, y, test, (predicted + 1) % n_classes, neighbours) == 0.0


def test_knn_in_blocks_finds_the_same_neighbours(monkeypatch):
    """Oracle: scikit-learn's NearestNeighbors; blocks of 7 cut fitted rows and queries at odd places."""
    monkeypatch.setattr(probes, "KNN_BLOCK", 7)
    x, y = clusters(100, 5, 6, 2.0)
    test, test_y = clusters(30, 5, 6, 2.0, seed=1)
    expected = NearestNeighbors(n_neighbors=5, algorithm="brute").fit(x).kneighbors(test)[1]
    np.testing.assert_array_equal(probes.nearest(x, test, 5), expected)
    blocks = probes.knn_accuracy(x, y, test, test_y, 5)
    monkeypatch.undo()
    assert blocks == probes.knn_accuracy(x, y, test, test_y, 5)


def test_raw_pixels_are_compared_as_they_are():
    """8-bit numbers must not wrap around: 250 is far from 5."""
    images = np.array([0, 10, 240, 250], dtype=np.uint8)
    fit = np.broadcast_to(images[:, None], (4, 6))
    query = np.full((2, 6), [[5], [245]], dtype=np.uint8)
    np.testing.assert_array_equal(probes.nearest(fit.copy(), query, 2).sort(dim=1).values, [[0, 1], [2, 3]])
