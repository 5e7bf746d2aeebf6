"""What the probes are asked: splits, folds, draws, neighbours. Oracle: scikit-learn, used directly."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from torch import nn

from manyviews.config.schema import ConfigError, EvaluationConfig
from manyviews.data.dataset import Dataset, Split
from manyviews.probes import protocol
from manyviews.probes.feature_space import example_neighbours, feature_map
from manyviews.probes.features import extract_features
from manyviews.probes.predictions import MEASURES, accuracies, correct
from manyviews.probes.protocol import (
    check_probes,
    evaluate,
    few_label_accuracies,
    few_label_draws,
    few_labels,
    ood_split,
    raw_pixel_features,
)

# Off the defaults, so that a value that is not passed on is seen.
CONFIG = EvaluationConfig(
    neighbours=3, linear_c=0.05, ood_fit_fraction=0.7, ood_folds=4, few_label_draws=3
)  # fmt: skip


def clusters(n: int, n_classes: int, dims: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of overlapping classes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % n_classes
    centres = np.random.default_rng(99).normal(size=(n_classes, dims))
    x = centres[labels] + 1.2 * rng.normal(size=(n, dims)) + 3
    return torch.tensor(x, dtype=torch.float32), torch.from_numpy(labels)


@pytest.fixture(scope="module")
def made_up():
    """Features and labels of three splits: 300 training images of 6 classes, 60 of each of 3 unseen ones."""
    splits = {"train": clusters(300, 6), "val": clusters(120, 6, seed=1), "ood": clusters(180, 3, seed=2)}
    return {name: x for name, (x, _) in splits.items()}, {name: y for name, (_, y) in splits.items()}


def by_scikit_learn(fit, fit_y, test, test_y) -> tuple[float, float]:
    """k-NN and linear accuracy as the original measured them."""
    knn = KNeighborsClassifier(3, algorithm="brute").fit(fit.numpy(), fit_y.numpy())
    linear = LogisticRegression(C=0.05, max_iter=10_000, tol=1e-9).fit(fit.double().numpy(), fit_y.numpy())
    return knn.score(test.numpy(), test_y.numpy()), linear.score(test.double().numpy(), test_y.numpy())


@pytest.mark.parametrize("n", [10, 100, 2000])
def test_a_fraction_of_four_fifths_holds_out_a_fifth(n):
    """1 - 0.8 is a little less than 0.2 in floats, and a whole image would be lost."""
    fit, test = ood_split(n, 0.8)
    assert len(test) == n // 5
    assert sorted([*fit.tolist(), *test.tolist()]) == list(range(n))


def test_the_four_accuracies_are_the_originals_and_predictions_give_them(made_up):
    """Training classes on validation images; unseen ones on the images that RandomState(42) holds out."""
    features, labels = made_up
    evaluation = evaluate(features, labels, CONFIG, folds=False)
    mask = np.random.RandomState(42).permutation(180) >= round(0.3 * 180)
    fit, test = torch.from_numpy(mask), torch.from_numpy(~mask)
    ood, y = features["ood"], labels["ood"]
    expected = (
        *by_scikit_learn(features["train"], labels["train"], features["val"], labels["val"]),
        *by_scikit_learn(ood[fit], y[fit], ood[test], y[test]),
    )
    measured = accuracies(evaluation.predictions)
    names = ("id_knn_accuracy", "id_linear_accuracy", "ood_knn_accuracy", "ood_linear_accuracy")
    assert list(measured) == list(names)  # folds were not asked for
    assert tuple(measured.values()) == pytest.approx(expected)
    assert len(set(expected)) == 4  # so that none can stand in another's place
    assert evaluation.converged
    table = evaluation.predictions
    assert len(table) == 120 + 180
    scored = table[(table["split"] == "ood") & table["knn"].notna()]
    np.testing.assert_array_equal(scored["image"], test.nonzero()[:, 0])
    assert table["knn_folds"].isna().all()


def test_the_folds_score_every_ood_image_once(made_up):
    """Oracle: scikit-learn's probes in scikit-learn's stratified folds."""
    features, labels = made_up
    measured = accuracies(evaluate(features, labels, CONFIG, folds=True).predictions)
    assert list(measured) == list(MEASURES)
    ood, y = features["ood"], labels["ood"]
    by_fold, scored = [], []
    for fit, test in StratifiedKFold(4, shuffle=True, random_state=42).split(ood.numpy(), y.numpy()):
        by_fold.append(by_scikit_learn(ood[fit], y[fit], ood[test], y[test]))
        scored += test.tolist()
    assert sorted(scored) == list(range(180))
    expected = np.mean(by_fold, axis=0)  # of folds of one size
    assert measured["ood_knn_folds_accuracy"] == pytest.approx(expected[0])
    assert measured["ood_linear_folds_accuracy"] == pytest.approx(expected[1])


@pytest.mark.parametrize("stopped", [1, 2, 6])
def test_one_fit_of_many_that_was_stopped_early_is_told(made_up, monkeypatch, stopped):
    """Of ID, OOD and four folds any one is stopped; the largest gradient is told too."""
    whole, calls = protocol.fit_linear, []

    def stopping(features, labels, c, max_iter):
        calls.append(whole(features, labels, c, 1 if len(calls) + 1 == stopped else max_iter))
        return calls[-1]

    monkeypatch.setattr(protocol, "fit_linear", stopping)
    evaluation = evaluate(*made_up, CONFIG, folds=True)
    assert len(calls) == 6
    assert not evaluation.converged
    assert evaluation.gradient_norm == max(probe.gradient_norm for probe in calls)


def test_correct_is_by_image_and_measure():
    """Distinct in every column: no probe, split or scoring in another's place."""
    table = pd.DataFrame(
        {
            "split": ["id", "id", "ood", "ood"], "image": [0, 1, 0, 1], "label": [1, 0, 2, 1],
            "knn": [1, 1, 2, None], "linear": [0, 0, 0, None],
            "knn_folds": [None, None, 0, 1], "linear_folds": [None, None, 2, 1],
        }
    ).astype(dict.fromkeys(("knn", "linear", "knn_folds", "linear_folds"), "Int64"))  # fmt: skip
    expected = {
        "id_knn_accuracy": {0: True, 1: False}, "id_linear_accuracy": {0: False, 1: True},
        "ood_knn_accuracy": {0: True}, "ood_linear_accuracy": {0: False},
        "ood_knn_folds_accuracy": {0: False, 1: True}, "ood_linear_folds_accuracy": {0: True, 1: True},
    }  # fmt: skip
    assert {measure: correct(table, measure).to_dict() for measure in MEASURES} == expected


