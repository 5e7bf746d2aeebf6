"""k nearest neighbours: exact, in blocks of flat memory, on any device."""

import torch
from torch import Tensor

PRODUCTS = 2**23  # distances estimated at a time
DIFFERENCES = 2**19  # numbers subtracted at a time: few enough for the cache of a CPU


@torch.no_grad()
def nearest(fit: Tensor, queries: Tensor, k: int = 5) -> tuple[Tensor, Tensor]:
    """The k rows of `fit` nearest to each query by Euclidean distance; of equally near rows the first.

    >>> import torch
    >>> fit, labels = torch.tensor([[0.0], [1.0], [10.0], [11.0]]), torch.tensor([0, 0, 1, 1])
    >>> distances, neighbours = nearest(fit, torch.tensor([[2.0], [9.0]]), k=3)
    >>> neighbours.tolist()
    [[1, 0, 2], [2, 3, 1]]
    >>> knn_predict(labels, neighbours, n_classes=2).tolist()
    [0, 1]

    A product in float64 finds the rows that can be among the k nearest, given all that rounding can do to it;
    their distances are then computed from differences, so that large offsets cost no digits.

    Args:
        fit: (N, D) floats or integers.
        queries: (M, D), on the same device.
        k: 1 to N.
    Returns:
        Distances (M, k) float64 and row indices (M, k) int64, nearest first; the first columns are the result
        for a smaller k.
    Raises:
        ValueError: k is not in 1 to N, or a feature is not finite.
    """
    if not 1 <= k <= len(fit):
        raise ValueError(f"{k} neighbours of {len(fit)} fitted rows; ask for 1 to {len(fit)}")
    distinct, inverse = queries.unique(dim=0, return_inverse=True)  # of a collapsed network all are equal
    centre = fit.mean(dim=0, dtype=torch.float64)
    y = fit.double() - centre  # (N, D)
    squares = _squares(y, "fit")
    parts = [
        _nearest(fit, y, squares, block, block.double() - centre, k)
        for block in distinct.split(max(1, PRODUCTS // len(fit)))
    ]
    distances, indices = (torch.cat(part)[inverse] for part in zip(*parts, strict=True))
    return distances, indices


def _squares(rows: Tensor, name: str) -> Tensor:
    """Squared lengths (N,) of rows (N, D); ValueError unless all are finite."""
    squares = torch.linalg.vector_norm(rows, dim=1).square()
    if not squares.isfinite().all():
        raise ValueError(f"{name}: has features that are not finite; the network may have diverged")
    return squares


def _nearest(
    fit: Tensor, y: Tensor, squares: Tensor, queries: Tensor, x: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """`nearest` for one block of queries; y (N, D) and x (B, D) are fit and queries about the same point."""
    error = 2 * (fit.shape[1] + 8) * torch.finfo(torch.float64).eps  # of a product, per squared length
    # Upper bounds of |x - y|^2, less |x|^2 (1 + error), which is the same for all rows.
    upper = torch.addmm(squares * (1 + error), x, y.T, alpha=-2)  # (B, N)
    kth = upper.topk(k, dim=1, largest=False, sorted=False).values.amax(dim=1)  # (B,)
    kth += 2 * error * _squares(x, "queries")
    query, row = (upper - 2 * error * squares <= kth[:, None]).nonzero(
        as_tuple=True
    )  # (pairs,), at least B k
    size = max(1, DIFFERENCES // fit.shape[1])
    pairs = zip(query.split(size), row.split(size), strict=True)
    squared = torch.cat([(fit[j].double() - queries[i]).square().sum(dim=1) for i, j in pairs])
    order = squared.argsort(stable=True)
    order = order[query[order].argsort(stable=True)]  # by query, then distance, then row
    counts = query.bincount(minlength=len(x))
    firsts = (counts.cumsum(0) - counts)[:, None] + torch.arange(k, device=fit.device)  # (B, k)
    return squared[order[firsts]].sqrt(), row[order[firsts]]


def knn_predict(fit_labels: Tensor, indices: Tensor, n_classes: int) -> Tensor:
    """The class with most of the nearest rows, each with one vote; of equally many the smallest label.

    Args:
        fit_labels: (N,) int64, 0 to C - 1.
        indices: (M, k) int64, from `nearest`, or its first k columns.
        n_classes: C.
    Returns:
        (M,) int64.
    """
    return _most_votes(fit_labels[indices], torch.ones_like(indices, dtype=torch.float64), n_classes)


def weighted_knn_predict(
    fit_labels: Tensor, distances: Tensor, indices: Tensor, n_classes: int, temperature: float = 0.1
) -> Tensor:
    """The class with most votes of the nearest rows, a vote weighing exp(cosine similarity / temperature).

    Args:
        fit_labels: (N,) int64, 0 to C - 1.
        distances, indices: (M, k), from `nearest` on features of length 1, or their first k columns.
        n_classes: C.
        temperature: > 0, unitless.
    Returns:
        (M,) int64.
    Source: Wu et al. 2018, arXiv:1805.01978, section 3.4, k = 200 and temperature 0.07; 0.1 is lightly's.
    """
    # The cosine is 1 - distance^2 / 2, and the common factor exp(1 / temperature) can be left out.
    return _most_votes(fit_labels[indices], (-distances.square() / (2 * temperature)).exp(), n_classes)


def _most_votes(labels: Tensor, votes: Tensor, n_classes: int) -> Tensor:
    """Labels and votes (M, k) to classes (M,)."""
    sums = votes.new_zeros(len(votes), n_classes).scatter_add(1, labels, votes)  # (M, C)
    return sums.argmax(dim=1)  # the first, so the smallest label, of equal sums
