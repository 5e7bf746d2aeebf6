"""Fractal images: a labelled image set that needs no download, determined by its numbers and a seed.

A class is one iterated function system (a few contracting affine maps); an image is its attractor, drawn
with the maps slightly perturbed, at another angle, size and place, mirrored or not, brighter or darker. Shape
alone tells the classes apart: an image's colours are one of four palettes, drawn at random for each image of
each class. With colours of its own for every image a contrastive network tells images apart by colour and
learns nothing else. Mirroring and brightness are what the random views undo, so that raw pixels are a weak
baseline and learning shows.

Every class and every image has a random stream of its own, so that asking for more classes or more images
leaves the first ones as they were.

Source: the recipe follows Anderson & Farrell 2022, arXiv:2110.03091 (sampling of the maps); the jitter and
the palettes are ours.
"""

from typing import NamedTuple

import numpy as np

from manyviews.config.schema import LIMITS, DataConfig
from manyviews.data.dataset import Built, Split

RECIPE = 2  # counts changes of the images that a seed gives
DETERMINED_BY = (*LIMITS, "image_size", "seed")
SYNTHETIC = True

FILL = (0.12, 0.60)  # fraction of a 32x32 grid that a class must touch: neither dust nor a blot
FILL_GRID = 32  # pixels
N_MAPS = (2, 5)  # fewest and most maps of a system
LARGEST_STRETCH = 0.88  # of a map: with MAP_JITTER on every entry, all maps still contract
MAP_JITTER = 0.08  # relative, uniform
ROTATION = 0.3  # radians, either way
SCALE = (0.45, 1.0)  # of the half canvas
SHIFT = 0.3  # of the half canvas, either way
MIRRORED = 0.5  # fraction of the images, left to right
GAIN = 0.3  # of the brightness, relative, either way
OFFSET = 20.0  # of the brightness, of 255, either way
POINTS = 4000  # drawn per 32x32 pixels, so that larger images are as dense
PIXEL_NOISE = 10.0  # standard deviation, of 255
BURN_IN, KEPT = 16, 20  # steps of a walk before and while its points are drawn
BATCH = 64  # images drawn at once; changes memory, not results

# RGB of an empty, a half-bright and the brightest pixel.
PALETTES = np.array(
    [
        [[18, 22, 48], [64, 120, 190], [235, 240, 250]],
        [[44, 20, 18], [196, 96, 48], [255, 236, 180]],
        [[16, 38, 26], [70, 150, 90], [230, 250, 190]],
        [[38, 18, 46], [160, 70, 150], [255, 214, 235]],
    ],
    dtype=np.float32,
)

# First number of a random stream's key; a stream is (kind, class) or (kind, class, image).
STREAMS = {"system": 0, "ood_system": 1, "train": 2, "val": 3, "ood": 4}


class System(NamedTuple):
    """An iterated function system: x -> A x + b with A = maps[m, :, :2], b = maps[m, :, 2]."""

    maps: np.ndarray  # (M, 2, 3) float32
    weights: np.ndarray  # (M,) float32, sums to 1: how often each map is applied


def build(config: DataConfig) -> Built:
    """Draw the three splits, ordered by class.

    The same configuration gives the same images, but for single pixels where another processor rounds
    differently.
    """
    plan = {
        "train": ("system", config.classes, config.train_per_class),
        "val": ("system", config.classes, config.val_per_class),
        "ood": ("ood_system", config.ood_classes, config.ood_per_class),
    }
    splits = {}
    for split, (kind, n_classes, per_class) in plan.items():
        images = []
        for label in range(n_classes):
            system = sample_system(stream(config.seed, kind, label))
            rngs = [stream(config.seed, split, label, index) for index in range(per_class)]
            for start in range(0, per_class, BATCH):
                images.append(draw_images(system, rngs[start : start + BATCH], config.image_size))
        splits[split] = Split(np.concatenate(images), np.repeat(np.arange(n_classes), per_class))
    class_names = [f"fractal {i}" for i in range(config.classes)]
    return Built(splits.items(), class_names, [f"unseen fractal {i}" for i in range(config.ood_classes)])


