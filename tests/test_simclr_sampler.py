"""The sampler's promises, over many sizes."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from manyviews.simclr.sampler import ViewSampler


@st.composite
def samplers(draw):
    n_images, views_per_batch = draw(st.integers(1, 70)), draw(st.integers(2, 8))
    return ViewSampler(
        n_images,
        views_per_batch * draw(st.integers(1, 5)),
        draw(st.integers(1, n_images)),
        draw(st.integers(0, 2**31 - 1)),
        views_per_batch,
    )


@given(samplers(), st.integers(0, 10_000))
def test_no_batch_holds_an_image_twice(sampler, epoch):
    for images, views in sampler.epoch(epoch):
        assert len(images.unique()) == len(images) <= sampler.batch_size
        assert images.dtype == views.dtype == torch.int64
        assert views.shape == (len(images), sampler.views_per_batch)


@given(samplers(), st.integers(0, 10_000))
def test_an_epoch_uses_each_view_of_each_image_exactly_once(sampler, epoch):
    used = torch.zeros(sampler.n_images, sampler.n_views, dtype=torch.int64)
    batches = torch.zeros(sampler.n_images, dtype=torch.int64)
    for images, views in sampler.epoch(epoch):
        used[images[:, None], views] += 1
        batches[images] += 1
    assert (used == 1).all()
    assert len(list(sampler.epoch(epoch))) == len(sampler)
    assert (batches == sampler.n_views // sampler.views_per_batch).all()


@given(samplers(), st.integers(0, 100))
def test_order_depends_on_seed_and_epoch_only(sampler, epoch):
    again = ViewSampler(**vars(sampler))
    list(again.epoch(epoch + 1))  # what was drawn before has no effect
    for (images, views), (images2, views2) in zip(sampler.epoch(epoch), again.epoch(epoch), strict=True):
        assert torch.equal(images, images2)
        assert torch.equal(views, views2)


@pytest.mark.parametrize(("seed", "epoch"), [(0, 1), (1, 0)])
def test_another_seed_or_epoch_gives_another_order(seed, epoch):
    first = torch.cat([images for images, _ in ViewSampler(100, 2, 10, 0).epoch(0)])
    other = torch.cat([images for images, _ in ViewSampler(100, 2, 10, seed).epoch(epoch)])
    assert not torch.equal(first, other)


def test_pairs_views_at_random():
    """Over many epochs all 28 pairings of eight views come up, about equally often."""
    sampler = ViewSampler(50, 8, 50, 0)
    counts = dict.fromkeys(itertools.combinations(range(8), 2), 0)
    for epoch in range(40):
        for _, views in sampler.epoch(epoch):
            for pair in views.sort(dim=1).values.tolist():
                counts[tuple(pair)] += 1
    expected = 40 * 50 * 4 / 28  # 286, standard deviation about 17
    assert all(abs(count - expected) < 5 * 17 for count in counts.values())


def test_pairs_come_in_the_order_of_the_first_runs():
    """Oracle: a batch order recorded before batches could hold more than two views of an image."""
    recorded = [
        ([2, 0], [[3, 0], [3, 1]]),
        ([1], [[1, 2]]),
        ([2, 0], [[2, 1], [0, 2]]),
        ([1], [[3, 0]]),
    ]
    batches = ViewSampler(3, 4, 2, 7).epoch(5)
    assert [(images.tolist(), views.tolist()) for images, views in batches] == recorded


@given(st.integers(1, 70), st.integers(1, 5), st.integers(2, 5), st.integers(0, 100))
def test_a_group_of_views_is_several_pairs_of_the_same_seed(n_images, n_groups, n_pairs, epoch):
    """Oracle: the sampler of pairs. Both see the same views, in other company."""
    n_views = 2 * n_pairs * n_groups
    pairs = ViewSampler(n_images, n_views, n_images, 3).epoch(epoch)
    for images, views in ViewSampler(n_images, n_views, n_images, 3, 2 * n_pairs).epoch(epoch):
        expected = [pair[order.argsort()] for order, pair in itertools.islice(pairs, n_pairs)]
        assert torch.equal(views[images.argsort()], torch.cat(expected, dim=1))


@pytest.mark.parametrize(
    ("n_views", "views_per_batch"), [(-2, 2), (0, 2), (3, 2), (8, 3), (4, 8), (4, 1), (4, 0)]
)
def test_refuses_views_that_do_not_make_whole_groups(n_views, views_per_batch):
    with pytest.raises(ValueError, match="n_views must be a multiple of views_per_batch"):
        ViewSampler(10, n_views, 5, 0, views_per_batch)


@pytest.mark.parametrize("batch_size", [0, 11])
def test_refuses_a_batch_that_would_hold_an_image_twice(batch_size):
    with pytest.raises(ValueError, match="batch_size must lie between 1 and the number of images, 10"):
        ViewSampler(10, 2, batch_size, 0)
