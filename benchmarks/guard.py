"""A look for gross loss, for continuous integration."""

from benchmarks.timing import interleaved
from benchmarks.training import NETWORKS, ours, random_images

LOWEST = 0.8  # of the rate of the network alone
ATTEMPTS = 3  # a loss that is gross shows in each; another program's interference does not


def check(repeats: int) -> int:
    """Exit status: 1 if training is much slower than its network."""
    network = NETWORKS[0]
    for _ in range(ATTEMPTS):
        whole, alone = interleaved("guard", "views/s", ours(network, random_images(network)), repeats)
        fraction = whole["high"] / alone["high"]  # the best of each, which other programs disturb least
        print(f"{network}: {fraction:.2f} of the network's own views/s; at least {LOWEST} wanted")
        if fraction >= LOWEST:
            return 0
    return 1
