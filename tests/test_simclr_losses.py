"""The losses against loops, lightly and closed forms."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from lightly.loss import NTXentLoss

from manyviews.simclr.losses import multi_view_nt_xent, nt_xent

DEFINITIONS = ("pairs", "outside", "inside")


def projections(n_views: int, n_images: int) -> torch.Tensor:
    return torch.randn(n_views * n_images, 5, generator=torch.Generator().manual_seed(n_images)).double()


def double_loop(z: torch.Tensor, n_views: int, temperature: float, definition: str) -> torch.Tensor:
    """The three definitions, a loop for each sum; for two views Algorithm 1 of Chen et al. 2020."""
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


def assert_same_value_and_gradient(ours: Callable, oracle: Callable, z: torch.Tensor):
    of_each = []
    for loss_of in (ours, oracle):
        x = z.clone().requires_grad_()
        loss = loss_of(x)
        loss.backward()
        of_each.append((loss, x.grad))
    torch.testing.assert_close(*of_each)


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_nt_xent_equals_a_double_loop_and_lightly(n, temperature):
    z = projections(2, n)
    ours = lambda z: nt_xent(z, temperature)  # noqa: E731
    assert_same_value_and_gradient(ours, lambda z: double_loop(z, 2, temperature, "pairs"), z)
    oracle = NTXentLoss(temperature=temperature)
    assert_same_value_and_gradient(ours, lambda z: oracle(*z.chunk(2)), z)


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize(("n_views", "n_images"), [(2, 1), (2, 5), (3, 4), (4, 1), (5, 3), (8, 2)])
def test_many_views_equal_loops_over_the_definition(n_views, n_images, definition):
    settings = (n_views, 0.3, definition)
    assert_same_value_and_gradient(
        lambda z: multi_view_nt_xent(z, *settings),
        lambda z: double_loop(z, *settings),
        projections(n_views, n_images),
    )


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
def test_bfloat16_projections_are_compared_in_float32(definition):
    z = projections(4, 6).bfloat16()
    loss = multi_view_nt_xent(z, 4, 0.1, definition)
    torch.testing.assert_close(loss, multi_view_nt_xent(z.float(), 4, 0.1, definition))


@pytest.mark.parametrize("power", [-90, 90])
def test_the_length_of_rows_does_not_matter_even_where_its_square_is_no_float(power):
    """To the bit for powers of two. The gradient falls as the rows grow: the direction alone counts."""
    z = torch.randn(12, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    scaled = (z.detach() * 2.0**power).requires_grad_()
    losses = [nt_xent(rows, 0.2) for rows in (z, scaled)]
    for loss in losses:
        loss.backward()
    assert losses[0] == losses[1]
    assert torch.equal(z.grad, scaled.grad * 2.0**power)


@pytest.mark.parametrize(
    ("shape", "n_views", "temperature", "definition", "message"),
    [
        ((8, 4), 3, 0.5, "pairs", "3 rows for each image, not .8, 4"),
        ((0, 4), 4, 0.5, "pairs", "4 rows for each image"),
        ((4,), 2, 0.5, "pairs", "2 rows for each image"),
        ((2, 2, 2), 2, 0.5, "pairs", "2 rows for each image"),
        ((8, 4), 1, 0.5, "pairs", "n_views must be at least 2, not 1"),
        ((8, 4), 4, 0.0, "pairs", "temperature must be positive, not 0.0"),
        ((8, 4), 4, math.nan, "inside", "temperature must be positive, not nan"),
        ((8, 4), 4, 0.5, "between", "definition must be 'pairs', 'outside' or 'inside', not 'between'"),
    ],
)
def test_refuses_what_makes_no_loss(shape, n_views, temperature, definition, message):
    with pytest.raises(ValueError, match=message):
        multi_view_nt_xent(torch.ones(shape), n_views, temperature, definition)


def test_refuses_what_is_not_pairs():
    with pytest.raises(ValueError, match="2 rows for each image"):
        nt_xent(torch.ones(3, 4), 0.5)
