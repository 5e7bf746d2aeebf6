"""How sure a number is: over seeds, and over the images it was measured on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

CONFIDENCE = 0.95
ENDS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)  # quantiles
MIN_SEEDS = 3  # below, an interval over seeds says next to nothing
RESAMPLES = 9999


def outer_ends(of: Mapping[str, Any]) -> tuple[Any, Any]:
    """The lower of an estimate's two lower ends and the higher of its upper ones; that there is, of one.

    Args:
        of: the fields of an Estimate, or a table of them.
    """
    return np.fmin(of["seed_low"], of["image_low"]), np.fmax(of["seed_high"], of["image_high"])


@dataclass(frozen=True)
class Estimate:
    """A mean with two intervals, NaN where there is none.

    Over seeds: what another training would give. Over images: what other test images would give. Neither
    contains the other.
    """

    mean: float
    n: int  # seeds
    seed_low: float
    seed_high: float
    image_low: float
    image_high: float

    @property
    def low(self) -> float:
        """The lower of the two lower ends; the one there is where the other is NaN."""
        return float(outer_ends(vars(self))[0])

    @property
    def high(self) -> float:
        """The higher of the two upper ends; the one there is where the other is NaN."""
        return float(outer_ends(vars(self))[1])


FIELDS = tuple(Estimate.__dataclass_fields__)  # columns of a table of estimates


def seed_interval(values: np.ndarray) -> tuple[float, float]:
    """Student's t interval of the mean of values (S,), one for each seed; NaN for fewer than two."""
    from scipy import stats

    if len(values) < 2:
        return float("nan"), float("nan")
    half = stats.sem(values) * stats.t.ppf(ENDS[1], len(values) - 1)
    return float(np.mean(values) - half), float(np.mean(values) + half)


def image_interval(scores: np.ndarray) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of scores (M,), one for each image.

    Scores that are differences of two runs on the same image make it the paired bootstrap. Scores take few
    values, so that how often a resample holds each is drawn, not its images one by one.
    """
    values, counts = np.unique(scores, return_counts=True)  # (K,)
    drawn = np.random.default_rng(0).multinomial(len(scores), counts / len(scores), RESAMPLES)  # (R, K)
    low, high = np.quantile(drawn @ values / len(scores), ENDS)
    return float(low), float(high)


def estimate(scores: np.ndarray) -> Estimate:
    """Mean and intervals of scores (S, M) of M images, measured with each of S seeds.

    The images are resampled with their scores averaged over the seeds, which stay as they are.
    """
    by_seed = scores.mean(axis=1)
    ends = (*seed_interval(by_seed), *image_interval(scores.mean(axis=0)))
    return Estimate(float(by_seed.mean()), len(by_seed), *ends)


def estimate_without_images(values: Sequence[float] | np.ndarray) -> Estimate:
    """The same of numbers (S,) that are known for each seed only, not for each image."""
    nan = float("nan")
    return Estimate(float(np.mean(values)), len(values), *seed_interval(np.asarray(values)), nan, nan)
