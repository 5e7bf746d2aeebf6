"""The linear probe where some directions are millions of times as wide as others: none may be dropped."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from manyviews.probes.linear import fit_linear, principal_axes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_narrow_directions_count_beside_one_that_is_millions_of_times_as_wide(dtype):
    """What tells the classes has a standard deviation of about 1, and what does not, of 3e6.

    Oracle: scikit-learn's Newton method. Without the narrow directions, the loss is near that of chance.
    """
    rng = np.random.default_rng(0)
    y = np.arange(400) % 4
    told = rng.normal(size=(4, 12))[y] + rng.normal(size=(400, 12))
    x = torch.tensor(np.concatenate([3e6 * rng.normal(size=(400, 1)), told], axis=1), dtype=dtype)
    centred = x.double() - x.double().mean(dim=0)
    assert principal_axes(centred)[1] < 13  # so that the fit begins without some
    probe = fit_linear(x, torch.from_numpy(y), 1.0, 1000)
    oracle = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-10).fit(x.double().numpy(), y)
    log_p = oracle.predict_log_proba(x.double().numpy())
    expected = -log_p[np.arange(400), y].mean() + (oracle.coef_**2).sum() / 800
    assert expected < 0.2 < np.log(4)
    assert probe.converged
    assert probe.objective == pytest.approx(expected, rel=1e-6)
    assert (probe.predict(x).numpy() == oracle.predict(x.double().numpy())).all()


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
