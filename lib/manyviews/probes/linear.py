"""The linear probe: scikit-learn's multinomial logistic regression, with a proof that it is fitted."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CONVERGED = 1e-3  # of the objective: how far above its minimum it may be, by the bound of _gradient
FITTED = 1e-8  # where the fit ends: by then it is settled on which side of a border each image lies
LEADING = 1e-12  # of the largest variance; what float32 rounds into axes without any is less
ROUNDING = 1e-14  # of the objective; a step that raises it by less may still lower the gradient
MOST = 500  # products with the Hessian that a Newton step may take
PRECISION = 0.3  # to which a Newton step is solved; the next one corrects it


@dataclass(frozen=True)
class LinearProbe:
    """A fitted multinomial logistic regression.

    Attributes:
        classes: (C,) int64, the labels that were fitted.
        weights: (D, C) float64, for the features as they are.
        intercepts: (C,) float64.
        c: inverse strength of the penalty.
        objective: mean cross-entropy in nats + ||weights||^2 / (2 c N), which is scikit-learn's.
        gradient_norm: largest entry of its gradient, features centred, in their unit.
        converged: whether the objective provably is within 0.1 % of its minimum; false where there were too
            few steps, and where features are so large (beyond 1e12) that rounding forbids the proof.
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


def fit_linear(features: Tensor, labels: Tensor, c: float = 1.0, max_iter: int = 1000) -> LinearProbe:
    """Fit one linear probe: see fit_linear_path.

    >>> import torch
    >>> probe = fit_linear(torch.tensor([[0.0], [1.0], [10.0], [11.0]]), torch.tensor([0, 0, 1, 1]))
    >>> probe.converged, probe.predict(torch.tensor([[2.0], [9.0]])).tolist()
    (True, [0, 1])
    """
    return fit_linear_path(features, labels, [c], max_iter)[0]


