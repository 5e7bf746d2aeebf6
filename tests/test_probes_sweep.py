"""The probe sweep: what is fitted, what is scored, which C is chosen."""

from itertools import product

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.neighbors import KNeighborsClassifier
from torch.nn.functional import normalize

from manyviews.config.schema import EvaluationConfig
from manyviews.probes.sweep import choose_c, probe_sweep


def clusters(n: int, n_classes: int, noise_dims: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Overlapping classes in 12 dimensions, and others, three times as wide, that tell nothing."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % n_classes
    x = np.random.default_rng(99).normal(size=(n_classes, 12))[labels] + 0.9 * rng.normal(size=(n, 12))
    x = np.concatenate([x, 3 * rng.normal(size=(n, noise_dims))], axis=1)
    return torch.tensor(x, dtype=torch.float32), torch.from_numpy(labels)


def test_the_sweep_is_scikit_learns_probes():
    """Each number of neighbours that there are images for; unseen classes are scored on images not fitted."""
    sizes = {"train": (90, 6, 1), "val": (60, 6, 2), "ood": (150, 3, 3)}
    made = {split: clusters(n, classes, 4, seed) for split, (n, classes, seed) in sizes.items()}
    features, labels = ({split: pair[part] for split, pair in made.items()} for part in (0, 1))
    config = EvaluationConfig(
        sweep_neighbours=(1, 4, 2000), sweep_c=(0.01, 1.0), linear_c=0.05, ood_fit_fraction=0.6
    )
    layers = {"fc": features, "pooled": {split: x[:, :5] for split, x in features.items()}}
    table = probe_sweep(layers, labels, config, "test")
    accuracies = table.set_index(["layer", "normalised", "task", "probe", "neighbours"])["accuracy"]
    held_out = np.random.RandomState(42).permutation(150) < 60
    for (layer, x), normalised in product(layers.items(), (False, True)):
        x = {split: normalize(of_split, dim=1) if normalised else of_split for split, of_split in x.items()}
        ood, y = x["ood"], labels["ood"]
        sets = {
            "id": (x["train"], labels["train"], x["val"], labels["val"]),
            "ood": (ood[~held_out], y[~held_out], ood[held_out], y[held_out]),
        }
        for task, (fit, fit_y, test, test_y) in sets.items():
            of = accuracies[layer, normalised, task]
            assert set(of.index.get_level_values("neighbours").dropna()) == {1, 4}
            for k in (1, 4):
                knn = KNeighborsClassifier(k, algorithm="brute").fit(fit.double(), fit_y)
                assert of["knn", k] == pytest.approx(knn.score(test.double(), test_y))
            linear = LogisticRegression(C=0.05, max_iter=10_000, tol=1e-9).fit(fit.double(), fit_y)
            assert of["linear"].item() == pytest.approx(linear.score(test.double(), test_y))
    assert accuracies["fc", False, "ood", "knn", 1] < 1  # one neighbour is always right on what was fitted
    assert set(table[table["probe"] == "weighted_knn"]["normalised"]) == {True}
    assert set(table[table["probe"] == "linear"]["c"]) == {0.05}
    assert set(table[table["probe"] == "linear_swept"]["c"]) <= {0.01, 1}


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