def stream(seed: int, kind: str, *key: int) -> np.random.Generator:
    """The random numbers of one class or one image, independent of all others."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(STREAMS[kind], *key)))


def sample_system(rng: np.random.Generator) -> System:
    """Draw systems until one fills between FILL[0] and FILL[1] of the grid."""
    while True:
        system = _sample_maps(rng)
        walks = rng.random((1, BURN_IN + KEPT, POINTS // KEPT), dtype=np.float32)
        points = to_canvas(attractor(system.maps[None], system.weights, walks))
        filled = np.count_nonzero(histogram(points, FILL_GRID)) / FILL_GRID**2
        if FILL[0] <= filled <= FILL[1]:
            return system


def _sample_maps(rng: np.random.Generator) -> System:
    """A random system, A = rotation x diag(s1, s2) x rotation with a constrained sum of s1 + 2 s2.

    The constraint, (5 + M) / 2 <= sum over maps of (s1 + 2 s2) <= (6 + M) / 2, keeps attractors from
    being dust or a blot. Source: Anderson & Farrell 2022, arXiv:2110.03091; unlike there,
    the singular values are drawn uniformly, scaled to the sum and rejected if too large.
    """
    n_maps = int(rng.integers(N_MAPS[0], N_MAPS[1] + 1))
    while True:
        stretch = np.sort(rng.random((n_maps, 2)), axis=1)[:, ::-1]  # (M, 2), s1 >= s2
        target = rng.uniform(0.5 * (5 + n_maps), 0.5 * (6 + n_maps))
        stretch = stretch * (target / (stretch @ [1.0, 2.0]).sum())
        if stretch.max() <= LARGEST_STRETCH:
            break
    left, right = rotation(rng.uniform(0, 2 * np.pi, (2, n_maps)))  # (M, 2, 2) each
    mirror = rng.choice([-1.0, 1.0], (n_maps, 2))
    linear = np.einsum("mij,mj,mjk->mik", left, stretch * mirror, right)
    offset = rng.uniform(-1, 1, (n_maps, 2, 1))
    area = np.maximum(np.abs(np.linalg.det(linear)), 0.01)  # a thin map is visited too
    maps = np.concatenate([linear, offset], axis=2).astype(np.float32)
    return System(maps, (area / area.sum()).astype(np.float32))


def rotation(angle: np.ndarray) -> np.ndarray:
    """Rotation matrices of angles in radians, shape (..., 2, 2)."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cos, -sin], axis=-1), np.stack([sin, cos], axis=-1)], axis=-2)


def draw_images(system: System, rngs: list[np.random.Generator], image_size: int) -> np.ndarray:
    """One image for each of the B random streams, all of the system's class: (B, H, W, 3) uint8."""
    n_walks = round(POINTS * (image_size / FILL_GRID) ** 2 / KEPT)
    jitter = np.stack([rng.uniform(-1, 1, system.maps.shape) for rng in rngs])  # (B, M, 2, 3)
    pose = np.stack([rng.uniform(-1, 1, 4) for rng in rngs])  # (B, 4): angle, scale, shift x, shift y
    palette = [int(rng.integers(len(PALETTES))) for rng in rngs]
    noise = np.stack([rng.standard_normal((image_size, image_size, 3), dtype=np.float32) for rng in rngs])
    walks = np.stack([rng.random((BURN_IN + KEPT, n_walks), dtype=np.float32) for rng in rngs])
    mirrored = np.array([rng.random() < MIRRORED for rng in rngs])  # (B,)
    light = np.stack([rng.uniform(-1, 1, 2) for rng in rngs]).astype(np.float32)[:, :, None, None, None]

    maps = (system.maps * (1 + MAP_JITTER * jitter)).astype(np.float32)
    points = to_canvas(attractor(maps, system.weights, walks))  # (B, 2, P)
    density = np.log1p(histogram(move(points, pose), image_size)).astype(np.float32)  # (B, H, W)
    density /= np.maximum(density.max(axis=(1, 2), keepdims=True), 1e-6)
    colours = np.stack([colour(d, PALETTES[p]) for d, p in zip(density, palette, strict=True)])
    colours = np.where(mirrored[:, None, None, None], colours[:, :, ::-1], colours)
    colours = (1 + GAIN * light[:, 0]) * colours + OFFSET * light[:, 1]
    return np.clip(np.rint(colours + PIXEL_NOISE * noise), 0, 255).astype(np.uint8)


