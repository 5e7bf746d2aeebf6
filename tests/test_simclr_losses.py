"""The losses against loops, lightly and closed forms."""

import itertools
import math

import pytest
import torch
from lightly.loss import NTXentLoss
from torch.nn.functional import cosine_similarity

from manyviews.simclr.losses import multi_view_nt_xent, nt_xent

DEFINITIONS = ("pairs", "outside", "inside")
VIEWS_AND_IMAGES = [(2, 1), (2, 5), (3, 4), (4, 1), (5, 3), (8, 2)]


def double_loop(z: torch.Tensor, temperature: float) -> float:
    """Algorithm 1 of Chen et al. 2020, written out."""
    rows, n = len(z), len(z) // 2
    total = 0.0
    for i in range(rows):
        positive = i + n if i < n else i - n
        similarity = [cosine_similarity(z[i], z[k], dim=0).item() / temperature for k in range(rows)]
        total -= math.log(
            math.exp(similarity[positive]) / sum(math.exp(similarity[k]) for k in range(rows) if k != i)
        )
    return total / rows


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_equals_a_double_loop(n, temperature):
    z = torch.randn(2 * n, 5, generator=torch.Generator().manual_seed(n))
    assert nt_xent(z, temperature).item() == pytest.approx(double_loop(z, temperature), abs=1e-5)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_equals_lightly_in_value_and_gradient(temperature):
    ours = torch.randn(64, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    loss = nt_xent(ours, temperature)
    oracle = NTXentLoss(temperature=temperature)(theirs[:32], theirs[32:])
    torch.testing.assert_close(loss, oracle)
    loss.backward()
    oracle.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def projections(n_views: int, n_images: int) -> torch.Tensor:
    return torch.randn(n_views * n_images, 5, generator=torch.Generator().manual_seed(n_images)).double()


def written_out(z: torch.Tensor, n_views: int, temperature: float, definition: str) -> torch.Tensor:
    """The three definitions, a loop for each sum; differentiable."""
    n_images = len(z) // n_views
    z = z / z.norm(dim=1, keepdim=True)

    def similarity(view, image, other_view, other_image):
        return z[view * n_images + image] @ z[other_view * n_images + other_image] / temperature

    def summed(view, image, views):
        """Of an anchor: sum over all images in these views, but for the anchor itself."""
        candidates = [(v, i) for v in views for i in range(n_images) if (v, i) != (view, image)]
        return sum(similarity(view, image, *candidate).exp() for candidate in candidates)

    losses = []
    for view, image in itertools.product(range(n_views), range(n_images)):
        others = [v for v in range(n_views) if v != view]
        attraction = {v: similarity(view, image, v, image) for v in others}
        if definition == "inside":
            positive = sum(value.exp() for value in attraction.values())
            losses.append(-(positive / summed(view, image, range(n_views))).log())
        for v in others:
            if definition == "outside":
                losses.append(-(attraction[v].exp() / summed(view, image, range(n_views))).log())
            if definition == "pairs":
                losses.append(-(attraction[v].exp() / summed(view, image, (view, v))).log())
    return sum(losses) / len(losses)


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize(("n_views", "n_images"), VIEWS_AND_IMAGES)
def test_many_views_equal_loops_over_the_definition_in_value_and_gradient(n_views, n_images, definition):
    ours = projections(n_views, n_images).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    loss = multi_view_nt_xent(ours, n_views, 0.3, definition)
    oracle = written_out(theirs, n_views, 0.3, definition)
    torch.testing.assert_close(loss, oracle)
    loss.backward()
    oracle.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("n_images", [1, 2, 32])
def test_two_views_are_nt_xent_in_value_and_gradient_in_each_definition(n_images, definition):
    ours = projections(2, n_images).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    loss, oracle = multi_view_nt_xent(ours, 2, 0.2, definition), nt_xent(theirs, 0.2)
    torch.testing.assert_close(loss, oracle)
    loss.backward()
    oracle.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_pairs_are_the_mean_of_lightlys_loss_over_all_pairs_of_views(temperature):
    ours = projections(4, 16).float().requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    pairs = list(itertools.combinations(theirs.chunk(4), 2))
    oracle = sum(NTXentLoss(temperature=temperature)(a, b) for a, b in pairs) / 6
    loss = multi_view_nt_xent(ours, 4, temperature, "pairs")
    torch.testing.assert_close(loss, oracle)
    loss.backward()
    oracle.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize(
    ("definition", "closed_form"),
    [("pairs", 2 * 256 - 1), ("outside", 8 * 256 - 1), ("inside", (8 * 256 - 1) / (8 - 1))],
)
def test_equal_rows_give_the_closed_forms(definition, closed_form):
    """Collapsed projections of 256 images with 8 views, and with 2 views in all definitions log(2N - 1)."""
    loss = multi_view_nt_xent(torch.ones(8 * 256, 8), 8, 0.5, definition).item()
    assert loss == pytest.approx(math.log(closed_form), abs=1e-5)
    assert nt_xent(torch.ones(2 * 256, 8), 0.5).item() == pytest.approx(math.log(511), abs=1e-5)


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_does_not_change_when_images_or_views_are_permuted(definition):
    z = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(1))
    loss = multi_view_nt_xent(z.flatten(0, 1), 4, 0.5, definition)
    for permuted in (z[:, [3, 0, 5, 1, 4, 2]], z[[2, 0, 3, 1]]):
        torch.testing.assert_close(multi_view_nt_xent(permuted.flatten(0, 1), 4, 0.5, definition), loss)
    mixed = z.clone()
    mixed[0] = z[0].roll(1, 0)  # one view of all images handed on to the next image
    assert abs(multi_view_nt_xent(mixed.flatten(0, 1), 4, 0.5, definition) - loss) > 0.01


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_many_views_are_compared_in_float32_from_bfloat16_projections(definition):
    z = projections(4, 6).bfloat16()
    loss = multi_view_nt_xent(z, 4, 0.1, definition)
    torch.testing.assert_close(loss, multi_view_nt_xent(z.float(), 4, 0.1, definition))


@pytest.mark.parametrize(
    ("n_rows", "n_views", "temperature", "definition", "message"),
    [
        (8, 3, 0.5, "pairs", "3 rows for each image, not .8, 4"),
        (0, 4, 0.5, "pairs", "4 rows for each image"),
        (8, 1, 0.5, "pairs", "n_views must be at least 2, not 1"),
        (8, 4, 0.0, "pairs", "temperature must be positive, not 0.0"),
        (8, 4, math.nan, "inside", "temperature must be positive, not nan"),
        (8, 4, 0.5, "between", "definition must be 'pairs', 'outside' or 'inside', not 'between'"),
    ],
)
def test_refuses_what_makes_no_loss(n_rows, n_views, temperature, definition, message):
    with pytest.raises(ValueError, match=message):
        multi_view_nt_xent(torch.ones(n_rows, 4), n_views, temperature, definition)


@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (4,), (2, 2, 2)])
def test_refuses_what_is_not_pairs(shape):
    with pytest.raises(ValueError, match="2 rows for each image"):
        nt_xent(torch.ones(shape), 0.5)
