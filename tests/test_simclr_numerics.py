"""A network's products in bfloat16, on processors that have it and on those that do not."""

from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from manyviews.simclr.models import make_simclr
from manyviews.simclr.numerics import (
    RoundedProducts,
    by_rounding,
    has_bfloat16,
    mixed_precision,
    resolve_precision,
)

CPU = torch.device("cpu")
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


@contextmanager
def rounding():
    with torch.autocast("cpu", torch.bfloat16), RoundedProducts(CPU):
        yield


@pytest.mark.parametrize("name", LAYERS)
def test_rounded_products_are_exact_but_for_the_rounding(name):
    """Against float64: products and gradients of the rounded numbers, rounded once."""
    with rounding():
        rounded = product_and_gradients(name)
    assert [value.dtype for value in rounded] == [torch.bfloat16, *[torch.float32] * 3]  # as the weights are
    exact = product_and_gradients(name, lambda value: value.bfloat16().double())
    for own, theirs in zip(rounded, (value.bfloat16().float() for value in exact), strict=True):
        own = own.float()
        assert (own == theirs).double().mean() > 0.98  # else the sum in float32 fell on the other side
        torch.testing.assert_close(own, theirs, rtol=ULP, atol=1e-5 * theirs.abs().max().item())


@pytest.mark.parametrize("name", LAYERS)
def test_rounded_products_are_those_of_pytorch_in_bfloat16(name):
    """Gradients as far as PyTorch's own are exact, which on some processors round in between as well."""
    with torch.autocast("cpu", torch.bfloat16):
        product, *gradients = product_and_gradients(name)
    with rounding():
        own_product, *own_gradients = product_and_gradients(name)
    assert (own_product == product).double().mean() > 0.98
    for own, theirs in zip(own_gradients, gradients, strict=True):
        assert own.dtype == theirs.dtype
        assert (own - theirs).norm() < 2 * ULP * theirs.norm()


def test_gradients_of_several_products_of_a_weight_are_added_in_bfloat16_as_pytorch_does():
    """So the two views of a batch, which pass the network one after the other."""
    x, weight = random(2, 16, 64), random(32, 64, seed=1) / 8

    def gradient(context) -> torch.Tensor:
        part = weight.clone().requires_grad_()
        with context:
            both = [F.linear(view, part) for view in x]
        torch.cat(both).float().sin().sum().backward()
        return part.grad

    own, theirs = gradient(rounding()), gradient(torch.autocast("cpu", torch.bfloat16))
    assert torch.equal(own, own.bfloat16().float())
    assert (own == theirs).double().mean() > 0.98


def test_a_network_of_rounded_products_gives_what_pytorch_gives_in_bfloat16():
    """Nearer to it than to the network in float32, and with weights and gradients in float32."""
    model, x = make_simclr(0, width=8, projection_norm=True), random(16, 3, 16, 16)
    exact = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        theirs = model(x)
    with rounding():
        own = model(x)
    assert own.dtype == theirs.dtype == torch.bfloat16
    assert (own - theirs).float().norm() < 0.7 * (own - exact).float().norm()
    own.float().sum().backward()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())


def test_a_processor_is_asked_for_no_product_of_bfloat16_numbers():
    """Forward and backward, of all layers of our networks: one that is forgotten would be slow."""
    products = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            if any(word in function.__name__ for word in ("convolution", "mm")):
                products.append({a.dtype for a in arguments if isinstance(a, torch.Tensor)})
            return function(*arguments, **(options or {}))

    model = make_simclr(0, width=8, projection_norm=True)
    with Watch():
        with rounding():
            z = model(random(4, 3, 8, 8))
        z.float().sin().sum().backward()
    layers = sum(isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)) for module in model.modules())
    assert len(products) >= 2 * layers
    assert products == [{torch.float32}] * len(products)


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_is_the_precision_everywhere_and_rounded_where_a_device_lacks_it(native, monkeypatch):
    monkeypatch.setattr("manyviews.simclr.numerics.has_bfloat16", lambda device: native)
    precision = resolve_precision("auto")
    assert precision == torch.bfloat16
    assert by_rounding(precision, CPU) is not native
    assert not by_rounding(torch.float32, CPU)


def test_a_processor_has_bfloat16_if_it_says_so(monkeypatch):
    for capability, has in (("avx512_bf16", True), ("amx_bf16", True), ("avx512_f", False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda name=capability: {name: True})
        assert has_bfloat16(CPU) is has


def test_another_precision_is_the_type_of_the_weights():
    with mixed_precision(resolve_precision("float64"), CPU, rounding=False):
        assert not torch.is_autocast_enabled("cpu")
        assert F.linear(random(2, 3).double(), random(4, 3).double()).dtype == torch.float64