@torch.no_grad()
def fit_linear_path(
    features: Tensor, labels: Tensor, cs: Sequence[float], max_iter: int = 1000
) -> list[LinearProbe]:
    """Minimise the objective of scikit-learn's LogisticRegression for each c, from the strongest penalty on.

    The features are turned to their principal axes, which turns the optimum's weights and changes nothing
    else, but makes the Hessian nearly diagonal. A ResNet's 1000 features come from 8 x width channels, so
    axes with next to no variance wait: they are fitted where without them the proof, which is about all
    features, fails.

    Args:
        features: (N, D) floats or integers.
        labels: (N,) int64, on the same device.
        cs: inverse strengths of the penalty, which spares the intercepts.
        max_iter: most products with the Hessian for each c; each costs what a step of L-BFGS does.
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
        while True:
            weights = _minimise(weights, turned, axes, y, penalty, max_iter)
            objective, p = _objective(weights, x, y, penalty)
            gradient, excess = _gradient(weights, p, x, y, penalty)
            converged = excess <= CONVERGED * objective
            if converged or turned.shape[1] == axes.shape[1]:
                break
            turned = x @ axes
        intercepts, norm = weights[-1] - centre @ weights[:-1], gradient.abs().max().item()
        fitted[c] = LinearProbe(classes, weights[:-1], intercepts, c, objective, norm, converged)
    return [fitted[c] for c in cs]


def principal_axes(x: Tensor) -> tuple[Tensor, int]:
    """Principal axes of centred features (N, D), most variance first, and how many of them lead.

    Returns:
        (D, R), R = D; for many more features than images, R = N: along all further axes no image lies.
    """
    if not x.square().sum().isfinite():
        raise ValueError("features that are not finite, or too large; the network may have diverged")
    if 2 * len(x) < x.shape[1]:  # then quicker: 12 times for 150 images of 1000 features
        _, deviations, axes = torch.linalg.svd(x, full_matrices=False)
        variances, axes = deviations.square(), axes.T
    else:
        variances, axes = (of.flip(dims=(-1,)) for of in torch.linalg.eigh(x.T @ x))
    return axes, int((variances > LEADING * variances[0]).sum())


def _minimise(weights: Tensor, x: Tensor, axes: Tensor, y: Tensor, penalty: float, max_iter: int) -> Tensor:
    """Weights (D + 1, C) that are optimal along the first R axes and 0 along the others: Newton's method.

    Args:
        weights: (D + 1, C), where to start; the intercepts last.
        x: (N, R), the features along the first R of the axes.
    """
    axes = axes[:, : x.shape[1]]
    w = torch.cat([axes.T @ weights[:-1], weights[-1:]])  # (R + 1, C)
    value, p = _objective(w, x, y, penalty)
    factor = x.float()  # of the products: a step need not be exact
    while max_iter > 0:
        gradient, excess = _gradient(w, p, x, y, penalty)
        if excess <= FITTED * value:
            break
        step, products = _newton_step(gradient, p, factor, penalty, min(MOST, max_iter))
        max_iter -= products
        slope = (gradient * step).sum().item()
        for size in (0.5**halvings for halvings in range(30)):
            new, new_p = _objective(w + size * step, x, y, penalty)
            if slope < 0 and new <= value + 1e-4 * size * slope + ROUNDING * value:
                w, value, p = w + size * step, new, new_p
                break
        else:
            if factor is x:
                break
        if size < 0.1 or products == MOST or value < 1e-3:
            factor = x  # where a probe is nearly certain, float32 cannot tell how nearly
    return torch.cat([axes @ w[:-1], w[-1:]])


def _newton_step(gradient: Tensor, p: Tensor, x: Tensor, penalty: float, most: int) -> tuple[Tensor, int]:
    """Step (R + 1, C) to where the gradient would vanish, by conjugate gradients; the products it took."""
    p = p.to(x.dtype)
    spread = (p * (1 - p)).mean(dim=1)  # (N,)
    diagonal = torch.cat([x.square().T @ spread / len(x), spread.mean()[None]]).add(penalty)[:, None]
    left = -gradient.to(x.dtype)
    step, way = torch.zeros_like(left), left / diagonal
    size = first = (left * way).sum()
    for products in range(1, most + 1):  # noqa: B007
        z = torch.addmm(way[-1], x, way[:-1])  # (N, C), the change of the logits
        change = p * (z - (p * z).sum(dim=1, keepdim=True)) / len(x)
        product = torch.cat([x.T @ change + penalty * way[:-1], change.sum(dim=0, keepdim=True)])
        length = size / (way * product).sum()
        step, left = step + length * way, left - length * product
        before, size = size, (left * left / diagonal).sum()
        if size <= PRECISION**2 * first:
            break
        way = left / diagonal + size / before * way
    # What all classes share changes no probability, but rounding can make much of it.
    return (step - step.mean(dim=1, keepdim=True)).double(), products


def _objective(weights: Tensor, x: Tensor, y: Tensor, penalty: float) -> tuple[float, Tensor]:
    """Mean cross-entropy + penalty / 2 x ||weights||^2, and the probabilities (N, C).

    Args:
        weights: (R + 1, C), the intercepts last.
        x, y: (N, R) and (N,).
    """
    log_p = torch.addmm(weights[-1], x, weights[:-1]).log_softmax(dim=1)  # (N, C)
    loss = -log_p.gather(1, y[:, None]).mean() + penalty / 2 * weights[:-1].square().sum()
    return loss.item(), log_p.exp_()


def _gradient(weights: Tensor, p: Tensor, x: Tensor, y: Tensor, penalty: float) -> tuple[Tensor, float]:
    """Gradient (R + 1, C) of the objective, and how far it is above its minimum at most.

    Whatever the scale of the features, the penalty alone bends the objective so much that it is at most
    |gradient|^2 / (2 penalty) above its minimum over the weights. The intercepts are not penalised: what they
    miss is estimated, from the curvature that the mean square of the errors tells.
    """
    error = p.scatter_add(1, y[:, None], p.new_full((len(y), 1), -1))  # (N, C)
    gradient = torch.cat([x.T @ error / len(y) + penalty * weights[:-1], error.mean(dim=0, keepdim=True)])
    curvature = error.square().mean(dim=0).clamp_min(torch.finfo(error.dtype).tiny)
    excess = gradient[:-1].square().sum() / penalty + (gradient[-1].square() / curvature).sum()
    return gradient, excess.item() / 2
