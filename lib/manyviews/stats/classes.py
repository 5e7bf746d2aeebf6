"""Which classes a run tells apart, and which it confuses."""

import numpy as np
import pandas as pd

from manyviews.probes.protocol import MEASURES
from manyviews.runs.store import Run


def confusion_matrix(seeds: list[Run], measure: str) -> np.ndarray:
    """Fraction of the images of each class (row) that are taken for each class (column).

    Returns:
        (C, C), the mean over the seeds; each row adds up to 1.
    """
    split, column = MEASURES[measure]
    counts = np.zeros((len(seeds[0].class_names(measure)),) * 2)
    for run in seeds:
        rows = run.predictions[run.predictions["split"] == split].dropna(subset=column)
        np.add.at(counts, (rows["label"].to_numpy(int), rows[column].to_numpy(int)), 1)
    return counts / counts.sum(axis=1, keepdims=True)


def class_accuracies(seeds: list[Run], measure: str) -> pd.Series:
    """Final accuracy of each class, by its index: of its images, as the mean over the seeds."""
    return pd.Series(np.diag(confusion_matrix(seeds, measure)))


def most_confused(matrix: np.ndarray, most: int = 8) -> list[int]:
    """The classes of the most confused pairs, partners beside each other, until there are `most`."""
    pairs = np.stack(np.triu_indices(len(matrix), k=1), axis=1)
    either_way = matrix[pairs[:, 0], pairs[:, 1]] + matrix[pairs[:, 1], pairs[:, 0]]
    chosen: list[int] = []
    for pair in pairs[np.argsort(-either_way, kind="stable")].tolist():
        new = [label for label in pair if label not in chosen]
        if len(chosen) + len(new) <= most:
            chosen += new
    return chosen
