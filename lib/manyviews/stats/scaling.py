"""How an error falls with a budget: a power law and a log-linear trend, and what each forecasts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from manyviews.runs.store import Runs
from manyviews.stats.compare import common_scores, obstacle
from manyviews.stats.intervals import ENDS, Estimate, seed_interval

MIN_BUDGETS = 5  # the three parameters of the law, one point to spare, and the one held out
RESAMPLES = 200
LEAST_SPREAD = 1e-3  # fraction of images, where the seeds agree by chance


def power_law(x: np.ndarray, floor: float, scale: float, exponent: float) -> np.ndarray:
    """Error at budgets x, multiples of the smallest. Source: Hestness et al. 2017, arXiv:1712.00409."""
    return floor + scale * x**-exponent


def log_linear(x: np.ndarray, first: float, slope: float) -> np.ndarray:
    """What a trend says without a law; the slope is that of each doubling."""
    return first + slope * np.log2(x)


LAWS: dict[str, Callable[..., np.ndarray]] = {"power law": power_law, "log-linear": log_linear}


def fit(
    law: str, x: np.ndarray, error: np.ndarray, spread: float, start: np.ndarray | None = None
) -> np.ndarray:
    """Parameters of a law by robust least squares (soft L1).

    Args:
        law: one of LAWS.
        x: budgets, (B,), multiples of the smallest, ascending.
        error: fractions of images, (B,).
        spread: residual from which on residuals count less than by their square, a fraction.
        start: parameters to begin with, such as those of nearly the same errors; default: several, of which
            the best fit is kept.
    """
    from scipy.optimize import least_squares

    starts, bounds = [(error[0], 0)], (-np.inf, np.inf)
    if law == "power law":
        floors = (0, 0.9 * error.min())
        starts = [(floor, max(1e-3, error[0] - floor), exponent) for floor in floors for exponent in (0.2, 1)]
        bounds = (0, (1, 2, 4))
    fits = [
        least_squares(lambda p: LAWS[law](x, *p) - error, p0, bounds=bounds, loss="soft_l1", f_scale=spread)
        for p0 in (starts if start is None else [start])
    ]
    return min(fits, key=lambda one: one.cost).x


@dataclass(frozen=True)
class ErrorCurve:
    """Errors at several budgets, for the seeds that all of them have."""

    names: tuple[str, ...]  # of the runs
    views: np.ndarray  # forwarded, (B,), ascending
    scores: np.ndarray  # 1 where an image is classified wrong, (B, S, M)

    @property
    def x(self) -> np.ndarray:
        """The budgets as multiples of the smallest, (B,)."""
        return self.views / self.views[0]

    @property
    def error(self) -> np.ndarray:
        """Means over seeds and images, (B,)."""
        return self.scores.mean(axis=(1, 2))

    @property
    def spread(self) -> float:
        """How far the errors of one seed scatter, over all budgets; of one seed alone, by the images."""
        by_seed, (_, n_seeds, n_images) = self.scores.mean(axis=2), self.scores.shape
        variances = by_seed.var(axis=1, ddof=1) if n_seeds > 1 else by_seed * (1 - by_seed) / n_images
        return max(LEAST_SPREAD, float(np.sqrt(variances.mean())))


def error_curve(runs: Runs, names: Sequence[str], measure: str) -> ErrorCurve | None:
    """The errors of some runs against the views that they forwarded.

    A run that is not there is left out, and so is one with the recipe of another. None where fewer than
    MIN_BUDGETS are left, or they cannot be compared.
    """
    of_recipe = {runs[name][0].name: name for name in reversed(names) if name in runs}
    views = {name: runs[name][0].summary["views_forwarded"] for name in of_recipe.values()}
    there = sorted(views, key=views.get)
    if len(there) < MIN_BUDGETS or obstacle(runs, there):
        return None
    wrong = 1 - np.stack(list(common_scores(runs, there, measure).values()))
    return ErrorCurve(tuple(there), np.array([views[name] for name in there], dtype=float), wrong)


def forecast(curve: ErrorCurve, law: str) -> Estimate:
    """By how much the accuracy at the largest budget exceeds what a law fitted to all smaller ones says."""
    x, spread = curve.x, curve.spread
    start = fit(law, x[:-1], curve.error[:-1], spread)

    def miss(error: np.ndarray) -> float:
        return LAWS[law](x[-1], *fit(law, x[:-1], error[:-1], spread, start)) - error[-1]

    by_seed = np.array([miss(error) for error in curve.scores.mean(axis=2).T])  # (S,)
    by_image, generator = curve.scores.mean(axis=1), np.random.default_rng(0)  # (B, M)
    draws = (generator.integers(by_image.shape[1], size=by_image.shape[1]) for _ in range(RESAMPLES))
    low, high = np.quantile([miss(by_image[:, draw].mean(axis=1)) for draw in draws], ENDS)
    return Estimate(float(by_seed.mean()), len(by_seed), *seed_interval(by_seed), float(low), float(high))
