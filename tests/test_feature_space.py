"""Neighbours and the map of features."""

import numpy as np
import pandas as pd
import pytest
import torch

from manyviews import data, feature_space, readings


@pytest.fixture(scope="module")
def made_up():
    """Eight classes far apart, each around a corner of its own."""
    splits = {"train": 80, "val": 40, "ood": 160}
    labels = {name: torch.arange(n) % 8 for name, n in splits.items()}
    noise = torch.Generator().manual_seed(0)
    features = {
        name: 10 * torch.eye(8)[y] + torch.randn(len(y), 8, generator=noise) for name, y in labels.items()
    }
    return features, labels


def test_neighbours_of_well_separated_classes_are_right(made_up):
    """Two queries of the training classes and two of unseen ones, five neighbours each, never the query."""
    table = feature_space.example_neighbours(*made_up, ood_fit_share=0.8)
    assert len(table) == 4 * 5
    assert table["right"].all()
    assert list(table["rank"][:5]) == [1, 2, 3, 4, 5]
    of_ood = table[table["split"] == "ood"]
    fit, test = data.ood_split(160, 0.8)
    assert set(of_ood["query"]) <= set(test)
    assert set(of_ood["neighbour"]) <= set(fit)


def test_the_shown_neighbours_are_the_nearest(made_up):
    """Oracle: all distances, by numpy."""
    features, labels = made_up
    table = feature_space.example_neighbours(features, labels, ood_fit_share=0.8)
    for query, rows in table[table["split"] == "id"].groupby("query"):
        distances = np.linalg.norm(features["train"].numpy() - features["val"][query].numpy(), axis=1)
        np.testing.assert_array_equal(rows["neighbour"], distances.argsort()[:5])


def test_a_map_keeps_separated_classes_apart_and_shuffled_labels_mixed(made_up):
    table = feature_space.feature_map(*made_up)
    assert set(table.groupby("split")["label"].nunique()) == {feature_space.MAP_CLASSES}
    assert set(table["split"]) == {"id", "ood"}
    assert feature_space.map_purity(table[table["split"] == "ood"]) > 0.95
    shuffled = table.assign(label=np.random.default_rng(0).permutation(table["label"]))
    assert feature_space.map_purity(shuffled) < 0.5


def test_purity_counts_the_nearest_other_point():
    """Two pairs on a line, one of equal and one of different classes; two points lie on one place."""
    places = pd.DataFrame({"split": "id", "label": [0, 0, 1, 2], "x": [0.0, 0.0, 5.0, 6.0], "y": 0.0})
    assert feature_space.map_purity(places) == 0.5
    assert "for 50.0 % of the points; chance would give about 33.3 % for 3 classes" in readings.map_text(
        places
    )


def test_classes_are_taken_at_even_spaces():
    assert feature_space.spaced_classes(torch.arange(100), 6) == [0, 20, 40, 59, 79, 99]
    assert feature_space.spaced_classes(torch.arange(4), 6) == [0, 1, 2, 3]
