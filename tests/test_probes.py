"""Probes against scikit-learn."""

import warnings

import numpy as np
import pytest
import torch
from lightly.utils.benchmarking.knn import knn_predict as lightly_knn_predict
from scipy.stats import entropy
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from manyviews import probes

QUERIES = 2100  # more than fitted rows, so that scikit-learn walks these in one thread for each query


def made(kind: str, n: int, dims: int, dtype: type, seed: int) -> torch.Tensor:
    """Features (n, dims), of the same distribution for each seed."""
    rng, shared = np.random.default_rng(seed), np.random.default_rng(99)
    if kind == "normal":
        x = rng.normal(size=(n, dims))
    elif kind == "clusters":  # tight and far from 0, so that short numbers see nothing of their inside
        x = 100 + 5 * shared.normal(size=(20, dims))[np.arange(n) % 20] + 0.01 * rng.normal(size=(n, dims))
    elif kind == "duplicates":
        x = shared.normal(size=(60, dims))[rng.integers(60, size=n)]
    elif kind == "integers":
        x = rng.integers(0, 3, size=(n, dims))
    elif kind == "one point":
        x = np.ones((n, dims))
    return torch.from_numpy(x.astype(dtype))


# ------------------------------------------------------------------------------------------------- k-NN


@pytest.mark.parametrize("dims", [3, 40])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["normal", "clusters", "duplicates", "integers", "one point"])
def test_knn_predicts_what_scikit_learn_does(kind, dtype, dims):
    """Oracle: KNeighborsClassifier, with labels drawn at random so that any other neighbour would show."""
    x, queries = made(kind, 300, dims, dtype, 0), made(kind, QUERIES, dims, dtype, 1)
    labels = torch.from_numpy(np.random.default_rng(2).integers(10, size=len(x)))
    for k in (1, 5, 20):
        expected = KNeighborsClassifier(k, algorithm="brute").fit(x, labels).predict(queries)
        _, numbers = probes.nearest(x, queries, k)
        np.testing.assert_array_equal(probes.knn_predict(labels, numbers, 10), expected)


@pytest.mark.parametrize("kind", ["normal", "clusters"])
def test_neighbours_are_found_block_by_block(kind, monkeypatch):
    """Oracle: NearestNeighbors. Blocks cut fitted rows, queries, products and candidates at odd places."""
    for name, numbers in (("SEARCHED", 7 * 40), ("PRODUCTS", 7 * 3), ("WORK", 3 * 40)):
        monkeypatch.setattr(probes, name, numbers)
    x, queries = made(kind, 301, 40, np.float32, 0), made(kind, 50, 40, np.float32, 1)
    expected = NearestNeighbors(n_neighbors=5, algorithm="brute").fit(x.double()).kneighbors(queries.double())
    distances, numbers = probes.nearest(x, queries, 5)
    np.testing.assert_array_equal(numbers, expected[1])
    np.testing.assert_allclose(distances, expected[0], rtol=1e-6)


def test_one_search_serves_smaller_numbers_of_neighbours():
    x, queries = made("normal", 300, 40, np.float32, 0), made("normal", 100, 40, np.float32, 1)
    _, many = probes.nearest(x, queries, 200)
    for k in (1, 5, 20):
        torch.testing.assert_close(many[:, :k], probes.nearest(x, queries, k)[1])


def test_equally_near_rows_come_in_their_order():
    x = torch.tensor([[1.0], [-1.0], [0.0], [1.0], [9.0]])
    _, numbers = probes.nearest(x, torch.zeros(1, 1), 4)
    assert numbers.tolist() == [[2, 0, 1, 3]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["normal", "clusters", "integers"])
def test_bounds_of_the_search_hold(kind, dtype):
    """Its proof: no row is nearer than its bound, nor than the last bound if it is left out.

    Oracle: all distances, from differences in float64.
    """
    x, queries = made(kind, 500, 40, np.float64, 0), made(kind, 60, 40, np.float64, 1)
    bounds, numbers = probes._candidates(x, queries, 30, dtype)
    squared = (queries[:, None] - x).square().sum(dim=2)  # (M, N)
    assert (bounds <= squared.gather(1, numbers)).all()
    left_out = squared.scatter(1, numbers, torch.inf).amin(dim=1)
    assert (bounds[:, -1] <= left_out).all()
    if kind == "normal":  # and they are close enough to be of use
        assert (bounds[:, -1] > 0.9 * left_out).all()


