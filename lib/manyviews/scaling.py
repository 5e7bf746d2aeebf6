"""How an error falls with a budget: a power law and a log-linear fit, and which of them foretells more."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from manyviews.intervals import CONFIDENCE, Estimate, estimate_without_images, seed_interval
from manyviews.results import Run, common_scores

MIN_BUDGETS = 5  # the three parameters of the law, one point to spare, and the one held out
RESAMPLES = 200
LEAST_SPREAD = 1e-3  # share of images, where the seeds agree by chance
STARTS = tuple((floor, exponent) for floor in (0.0, 0.9) for exponent in (0.2, 1.0))  # floor: of the least
MAX_EXPONENT = 4.0

Fit = Callable[[np.ndarray], np.ndarray]  # errors at some budgets


@dataclass(frozen=True)
class PowerLaw:
    """error = floor + scale * (x / x0) ** -exponent, in shares of images."""

    floor: float
    scale: float
    exponent: float
    x0: float  # the smallest budget

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.floor + self.scale * (x / self.x0) ** -self.exponent


@dataclass(frozen=True)
class LogLinear:
    """error = first + slope * log2(x / x0): what a trend says without a law."""

    first: float
    slope: float  # per doubling
    x0: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.first + self.slope * np.log2(x / self.x0)


def fit_power_law(x: np.ndarray, error: np.ndarray, spread: float) -> PowerLaw:
    """Robust least squares from several starts, of which the best is kept.

    Args:
        x: budgets, (B,), ascending.
        error: shares of images, (B,).
        spread: residual, in shares, from which on residuals count less than by their square.
    Source: the form of Hestness et al. 2017, arXiv:1712.00409; the soft L1 loss is SciPy's.
    """
    relative = x / x[0]

    def residuals(parameters: np.ndarray) -> np.ndarray:
        floor, scale, exponent = parameters
        return floor + scale * relative**-exponent - error

    def jacobian(parameters: np.ndarray) -> np.ndarray:
        _, scale, exponent = parameters
        falling = relative**-exponent
        return np.stack([np.ones_like(x), falling, -scale * falling * np.log(relative)], axis=1)

    found = [
        least_squares(
            residuals,
            (share * error.min(), max(1e-3, error[0] - share * error.min()), exponent),
            jacobian,
            bounds=([0, 0, 0], [1, 2, MAX_EXPONENT]),
            loss="soft_l1",
            f_scale=spread,
        )
        for share, exponent in STARTS
    ]
    floor, scale, exponent = min(found, key=lambda fit: fit.cost).x
    return PowerLaw(float(floor), float(scale), float(exponent), float(x[0]))


def fit_log_linear(x: np.ndarray, error: np.ndarray, spread: float) -> LogLinear:
    """The same with a straight line over the logarithm of the budget."""
    doublings = np.log2(x / x[0])
    found = least_squares(
        lambda line: line[0] + line[1] * doublings - error, (error[0], 0.0), loss="soft_l1", f_scale=spread
    )
    return LogLinear(float(found.x[0]), float(found.x[1]), float(x[0]))


FITS: dict[str, Callable[[np.ndarray, np.ndarray, float], Fit]] = {
    "power law": fit_power_law,
    "log-linear": fit_log_linear,
}


@dataclass(frozen=True)
class Curve:
    """Errors at several budgets, for the seeds that all of them have."""

    names: tuple[str, ...]  # of the runs
    x: np.ndarray  # views forwarded, (B,), ascending
    scores: np.ndarray  # 1 where an image is classified wrong, (B, S, M)

    @property
    def error(self) -> np.ndarray:
        """Means over seeds and images, (B,)."""
        return self.scores.mean(axis=(1, 2))

    @property
    def spread(self) -> float:
        """How far the errors of one seed scatter, over all budgets; of one seed alone, by the images.

        What a fit takes for an outlier is measured by it.
        """
        by_seed = self.scores.mean(axis=2)  # (B, S)
        if by_seed.shape[1] > 1:
            variances = by_seed.var(axis=1, ddof=1)
        else:
            variances = by_seed * (1 - by_seed) / self.scores.shape[2]
        return max(LEAST_SPREAD, float(np.sqrt(variances.mean())))


def error_curve(runs: dict[str, list[Run]], names: list[str], measure: str) -> Curve | None:
    """The errors of some runs against the views that they forwarded; None where there are none in common.

    Args:
        runs: see results.load_runs; what is not there is left out.
        names: of the runs.
        measure: one of evaluation.MEASURES.
    """
    there = [name for name in names if name in runs]
    there.sort(key=lambda name: runs[name][0].summary["images_forwarded"])
    right = common_scores(runs, there, measure)
    if not right:
        return None
    x = np.array([runs[name][0].summary["images_forwarded"] for name in there], dtype=float)
    return Curve(tuple(there), x, 1 - np.stack(list(right.values())))


Misses = tuple[np.ndarray, np.ndarray]


def misses(curve: Curve, law: str, tolerance: float = 1.0, resamples: int = RESAMPLES) -> Misses:
    """By how much the accuracy at the largest budget exceeds what a fit to all smaller ones says.

    Args:
        curve: errors at the budgets.
        law: one of FITS.
        tolerance: times the spread from which on a residual counts as an outlier's.
        resamples: of the images.
    Returns:
        (S,), of fits to each seed's errors, and (resamples,), of fits to resampled images.
    """
    fit, x, n_images, spread = FITS[law], curve.x, curve.scores.shape[2], tolerance * curve.spread

    def miss(error: np.ndarray) -> float:
        return float(fit(x[:-1], error[:-1], spread)(x[-1:])[0] - error[-1])

    by_seed = np.array([miss(error) for error in curve.scores.mean(axis=2).T])
    of_images = curve.scores.mean(axis=1)  # (B, M)
    generator = np.random.default_rng(0)
    resampled = [
        miss(of_images[:, generator.integers(n_images, size=n_images)].mean(axis=1)) for _ in range(resamples)
    ]
    return by_seed, np.array(resampled)


def estimate_of(found: Misses) -> Estimate:
    """The mean over seeds, Student's t interval over them, and the interval over images."""
    by_seed, resampled = found
    if len(resampled) == 0:
        return estimate_without_images(list(by_seed))
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(float(by_seed.mean()), len(by_seed), *seed_interval(by_seed), float(low), float(high))


def foretell(curve: Curve, law: str) -> Estimate:
    """By how much the accuracy at the largest budget exceeds what a law fitted to all smaller ones says."""
    return estimate_of(misses(curve, law))


def farther(law: Misses, other: Misses) -> Estimate:
    """By how much farther off a law is than another, pair by pair: both are fitted to the same errors."""
    by_seed, resampled = (np.abs(a) - np.abs(b) for a, b in zip(law, other, strict=True))
    return estimate_of((by_seed, resampled))


def law_intervals(curve: Curve) -> dict[str, tuple[float, float]]:
    """Intervals of the law's floor and exponent, from fits to resampled seeds and images, all budgets in."""
    generator = np.random.default_rng(0)
    _, n_seeds, n_images = curve.scores.shape
    found = []
    for _ in range(RESAMPLES):
        scores = curve.scores[:, generator.integers(n_seeds, size=n_seeds)].mean(axis=1)  # (B, M)
        error = scores[:, generator.integers(n_images, size=n_images)].mean(axis=1)
        law = fit_power_law(curve.x, error, curve.spread)
        found.append((law.floor, law.exponent))
    low, high = np.quantile(found, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return {"floor": (low[0], high[0]), "exponent": (low[1], high[1])}
