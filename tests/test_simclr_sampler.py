"""The sampler's promises, over many sizes."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from manyviews.simclr.sampler import ViewSampler

PASSES = st.integers(0, 10_000)
SEEDS = st.integers(0, 2**31 - 1)


@st.composite
def samplers(draw, distinct: bool | None = None):
    """Any sampler, or one with or without a limit to the views of an image."""
    n_images, views_per_batch = draw(st.integers(1, 70)), draw(st.integers(2, 8))
    limit = views_per_batch * draw(st.integers(1, 5))
    limited = draw(st.booleans()) if distinct is None else distinct
    sizes = (n_images, draw(st.integers(1, n_images)), draw(SEEDS), views_per_batch)
    return ViewSampler(*sizes, limit if limited else None)


def draws_of(sampler: ViewSampler, passes: range) -> torch.Tensor:
    """The draws of each image in some passes one after the other, (N, passes * K)."""
    of_passes = []
    for g in passes:
        images, draws = (torch.cat(part) for part in zip(*sampler.batches(g), strict=True))
        of_passes.append(draws[images.argsort()])
    return torch.cat(of_passes, dim=1)


def order_of(sampler: ViewSampler, g: int) -> list[int]:
    return torch.cat([images for images, _ in sampler.batches(g)]).tolist()


@given(samplers(), PASSES)
def test_a_pass_is_batches_that_hold_each_image_once(sampler, g):
    batches = list(sampler.batches(g))
    assert len(batches) == len(sampler)
    assert sorted(order_of(sampler, g)) == list(range(sampler.n_images))
    for images, draws in batches:
        assert images.dtype == draws.dtype == torch.int64
        assert draws.shape == (len(images), sampler.views_per_batch)
    assert all(len(images) == sampler.batch_size for images, _ in batches[:-1])


@given(samplers(distinct=False), PASSES)
def test_fresh_views_are_counted_from_the_start_of_training(sampler, g):
    """So that an epoch is a number of passes, and two epochs are an epoch of twice as many views."""
    draws = draws_of(sampler, range(g, g + 2))
    first = g * sampler.views_per_batch
    assert torch.equal(draws, torch.arange(first, first + draws.shape[1]).expand_as(draws))


@given(samplers(), st.integers(2, 8), PASSES)
def test_the_order_of_a_pass_depends_on_seed_and_pass_only(sampler, views_per_batch, g):
    """Not on how many views there are, nor on what was drawn before."""
    other = ViewSampler(sampler.n_images, sampler.batch_size, sampler.seed, views_per_batch)
    list(other.batches(g + 1))
    assert order_of(other, g) == order_of(sampler, g)


@given(samplers(distinct=True), st.integers(1, 200))
def test_each_round_uses_each_distinct_view_of_each_image_once(sampler, later):
    """The first in order, as fresh views come; so training of a round or more sees them all."""
    passes = sampler.distinct // sampler.views_per_batch
    first, draws = (draws_of(sampler, range(r * passes, (r + 1) * passes)) for r in (0, later))
    assert torch.equal(first, torch.arange(sampler.distinct).expand_as(first))
    assert torch.equal(draws.sort(dim=1).values, first)


@pytest.mark.parametrize("views_per_batch", [2, 4])
def test_any_two_views_of_each_image_meet_in_later_rounds(views_per_batch):
    """Equally often, by a chi-squared test; and the images of a pass group their views differently."""
    n_images, n, n_rounds = 20, 8, 200
    sampler, met = ViewSampler(n_images, n_images, 0, views_per_batch, n), torch.zeros(n_images, n, n)
    passes = n // views_per_batch
    for g in range(passes, (1 + n_rounds) * passes):
        draws = draws_of(sampler, range(g, g + 1))
        assert len(draws.sort(dim=1).values.unique(dim=0)) > 5
        pairs = (torch.arange(n_images)[:, None, None], draws[:, :, None], draws[:, None])
        met.index_put_(pairs, torch.ones(()), accumulate=True)
    assert (met > 0).all()
    assert (met.diagonal(dim1=1, dim2=2) == n_rounds).all()  # with itself: a view is there once a round
    assert stats.chisquare(met.sum(dim=0)[tuple(torch.triu_indices(n, n, 1))]).pvalue > 1e-3


def test_batches_are_those_of_earlier_results():
    """Oracle: recorded batches, of a pass of the first round and one of the third."""
    recorded = [
        ([0, 2], [[2, 3], [2, 3]]),
        ([1], [[2, 3]]),
        ([1, 0], [[1, 3], [0, 3]]),
        ([2], [[1, 3]]),
    ]
    sampler = ViewSampler(3, 2, 7, 2, 4)
    batches = itertools.chain(sampler.batches(1), sampler.batches(5))
    assert [(images.tolist(), draws.tolist()) for images, draws in batches] == recorded


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"views_per_batch": 1}, "views_per_batch must be at least 2, not 1"),
        ({"views_per_batch": 4, "distinct": 6}, "distinct must be a multiple of views_per_batch, 4, not 6"),
        ({"distinct": 0}, "distinct must be a multiple of views_per_batch, 2, not 0"),
        ({"batch_size": 0}, "batch_size must lie between 1 and the number of images, 10, not 0"),
        ({"batch_size": 11}, "batch_size must lie between 1 and the number of images, 10, not 11"),
    ],
)
def test_refuses_sizes_that_would_break_its_promises(sizes, message):
    with pytest.raises(ValueError, match=message):
        ViewSampler(**{"n_images": 10, "batch_size": 5, "seed": 0} | sizes)
