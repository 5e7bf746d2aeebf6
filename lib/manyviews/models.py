"""The network: a ResNet backbone and a projection head."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.resnet import BasicBlock

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}  # depth: residual blocks of the four stages


def make_stem(stem: str, width: int) -> nn.Sequential:
    """First convolution and pooling.

    Args:
        stem: conv3 (3x3, stride 1), conv7 (7x7, stride 1), conv3_pool (conv3 and max-pooling) or
            imagenet (7x7, stride 2, and max-pooling).
        width: output channels.
    Returns:
        Module (B, 3, H, W) -> (B, width, H', W'), where H' = H, H, H / 2 and H / 4, in this order.
    Raises:
        ValueError: unknown stem.
    """
    kernels = {"conv3": (3, 1), "conv7": (7, 1), "conv3_pool": (3, 1), "imagenet": (7, 2)}
    if stem not in kernels:
        raise ValueError(f"unknown stem '{stem}'; choose one of: {', '.join(kernels)}")
    kernel, stride = kernels[stem]
    layers: list[nn.Module] = [
        nn.Conv2d(3, width, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    ]
    if stem in ("conv3_pool", "imagenet"):
        layers.append(nn.MaxPool2d(kernel_size=3, stride=2, padding=1))
    return nn.Sequential(*layers)


def make_stage(channels_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    """Residual blocks at one resolution: (B, channels_in, H, W) -> (B, channels, H / stride, W / stride)."""
    shortcut = None
    if stride != 1 or channels_in != channels:
        shortcut = nn.Sequential(
            nn.Conv2d(channels_in, channels, kernel_size=1, stride=stride, bias=False),
            nn.BatchNorm2d(channels),
        )
    first = BasicBlock(channels_in, channels, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(channels, channels) for _ in range(blocks - 1)))


def make_backbone(depth: int, stem: str, width: int, feature_dim: int) -> nn.Sequential:
    """ResNet-18 or -34 as in torchvision, with a choice of stem and width.

    Args:
        depth: 18 or 34.
        stem: see make_stem.
        width: channels of the first stage; 64 is the original.
        feature_dim: size of the `fc` output, the features (D).
    Returns:
        Module (B, 3, H, W) -> (B, D).
    Raises:
        ValueError: unknown depth or stem.
    Source: He et al. 2015, arXiv:1512.03385; initialisation as in torchvision.
    """
    if depth not in BLOCKS:
        raise ValueError(f"unknown depth {depth}; choose one of: {', '.join(map(str, BLOCKS))}")
    layers = OrderedDict(stem=make_stem(stem, width))
    channels = [width, width, 2 * width, 4 * width, 8 * width]
    for stage, blocks in enumerate(BLOCKS[depth]):
        stride = 1 if stage == 0 else 2
        layers[f"layer{stage + 1}"] = make_stage(channels[stage], channels[stage + 1], blocks, stride)
    layers["pool"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    layers["fc"] = nn.Linear(8 * width, feature_dim)
    for module in (m for layer in layers.values() for m in layer.modules()):
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(layers)


def make_projection_head(feature_dim: int, hidden: int, dim: int, norm: bool) -> nn.Sequential:
    """Two linear layers, with or without BatchNorm between them: (B, feature_dim) -> (B, dim)."""
    layers: list[nn.Module] = [nn.Linear(feature_dim, hidden)]
    if norm:
        layers.append(nn.BatchNorm1d(hidden))
    return nn.Sequential(*layers, nn.ReLU(inplace=True), nn.Linear(hidden, dim))


class SimCLR(nn.Module):
    """Backbone and projection head.

    Probes read `backbone(x)`, the features (B, D); the loss reads `forward(x)`, the projections z
    (B, projection_dim), which it normalises. For supervised training the head is a linear classifier of
    the features, so that the loss asks of them what the linear probe does.
    """

    def __init__(self, backbone: nn.Module, projection_head: nn.Module):
        super().__init__()
        self.backbone = backbone
        self.projection_head = projection_head

    def forward(self, x: Tensor) -> Tensor:
        return self.projection_head(self.backbone(x))


def count_parameters(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def count_multiply_adds(model: nn.Module, image_size: int) -> int:
    """Multiply-adds of one view's forward pass, in convolutions and matrix products.

    The model's training mode and weights stay as they are.
    """
    training = model.training
    weight = next(model.parameters())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(weight.new_zeros(1, 3, image_size, image_size))
    model.train(training)
    return counter.get_total_flops() // 2
