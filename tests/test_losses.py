"""NT-Xent against a double loop, lightly and its closed forms."""

import math

import pytest
import torch
from lightly.loss import NTXentLoss
from torch.nn.functional import cosine_similarity

from manyviews.losses import nt_xent


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


@pytest.mark.parametrize("n", [1, 2, 256])
def test_equal_rows_give_log_of_the_number_of_candidates(n):
    assert nt_xent(torch.ones(2 * n, 8), 0.5).item() == pytest.approx(math.log(2 * n - 1), abs=1e-5)


def test_does_not_change_when_images_are_permuted():
    z = torch.randn(20, 4, generator=torch.Generator().manual_seed(1))
    order = torch.randperm(10, generator=torch.Generator().manual_seed(2))
    permuted = torch.cat([z[:10][order], z[10:][order]])
    torch.testing.assert_close(nt_xent(permuted, 0.5), nt_xent(z, 0.5))


def test_does_not_change_with_the_length_of_projections():
    z = torch.randn(20, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(nt_xent(1000 * z, 0.5), nt_xent(z, 0.5))


def test_is_computed_in_float32_from_bfloat16_projections():
    z = torch.randn(20, 4, generator=torch.Generator().manual_seed(1)).bfloat16()
    torch.testing.assert_close(nt_xent(z, 0.1), nt_xent(z.float(), 0.1))


def test_finds_the_pairs():
    """Views of an image alike, images apart: the loss nearly vanishes, unless pairs are exchanged."""
    z = torch.eye(8).repeat(2, 1)
    assert nt_xent(z, 0.05) < 1e-4
    exchanged = torch.cat([z[:8], z[8:].roll(1, 0)])
    assert nt_xent(exchanged, 0.05) > 10


@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (4,), (2, 2, 2)])
def test_refuses_what_is_not_pairs(shape):
    with pytest.raises(ValueError, match="two rows for each image"):
        nt_xent(torch.ones(shape), 0.5)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_refuses_a_temperature_that_is_not_positive(temperature):
    with pytest.raises(ValueError, match="temperature"):
        nt_xent(torch.ones(4, 4), temperature)
