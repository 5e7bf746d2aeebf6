"""The networks against torchvision's."""

import pytest
import torch
import torchvision

from manyviews.models import (
    SimCLR,
    count_multiply_adds,
    count_parameters,
    make_backbone,
    make_projection_head,
    make_stem,
)

HEAD = 1000 * 2048 + 2048 + 2048 * 128 + 128


def report_model(depth: int, stem: str) -> SimCLR:
    return SimCLR(make_backbone(depth, stem, 64, 1000), make_projection_head(1000, 2048, 128, norm=False))


@pytest.mark.parametrize(("depth", "torchvision_model"), [(18, "resnet18"), (34, "resnet34")])
def test_computes_what_torchvision_does(depth, torchvision_model):
    """With torchvision's weights, in its order, the imagenet stem gives torchvision's outputs."""
    theirs = getattr(torchvision.models, torchvision_model)(weights=None).eval()
    ours = make_backbone(depth, "imagenet", 64, 1000).eval()
    weights = dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))
    ours.load_state_dict(weights)
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(
    ("depth", "stem", "torchvision_model", "first_kernel", "total"),
    [(18, "conv3", "resnet18", 3, 13_994_152), (34, "conv7", "resnet34", 7, 24_109_992)],
)
def test_has_the_reports_parameter_counts(depth, stem, torchvision_model, first_kernel, total):
    """study: about 14.0 M and 24.1 M. Oracle: torchvision, its first convolution exchanged; and the head."""
    theirs = count_parameters(getattr(torchvision.models, torchvision_model)(weights=None))
    expected = theirs - 64 * 3 * 7**2 + 64 * 3 * first_kernel**2 + HEAD
    assert count_parameters(report_model(depth, stem)) == expected == total


@pytest.mark.parametrize(("depth", "stem", "giga"), [(18, "conv3", 2.22), (34, "conv7", 4.67)])
def test_has_the_reports_multiply_adds(depth, stem, giga):
    """study: about 2.22 G and 4.67 G for a view of 64 x 64 pixels."""
    assert count_multiply_adds(report_model(depth, stem), 64) / 1e9 == pytest.approx(giga, abs=0.01)


def test_multiply_adds_of_a_stem_by_hand():
    """A 3x3 convolution from 3 to 16 channels on 8 x 8 pixels: 8 * 8 * 16 * 3 * 3 * 3."""
    assert count_multiply_adds(make_stem("conv3", 16), 8) == 8 * 8 * 16 * 27


@pytest.mark.parametrize(
    ("stem", "side"), [("conv3", 32), ("conv7", 32), ("conv3_pool", 16), ("imagenet", 8)]
)
def test_a_stem_shrinks_the_image_as_documented(stem, side):
    assert make_stem(stem, 8)(torch.zeros(2, 3, 32, 32)).shape == (2, 8, side, side)


def test_pooling_makes_a_quarter_of_the_work():
    work = [count_multiply_adds(make_backbone(18, stem, 64, 1000), 64) for stem in ("conv3", "conv3_pool")]
    assert work[1] / work[0] == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("width", [4, 16])
def test_features_keep_their_size_at_any_width(width):
    assert make_backbone(18, "conv3", width, 1000)(torch.zeros(2, 3, 16, 16)).shape == (2, 1000)


@pytest.mark.parametrize("norm", [True, False])
def test_the_projection_head_has_batch_norm_only_on_request(norm):
    head = make_projection_head(10, 20, 5, norm)
    assert any(isinstance(layer, torch.nn.BatchNorm1d) for layer in head) == norm
    assert head(torch.zeros(3, 10)).shape == (3, 5)


def test_refuses_what_it_does_not_know():
    with pytest.raises(
        ValueError, match="unknown stem 'conv5'; choose one of: conv3, conv7, conv3_pool, imagenet"
    ):
        make_stem("conv5", 8)
    with pytest.raises(ValueError, match="unknown depth 50; choose one of: 18, 34"):
        make_backbone(50, "conv3", 8, 10)