@pytest.mark.parametrize("count", [1, 3, 100])
@pytest.mark.parametrize("n", [100, 1003])
def test_smallest_of_each_row(n, count):
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(20, n)))
    found, columns = probes._smallest(values, count)
    torch.testing.assert_close(found.sort().values, values.sort().values[:, :count])
    torch.testing.assert_close(values.gather(1, columns), found)


def test_raw_pixels_are_compared_as_they_are():
    """8-bit numbers must not wrap around: 250 is far from 5."""
    images = torch.tensor([0, 10, 240, 250], dtype=torch.uint8)
    fit, queries = images[:, None].expand(4, 6), torch.tensor([[5], [245]], dtype=torch.uint8).expand(2, 6)
    _, numbers = probes.nearest(fit, queries, 2)
    assert numbers.tolist() == [[0, 1], [2, 3]]


def test_equally_many_votes_go_to_the_smallest_label():
    labels = torch.tensor([2, 1, 1, 2, 0])
    numbers = torch.tensor([[0, 1, 2, 3], [4, 3, 0, 1]])
    assert probes.knn_predict(labels, numbers, 3).tolist() == [1, 2]
    assert probes.knn_predict(labels, numbers[:, :2], 3).tolist() == [1, 0]


@pytest.mark.parametrize("temperature", [0.07, 0.1, 1.0])
def test_weighted_votes_are_lightlys(temperature):
    """Oracle: lightly's knn_predict."""
    x, queries = (torch.nn.functional.normalize(made("normal", n, 20, np.float64, n)) for n in (300, 200))
    labels = torch.from_numpy(np.random.default_rng(2).integers(10, size=len(x)))
    expected = lightly_knn_predict(queries, x.T, labels, 10, knn_k=50, knn_t=temperature)[:, 0]
    distances, numbers = probes.nearest(x, queries, 50)
    predicted = probes.weighted_knn_predict(labels, distances, numbers, 10, temperature)
    torch.testing.assert_close(predicted, expected)
    assert (predicted != probes.knn_predict(labels, numbers, 10)).any()


def test_what_cannot_be_searched_is_refused():
    x = torch.zeros(4, 2)
    with pytest.raises(ValueError, match="5 neighbours of 4 fitted rows"):
        probes.nearest(x, x, 5)
    for fit, queries, name in ((x, x / 0, "queries"), (x / 0, x, "fit")):
        with pytest.raises(ValueError, match=f"{name}: has features that are not finite"):
            probes.nearest(fit, queries, 1)


# ----------------------------------------------------------------------------------------------- linear


