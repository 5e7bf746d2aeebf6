"""The linear probe: scikit-learn's multinomial logistic regression, on any device, with a proof that it is fitted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

CONVERGED = 1e-3  # of the objective: how far above its minimum it may be, by the bound of _objective
FITTED = 1e-6  # where the fit ends: which images lie on which side of a border is settled by then
LEADING = 1e-12  # of the largest variance; float32 rounds more than this into axes without any
MEMORY = 20  # steps that L-BFGS remembers


@dataclass(frozen=True)
class LinearProbe:
    """A fitted multinomial logistic regression.

    Attributes:
        classes: (C,) int64, the labels that were fitted.
        weights: (D, C) float64, for the features as they are.
        intercepts: (C,) float64.
        c: inverse strength of the penalty.
        objective: mean cross-entropy in nats + ||weights||^2 / (2 c N), which is scikit-learn's.
        gradient_norm: largest entry of its gradient, in the unit of the features.
        converged: whether the objective provably is within 0.1 % of its minimum; false where there were too
            few steps, or features so large (beyond 1e12) that rounding forbids the proof.
    """

    classes: Tensor
    weights: Tensor
    intercepts: Tensor
    c: float
    objective: float
    gradient_norm: float
    converged: bool

    def predict(self, features: Tensor) -> Tensor:
        """Classes (M,) of features (M, D)."""
        return self.classes[(features.double() @ self.weights + self.intercepts).argmax(dim=1)]


def fit_linear(features: Tensor, labels: Tensor, c: float, max_iter: int) -> LinearProbe:
    """Fit one linear probe: see fit_linear_path."""
    return fit_linear_path(features, labels, [c], max_iter)[0]


@torch.no_grad()
def fit_linear_path(features: Tensor, labels: Tensor, cs: Sequence[float], max_iter: int) -> list[LinearProbe]:
    """Minimise the objective of scikit-learn's LogisticRegression for each c, from the strongest penalty on.

    The features are turned to their principal axes, which turns the optimum's weights and changes nothing
    else. Weights scaled there by the Hessian's diagonal take L-BFGS tens to hundreds of steps, where it takes
    thousands on a network's features as they are. A ResNet's 1000 features come from 8 x width channels, so the
    axes with next to no variance wait: they are fitted where the proof, which is about all, fails without them.

    Args:
        features: (N, D) floats or integers.
        labels: (N,) int64, on the same device.
        cs: inverse strengths of the penalty, which spares the intercepts.
        max_iter: most steps of L-BFGS for each c and set of axes.
    Returns:
        A probe for each c, in the order of `cs`.
    Raises:
        ValueError: a feature is not finite, or too large to be squared.
    """
    classes, y = labels.unique(return_inverse=True)
    centre = features.mean(dim=0, dtype=torch.float64)
    x = features.double() - centre  # (N, D)
    axes, leading = principal_axes(x)
    turned = x @ axes[:, :leading]  # (N, R)
    weights = x.new_zeros(x.shape[1] + 1, len(classes))  # (D + 1, C), the intercepts last
    weights[-1] = y.bincount().double().log()
    fitted = {}
    for c in sorted(cs):
        # Of two classes scikit-learn fits only the difference: the same model as ours at half the c.
        penalty = (2 if len(classes) == 2 else 1) / (c * len(y))
        weights = _minimise(weights, turned, axes, y, penalty, max_iter)
        objective, gradient, excess = _objective(weights, x, y, penalty)
        if excess > CONVERGED * objective and turned.shape[1] < x.shape[1]:
            turned = x @ axes
            weights = _minimise(weights, turned, axes, y, penalty, max_iter)
            objective, gradient, excess = _objective(weights, x, y, penalty)
        gradient[:-1] += centre[:, None] * gradient[-1]  # as of features that are not centred
        intercepts = weights[-1] - centre @ weights[:-1]
        norm = gradient.abs().max().item()
        converged = excess <= CONVERGED * objective
        fitted[c] = LinearProbe(classes, weights[:-1], intercepts, c, objective, norm, converged)
    return [fitted[c] for c in cs]


def principal_axes(x: Tensor) -> tuple[Tensor, int]:
    """Principal axes (D, D) of centred features (N, D), most variance first; how many of them lead."""
    covariance = x.T @ x / len(x)
    if not covariance.isfinite().all():
        raise ValueError("features that are not finite, or too large; the network may have diverged")
    variances, axes = torch.linalg.eigh(covariance)
    return axes.flip(dims=(1,)), int((variances > LEADING * variances[-1]).sum())


def _minimise(weights: Tensor, turned: Tensor, axes: Tensor, y: Tensor, penalty: float, max_iter: int) -> Tensor:
    """Weights (D + 1, C) that are optimal along the first R axes and 0 along the others.

    Args:
        weights: (D + 1, C), where to start; the intercepts last.
        turned: (N, R), the features along the first R of the axes (D, D).
    """
    from scipy.optimize import minimize  # here, because its import takes long

    axes = axes[:, : turned.shape[1]]
    weights = torch.cat([axes.T @ weights[:-1], weights[-1:]])  # (R + 1, C)
    fitted, steps = False, 0
    patience = max(30, turned.shape[1] // 2)

    def unscaled(scaled: np.ndarray) -> Tensor:
        step = torch.einsum("cij,jc->ic", roots, torch.from_numpy(scaled).to(weights).view_as(weights))
        return weights + step - step.mean(dim=1, keepdim=True)

    def objective(scaled: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal fitted
        value, gradient, excess = _objective(unscaled(scaled), turned, y, penalty)
        fitted = excess <= FITTED * value
        return value, torch.einsum("cij,ic->jc", roots, gradient).flatten().cpu().numpy()

    def stop(_: np.ndarray) -> None:  # after each step; what was evaluated last is where it led
        nonlocal steps
        steps += 1
        if fitted:
            raise StopIteration
    first=True
    while not fitted and steps < max_iter:
        roots = _roots(weights, turned, penalty, first)
        before=steps
        best = minimize(
            objective,
            np.zeros(weights.numel()),
            jac=True,
            method="L-BFGS-B",
            callback=stop,
            options={"maxiter": min(patience, max_iter - steps), "maxfun": 25 * max_iter, "maxcor": MEMORY, "ftol": 0, "gtol": 0},
        )
        weights = unscaled(best.x)
        if VERB: print(first, steps, best.message)
        first=False
        if "ABN" in best.message and steps-before<2: break
    return torch.cat([axes @ weights[:-1], weights[-1:]])

VERB=0
def _roots(weights: Tensor, x: Tensor, penalty: float,diag) -> Tensor:
    p = torch.addmm(weights[-1], x, weights[:-1]).softmax(dim=1)  # (N, C)
    v=p*(1-p)
    if diag:
        spread = v.mean(dim=1)  # (N,)
        return torch.cat([x.square().T @ spread / len(x), spread.mean()[None]]).add(penalty).rsqrt().diag()[None].expand(p.shape[1],-1,-1)
    x1 = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
    h = torch.stack([(x1 * vv[:,None]).T @ x1 for vv in v.T/len(x)])
    h.diagonal(dim1=1,dim2=2).add_(penalty)
    return torch.linalg.inv(torch.linalg.cholesky(h)).mT.contiguous()


def _objective(weights: Tensor, x: Tensor, y: Tensor, penalty: float) -> tuple[float, Tensor, float]:
    """Mean cross-entropy + penalty / 2 x ||weights||^2; its gradient; how far it is above the minimum, at most.

    Whatever the features' scale, the penalty alone makes the objective so convex that it is at most
    |gradient|^2 / (2 penalty) above its minimum over the weights. The intercepts have no penalty: what they
    lack is estimated, by the curvature that the mean square of the errors tells.

    Args:
        weights: (R + 1, C), the intercepts last.
        x, y: (N, R) and (N,).
    """
    log_p = torch.addmm(weights[-1], x, weights[:-1]).log_softmax(dim=1)  # (N, C)
    loss = -log_p.gather(1, y[:, None]).mean() + penalty / 2 * weights[:-1].square().sum()
    error = log_p.exp_().scatter_add_(1, y[:, None], log_p.new_full((len(y), 1), -1))
    gradient = torch.cat([x.T @ error / len(y) + penalty * weights[:-1], error.mean(dim=0, keepdim=True)])
    curvature = error.square().mean(dim=0).clamp_min(torch.finfo(error.dtype).tiny)
    excess = gradient[:-1].square().sum() / penalty + (gradient[-1].square() / curvature).sum()
    return loss.item(), gradient, excess.item() / 2
