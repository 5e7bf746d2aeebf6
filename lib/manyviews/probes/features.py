"""Features of whole images, without augmentation."""

import torch
from torch import Tensor, nn

from manyviews.simclr.models import evaluating

Features = dict[str, Tensor]  # (N, D) for each split


@torch.inference_mode()
def extract_features(backbone: nn.Sequential, images: Tensor, batch_size: int = 512) -> dict[str, Tensor]:
    """Features of images.

    Args:
        backbone: (B, 3, H, W) -> (B, D), its last layer the `fc`. Used in evaluation mode.
        images: (N, 3, H, W) uint8.
        batch_size: images at a time; has no effect on the result beyond rounding.
    Returns:
        "fc" (N, D), what the original's probes read, and "pooled" (N, 8 x width), what the fc reads; both on
        the backbone's device and of the type of its weights.
    """
    weight = next(backbone.parameters())
    pooled = []
    with evaluating(backbone):
        for batch in images.split(batch_size):
            x = batch.to(weight.device, weight.dtype).div(255).contiguous(memory_format=torch.channels_last)
            pooled.append(backbone[:-1](x))
        fc = [backbone[-1](x) for x in pooled]
    return {"fc": torch.cat(fc), "pooled": torch.cat(pooled)}


def split_features(
    backbone: nn.Sequential, images: dict[str, Tensor], batch_size: int = 512
) -> dict[str, Features]:
    """Features of all splits: {"fc": {split: (N, D)}, "pooled": {split: (N, 8 x width)}}."""
    by_split = {name: extract_features(backbone, of_split, batch_size) for name, of_split in images.items()}
    return {layer: {name: by_split[name][layer] for name in by_split} for layer in ("fc", "pooled")}