def test_few_labels_are_as_many_as_ood_has_and_all_draws_count(made_up):
    """126 OOD images to fit on, in 3 classes: 42 of the 50 labels of each training class are drawn."""
    features, labels = made_up
    assert few_labels(labels, CONFIG) == 42
    draws = list(few_label_draws(labels, CONFIG))
    assert len(draws) == 3
    for rows in draws:
        assert torch.bincount(labels["train"][rows]).tolist() == [42] * 6
    assert not torch.equal(draws[0].sort().values, draws[1].sort().values)
    sets = [(features["train"][rows], labels["train"][rows]) for rows in draws]
    of_draws = np.array([by_scikit_learn(*fit, features["val"], labels["val"]) for fit in sets])
    measured = few_label_accuracies(features, labels, CONFIG)
    assert list(measured.values()) == pytest.approx(list(of_draws.mean(axis=0)))
    assert (of_draws != of_draws[0]).any()  # so that the first draw alone would be seen


def test_features_are_those_of_the_network_in_evaluation_mode():
    """`pooled` is what the last layer reads; batches and mode leave no trace, and a frozen layer stays so."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 7))
    images = torch.randint(0, 256, (11, 3, 8, 8), dtype=torch.uint8)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    backbone[1].eval()
    features = extract_features(backbone, images, batch_size=4)
    assert backbone.training
    assert not backbone[1].training
    assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items())
    backbone.eval()
    torch.testing.assert_close(features["fc"], backbone(images / 255), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(features["pooled"], backbone[:-1](images / 255), atol=1e-6, rtol=1e-5)


def test_raw_pixels_are_averaged_to_what_a_linear_probe_can_bear():
    images = {"train": torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)}
    pixels = raw_pixel_features(images)["train"]
    assert pixels.shape == (2, 3 * 32 * 32)
    assert pixels[1, 0].item() == pytest.approx(images["train"][1, 0, :2, :2].double().mean().item() / 255)
    small = {"train": torch.full((1, 3, 8, 8), 51, dtype=torch.uint8)}
    assert raw_pixel_features(small)["train"].tolist() == [[pytest.approx(0.2)] * 192]


def dataset_of(train: int, ood: int) -> Dataset:
    """Three classes of each, with so many images a class."""
    splits = {}
    for name, n in (("train", train), ("val", 2), ("ood", ood)):
        splits[name] = Split(np.zeros((3 * n, 8, 8, 3), np.uint8), np.repeat(np.arange(3), n))
    names = ("a", "b", "c")
    return Dataset("made up", True, **splits, checksum="", class_names=names, ood_class_names=names)


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({"neighbours": 25}, "evaluation.neighbours 25 exceeds the 24 fitted"),
        ({"ood_fit_fraction": 0.999}, "lower it"),
        ({"ood_folds": 11}, "evaluation.ood_folds 11 exceeds the 10 images"),
        ({"ood_fit_fraction": 0.2, "sweep": True}, "evaluation.sweep: no fifth of the OOD images"),
        ({"sweep": True, "sweep_neighbours": [25]}, "evaluation.sweep_neighbours: none of"),
        ({"ood_fit_fraction": 0.05}, "evaluation.ood_fit_fraction 0.05 leaves less than one image of each"),
        ({"ood_folds": 2, "neighbours": 16}, "evaluation.neighbours 16 exceeds the 15 fitted"),
    ],
)
def test_probes_that_cannot_work_are_refused_with_the_key_to_change(evaluation, message):
    check_probes(dataset_of(10, 10), EvaluationConfig())
    with pytest.raises(ConfigError, match=message):
        check_probes(dataset_of(10, 10), EvaluationConfig(**evaluation))


def test_a_class_of_one_training_image_is_named():
    dataset = dataset_of(10, 10)
    labels = dataset.train.labels.copy()
    labels[10:19] = 0
    lone = replace(dataset, train=Split(dataset.train.images, labels))
    with pytest.raises(ConfigError, match="class 'b' has one training image, too few"):
        check_probes(lone, EvaluationConfig())


def test_example_neighbours_are_scikit_learns(made_up):
    """Of a validation image among the training images; of an unseen one among those that are fitted on."""
    features, labels = made_up
    table = example_neighbours(features, labels, 0.7)
    fit, test = (rows.numpy() for rows in ood_split(180, 0.7))
    for split, (fitted, rows, queries) in {
        "id": ("train", np.arange(300), "val"), "ood": ("ood", fit, "ood"),
    }.items():  # fmt: skip
        for query, of_query in table[table["split"] == split].groupby("query"):
            oracle = KNeighborsClassifier(5, algorithm="brute").fit(
                features[fitted][rows], labels[fitted][rows]
            )
            expected = rows[oracle.kneighbors(features[queries][[query]])[1][0]]
            np.testing.assert_array_equal(of_query["neighbour"], expected)
            right = labels[fitted][expected] == labels[queries][query]
            assert of_query["right"].tolist() == right.tolist()
    assert set(table[table["split"] == "ood"]["query"]) <= set(test)


def test_a_map_keeps_classes_together_and_features_that_are_all_alike_end_nothing(made_up):
    features, labels = made_up
    apart = {
        name: 9 * nn.functional.one_hot(labels[name], 12).float() + 0.1 * x for name, x in features.items()
    }
    apart["ood"] = -apart["ood"]  # else classes of one number would lie together
    table = feature_map(apart, labels)
    places, keys = table[["x", "y"]], (table["split"] + table["label"].astype(str)).to_numpy()
    _, near = NearestNeighbors(n_neighbors=2).fit(places).kneighbors(places)
    assert (keys == keys[near[:, 1]]).mean() > 0.95
    alike = {name: torch.ones_like(x) for name, x in features.items()}
    table = feature_map(alike, labels)
    assert len(table) == 300
    assert (table[["x", "y"]] == 0).all().all()
