"""What the probes are asked: splits, folds, draws, the ladder. Oracle: scikit-learn, used directly."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from manyviews import data, evaluation
from manyviews.config import EvaluationConfig
from manyviews.evaluation import MEASURES, LinearFits

CONFIG = EvaluationConfig(ladder_neighbours=(1, 5, 20, 2000), ladder_c=(0.01, 1, 100), few_label_draws=3)


def clusters(n: int, n_classes: int, dims: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of overlapping classes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % n_classes
    centres = np.random.default_rng(99).normal(size=(n_classes, dims))
    x = centres[labels] + 0.9 * rng.normal(size=(n, dims)) + 3
    return torch.tensor(x, dtype=torch.float32), torch.from_numpy(labels)


@pytest.fixture(scope="module")
def made_up():
    """Features and labels of three splits: 300 training images of 6 classes, 60 of each of 3 unseen ones."""
    splits = {"train": clusters(300, 6), "val": clusters(120, 6, seed=1), "ood": clusters(180, 3, seed=2)}
    return {name: x for name, (x, _) in splits.items()}, {name: y for name, (_, y) in splits.items()}


def sklearn_shares(fit, fit_y, test, test_y) -> tuple[float, float]:
    """k-NN and linear accuracy as the report measured them."""
    knn = KNeighborsClassifier(5, algorithm="brute").fit(fit.numpy(), fit_y.numpy())
    linear = LogisticRegression(C=1, max_iter=10_000, tol=1e-8).fit(fit.double().numpy(), fit_y.numpy())
    return knn.score(test.numpy(), test_y.numpy()), linear.score(test.double().numpy(), test_y.numpy())


def test_the_four_accuracies_are_the_reports(made_up):
    """study, section 1: ID on validation images; OOD on the images that RandomState(42) holds out."""
    features, labels = made_up
    found = evaluation.report_accuracies(features, labels, CONFIG)
    mask = np.random.RandomState(42).permutation(180) >= int(0.2 * 180)
    fit, test = torch.from_numpy(mask), torch.from_numpy(~mask)
    ood, y = features["ood"], labels["ood"]
    expected = (
        *sklearn_shares(features["train"], labels["train"], features["val"], labels["val"]),
        *sklearn_shares(ood[fit], y[fit], ood[test], y[test]),
    )
    names = ("id_knn_accuracy", "id_linear_accuracy", "ood_knn_accuracy", "ood_linear_accuracy")
    assert [found[name] for name in names] == pytest.approx(expected)
    assert found["linear_converged"] is True
    assert 0 <= found["linear_gradient_norm"] < 1e-2


def test_a_linear_probe_that_was_stopped_early_says_so(made_up):
    stopped = CONFIG.model_copy(update={"linear_max_iter": 1})
    found = evaluation.report_accuracies(*made_up, stopped)
    assert found["linear_converged"] is False
    assert (
        found["linear_gradient_norm"] > evaluation.report_accuracies(*made_up, CONFIG)["linear_gradient_norm"]
    )


def test_one_fit_of_many_that_was_stopped_early_is_told(made_up, monkeypatch):
    """Of ID, OOD and five folds only the last is stopped."""
    fits, whole, calls = LinearFits(), evaluation.fit_linear, []

    def stopping(features, labels, c, max_iter):
        calls.append(features)
        return whole(features, labels, c, 1 if len(calls) == 7 else max_iter)

    monkeypatch.setattr(evaluation, "fit_linear", stopping)
    evaluation.final_predictions(*made_up, CONFIG, fits)
    assert len(calls) == 7
    assert fits.columns()["linear_converged"] is False


def test_predictions_give_the_accuracies(made_up):
    """What is stored of each image adds up to what is stored of the run."""
    predictions = evaluation.final_predictions(*made_up, CONFIG, LinearFits())
    shares = evaluation.accuracies(predictions)
    assert list(shares) == list(MEASURES)
    found = evaluation.report_accuracies(*made_up, CONFIG)
    assert all(shares[name] == found[name] for name in found.keys() & shares.keys())
    assert len(predictions) == 120 + 180
    by_report = predictions[(predictions["split"] == "ood") & predictions["knn"].notna()]
    np.testing.assert_array_equal(by_report["image"], data.ood_split(180, 0.8)[1])


def test_the_folds_score_every_ood_image_once(made_up):
    """Oracle: scikit-learn's probes in scikit-learn's stratified folds."""
    features, labels = made_up
    shares = evaluation.accuracies(evaluation.final_predictions(features, labels, CONFIG, LinearFits()))
    ood, y = features["ood"], labels["ood"]
    by_fold, scored = [], []
    folds = StratifiedKFold(5, shuffle=True, random_state=42).split(ood.numpy(), y.numpy())
    for fit, test in folds:
        assert np.bincount(y[fit]).tolist() == [48, 48, 48]
        by_fold.append(sklearn_shares(ood[fit], y[fit], ood[test], y[test]))
        scored += test.tolist()
    assert sorted(scored) == list(range(180))
    expected = np.mean(by_fold, axis=0)  # of folds of one size
    found = shares["ood_knn_folds_accuracy"], shares["ood_linear_folds_accuracy"]
    assert found == pytest.approx(tuple(expected))


def test_few_labels_are_as_many_as_ood_has(made_up):
    """144 OOD images to fit on, in 3 classes: 48 of the 50 labels of each training class are drawn."""
    _, labels = made_up
    assert evaluation.few_labels(labels, CONFIG) == 48
    draws = list(evaluation.few_label_draws(labels, CONFIG))
    assert len(draws) == 3
    for rows in draws:
        assert torch.bincount(labels["train"][rows]).tolist() == [48] * 6
    assert not torch.equal(draws[0].sort().values, draws[1].sort().values)


def test_where_ood_has_as_many_labels_nothing_is_drawn(made_up):
    features, labels = made_up
    small = {name: x[:60] if name == "train" else x for name, x in features.items()}
    small_labels = {name: y[:60] if name == "train" else y for name, y in labels.items()}
    assert evaluation.few_labels(small_labels, CONFIG) == 10
    found = evaluation.few_label_accuracies(small, small_labels, CONFIG, LinearFits())
    whole = evaluation.report_accuracies(small, small_labels, CONFIG)
    assert found["id_few_labels_knn_accuracy"] == whole["id_knn_accuracy"]


@pytest.fixture(scope="module")
def rungs(made_up):
    features, labels = made_up
    return evaluation.ladder({"fc": features}, labels, CONFIG, "test")


def rung(rungs: pd.DataFrame, **keys) -> pd.Series:
    for key, value in keys.items():
        rungs = rungs[rungs[key] == value]
    assert len(rungs) == 1
    return rungs.iloc[0]


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("neighbours", [1, 5, 20])
def test_the_ladder_is_knn_at_each_k(made_up, rungs, normalised, neighbours):
    features, labels = made_up
    fit, test = (F.normalize(features[s], dim=1) if normalised else features[s] for s in ("train", "val"))
    oracle = KNeighborsClassifier(neighbours, algorithm="brute").fit(fit.numpy(), labels["train"].numpy())
    found = rung(rungs, probe="knn", neighbours=neighbours, normalised=normalised, task="id")
    assert found["accuracy"] == pytest.approx(oracle.score(test.numpy(), labels["val"].numpy()))


def test_the_ladder_leaves_out_more_neighbours_than_there_are(rungs):
    assert set(rungs["neighbours"].dropna()) == {1, 5, 20}


def test_c_is_chosen_without_the_scored_images(made_up, monkeypatch):
    """What the choice is given: the training images, and of OOD those that are fitted, never a scored one."""
    features, labels = made_up
    given = []
    monkeypatch.setattr(evaluation, "choose_c", lambda x, y, config: given.append((x, y)) or 1.0)
    evaluation.ladder({"fc": features}, labels, CONFIG, "test")
    fit, _ = data.ood_split(180, 0.8)
    assert torch.equal(given[0][0], features["train"])
    assert torch.equal(given[1][0], features["ood"][fit])
    assert torch.equal(given[1][1], labels["ood"][fit])
    assert len(given) == 4  # raw and normalised, of both tasks


def test_c_is_the_best_on_the_held_out_fifth():
    """Oracle: scikit-learn's regression and split. Of 60 features 12 tell the class: C ends at no end."""
    x, y = clusters(150, 6, seed=3)
    x = torch.cat([x, 3 * torch.randn(150, 48, generator=torch.Generator().manual_seed(0))], dim=1)
    config = EvaluationConfig(ladder_c=(1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 10))
    split = StratifiedShuffleSplit(1, test_size=0.2, random_state=42)
    fit, held_out = next(split.split(x.numpy(), y.numpy()))
    shares = {}
    for c in config.ladder_c:
        oracle = LogisticRegression(C=c, max_iter=10_000, tol=1e-8)
        oracle.fit(x[fit].double().numpy(), y[fit].numpy())
        shares[c] = oracle.score(x[held_out].double().numpy(), y[held_out].numpy())
    chosen = evaluation.choose_c(x, y, config)
    assert chosen == max(shares, key=shares.get)
    assert chosen not in (1e-5, 10)


