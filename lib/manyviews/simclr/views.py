"""Random views of images: the original's transform on batches of tensors, on CPU or GPU.

A view is a pure function of (seed, image, draw), where draw counts the views of an image from the start of
training: the numbers are hashed into the random parameters, so that no generator state exists that order,
batches, epochs or processes could disturb.
Pixels are RGB in [0, 1]; they are not rounded to 8 bits between the operations.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

GRAY = (0.2989, 0.587, 0.114)  # luma of red, green and blue, ITU-R BT.601, as in torchvision
CROP_ATTEMPTS = 10  # as in torchvision's RandomResizedCrop
UINT32 = 0xFFFFFFFF


@dataclass(frozen=True)
class ViewStrengths:
    """Strengths of the random view transform, in the order in which they are applied; the original's."""

    crop_scale: tuple[float, float] = (0.2, 1.0)  # fraction of the image's area
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height
    flip_p: float = 0.5
    jitter_p: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1  # turns of the colour wheel
    grayscale_p: float = 0.2
    blur_p: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # pixels
    blur_kernel: int | None = None  # pixels, odd; None: 5, and 3 at 32 px and below


ORIGINAL = ViewStrengths()


def pcg4d(x: Tensor, y: Tensor, z: Tensor, w: Tensor) -> Tensor:
    """Hash of four 32-bit integers to four.

    Args:
        x, y, z, w: int64 tensors that broadcast to one shape (...), values in [0, 2**32).
    Returns:
        (..., 4) int64, values in [0, 2**32).
    Source: Jarzynski and Olano 2020, Hash Functions for GPU Rendering, JCGT 9(3).
    """
    # Products may overflow int64, but wrap around, and only their low 32 bits are kept.
    x, y, z, w = ((v * 1664525 + 1013904223) & UINT32 for v in torch.broadcast_tensors(x, y, z, w))
    for mix in (True, False):
        x = (x + y * w) & UINT32
        y = (y + z * x) & UINT32
        z = (z + x * y) & UINT32
        w = (w + y * z) & UINT32
        if mix:
            x, y, z, w = (v ^ (v >> 16) for v in (x, y, z, w))
    return torch.stack((x, y, z, w), dim=-1)


