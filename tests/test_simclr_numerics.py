"""A network's products in bfloat16, on processors that have it and on those that do not."""

import pytest
import torch
import torch.nn.functional as F

from manyviews.simclr.models import make_simclr
from manyviews.simclr.numerics import PRODUCTS, RoundedProducts, mixed_precision, resolve_precision

ULP = 2**-7  # at most, between two neighbouring bfloat16 numbers, as a part of them
LAYERS = {
    "conv 7x7": (F.conv2d, (4, 3, 12, 12), (8, 3, 7, 7), {"padding": 3}),
    "conv 3x3, strided": (F.conv2d, (4, 8, 9, 9), (16, 8, 3, 3), {"padding": 1, "stride": 2}),
    "conv 1x1, strided": (F.conv2d, (4, 16, 8, 8), (8, 16, 1, 1), {"stride": 2}),
    "linear": (F.linear, (16, 64), (32, 64), {}),
}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def product_and_gradients(name: str, rounding=torch.Tensor.clone) -> list[torch.Tensor]:
    """A layer's product of random numbers, and the gradients of its input, weights and bias.

    Args:
        name: of the layer.
        rounding: of the numbers that enter and of the gradient that comes back.
    """
    function, x_shape, weight_shape, options = LAYERS[name]
    x, weight, bias = random(*x_shape), random(*weight_shape, seed=1) / 8, random(weight_shape[0], seed=2)
    parts = [rounding(value).requires_grad_() for value in (x, weight, bias)]
    y = function(parts[0], parts[1], bias=parts[2], **options)
    y.backward(rounding(random(*y.shape, seed=3)).to(y.dtype))
    return [y.detach(), *(part.grad for part in parts)]


@pytest.mark.parametrize("name", LAYERS)
def test_rounded_products_are_exact_but_for_the_rounding(name):
    """Against float64: products and gradients of the rounded numbers, rounded once."""
    with RoundedProducts():
        rounded = product_and_gradients(name)
    assert [value.dtype for value in rounded] == [torch.bfloat16, *[torch.float32] * 3]  # as the weights are
    exact = product_and_gradients(name, lambda value: value.bfloat16().double())
    for own, theirs in zip(rounded, (value.bfloat16().float() for value in exact), strict=True):
        own = own.float()
        assert (own == theirs).double().mean() > 0.98  # else the sum in float32 fell on the other side
        torch.testing.assert_close(own, theirs, rtol=ULP, atol=1e-5 * theirs.abs().max().item())


@pytest.mark.parametrize("name", LAYERS)
def test_rounded_products_are_those_of_pytorch_in_bfloat16(name):
    """As far as PyTorch's own are exact, which on some processors round in between as well."""
    with torch.autocast("cpu", torch.bfloat16):
        expected = product_and_gradients(name)
    with torch.autocast("cpu", torch.bfloat16), RoundedProducts():
        rounded = product_and_gradients(name)
    for own, theirs in zip(rounded, expected, strict=True):
        assert own.dtype == theirs.dtype
        assert (own - theirs).float().norm() < ULP * theirs.float().norm()


def test_a_network_of_rounded_products_gives_what_pytorch_gives_in_bfloat16():
    """Nearer to it than to the network in float32, and with weights and gradients in float32."""
    model, x = make_simclr(0, width=8, projection_norm=True), random(16, 3, 16, 16)
    exact = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        theirs = model(x)
    with torch.autocast("cpu", torch.bfloat16), RoundedProducts():
        own = model(x)
    assert own.dtype == theirs.dtype == torch.bfloat16
    apart = (own - theirs).float().norm() / theirs.float().norm()
    assert apart < 0.03
    own.float().sum().backward()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())
    assert (exact - own).abs().max() > 0  # it did round


def test_all_layers_of_our_networks_are_rounded():
    """A new kind of layer would be left to PyTorch's slow way unless PRODUCTS has its function."""
    kinds = {type(module).__name__ for module in make_simclr().modules() if hasattr(module, "weight")}
    assert kinds - {"BatchNorm2d", "BatchNorm1d"} == {"Conv2d", "Linear"}
    assert set(PRODUCTS) == {F.conv2d, F.linear}


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_is_the_precision_everywhere_and_rounded_where_a_device_lacks_it(native, monkeypatch):
    monkeypatch.setattr("manyviews.simclr.numerics.has_bfloat16", lambda device: native)
    assert resolve_precision("auto") == torch.bfloat16
    rounded = []
    monkeypatch.setattr(RoundedProducts, "__enter__", lambda self: rounded.append(self))
    monkeypatch.setattr(RoundedProducts, "__exit__", lambda *_: None)
    with mixed_precision(torch.bfloat16, torch.device("cpu")):
        assert torch.is_autocast_enabled("cpu")
    assert bool(rounded) is not native


def test_another_precision_is_the_type_of_the_weights():
    with mixed_precision(resolve_precision("float64"), torch.device("cpu")):
        assert not torch.is_autocast_enabled("cpu")
        assert F.linear(random(2, 3).double(), random(4, 3).double()).dtype == torch.float64