def test_of_equally_good_c_the_smallest_is_chosen():
    x, y = clusters(100, 2)
    assert evaluation.choose_c(50 * x, y, EvaluationConfig(ladder_c=(10, 1))) == 1


def backbone() -> nn.Sequential:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(body, nn.Linear(4, 7)).train()


def test_features_do_not_depend_on_the_batch_and_leave_the_model_as_it_was():
    model = backbone()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.randint(0, 256, (11, 3, 8, 8), dtype=torch.uint8)
    one, other = (evaluation.extract_features(model, images, size) for size in (11, 3))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert one["fc"].shape == (11, 7)
    assert one["pooled"].shape == (11, 4)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(one["fc"], model(images.float() / 255), rtol=1e-5, atol=1e-6)


def test_raw_pixels_tell_images_that_differ_in_colour():
    """Two classes, dark and bright, of 40 x 40 pixels: larger than the side that pixels are averaged to."""
    labels = {name: torch.arange(n) % 2 for name, n in (("train", 40), ("val", 20), ("ood", 50))}
    noise = torch.Generator().manual_seed(0)
    images = {
        name: (40 + 150 * y[:, None, None, None] + torch.randint(0, 40, (len(y), 3, 40, 40), generator=noise))
        .clamp(0, 255)
        .to(torch.uint8)
        for name, y in labels.items()
    }
    shares = evaluation.accuracies(evaluation.raw_pixel_predictions(images, labels, CONFIG, LinearFits()))
    assert set(shares.values()) == {1.0}