def uniform(seed: int, images: Tensor, draws: Tensor, n: int) -> Tensor:
    """Random numbers that depend on nothing but the arguments.

    Args:
        seed: 0 <= seed < 2**32.
        images: image indices, (B,) int64, below 2**32.
        draws: which view of each image, counted from the start of training, (B,) int64, below 2**58.
        n: numbers for each view, at most 256.
    Returns:
        (B, n) float32, uniform in [0, 1).
    """
    block = torch.arange(-(-n // 4), device=images.device)  # each hash gives four numbers
    low, high = draws % 2**26, draws >> 26  # with 64 blocks to a draw, 32 bits each
    key = (images[:, None], low[:, None] * 64 + block, high[:, None], torch.full_like(block, seed))
    hashed = pcg4d(*key)  # (B, blocks, 4)
    return (hashed.flatten(1)[:, :n] >> 8).float() / 2**24


@dataclass(frozen=True)
class ViewParameters:
    """What was drawn for each view; every tensor has B rows."""

    top: Tensor  # (B,) pixels, first row of the crop
    left: Tensor  # (B,) pixels, first column of the crop
    height: Tensor  # (B,) pixels
    width: Tensor  # (B,) pixels
    flip: Tensor  # (B,) bool
    jitter: Tensor  # (B,) bool
    factors: Tensor  # (B, 4) of COLOUR_OPERATIONS: brightness, contrast, saturation (multiples), hue (turns)
    order: Tensor  # (B, 4) which of the four comes first, second, ...
    grayscale: Tensor  # (B,) bool
    blur: Tensor  # (B,) bool
    sigma: Tensor  # (B,) pixels


def _between(ends: tuple[float, float], u: Tensor) -> Tensor:
    """Uniform numbers in [0, 1) stretched to lie between the ends."""
    low, high = ends
    return low + (high - low) * u


def _draw_crops(u: Tensor, strengths: ViewStrengths, height: int, width: int) -> tuple[Tensor, ...]:
    """Crop boxes (top, left, height, width), each (B,), from uniform numbers u (B, 22).

    Area and aspect ratio are drawn until the box fits into the image, at most ten times; else the
    largest central box of an allowed ratio serves.
    """
    of_area, of_ratio, at_top, at_left = u.split((CROP_ATTEMPTS, CROP_ATTEMPTS, 1, 1), dim=1)
    area = height * width * _between(strengths.crop_scale, of_area)  # (B, attempts)
    ratio = _between(tuple(map(math.log, strengths.crop_ratio)), of_ratio).exp()
    w = (area * ratio).sqrt().round()
    h = (area / ratio).sqrt().round()
    fits = (w >= 1) & (w <= width) & (h >= 1) & (h <= height)
    first = fits.int().argmax(dim=1, keepdim=True)  # (B, 1) the first attempt that fits
    some = fits.any(dim=1)
    w = torch.where(some, w.gather(1, first).squeeze(1), min(width, round(height * strengths.crop_ratio[1])))
    h = torch.where(some, h.gather(1, first).squeeze(1), min(height, round(width / strengths.crop_ratio[0])))
    top = torch.where(some, (at_top[:, 0] * (height - h + 1)).floor(), ((height - h) / 2).floor())
    left = torch.where(some, (at_left[:, 0] * (width - w + 1)).floor(), ((width - w) / 2).floor())
    return top, left, h, w


def draw_parameters(
    strengths: ViewStrengths,
    seed: int,
    images: Tensor,
    draws: Tensor,
    height: int,
    width: int,
    dtype: torch.dtype = torch.float32,
) -> ViewParameters:
    """Draw the parameters of views of images of height x width pixels.

    Args:
        strengths: ranges and probabilities.
        seed, images, draws: see uniform.
        dtype: of all that is not bool or int.
    Source: torchvision's RandomResizedCrop, ColorJitter and GaussianBlur, whose distributions these are.
    """
    n_crop = 2 * CROP_ATTEMPTS + 2
    u = uniform(seed, images, draws, n_crop + 13).to(dtype)
    flip, jitter, grayscale, blur, sigma, *colours = u[:, n_crop:].unbind(dim=1)
    multiples = (strengths.brightness, strengths.contrast, strengths.saturation)
    ranges = [(max(0, 1 - strength), 1 + strength) for strength in multiples]
    ranges.append((-strengths.hue, strengths.hue))
    return ViewParameters(
        *_draw_crops(u[:, :n_crop], strengths, height, width),
        flip=flip < strengths.flip_p,
        jitter=jitter < strengths.jitter_p,
        factors=torch.stack(list(map(_between, ranges, colours[:4])), dim=1),
        order=torch.stack(colours[4:], dim=1).argsort(dim=1),
        grayscale=grayscale < strengths.grayscale_p,
        blur=blur < strengths.blur_p,
        sigma=_between(strengths.blur_sigma, sigma),
    )


def resize_matrix(start: Tensor, length: Tensor, size_in: int, size_out: int) -> Tensor:
    """Linear interpolation of a stretch of pixels, antialiased where it shrinks.

    Args:
        start, length: the stretch, in pixels, (B,).
        size_in, size_out: pixels of the whole line, and of the result.
    Returns:
        (B, size_out, size_in); rows sum to 1, and weights outside the stretch are 0.
    """
    scale = (length / size_out)[:, None, None]
    first = start[:, None, None]
    pixel = torch.arange(size_in, device=start.device) + 0.5  # (in,)
    centre = first + (torch.arange(size_out, device=start.device)[:, None] + 0.5) * scale  # (B, out, 1)
    weights = (1 - (pixel - centre).abs() / scale.clamp(min=1)).clamp(min=0)
    weights = weights * ((pixel > first) & (pixel < first + length[:, None, None]))
    return weights / weights.sum(dim=2, keepdim=True)


def blur_matrix(sigma: Tensor, kernel: int, size: int) -> Tensor:
    """Gaussian blur of a line of pixels, reflected at its ends.

    Args:
        sigma: pixels, (B,).
        kernel: taps, odd, pixels.
        size: pixels of the line.
    Returns:
        (B, size, size); rows sum to 1.
    """
    offset = torch.arange(kernel, device=sigma.device) - kernel // 2  # (kernel,)
    taps = torch.softmax(-0.5 * (offset / sigma[:, None]) ** 2, dim=1)  # (B, kernel)
    source = (torch.arange(size, device=sigma.device) + offset[:, None]).abs()  # (kernel, size)
    source = size - 1 - (size - 1 - source).abs()
    reads = source[:, :, None] == torch.arange(size, device=sigma.device)  # (kernel, size, size)
    return torch.einsum("bk,koi->boi", taps, reads.to(taps.dtype))


def separable(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Apply a matrix along each image axis: (B, 3, H, W), (B, H', H), (B, W', W) -> (B, 3, H', W')."""
    columns = columns.transpose(1, 2)
    return torch.stack([rows @ channel @ columns for channel in images.unbind(dim=1)], dim=1)


def crop_resize(images: Tensor, p: ViewParameters, size: int) -> Tensor:
    """Cut each image's box, resize it to size x size and mirror it where drawn so."""
    height, width = images.shape[2:]
    rows = resize_matrix(p.top, p.height, height, size)
    columns = resize_matrix(p.left, p.width, width, size)
    columns = torch.where(p.flip[:, None, None], columns.flip(1), columns)
    return separable(images, rows, columns)


def to_gray(images: Tensor) -> Tensor:
    """Luma, (B, 1, H, W)."""
    red, green, blue = images.unbind(dim=1)
    return (GRAY[0] * red + GRAY[1] * green + GRAY[2] * blue)[:, None]


def _blend(images: Tensor, other: Tensor | float, factor: Tensor) -> Tensor:
    """factor * images + (1 - factor) * other, kept in [0, 1]; factor (B,)."""
    factor = factor[:, None, None, None]
    return (factor * images).add_((1 - factor) * other).clamp_(0, 1)


def adjust_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue at equal HSV saturation and value; turns (B,) in [-0.5, 0.5]."""
    red, green, blue = images.unbind(dim=1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    # In turns from red; where chroma is 0 the hue has no meaning and no effect.
    sixth = (6 * chroma).clamp_(min=1e-12).reciprocal_()
    from_green = (blue - red).mul_(sixth).add_(1 / 3)
    from_blue = (red - green).mul_(sixth).add_(2 / 3)
    # Which channel is largest, as weights 0 and 1, because torch.where is 25 times slower on a CPU.
    hue = torch.lerp(from_green, from_blue, (value - green).sign_())
    hue = torch.lerp((green - blue).mul_(sixth), hue, (value - red).sign_()).add_(turns[:, None, None])
    turned = torch.empty_like(images)
    for channel, opposite in enumerate((1 / 2, -1 / 6, 1 / 6)):
        # At full saturation a channel is 0 up to a sixth of a turn from its opposite hue, and 1 from two on.
        away = hue - opposite
        away = away.sub_(away.round()).abs_()  # turns
        turned[:, channel] = torch.addcmul(value, chroma, torch.rsub(away, 2, alpha=6).clamp_(0, 1), value=-1)
    return turned


# Each takes images (B, 3, H, W) and a factor (B,).
COLOUR_OPERATIONS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda images, factor: _blend(images, 0.0, factor),  # brightness
    lambda images, factor: _blend(images, to_gray(images).mean(dim=(2, 3), keepdim=True), factor),  # contrast
    lambda images, factor: _blend(images, to_gray(images), factor),  # saturation
    adjust_hue,
)


def apply_where(
    images: Tensor, chosen: Tensor, operation: Callable[..., Tensor], *parameters: Tensor
) -> Tensor:
    """Do operation(images, *parameters) on some of the images, which may be overwritten.

    Args:
        images: (B, 3, H, W).
        chosen: (B,) bool.
        operation: keeps the shape, and each row depends on its own row only.
        parameters: of the operation, each with B rows.
    """
    if images.is_cpu:
        rows = chosen.nonzero().squeeze(1)
        some = (values.index_select(0, rows) for values in (images, *parameters))
        return images.index_copy_(0, rows, operation(*some))
    # A GPU does all of them: the host would have to wait for it to learn how many are chosen.
    return torch.where(chosen[:, None, None, None], operation(images, *parameters), images)


def color_jitter(images: Tensor, p: ViewParameters) -> Tensor:
    """Brightness, contrast, saturation and hue, in each image's own order, where p says so."""
    for of_place in p.order.unbind(dim=1):
        for index, operation in enumerate(COLOUR_OPERATIONS):
            images = apply_where(images, p.jitter & (of_place == index), operation, p.factors[:, index])
    return images


def make_views(
    dataset: Tensor,
    images: Tensor,
    draws: Tensor,
    *,
    seed: int = 0,
    size: int | None = None,
    strengths: ViewStrengths = ORIGINAL,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Views of some images of a dataset.

    >>> import torch
    >>> dataset = torch.arange(5 * 3 * 16 * 16).remainder(256).to(torch.uint8).view(5, 3, 16, 16)
    >>> images, draws = torch.tensor([4, 4, 0]), torch.tensor([0, 1, 0])  # two views of image 4
    >>> views = make_views(dataset, images, draws)
    >>> views.shape
    torch.Size([3, 3, 16, 16])
    >>> torch.equal(make_views(dataset, images[1:2], draws[1:2]), views[1:2])  # the same in whatever batch
    True

    Args:
        dataset: all images, (N, 3, H, W) uint8; where they lie, the views are made.
        images: which image each view is of, (B,) int64.
        draws: which of the image's views, counted from the start of training, (B,) int64; see ViewSampler.
        seed: of the study.
        size: height and width of a view, pixels; None: the height of the images.
        strengths: of the transform; the original's by default.
        dtype: of the pixels and the arithmetic.
    Returns:
        (B, 3, size, size) in [0, 1].
    Source: the original's transform; Chen et al. 2020, arXiv:2002.05709, Appendix A.
    """
    height, width = dataset.shape[2:]
    size = size or height
    images, draws = images.to(dataset.device), draws.to(dataset.device)
    p = draw_parameters(strengths, seed, images, draws, height, width, dtype)
    kernel = strengths.blur_kernel or (3 if size <= 32 else 5)

    def blur(some: Tensor, sigma: Tensor) -> Tensor:
        matrix = blur_matrix(sigma, kernel, size)
        return separable(some, matrix, matrix)

    views = crop_resize(dataset.index_select(0, images).to(dtype).div_(255), p, size)
    views = color_jitter(views, p)
    views = apply_where(views, p.grayscale, lambda some: to_gray(some).expand_as(some))
    return apply_where(views, p.blur, blur, p.sigma)