def colour(density: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """RGB (H, W, 3) of densities (H, W) in [0, 1], linear between the palette's three colours (3, 3)."""
    return np.stack([np.interp(density, [0, 0.5, 1], channel) for channel in palette.T], axis=-1)


def attractor(maps: np.ndarray, weights: np.ndarray, walks: np.ndarray) -> np.ndarray:
    """Points of the attractors of B systems by many short random walks at once (the chaos game).

    Args:
        maps, weights: shapes (B, M, 2, 3) and (M,), see System.
        walks: uniform numbers in [0, 1) that choose the maps, shape (B, BURN_IN + KEPT, walks).
    Returns:
        Points, shape (B, 2, KEPT x walks).
    """
    n_images, n_maps = maps.shape[:2]
    which = np.zeros(walks.shape, dtype=np.intp)
    for edge in np.cumsum(weights)[:-1]:
        which += walks >= edge
    which += np.arange(n_images)[:, None, None] * n_maps  # row of the map in the flat table
    coefficients = maps.reshape(n_images * n_maps, 6).T.copy()  # (6, B x M)
    x = np.zeros((n_images, walks.shape[2]), dtype=np.float32)
    y = np.zeros_like(x)
    kept = []
    for step in range(walks.shape[1]):
        a, b, c, d, e, f = (row[which[:, step]] for row in coefficients)
        x, y = a * x + b * y + c, d * x + e * y + f
        if step >= BURN_IN:
            kept.append(np.stack([x, y], axis=1))
    return np.concatenate(kept, axis=2)


def to_canvas(points: np.ndarray) -> np.ndarray:
    """Centre each image's points, shape (B, 2, P), and scale them to fit [-1, 1] squared."""
    low, high = points.min(axis=2, keepdims=True), points.max(axis=2, keepdims=True)
    half = np.maximum((high - low).max(axis=1, keepdims=True) / 2, 1e-6)
    return (points - (low + high) / 2) / half


def move(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Rotate, scale and shift points (B, 2, P) by poses (B, 4) of numbers in [-1, 1]."""
    scale = SCALE[0] + (SCALE[1] - SCALE[0]) * (pose[:, 1] + 1) / 2
    turn = (rotation(ROTATION * pose[:, 0]) * scale[:, None, None]).astype(np.float32)  # (B, 2, 2)
    shift = (SHIFT * pose[:, 2:4]).astype(np.float32)
    x, y = points[:, 0], points[:, 1]
    rows = [turn[:, i, 0, None] * x + turn[:, i, 1, None] * y + shift[:, i, None] for i in range(2)]
    return np.stack(rows, axis=1)


def histogram(points: np.ndarray, size: int) -> np.ndarray:
    """Points per pixel: points (B, 2, P) in [-1, 1] squared to counts (B, size, size); strays are dropped."""
    n_images = len(points)
    column, row = np.moveaxis(np.floor((points + 1) * (size / 2)).astype(np.intp), 1, 0)  # (B, P) each
    inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
    cell = (np.arange(n_images)[:, None] * size + row) * size + column
    counts = np.bincount(cell[inside], minlength=n_images * size * size)
    return counts.reshape(n_images, size, size)
