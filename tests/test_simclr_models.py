"""The networks against torchvision's."""

import pytest
import torch
import torchvision
from torch import nn

from manyviews.simclr.models import (
    SimCLR,
    count_macs,
    count_parameters,
    layout_of,
    make_backbone,
    make_projection_head,
    make_simclr,
    make_stem,
)

HEAD = 1000 * 2048 + 2048 + 2048 * 128 + 128


@pytest.mark.parametrize(("depth", "torchvision_model"), [(18, "resnet18"), (34, "resnet34")])
def test_computes_what_torchvision_does(depth, torchvision_model):
    """Oracle: torchvision's network with first layers of stride 1, and its weights."""
    theirs = getattr(torchvision.models, torchvision_model)(weights=None).eval()
    theirs.conv1 = nn.Conv2d(3, 64, 7, stride=1, padding=3, bias=False)
    theirs.maxpool = nn.Identity()
    ours = make_backbone(depth, "conv7").eval()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(
    ("depth", "stem", "torchvision_model", "kernel", "total"),
    [(18, "conv3", "resnet18", 3, 13_994_152), (34, "conv7", "resnet34", 7, 24_109_992)],
)
def test_has_the_originals_parameter_counts(depth, stem, torchvision_model, kernel, total):
    """The original: 14.0 M and 24.1 M. Oracle: torchvision, but for its first convolution, and the head."""
    theirs = count_parameters(getattr(torchvision.models, torchvision_model)(weights=None))
    expected = theirs - 64 * 3 * 7**2 + 64 * 3 * kernel**2 + HEAD
    assert count_parameters(make_simclr(depth=depth, stem=stem)) == expected == total


@pytest.mark.parametrize(("depth", "stem", "giga"), [(18, "conv3", 2.22), (34, "conv7", 4.67)])
def test_has_the_originals_macs(depth, stem, giga):
    """The original: about 2.22 G and 4.67 G for a view of 64 x 64 pixels."""
    assert count_macs(make_simclr(depth=depth, stem=stem), 64) / 1e9 == pytest.approx(giga, abs=0.01)


def test_counting_macs_leaves_the_network_as_it_was():
    model = make_simclr(width=4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for training in (True, False):
        model.train(training).backbone.stem.eval()  # frozen, as its owner may want it
        count_macs(model, 8)
        assert model.training is model.projection_head.training is training
        assert not model.backbone.stem[1].training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("norm", [True, False])
def test_the_projection_head_is_two_layers_with_a_relu_between(norm):
    """Oracle: the layers written out. Batch normalisation is there only on request."""
    head = make_projection_head(10, 20, 5, norm).eval()
    x = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    first, last = head[0], head[-1]
    hidden = x @ first.weight.T + first.bias
    if norm:
        hidden = hidden / (1 + head[1].eps) ** 0.5
    assert (hidden < 0).any()
    torch.testing.assert_close(head(x), hidden.clamp(min=0) @ last.weight.T + last.bias)
    assert any(isinstance(layer, nn.BatchNorm1d) for layer in head) == norm


def test_sizes_reach_their_places():
    """No two alike, so that one in the place of another would show."""
    sizes = {"width": 6, "feature_dim": 11, "projection_hidden": 21, "projection_dim": 7}
    made = make_simclr(3, depth=34, stem="conv7", projection_norm=True, **sizes)
    expected = SimCLR(make_backbone(34, "conv7", 6, 11), make_projection_head(11, 21, 7, norm=True))
    assert str(made) == str(expected)


def test_a_supervised_network_is_a_linear_classifier_of_the_same_features():
    classifier = make_simclr(5, width=4, n_classes=17)
    assert str(classifier.projection_head) == str(nn.Linear(1000, 17))
    pairs = zip(classifier.backbone.parameters(), make_simclr(5, width=4).backbone.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_initial_weights_depend_on_the_seed_only():
    """And making them leaves the caller's random numbers alone."""
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    one = weights_of(7)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(weights_of(7), one)
    assert not torch.equal(weights_of(8), one)


def weights_of(seed: int) -> torch.Tensor:
    return torch.cat([p.flatten() for p in make_simclr(seed, width=4).parameters()])


def test_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="unknown stem 'conv5'; choose one of: conv3, conv7"):
        make_stem("conv5", 8)
    with pytest.raises(ValueError, match="unknown depth 50; choose one of: 18, 34"):
        make_backbone(50)


@pytest.mark.parametrize(("width", "layout"), [(4, torch.contiguous_format), (8, torch.channels_last)])
def test_a_network_too_narrow_for_channels_last_is_trained_otherwise(width, layout):
    """Its 1x1 convolutions would read fewer than 8 channels; see layout_of."""
    assert layout_of(make_simclr(width=width)) == layout