def overlapping(n: int, n_classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of overlapping classes that span fewer dimensions than they have, as a network's do."""
    rng, shared, dims = np.random.default_rng(seed), np.random.default_rng(99), 12
    labels = np.arange(n) % n_classes
    centres = shared.normal(size=(n_classes, dims))
    low = centres[labels] + rng.normal(size=(n, dims)) * np.linspace(0.1, 3, dims)
    features = low @ shared.normal(size=(dims, 3 * dims)) + 5
    return torch.from_numpy(features.astype(np.float32)), torch.from_numpy(labels)


def optimum(x: torch.Tensor, y: torch.Tensor, c: float, solver: str = "lbfgs") -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an oracle that did not converge would be none
        return LogisticRegression(C=c, max_iter=100_000, tol=1e-6, solver=solver).fit(x.double(), y)


def objective(log_p: np.ndarray, y: torch.Tensor, weights: np.ndarray, c: float) -> float:
    """Mean cross-entropy + ||W||^2 / (2 c N), as scikit-learn defines it."""
    n = len(y)
    return -log_p[np.arange(n), y].mean() + (weights**2).sum() / (2 * c * n)


def newtons_objective(x: torch.Tensor, y: torch.Tensor, c: float) -> float:
    """Of scikit-learn's Newton method, fitted to the end."""
    newton = optimum(x, y, c, solver="newton-cholesky")
    return objective(newton.predict_log_proba(x.double()), y, newton.coef_, c)


@pytest.mark.parametrize("c", [0.01, 1.0, 10.0])
@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_linear_probe_reaches_scikit_learns_optimum(c, n_classes):
    """Oracle: LogisticRegression fitted to the end. Same objective to 1e-4, same accuracy to 0.2 points."""
    x, y = overlapping(400, n_classes)
    test_x, test_y = overlapping(1000, n_classes, seed=1)
    theirs = optimum(x, y, c)
    ours = probes.fit_linear(x, y, c, 1000)
    assert ours.converged
    log_p = (x.double() @ ours.weights + ours.intercepts).log_softmax(dim=1).numpy()
    expected = theirs.predict_log_proba(x.double())
    np.testing.assert_allclose(np.exp(log_p), np.exp(expected), atol=2e-3)
    best = objective(expected, y, theirs.coef_, c)
    assert ours.objective == pytest.approx(best, rel=1e-4)
    if n_classes > 2:  # of two, scikit-learn fits only the difference
        assert objective(log_p, y, ours.weights.numpy(), c) == pytest.approx(best, rel=1e-4)
    accuracy = (ours.predict(test_x) == test_y).double().mean().item()
    assert accuracy == pytest.approx(theirs.score(test_x.double(), test_y), abs=0.002)


def test_a_weak_penalty_takes_few_steps():
    """The curvature at the optimum is far from that at weights 0, with which alone it would not get there.

    Oracle: scikit-learn's Newton method, fitted to the end.
    """
    x, y = overlapping(600, 10)
    ours = probes.fit_linear(x, y, 1000.0, 1000)
    assert ours.converged
    assert ours.iterations < 500
    assert ours.objective == pytest.approx(newtons_objective(x, y, 1000.0), rel=1e-4)


@pytest.mark.parametrize("c", [1.0, 100.0, 10_000.0])
def test_classes_far_apart_are_fitted_to_the_end(c):
    """Their loss, and what decides the fit, are near the least that floats can tell. Oracle: as above."""
    x, y = made("normal", 250, 12, np.float32, 0), torch.arange(250) % 5
    x += 3 * made("normal", 5, 12, np.float32, 1)[y]
    ours = probes.fit_linear(x, y, c, 1000)
    assert ours.converged
    assert ours.iterations < 200
    assert ours.objective <= newtons_objective(x, y, c) * (1 + 1e-4)


def test_gradient_norm_is_that_of_scikit_learns_objective():
    """Oracle: autograd of the objective in the features as they are, at the weights found."""
    x, y = overlapping(300, 4)
    for max_iter in (1, 1000):
        probe = probes.fit_linear(x, y, 0.1, max_iter)
        weights, intercepts = (p.clone().requires_grad_() for p in (probe.weights, probe.intercepts))
        loss = torch.nn.functional.cross_entropy(x.double() @ weights + intercepts, y)
        loss = loss + weights.square().sum() / (2 * 0.1 * len(y))
        loss.backward()
        largest = max(weights.grad.abs().max().item(), intercepts.grad.abs().max().item())
        assert probe.objective == pytest.approx(loss.item(), rel=1e-6)
        assert probe.gradient_norm == pytest.approx(largest, rel=0.01, abs=1e-6)


def test_linear_probe_says_when_it_did_not_converge():
    x, y = overlapping(200, 5)
    short, whole = (probes.fit_linear(x, y, 1.0, max_iter) for max_iter in (2, 1000))
    assert not short.converged
    assert short.iterations == 2
    assert whole.converged
    assert whole.iterations < 1000
    assert whole.objective < short.objective


def test_a_path_of_penalties_gives_the_probes_of_each():
    """Each starts from the one before, and ends where a probe fitted alone does."""
    x, y = overlapping(400, 5)
    cs = [1.0, 0.01, 10.0]
    path = probes.fit_linear_path(x, y, cs, 1000)
    assert [probe.c for probe in path] == cs
    for probe in path:
        alone = probes.fit_linear(x, y, probe.c, 1000)
        assert probe.objective == pytest.approx(alone.objective, rel=1e-6)
        torch.testing.assert_close(probe.weights, alone.weights, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("counts", [(15, 15, 30), (3, 6, 51), (1, 2, 57)])
def test_features_of_a_dead_network_give_the_most_frequent_class(counts):
    """All features equal, as after a collapse: nothing varies, and the intercepts do all. Oracle: entropy."""
    x, y = torch.ones(60, 5), torch.arange(3).repeat_interleave(torch.tensor(counts))
    probe = probes.fit_linear(x, y, 1.0, 1000)
    assert probe.converged
    assert (probe.predict(x) == 2).all()
    assert probe.objective == pytest.approx(entropy(counts), rel=1e-6)


def test_principal_axes_keep_distances_and_drop_what_does_not_vary():
    x, _ = overlapping(200, 5)
    centre, axes, variances = probes.principal_axes(x)
    assert axes.shape[1] == 12 < x.shape[1]
    turned = (x.double() - centre) @ axes
    np.testing.assert_allclose(torch.pdist(turned), torch.pdist(x.double()), rtol=1e-5)
    products = turned.T @ turned / len(x)
    np.testing.assert_allclose(products, np.diag(variances), atol=1e-6 * variances.max().item())
