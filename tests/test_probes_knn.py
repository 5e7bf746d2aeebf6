"""k-NN: scikit-learn's predictions, exact distances, ties by the lower index."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from manyviews.probes.knn import knn_predict, nearest, weighted_knn_predict


def clouds(n: int, m: int, d: int, seed: int = 0, scale: float = 1, offset: float = 0, dtype=np.float32):
    """Features (n + m, d) of four overlapping classes, and labels of the first n."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(4, size=n + m)
    x = generator.normal(size=(4, d))[labels] + 1.5 * generator.normal(size=(n + m, d))
    x = torch.from_numpy((scale * x + offset).astype(dtype))
    return x[:n], torch.from_numpy(labels[:n]), x[n:]


@pytest.mark.parametrize(
    ("n", "m", "d", "scale", "offset"),
    [
        (300, 80, 1000, 1, 0),
        (2000, 50, 20, 1, 0),
        (40, 300, 3, 1e-4, 0),
        (300, 60, 64, 1, 3000),
        (9, 5, 2, 1e5, -7),
    ],
)
@pytest.mark.parametrize("k", [1, 5])
def test_predicts_what_scikit_learn_does(n, m, d, scale, offset, k):
    """Oracle: KNeighborsClassifier, brute force, on many shapes, scales and offsets."""
    fit, labels, queries = clouds(n, m, d, scale=scale, offset=offset)
    oracle = KNeighborsClassifier(k, algorithm="brute").fit(fit.double().numpy(), labels.numpy())
    distances, indices = nearest(fit, queries, k)
    expected = NearestNeighbors(n_neighbors=k, algorithm="kd_tree").fit(fit.double().numpy())
    np.testing.assert_allclose(distances.numpy(), expected.kneighbors(queries.double().numpy())[0], rtol=1e-9)
    predicted = knn_predict(labels, indices, int(labels.max()) + 1).numpy()
    np.testing.assert_array_equal(predicted, oracle.predict(queries.double().numpy()))


def test_of_equally_near_rows_the_first_is_taken_and_they_come_in_order():
    fit = torch.tensor([[3.0], [1.0], [1.0], [-1.0], [1.0]])
    distances, indices = nearest(fit, torch.tensor([[0.0], [1.0]]), 3)
    assert indices.tolist() == [[1, 2, 3], [1, 2, 4]]
    assert distances.tolist() == [[1, 1, 1], [0, 0, 0]]


def test_of_equal_votes_the_smallest_label_wins():
    labels = torch.tensor([3, 1, 1, 3, 0])
    indices = torch.tensor([[0, 1, 2, 3], [0, 3, 1, 4]])
    assert knn_predict(labels, indices, 4).tolist() == [1, 3]
    assert knn_predict(labels, indices[:, :2], 4).tolist() == [1, 3]


def test_weighted_votes_are_a_double_loop_over_cosines():
    """Oracle: the formula of Wu et al., written out."""
    fit, labels, queries = clouds(60, 20, 8, dtype=np.float64)
    fit, queries = (torch.nn.functional.normalize(x, dim=1) for x in (fit, queries))
    distances, indices = nearest(fit, queries, 7)
    expected = []
    for query, row in zip(queries, indices, strict=True):
        votes = [0.0] * 4
        for index in row:
            votes[labels[index]] += (fit[index] @ query / 0.1).exp().item()
        expected.append(int(np.argmax(votes)))
    assert weighted_knn_predict(labels, distances, indices, 4).tolist() == expected
    plain = knn_predict(labels, indices, 4).tolist()
    assert plain != expected


def test_collapsed_features_give_the_first_rows():
    fit = torch.full((50, 16), 0.1)
    assert nearest(fit, fit[:3], 4)[1].tolist() == [[0, 1, 2, 3]] * 3


@pytest.mark.parametrize(("k", "message"), [(0, "0 neighbours"), (11, "11 neighbours of 10")])
def test_a_number_of_neighbours_that_there_is_not_is_refused(k, message):
    with pytest.raises(ValueError, match=message):
        nearest(torch.zeros(10, 2), torch.zeros(3, 2), k)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_no_numbers_are_refused(bad):
    broken = torch.zeros(10, 2)
    broken[7, 1] = bad
    for sets in ((broken, torch.zeros(3, 2)), (torch.zeros(10, 2), broken)):
        with pytest.raises(ValueError, match="not finite"):
            nearest(*sets, 2)
