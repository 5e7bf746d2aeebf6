"""The probe sweep and the split of unseen classes: what is fitted, what is scored, which C is chosen."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.neighbors import KNeighborsClassifier

from manyviews.config.schema import EvaluationConfig
from manyviews.probes.protocol import ood_split
from manyviews.probes.sweep import choose_c, probe_sweep


def clusters(n: int, n_classes: int, noise_dims: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Overlapping classes in 12 dimensions, and others, three times as wide, that tell nothing."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % n_classes
    x = np.random.default_rng(99).normal(size=(n_classes, 12))[labels] + 0.9 * rng.normal(size=(n, 12))
    x = np.concatenate([x, 3 * rng.normal(size=(n, noise_dims))], axis=1)
    return torch.tensor(x, dtype=torch.float32), torch.from_numpy(labels)


@pytest.mark.parametrize("n", [10, 100, 2000])
def test_a_fraction_of_four_fifths_holds_out_a_fifth(n):
    """1 - 0.8 is a little less than 0.2 in floats, and a whole image would be lost."""
    fit, test = ood_split(n, 0.8)
    assert len(test) == n // 5
    assert sorted([*fit.tolist(), *test.tolist()]) == list(range(n))


def test_unseen_classes_are_scored_on_images_that_were_not_fitted():
    """Oracle: scikit-learn's k-NN with one neighbour, which is always right on what it was fitted on."""
    sizes = {"train": (90, 6, 1), "val": (60, 6, 2), "ood": (150, 3, 3)}
    made = {split: clusters(n, classes, 4, seed) for split, (n, classes, seed) in sizes.items()}
    features, labels = ({split: pair[part] for split, pair in made.items()} for part in (0, 1))
    config = EvaluationConfig(sweep_neighbours=(1, 4), sweep_c=(0.01, 1.0), ood_fit_fraction=0.6)
    table = probe_sweep({"fc": features}, labels, config, "test")
    raw = table[(table["task"] == "ood") & ~table["normalised"] & (table["probe"] == "knn")]
    by_k = raw.set_index("neighbours")["accuracy"]
    held_out = np.random.RandomState(42).permutation(150) < 60
    x, y = features["ood"].numpy(), labels["ood"].numpy()
    for k in (1, 4):
        oracle = KNeighborsClassifier(k, algorithm="brute").fit(x[~held_out], y[~held_out])
        assert by_k[k] == pytest.approx(oracle.score(x[held_out], y[held_out]))
    assert by_k[1] < 1


def test_c_is_the_best_on_the_held_out_fifth():
    """Oracle: scikit-learn's regression and split; the best C is at neither end of the sweep."""
    x, y = clusters(150, 6, 48, seed=3)
    config = EvaluationConfig(sweep_c=(10, 1e-5, 1e-4, 1, 1e-3, 1e-2, 0.1))
    fit, held_out = next(
        StratifiedShuffleSplit(1, test_size=0.2, random_state=42).split(x.numpy(), y.numpy())
    )
    scores = {}
    for c in sorted(config.sweep_c):
        oracle = LogisticRegression(C=c, max_iter=10_000, tol=1e-8).fit(
            x[fit].double().numpy(), y[fit].numpy()
        )
        scores[c] = oracle.score(x[held_out].double().numpy(), y[held_out].numpy())
    chosen = choose_c(x, y, config)
    assert chosen == max(scores, key=scores.get)
    assert chosen not in (1e-5, 10)


def test_of_equally_good_c_the_smallest_is_chosen():
    x, y = clusters(100, 2, 0, seed=0)
    assert choose_c(50 * x, y, EvaluationConfig(sweep_c=(10, 1))) == 1
