"""The linear probe: scikit-learn's optimum, whatever the features' scales, offsets and rank."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from manyviews.probes.linear import fit_linear, fit_linear_path, principal_axes


def clouds(n: int, d: int, classes: int = 4, spread: float = 2, seed: int = 0):
    generator = np.random.default_rng(seed)
    y = np.concatenate([np.arange(classes), generator.integers(classes, size=n - classes)])
    return generator.normal(size=(classes, d))[y] + spread * generator.normal(size=(n, d)), y


def of_low_rank():
    x, y = clouds(80, 6)
    return x @ np.random.default_rng(1).normal(size=(6, 40)), y


def of_unlike_scales():
    x, y = clouds(150, 8)
    return x * np.logspace(-3, 3, 8), y


CASES = {
    "plain": lambda: clouds(200, 10),
    "two classes": lambda: clouds(150, 6, classes=2),
    "more features than images": lambda: clouds(40, 120),
    "low rank": of_low_rank,
    "unlike scales": of_unlike_scales,
    "a large offset": lambda: (clouds(150, 5)[0] + 1e4, clouds(150, 5)[1]),
    "a constant column": lambda: (np.insert(clouds(120, 5)[0], 2, 7.0, axis=1), clouds(120, 5)[1]),
    "a column twice": lambda: (clouds(120, 5)[0][:, [0, 1, 1, 2, 3, 4]], clouds(120, 5)[1]),
    "separable": lambda: clouds(60, 20, spread=0.05),
    "one huge feature": lambda: (3e6 * clouds(90, 1, spread=0.2)[0], clouds(90, 1)[1]),
}


def least(x, y, c):
    """scikit-learn's minimum of mean cross-entropy + |W|^2 / (2 c N), and its predictions of x.

    Found in units in which it converges: features about their mean, over their largest deviation.
    """
    scale = x.std(axis=0).max()
    x = (x - x.mean(axis=0)) / scale
    oracle = LogisticRegression(C=c * scale**2, solver="newton-cholesky", tol=1e-10, max_iter=500).fit(x, y)
    log_p = np.log(oracle.predict_proba(x).clip(1e-300))
    penalty = (oracle.coef_**2).sum() / (2 * c * scale**2 * len(y))
    return -log_p[np.arange(len(y)), y].mean() + penalty, oracle.predict(x)


@pytest.mark.parametrize("c", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("case", CASES)
def test_reaches_scikit_learns_optimum(case, c):
    """Oracle: LogisticRegression by Newton's method. Ours is at it, and says that it has converged."""
    x, y = CASES[case]()
    probe = fit_linear(torch.from_numpy(x), torch.from_numpy(y), c, 1000)
    expected, theirs = least(x, y, c)
    # Of one feature with a standard deviation of millions, it says that it could not prove its fit.
    assert probe.converged or case == "one huge feature"
    assert (probe.predict(torch.from_numpy(x)).numpy() == theirs).mean() >= 0.99
    assert probe.objective == pytest.approx(expected, rel=1e-3 if probe.converged else 0.15, abs=1e-12)


def test_a_path_is_each_of_its_fits_in_the_order_asked_for():
    x, y = (torch.from_numpy(part) for part in clouds(120, 7))
    cs = [10.0, 0.01, 1.0]
    path = fit_linear_path(x, y, cs, 1000)
    assert [probe.c for probe in path] == cs
    for probe in path:
        alone = fit_linear(x, y, probe.c, 1000)
        assert probe.objective == pytest.approx(alone.objective, rel=1e-5)
    assert path[1].objective > path[2].objective > path[0].objective  # a weaker penalty fits better


def test_features_beyond_all_measure_do_not_pass_as_fitted():
    """A diverged network's: either they are refused, or the fit is right, or it says that it is not."""
    x, y = clouds(60, 3)
    probe = fit_linear(torch.from_numpy(x * 1e14), torch.from_numpy(y), 1.0, 1000)
    assert not probe.converged or probe.objective < 2
    with pytest.raises(ValueError, match=r"finite|large"):
        fit_linear(torch.full((6, 2), float("nan")), torch.tensor([0, 1, 2, 0, 1, 2]), 1.0, 10)


def test_constant_features_give_the_most_frequent_class():
    y = torch.tensor([0, 1, 1, 2, 1])
    probe = fit_linear(torch.ones(5, 3), y, 1.0, 100)
    assert probe.predict(torch.ones(2, 3)).tolist() == [1, 1]


def test_labels_need_not_begin_at_zero():
    x, y = clouds(80, 4, classes=3)
    probe = fit_linear(torch.from_numpy(x), torch.from_numpy(2 * y + 5), 1.0, 1000)
    assert set(probe.predict(torch.from_numpy(x)).tolist()) <= {5, 7, 9}
    plain = fit_linear(torch.from_numpy(x), torch.from_numpy(y), 1.0, 1000)
    assert (probe.predict(torch.from_numpy(x)) == 2 * plain.predict(torch.from_numpy(x)) + 5).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_narrow_directions_count_beside_one_that_is_millions_of_times_as_wide(dtype):
    """What tells the classes has a standard deviation of about 1, and what does not, of 3e6.

    Oracle: scikit-learn's Newton method, where the wide feature is but a thousand wide: its weight is so
    small either way that its penalty is nothing, and the optimum the same, which scikit-learn then finds.
    Without the narrow directions, the loss is near that of chance.
    """
    rng = np.random.default_rng(0)
    y = np.arange(400) % 4
    told = rng.normal(size=(4, 12))[y] + rng.normal(size=(400, 12))
    x = torch.tensor(np.concatenate([3e6 * rng.normal(size=(400, 1)), told], axis=1), dtype=dtype)
    centred = x.double() - x.double().mean(dim=0)
    assert principal_axes(centred)[1] < 13  # so that the fit begins without some
    probe = fit_linear(x, torch.from_numpy(y), 1.0, 1000)
    scaled = x.double().numpy() * np.where(np.arange(13) == 0, 1 / 3e3, 1)
    oracle = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-10).fit(scaled, y)
    log_p = oracle.predict_log_proba(scaled)
    expected = -log_p[np.arange(400), y].mean() + (oracle.coef_**2).sum() / 800
    assert expected < 0.2 < np.log(4)
    assert probe.converged
    assert probe.objective == pytest.approx(expected, rel=1e-6)
    assert (probe.predict(x).numpy() == oracle.predict(scaled)).all()


@pytest.mark.parametrize("max_iter", [3, 1000])
def test_gradient_and_objective_are_those_of_the_weights_returned(max_iter):
    """Oracle: autograd of scikit-learn's objective at the weights returned, features about their mean."""
    rng = np.random.default_rng(1)
    y = torch.from_numpy(np.arange(90) % 3)
    x = torch.from_numpy(rng.normal(size=(3, 5))[y] + rng.normal(size=(90, 5)) + 7)
    probe = fit_linear(x, y, 0.7, max_iter)
    weights = probe.weights.clone().requires_grad_()
    intercepts = (probe.intercepts + x.mean(dim=0) @ probe.weights).requires_grad_()
    loss = torch.nn.functional.cross_entropy((x - x.mean(dim=0)) @ weights + intercepts, y)
    loss = loss + weights.square().sum() / (2 * 0.7 * 90)
    loss.backward()
    largest = max(weights.grad.abs().max().item(), intercepts.grad.abs().max().item())
    assert probe.objective == pytest.approx(loss.item(), rel=1e-12)
    assert probe.gradient_norm == pytest.approx(largest, rel=1e-4, abs=1e-12)
    assert probe.converged == (max_iter == 1000)
