"""k-NN and linear probes of features, equal to scikit-learn's; on any device, in blocks of flat memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from manyviews.train import resolve_precision

SEARCHED = 2**24  # numbers of fitted features, and of queries, that are searched at a time
PRODUCTS = 2**22  # distances that are estimated at a time
WORK = 2**19  # numbers of all else that is held at a time; in float64 4 MiB, to stay in a CPU's cache
LINEAR_GRADIENT = 1e-4  # largest entry of the scaled gradient at which a linear probe counts as fitted
LEAST_LOSS = 1e-2  # nats; of an objective below it, the gradient need not be smaller still: rounding forbids
AIM = LINEAR_GRADIENT / 2  # of each fit, so that rounding does not decide whether it was reached
LINEAR_MEMORY = 20  # steps that L-BFGS remembers


# ------------------------------------------------------------------------------------------------- k-NN


@torch.no_grad()
def nearest(fit: Tensor, queries: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
    """Euclidean distances and numbers of the rows of `fit` nearest to each query.

    Fast products find candidates and prove that no other row can be nearer; only the distances of the
    candidates are computed exactly, in float64. Queries for which the proof fails are tried again with
    longer numbers.

    Where several rows are equally far and not all belong to the k nearest, those are taken that
    scikit-learn takes when each query walks all rows in one thread: see _heap_order. With at most
    1024 x threads queries, and no more than fitted rows, it splits the rows among threads, and its choice
    depends on their number; its default at up to 15 dimensions is a k-d tree, with a choice of its own.

    Args:
        fit: (N, D) floats or integers.
        queries: (M, D), on the same device.
        neighbours: k, 1 to N.
    Returns:
        (M, k) float64 and (M, k) int64, nearest first, of equally near rows the first row first. So the
        first columns are the nearest rows of a smaller k, but for its ties, which scikit-learn may break
        otherwise.
    Raises:
        ValueError: there are not k rows, or a feature is not finite.
    """
    if not 1 <= neighbours <= len(fit):
        raise ValueError(f"{neighbours} neighbours of {len(fit)} fitted rows; ask for 1 to {len(fit)}")
    for name, rows in (("fit", fit), ("queries", queries)):
        if not all(block.isfinite().all() for block in _blocks(rows)):
            raise ValueError(f"{name}: has features that are not finite; the network may have diverged")
    parts = [_nearest(fit, block, neighbours) for block in _blocks(queries, SEARCHED)]
    return torch.cat([d for d, _ in parts]), torch.cat([n for _, n in parts])


def knn_predict(fit_labels: Tensor, numbers: Tensor, n_classes: int) -> Tensor:
    """The class with most of the nearest rows, each with one vote; of equally many the smallest label.

    Args:
        fit_labels: (N,) int64, 0 to C - 1.
        numbers: (M, k) int64, from `nearest`, or its first k columns.
        n_classes: C.
    Returns:
        (M,) int64.
    """
    votes = torch.ones(numbers.shape, device=numbers.device)
    return _most_votes(fit_labels[numbers], votes, n_classes)


def weighted_knn_predict(
    fit_labels: Tensor, distances: Tensor, numbers: Tensor, n_classes: int, temperature: float = 0.1
) -> Tensor:
    """The class with most votes of the nearest rows, a vote weighing exp(cosine similarity / temperature).

    Args:
        fit_labels: (N,) int64, 0 to C - 1.
        distances, numbers: (M, k), from `nearest` on features of length 1, or their first k columns.
        n_classes: C.
        temperature: > 0, unitless.
    Returns:
        (M,) int64.
    Source: Wu et al. 2018, arXiv:1805.01978, section 3.4, k = 200 and temperature 0.07; 0.1 is lightly's.
    """
    # The cosine is 1 - distance^2 / 2, and the common factor exp(1 / temperature) can be left out.
    return _most_votes(fit_labels[numbers], (-distances.square() / (2 * temperature)).exp(), n_classes)


def _most_votes(labels: Tensor, votes: Tensor, n_classes: int) -> Tensor:
    """Labels and votes (M, k) to classes (M,)."""
    sums = votes.new_zeros(len(votes), n_classes).scatter_add(1, labels, votes)  # (M, C)
    return sums.argmax(dim=1)  # the first, so the smallest label, of equal sums


def _blocks(rows: Tensor, size: int | None = None) -> tuple[Tensor, ...]:
    """Rows (N, D) in blocks of about `size` numbers, WORK if not given."""
    return rows.split(max(1, (size or WORK) // rows.shape[1]))


def _nearest(fit: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    distances = queries.new_empty(len(queries), k, dtype=torch.float64)  # squared
    numbers = queries.new_empty(len(queries), k, dtype=torch.int64)
    tied = torch.zeros(len(queries), dtype=torch.bool, device=queries.device)
    left = torch.arange(len(queries), device=queries.device)
    for dtype in _precisions(fit.device):
        bounds, candidates = _candidates(fit, queries[left], min(len(fit), 2 * k + 32), dtype)
        squared, rows = _sorted_by_distance(fit, queries[left], bounds, candidates, k)
        distances[left], numbers[left] = squared[:, :k], rows[:, :k]
        if squared.shape[1] == len(fit):
            proven = torch.ones_like(left, dtype=torch.bool)
        else:
            proven = squared[:, k - 1] < bounds[:, -1]
        if squared.shape[1] > k:
            tied[left] = proven & (squared[:, k - 1] == squared[:, k])
        left = left[~proven]
        if not len(left):
            break
    tied[left] = True  # more rows are equally near, but for rounding, than there are candidates
    # Once for equal queries: those of a collapsed network are all equal.
    different, which = queries[tied].unique(dim=0, return_inverse=True)
    walks = [_heap_order(fit, query, k) for query in different]
    if walks:
        distances[tied], numbers[tied] = (torch.stack(of_all)[which] for of_all in zip(*walks, strict=True))
    return distances.sqrt_(), numbers


def _precisions(device: torch.device) -> list[torch.dtype]:
    """Types of the products, fastest first; bfloat16 only on a CPU, for a GPU may also sum in bfloat16."""
    fastest = [resolve_precision("auto", device)] if device.type == "cpu" else []
    return list(dict.fromkeys([*fastest, torch.float32, torch.float64]))


def _candidates(fit: Tensor, queries: Tensor, count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Lower bounds of squared distances, the smallest `count` of each query, and the numbers of the rows.

    Both are (M, count), the smallest bound first; the bounds of all other rows are larger than the last.
    """
    centre = fit[:: -(-len(fit) // 4096)].double().mean(dim=0)  # any point near the middle will do
    x = torch.cat([_query_factors(part, centre, dtype) for part in _blocks(queries)])  # (M, D + 8)
    bounds, numbers = x.new_empty(len(x), 0), torch.empty(len(x), 0, dtype=torch.int64, device=x.device)
    start = 0
    for block in _blocks(fit, SEARCHED):
        y = torch.cat([_row_factors(part, centre, dtype) for part in _blocks(block)]).T  # (D + 8, rows)
        parts = [_smallest(part @ y, count) for part in x.split(max(1, PRODUCTS // len(block)))]
        bounds = torch.cat([bounds, torch.cat([part for part, _ in parts])], dim=1)
        numbers = torch.cat([numbers, torch.cat([part for _, part in parts]) + start], dim=1)
        bounds, best = _smallest(bounds, count)
        numbers = numbers.gather(1, best)
        start += len(block)
    bounds, order = bounds.double().sort(dim=1)
    return bounds * (1 - torch.finfo(dtype).eps), numbers.gather(1, order)  # the products were rounded


def _query_factors(queries: Tensor, centre: Tensor, dtype: torch.dtype) -> Tensor:
    """Factors (M, D + 8) whose products with _row_factors are lower bounds of squared distances.

    With u and v a query and a row about the centre, u' and v' the same rounded to `dtype`:

        |u - v|^2 = |u|^2 + |v|^2 - 2 u'v' - 2 (u - u') v' - 2 u (v - v')
                 >= |u|^2 + |v|^2 - 2 u'v' - 2 |u - u'| |v'| - 2 |u| |v - v'|

    The right side is a product of two vectors of D + 4 numbers; the squares take 3 numbers each, for one
    rounded to bfloat16 would be too coarse.
    """
    short, length, lost = _shorten(queries, centre, dtype)
    ones = short.new_ones(len(short), 3)
    return torch.cat([short, ones, _square(length, short), lost.to(dtype), length.to(dtype)], dim=1)


def _row_factors(rows: Tensor, centre: Tensor, dtype: torch.dtype) -> Tensor:
    """The other factors, (N, D + 8): see _query_factors."""
    short, length, lost = _shorten(rows, centre, dtype)
    ones = short.new_ones(len(short), 3)
    rounding = -2 * (1 + 4 * torch.finfo(dtype).eps)  # more than 2, for the lengths are rounded as well
    ends = [((length + lost) * rounding).to(dtype), (lost * rounding).to(dtype)]
    return torch.cat([-2 * short, _square(length, short), ones, *ends], dim=1)


def _shorten(rows: Tensor, centre: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Rows about the centre, rounded (N, D); their length before, and the length of what was rounded away.

    Both lengths are (N, 1) float64.
    """
    exact = rows.double() - centre
    short = exact.to(dtype)
    length = torch.linalg.vector_norm(exact, dim=1, keepdim=True)
    return short, length, torch.linalg.vector_norm(exact - short, dim=1, keepdim=True)


def _square(length: Tensor, short: Tensor) -> Tensor:
    """The squares of lengths (N, 1) as sums of three numbers of the type of `short`, (N, 3).

    They are made smaller by the most that rounding can add to a product of D + 8 terms, summed in float32 or
    longer: 6 (D + 8) unit roundoffs of the squares covers twice the sum of the terms' sizes.
    """
    summed_in = torch.float64 if short.dtype == torch.float64 else torch.float32
    rest = length.square() * (1 - 3 * (short.shape[1] + 8) * torch.finfo(summed_in).eps)
    parts = []
    for _ in range(3):
        parts.append(rest.to(short.dtype))
        rest = rest - parts[-1]
    return torch.cat(parts, dim=1)


def _smallest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` smallest of each row, or all, in any order: values and columns, (M, count).

    The smallest lie in the groups with the smallest minima, so few columns need to be sorted.
    """
    m, n = values.shape
    size = int((n / count) ** 0.5)  # of a group, so that there are as many groups as columns left
    if size < 2:
        found = values.topk(min(count, n), dim=1, largest=False, sorted=False)
        return found.values, found.indices
    padded = nn.functional.pad(values, (0, -n % size), value=torch.inf) if n % size else values
    grouped = padded.view(m, size, -1)  # (M, size, groups)
    best = grouped.amin(dim=1).topk(count, dim=1, largest=False, sorted=False).indices  # (M, count)
    offsets = torch.arange(size, device=values.device) * grouped.shape[2]
    columns = (best[:, :, None] + offsets).flatten(1)  # (M, count x size)
    found = padded.gather(1, columns).topk(count, dim=1, largest=False, sorted=False)
    return found.values, columns.gather(1, found.indices)


def _sorted_by_distance(
    fit: Tensor, queries: Tensor, bounds: Tensor, numbers: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Exact squared distances to candidates, nearest first, and their numbers, both (M, count).

    The distances of candidates that cannot be among the k nearest are not computed, and given as infinite.
    """
    squared = torch.full_like(bounds, torch.inf)
    first = torch.zeros_like(bounds, dtype=torch.bool)
    first[:, :k] = True
    squared[first] = _squared_distances(fit, queries, numbers, first)
    farthest = squared[:, :k].amax(dim=1, keepdim=True)  # the k-th nearest is no farther
    others = ~first & ~(bounds > farthest)  # so that a bound that is not a number excludes nothing
    squared[others] = _squared_distances(fit, queries, numbers, others)
    numbers, order = numbers.sort(dim=1)  # so that of equal distances the first row comes first
    squared, by_distance = squared.gather(1, order).sort(dim=1, stable=True)
    return squared, numbers.gather(1, by_distance)


def _squared_distances(fit: Tensor, queries: Tensor, numbers: Tensor, chosen: Tensor) -> Tensor:
    """Squared distances of the chosen of the pairs (M, count) of a query and a row, as a vector.

    Exact but for the last digits of float64, and equal for equal rows wherever they stand.
    """
    at_a_time = max(1, WORK // fit.shape[1])
    squared = []
    for n, i in zip(numbers[chosen].split(at_a_time), chosen.nonzero()[:, 0].split(at_a_time), strict=True):
        apart = fit.index_select(0, n).double().sub_(queries.index_select(0, i))  # (pairs, D)
        squared.append(apart.square_().sum(dim=1))
    return torch.cat(squared)


def _heap_order(fit: Tensor, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest rows of one query (D,) with scikit-learn's choice among equally near rows.

    It walks the rows in their order and keeps the k nearest so far in a heap with the farthest on top. A row
    enters if it is nearer than the top and throws the top out; which of several farthest rows is on top
    depends on the whole walk, so the walk is repeated here.
    """
    squared = torch.cat([(block.double() - query.double()).square_().sum(dim=1) for block in _blocks(fit)])
    heap = [(float("inf"), -1)] * k
    for start in range(0, len(fit), 4096):
        block = squared[start : start + 4096].tolist()
        for number, distance in enumerate(block, start):
            if distance < heap[0][0]:
                _replace_top(heap, (distance, number))
    numbers = torch.tensor(sorted(number for _, number in heap), device=fit.device)
    squared, order = squared[numbers].sort(stable=True)
    return squared, numbers[order]


def _replace_top(heap: list[tuple[float, int]], new: tuple[float, int]) -> None:
    """Put a nearer row in the place of the farthest: sift it down, to the left where both ways are equal."""
    place = 0
    while (child := 2 * place + 1) < len(heap):
        if child + 1 < len(heap) and heap[child + 1][0] > heap[child][0]:
            child += 1
        if heap[child][0] <= new[0]:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = new


# ----------------------------------------------------------------------------------------------- linear


@dataclass(frozen=True)
class LinearProbe:
    """A fitted multinomial logistic regression.

    Attributes:
        weights: (D, C) float64, for the features as they are.
        intercepts: (C,) float64.
        c: inverse strength of the penalty.
        objective: mean cross-entropy in nats + ||weights||^2 / (2 c N), which is scikit-learn's.
        gradient_norm: largest entry of its gradient; scikit-learn stops where it is at most `tol`, 1e-4.
        iterations: steps of L-BFGS.
        converged: false if they did not suffice.
    """

    weights: Tensor
    intercepts: Tensor
    c: float
    objective: float
    gradient_norm: float
    iterations: int
    converged: bool

    def predict(self, features: Tensor) -> Tensor:
        """Classes (M,) of features (M, D)."""
        logits = [block.double() @ self.weights + self.intercepts for block in _blocks(features)]
        return torch.cat([block.argmax(dim=1) for block in logits])


def fit_linear(features: Tensor, labels: Tensor, c: float, max_iter: int) -> LinearProbe:
    """Fit one linear probe: see fit_linear_path."""
    return fit_linear_path(features, labels, [c], max_iter)[0]


@torch.no_grad()
def fit_linear_path(
    features: Tensor, labels: Tensor, cs: Sequence[float], max_iter: int
) -> list[LinearProbe]:
    """Minimise the objective of scikit-learn's LogisticRegression for each c, from the strongest penalty on.

    The features are turned to their principal axes. This changes the optimum's weights by the same turn and
    nothing else, and makes the Hessian at weights 0 diagonal but for the coupling of the classes. Dividing
    it out leaves a problem that L-BFGS solves in tens of steps where the penalty is strong. Under a weak
    penalty the Hessian at the optimum differs too much: each class's block of it, at the weights reached so
    far, is then divided out instead. Without all this, on features of networks as they are, it takes hundreds
    to thousands of steps. It works on float32 products; float64 ones then confirm, or finish.

    Args:
        features: (N, D) floats or integers.
        labels: (N,) int64, 0 to C - 1, on the same device.
        cs: inverse strengths of the penalty, which spares the intercepts.
        max_iter: most steps of L-BFGS for each c; if they do not suffice, `converged` is false.
    Returns:
        A probe for each c, in the order of `cs`.
    """
    centre, axes, variances = principal_axes(features)
    dtype = features.dtype if features.is_floating_point() else torch.float32
    turn = axes.to(dtype)
    turned = torch.cat([(block.double() - centre).to(dtype) @ turn for block in _blocks(features)])  # (N, R)
    n_classes = int(labels.max()) + 1
    weights = axes.new_zeros(axes.shape[1] + 1, n_classes)  # (R + 1, C), the intercepts last
    fitted = {}
    for c in sorted(cs):
        # Of two classes scikit-learn fits only the difference: the same model as ours at half the c.
        penalty = (2 if n_classes == 2 else 1) / (c * len(labels))
        curvature = torch.cat([variances / n_classes + penalty, variances.new_ones(1) / n_classes])
        weights, loss, gradient, iterations, converged = _minimise(
            weights, curvature.rsqrt(), turned, labels, penalty, max_iter
        )
        in_features = axes @ gradient[:-1] + centre[:, None] * gradient[-1]  # (D, C)
        fitted[c] = LinearProbe(
            weights=axes @ weights[:-1],
            intercepts=weights[-1] - centre @ axes @ weights[:-1],
            c=c,
            objective=loss.item(),
            gradient_norm=max(in_features.abs().max().item(), gradient[-1].abs().max().item()),
            iterations=iterations,
            converged=converged,
        )
    return [fitted[c] for c in cs]


def principal_axes(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centre (D,), axes (D, R) and variances (R,) of features (N, D), in float64, least variance first.

    Axes along which the features do not vary are left out: an optimal weight is 0 there. A ResNet's 1000
    features come from 8 x width channels, so that R is at most that.
    """
    centre = sum(block.double().sum(dim=0) for block in _blocks(features)) / len(features)
    products = torch.zeros(len(centre), len(centre), dtype=torch.float64, device=features.device)
    for block in _blocks(features):
        centred = block.double() - centre
        products.addmm_(centred.T, centred)
    variances, axes = torch.linalg.eigh(products / len(features))
    # Rounding in float32 features leaves variances near 1e-14 of the largest where there should be none.
    varies = variances > variances[-1] * 1e-12
    return centre, axes[:, varies], variances[varies]


def _minimise(
    weights: Tensor, scale: Tensor, features: Tensor, labels: Tensor, penalty: float, max_iter: int
) -> tuple[Tensor, Tensor, Tensor, int, bool]:
    """Weights, objective and gradient after L-BFGS on scaled weights; its steps; did they suffice?

    As far as the scale is that of the curvature, the objective is above its minimum by about half the squared
    norm of the scaled gradient. Where it is small, as on separable classes, so must be the gradient.
    """
    iterations, unit, dtype = 0, 1.0, torch.float32
    patience = max(30, features.shape[1] // 2)  # a new scale takes the multiply-adds of R / 2 steps
    while True:
        most = min(patience, max_iter - iterations)
        weights, steps = _lbfgs(weights, scale, features, labels, penalty, dtype, most, unit)
        loss, gradient = _objective(weights, features, labels, penalty, torch.float64)
        iterations += steps
        largest = _scaled_gradient(scale, gradient).abs().max().item()
        stalled = steps < most and not largest <= AIM * unit  # rounding ended the line search
        unit = min(1, max(loss.item(), LEAST_LOSS))
        converged = largest <= LINEAR_GRADIENT * unit
        if converged or iterations >= max_iter or (stalled and dtype == torch.float64):
            return weights, loss, gradient, iterations, converged
        dtype = torch.float64 if stalled else dtype
        del scale  # it can be as large as the features
        scale = _inverse_roots(weights, features, penalty)


def _lbfgs(
    weights: Tensor,
    scale: Tensor,
    features: Tensor,
    labels: Tensor,
    penalty: float,
    dtype: torch.dtype,
    max_iter: int,
    unit: float,
) -> tuple[Tensor, int]:
    """Weights and steps of one L-BFGS, which ends where no entry of the scaled gradient exceeds AIM x unit.

    The unit keeps what it works with far from the limits below which torch takes a number for 0.
    """
    scaled = torch.zeros_like(weights).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [scaled],
        max_iter=max_iter,
        max_eval=25 * max_iter,  # the most that line searches can ask for: steps alone are limited
        tolerance_grad=AIM,
        tolerance_change=torch.finfo(dtype).eps / 100,  # below it, rounding would lead the line search
        history_size=LINEAR_MEMORY,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        now = weights + unit * _unscaled(scale, scaled.detach())
        loss, gradient = _objective(now, features, labels, penalty, dtype)
        scaled.grad = _scaled_gradient(scale, gradient) / unit
        return loss / unit**2

    optimizer.step(closure)
    return weights + unit * _unscaled(scale, scaled.detach()), optimizer.state[scaled]["n_iter"]


def _unscaled(scale: Tensor, scaled: Tensor) -> Tensor:
    """Weights (R + 1, C) of scaled ones; scale: (R + 1,), or a matrix for each class (C, R + 1, R + 1)."""
    if scale.ndim == 1:
        return scale[:, None] * scaled
    weights = torch.einsum("cij,jc->ic", scale, scaled)
    # What is added to all classes alike changes no probability, and the penalty wants none of it. A gradient
    # has no such part, so that it needs no such projection.
    return weights - weights.mean(dim=1, keepdim=True)


def _scaled_gradient(scale: Tensor, gradient: Tensor) -> Tensor:
    """The gradient (R + 1, C) by the scaled weights."""
    if scale.ndim == 1:
        return scale[:, None] * gradient
    return torch.einsum("cij,ic->jc", scale, gradient).contiguous()


def _inverse_roots(weights: Tensor, features: Tensor, penalty: float) -> Tensor:
    """For each class a matrix T, T T' the inverse of its block of the Hessian; (C, R + 1, R + 1).

    The penalty is added for the intercept too, and a little more against rounding: as a scale it serves.
    """
    size, n_classes = weights.shape
    hessian = weights.new_zeros(n_classes, size, size)
    for block in features.split(max(1, WORK // max(size, n_classes))):
        x = torch.cat([block.double(), weights.new_ones(len(block), 1)], dim=1)  # the intercept's last
        p = (x @ weights).softmax(dim=1)  # (rows, C)
        for of_class, variance in zip(hessian, (p * (1 - p)).T, strict=True):
            of_class.addmm_((x * variance[:, None]).T, x, alpha=1 / len(features))
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    diagonal += penalty + 1e-12 * diagonal.amax()
    identity = torch.eye(size, dtype=weights.dtype, device=weights.device)
    for of_class in hessian:  # one by one and in place, for the memory
        lower = torch.linalg.cholesky(of_class)
        of_class.copy_(torch.linalg.solve_triangular(lower.T, identity, upper=True))
    return hessian


@torch.no_grad()
def _objective(
    weights: Tensor, features: Tensor, labels: Tensor, penalty: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy + penalty / 2 x ||weights||^2, and its gradient, with products of type `dtype`.

    Args:
        weights: (R + 1, C) float64, the intercepts last.
        features, labels: (N, R) and (N,).
    """
    w = weights.to(dtype)
    gradient, loss = torch.zeros_like(w), weights.new_zeros(())
    at_a_time = max(1, WORK // w.shape[1])
    for x, y in zip(features.split(at_a_time), labels.split(at_a_time), strict=True):
        x = x.to(dtype)
        log_p = torch.addmm(w[-1], x, w[:-1]).log_softmax(dim=1)  # (rows, C)
        loss -= log_p.gather(1, y[:, None]).sum(dtype=torch.float64)
        error = log_p.exp_().scatter_add_(1, y[:, None], log_p.new_full((len(y), 1), -1))
        gradient[:-1].addmm_(x.T, error)
        gradient[-1] += error.sum(dim=0)
    gradient = gradient.double() / len(labels)
    gradient[:-1] += penalty * weights[:-1]
    return loss / len(labels) + penalty / 2 * weights[:-1].square().sum(), gradient
