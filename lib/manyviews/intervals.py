"""How sure a number is: over seeds, and over the images it was measured on."""

from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
MIN_SEEDS = 3  # below, an interval over seeds says next to nothing
RESAMPLES = 9999
BATCH = 500  # resamples at a time, for memory


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
        """The lower of the two lower ends."""
        return float(np.nanmin([self.seed_low, self.image_low, np.inf]))

    @property
    def high(self) -> float:
        """The higher of the two upper ends."""
        return float(np.nanmax([self.seed_high, self.image_high, -np.inf]))

    def as_dict(self) -> dict[str, float]:
        """Its fields, for a table."""
        return asdict(self)


def seed_interval(values: np.ndarray) -> tuple[float, float]:
    """Student's t interval of the mean of values (S,), one for each seed; NaN for fewer than two."""
    if len(values) < 2:
        return float("nan"), float("nan")
    mean, error = np.mean(values), stats.sem(values)
    half = float(error * stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return float(mean - half), float(mean + half)


def image_interval(scores: np.ndarray) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of scores (M,), one for each image.

    Scores that are differences of two runs on the same image make it the paired bootstrap.
    """
    return _bootstrap(np.asarray(scores, dtype=np.float64).tobytes())


@lru_cache(maxsize=1024)  # table, text and figure ask for the same ones
def _bootstrap(scores: bytes) -> tuple[float, float]:
    found = stats.bootstrap(
        (np.frombuffer(scores),),
        np.mean,
        n_resamples=RESAMPLES,
        batch=BATCH,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def estimate(scores: np.ndarray) -> Estimate:
    """Mean and intervals of scores (S, M) of M images, measured with each of S seeds.

    The images are resampled with their scores averaged over the seeds, which stay as they are.
    """
    by_seed = scores.mean(axis=1)
    return Estimate(
        float(by_seed.mean()), len(by_seed), *seed_interval(by_seed), *image_interval(scores.mean(axis=0))
    )


def estimate_without_images(values: list[float]) -> Estimate:
    """The same of numbers that are known for each seed only, not for each image."""
    nan = float("nan")
    return Estimate(float(np.mean(values)), len(values), *seed_interval(np.array(values)), nan, nan)
