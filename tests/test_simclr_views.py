"""Views against torchvision: the same pixels from the same parameters, drawn alike."""

import math

import pytest
import torch
import torchvision.transforms.v2 as transforms
import torchvision.transforms.v2.functional as tv
from scipy import stats

from manyviews.simclr import views as transform
from manyviews.simclr.views import ViewParameters, ViewStrengths, draw_parameters, make_views

ROUNDING = 1e-5  # of pixels in [0, 1]; an 8-bit level is 4e-3
MANY = 20_000
P_VALUE = 1e-3  # the draws are fixed by seeds, so these tests pass always or never

ORACLES = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)


def random_images(n: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(
        0, 256, (n, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def parameters(n: int, strengths: ViewStrengths | None = None) -> ViewParameters:
    return draw_parameters(
        strengths or ViewStrengths(), 0, torch.arange(n), torch.zeros(n).long(), height=64, width=64
    )


def torchvision_view(image: torch.Tensor, p: ViewParameters, i: int, size: int, kernel: int) -> torch.Tensor:
    """One view by torchvision's functions, from the parameters in row i."""
    box = (int(p.top[i]), int(p.left[i]), int(p.height[i]), int(p.width[i]))
    x = tv.resized_crop(image.float() / 255, *box, [size, size], antialias=True)
    if p.flip[i]:
        x = tv.horizontal_flip(x)
    if p.jitter[i]:
        for operation in p.order[i].tolist():
            x = ORACLES[operation](x, p.factors[i, operation].item())
    if p.grayscale[i]:
        x = tv.rgb_to_grayscale(x, 3)
    if p.blur[i]:
        x = tv.gaussian_blur(x, [kernel, kernel], [p.sigma[i].item()] * 2)
    return x


@pytest.mark.parametrize(
    ("height", "width", "size"), [(64, 64, 64), (32, 32, 32), (64, 64, 32), (24, 24, 40), (48, 64, 32)]
)
def test_whole_transform_gives_torchvisions_pixels(height, width, size):
    """Oracle: torchvision's functions one after the other; larger, smaller and oblong images included."""
    n, kernel = 100, 3 if size <= 32 else 5
    images, numbers = random_images(n, height, width), torch.arange(n)
    strengths = ViewStrengths()
    views = make_views(images, numbers, numbers % 8, seed=1, size=size, strengths=strengths)
    p = draw_parameters(strengths, 1, numbers, numbers % 8, height, width)
    for i in range(n):
        expected = torchvision_view(images[i], p, i, size, kernel)
        torch.testing.assert_close(views[i], expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(
    ("operation", "oracle"), list(zip(transform.COLOUR_OPERATIONS, ORACLES, strict=True))
)
def test_colour_operation_equals_torchvisions(operation, oracle):
    """Also on gray pixels and on the corners of the colour cube, where the hue formula branches."""
    images = random_images(3, 8, 8).float() / 255
    images[1] = images[1, :1]
    images[2, :, 0] = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3).T
    for factor in (-0.5, -0.1, 0.0, 0.1, 0.5) if oracle is tv.adjust_hue else (0.0, 0.6, 1.0, 1.4):
        ours = operation(images, torch.full((3,), factor))
        torch.testing.assert_close(ours, oracle(images, factor), rtol=0, atol=ROUNDING)


@pytest.fixture(scope="module")
def drawn() -> ViewParameters:
    return parameters(MANY)


@pytest.fixture(scope="module")
def torchvision_crops() -> torch.Tensor:
    """Boxes (top, left, height, width) that torchvision's RandomResizedCrop draws, (n, 4)."""
    crop = transforms.RandomResizedCrop(64, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3))
    image = torch.zeros(3, 64, 64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        boxes = [crop.make_params([image]) for _ in range(MANY)]
    return torch.tensor([[box[key] for key in ("top", "left", "height", "width")] for box in boxes])


@pytest.mark.parametrize("index", range(4))
def test_crops_are_distributed_as_torchvisions(drawn, torchvision_crops, index):
    """Two samples of box positions and sizes; oracle: RandomResizedCrop, by a chi-squared test on 16 bins."""
    ours = [drawn.top, drawn.left, drawn.height, drawn.width][index]
    edges = torch.linspace(0, 65, 17)
    counts = [torch.histogram(x.float(), edges).hist for x in (ours, torchvision_crops[:, index])]
    table = torch.stack(counts)
    table = table[:, table.sum(dim=0) >= 10]
    assert stats.chi2_contingency(table.numpy()).pvalue > P_VALUE


def test_a_crop_that_cannot_fit_is_the_largest_central_one():
    """As torchvision's RandomResizedCrop falls back, on an image far wider than any allowed ratio."""
    strengths = ViewStrengths(crop_scale=(1.0, 1.0))
    p = draw_parameters(strengths, 0, torch.arange(50), torch.zeros(50).long(), 12, 90)
    crop = transforms.RandomResizedCrop(12, scale=(1.0, 1.0), ratio=(3 / 4, 4 / 3))
    expected = crop.make_params([torch.zeros(3, 12, 90)])
    for name in ("top", "left", "height", "width"):
        assert (getattr(p, name) == expected[name]).all(), name


def test_all_orders_of_the_colour_operations_are_equally_likely(drawn):
    code = (drawn.order * torch.tensor([64, 16, 4, 1])).sum(dim=1)
    counts = code.unique(return_counts=True)[1]
    assert len(counts) == math.factorial(4)
    assert stats.chisquare(counts).pvalue > P_VALUE


@pytest.mark.parametrize(("of_images", "of_draws", "first_draw"), [(1, 0, 0), (0, 1, 0), (0, 1, 2**57)])
def test_random_numbers_are_uniform_and_uncorrelated(of_images, of_draws, first_draw):
    """Of many images or many draws of one, and between neighbours: a weak hash of counters would show there.

    So would a counter of 26 or 32 bits, which begins anew.
    """
    count = torch.arange(5000)
    images, draws = of_images * count, first_draw + of_draws * count
    u = transform.uniform(7, images, draws, 36)
    assert all(stats.kstest(column, "uniform").pvalue > P_VALUE / 36 for column in u.T)
    others = [transform.uniform(7, images, draws + step, 36) for step in (1, 2**26, 2**32)]
    others += [transform.uniform(7, images + 1, draws, 36), transform.uniform(8, images, draws, 36)]
    for other in [*others, u.roll(1, dims=1)]:
        for a, b in zip(u.T, other.T, strict=True):
            assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 5 / math.sqrt(5000)


def test_a_view_is_the_same_in_any_batch_and_order():
    images, numbers = random_images(40, 32, 32), torch.arange(40)
    together = make_views(images, numbers, numbers % 4, seed=3, size=32, strengths=ViewStrengths())
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    for batch in order.split(7):
        alone = make_views(images, batch, batch % 4, seed=3, size=32, strengths=ViewStrengths())
        assert torch.equal(alone, together[batch])


class OnGpu(torch.Tensor):
    """Says that it is elsewhere."""

    is_cpu = False


def test_a_gpus_way_of_applying_to_some_images_gives_the_same_pixels():
    """It computes all and keeps the chosen; oracle: the way of the CPU, which computes the chosen only."""
    images, numbers = random_images(50, 32, 32), torch.arange(50)
    settings = {"seed": 3, "size": 32, "strengths": ViewStrengths()}
    views = make_views(images.as_subclass(OnGpu), numbers, numbers % 4, **settings)
    assert isinstance(views, OnGpu)
    expected = make_views(images, numbers, numbers % 4, **settings)
    torch.testing.assert_close(views.as_subclass(torch.Tensor), expected, rtol=0, atol=ROUNDING)


def test_each_strength_is_that_of_its_own_operation():
    """All off their defaults, no two alike: an operation with the strength of another would lie outside."""
    strengths = ViewStrengths(
        crop_scale=(0.3, 0.6), crop_ratio=(1.5, 2.5), brightness=0.1, contrast=0.3, saturation=1.5, hue=0.2,
        flip_p=0.15, jitter_p=0.35, grayscale_p=0.6, blur_p=0.85, blur_sigma=(0.4, 0.9),
    )  # fmt: skip
    p = parameters(MANY, strengths)
    # As in torchvision, a range ends at 0: strong jitter never inverts colours.
    ranges = ((0.9, 1.1), (0.7, 1.3), (0, 2.5), (-0.2, 0.2), (0.4, 0.9))
    for values, (low, high) in zip((*p.factors.T, p.sigma), ranges, strict=True):
        assert stats.kstest(values, "uniform", (low, high - low)).pvalue > P_VALUE
    for name, probability in (("flip", 0.15), ("jitter", 0.35), ("grayscale", 0.6), ("blur", 0.85)):
        assert stats.binomtest(int(getattr(p, name).sum()), MANY, probability).pvalue > P_VALUE
    area, ratio = p.width * p.height / 64**2, p.width / p.height
    for values, (low, high) in ((area, (0.3, 0.6)), (ratio, (1.5, 2.5))):
        assert values.quantile(0.01) == pytest.approx(low, rel=0.06)  # sides are whole pixels
        assert values.quantile(0.99) == pytest.approx(high, rel=0.06)


@pytest.mark.parametrize(("kernel", "size", "taps"), [(7, 32, 7), (None, 32, 3), (None, 33, 5), (1, 33, 1)])
def test_the_blur_has_as_many_taps_as_asked_for(kernel, size, taps):
    """A single white pixel spreads over taps x taps; by default 3 up to 32 pixels, as in the original."""
    strengths = ViewStrengths(
        (1, 1), (1, 1), flip_p=0, jitter_p=0, grayscale_p=0, blur_p=1, blur_sigma=(9, 9), blur_kernel=kernel
    )
    image = torch.zeros(1, 3, size, size, dtype=torch.uint8)
    image[..., 16, 16] = 255
    index = torch.zeros(1).long()
    (view,) = make_views(image, index, index, seed=0, size=size, strengths=strengths)
    assert int((view[0] > 1e-4).sum()) == taps**2
