"""A look for gross loss, for continuous integration."""

from benchmarks.timing import interleaved
from benchmarks.training import NETWORKS, ours, random_images

LOWEST = 0.8  # of the rate of the network alone


def check(repeats: int) -> int:
    """Exit status: 1 if training is much slower than its network."""
    network = NETWORKS[0]
    whole, alone = interleaved("guard", "views/s", ours(network, random_images(network)), repeats)
    share = whole["high"] / alone["high"]  # the best of each, which other programs disturb least
    print(
        f"{network}: {whole['high']:.0f} views/s, {share:.2f} of the network alone; at least {LOWEST} wanted"
    )
    return int(share < LOWEST)
