"""The linear probe: scikit-learn's optimum, whatever the features' scales, offsets and rank."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from manyviews.probes.linear import fit_linear, fit_linear_path


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
    "one huge feature": lambda: (
        np.concatenate([3e6 * clouds(90, 1, spread=0.2)[0]], axis=1),
        clouds(90, 1)[1],
    ),
}


def objective(x, y, weights, intercepts, c):
    """Mean cross-entropy + |W|^2 / (2 c N), written out."""
    logits = x @ weights + intercepts
    logits = logits - logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -log_p[np.arange(len(y)), y].mean() + (weights**2).sum() / (2 * c * len(y))


@pytest.mark.parametrize("c", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("case", CASES)
def test_reaches_scikit_learns_optimum(case, c):
    """Oracle: LogisticRegression by Newton's method. Ours is not above it, and says that it has converged."""
    x, y = CASES[case]()
    probe = fit_linear(torch.from_numpy(x), torch.from_numpy(y), c, 1000)
    if len(np.unique(y)) == 2:  # scikit-learn fits the difference of two classes: our model at half the c
        ours = objective(x, y, probe.weights.numpy(), probe.intercepts.numpy(), c / 2)
        oracle = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-10, max_iter=500).fit(x, y)
        assert (probe.predict(torch.from_numpy(x)).numpy() == oracle.predict(x)).mean() == 1
        assert ours == pytest.approx(probe.objective, rel=1e-6)
        return
    scale = x.std(axis=0).max()
    shifted = (x - x.mean(axis=0)) / scale  # the same model, in units in which the oracle converges
    oracle = LogisticRegression(C=c * scale**2, solver="newton-cholesky", tol=1e-10, max_iter=500)
    oracle.fit(shifted, y)
    theirs = objective(shifted, y, oracle.coef_.T, oracle.intercept_, c * scale**2)
    ours = objective(x - x.mean(axis=0), y, *recentred(probe, x), c)
    # Of one feature with a standard deviation of millions, it says that it could not prove its fit.
    assert probe.converged or case == "one huge feature"
    assert ours == pytest.approx(probe.objective, rel=1e-6)
    assert ours <= theirs * (1 + (1e-3 if probe.converged else 0.15)) + 1e-12
    agree = (probe.predict(torch.from_numpy(x)).numpy() == oracle.predict(shifted)).mean()
    assert agree >= 0.99


def recentred(probe, x):
    """Weights and intercepts for features about their mean."""
    weights = probe.weights.numpy()
    return weights, probe.intercepts.numpy() + x.mean(axis=0) @ weights


def test_a_path_is_each_of_its_fits_in_the_order_asked_for():
    x, y = (torch.from_numpy(part) for part in clouds(120, 7))
    cs = [10.0, 0.01, 1.0]
    path = fit_linear_path(x, y, cs, 1000)
    assert [probe.c for probe in path] == cs
    for probe in path:
        alone = fit_linear(x, y, probe.c, 1000)
        assert probe.objective == pytest.approx(alone.objective, rel=1e-5)
    assert path[1].objective > path[2].objective > path[0].objective  # a weaker penalty fits better


def test_a_fit_that_was_stopped_early_says_so():
    x, y = (torch.from_numpy(part) for part in of_unlike_scales())
    stopped = fit_linear(x, y, 100.0, 1)
    whole = fit_linear(x, y, 100.0, 1000)
    assert not stopped.converged
    assert whole.converged
    assert stopped.objective > whole.objective


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
