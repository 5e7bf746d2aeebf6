"""The network: a ResNet backbone and a projection head."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.resnet import BasicBlock

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}  # depth: residual blocks of the four stages
STEMS = {"conv3": 3, "conv7": 7}  # pixels of the first convolution, each way


def make_stem(stem: str, width: int) -> nn.Sequential:
    """First convolution, with stride 1 and without pooling: (B, 3, H, W) -> (B, width, H, W).

    Args:
        stem: conv3 (3 x 3) or conv7 (7 x 7).
        width: output channels.
    Raises:
        ValueError: unknown stem.
    """
    if stem not in STEMS:
        raise ValueError(f"unknown stem '{stem}'; choose one of: {', '.join(STEMS)}")
    return nn.Sequential(
        nn.Conv2d(3, width, STEMS[stem], padding=STEMS[stem] // 2, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )


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


def make_backbone(
    depth: int = 18, stem: str = "conv3", width: int = 64, feature_dim: int = 1000
) -> nn.Sequential:
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
    backbone = nn.Sequential(layers)
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return backbone


def make_projection_head(
    feature_dim: int = 1000, hidden: int = 2048, dim: int = 128, norm: bool = False
) -> nn.Sequential:
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


def layout_of(model: nn.Module) -> torch.memory_format:
    """The memory layout to train in: channels last, which is faster, unless the network is too narrow for it.

    On processors without AVX-512, the gradient of a strided 1x1 convolution of fewer than 8 channels in that
    layout writes past its memory, or hangs. Source: oneDNN, issue 6035.
    """
    strided = (m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1))
    narrow = any(convolution.in_channels < 8 for convolution in strided)
    return torch.contiguous_format if narrow else torch.channels_last


def make_simclr(
    seed: int = 0,
    *,
    depth: int = 18,
    stem: str = "conv3",
    width: int = 64,
    feature_dim: int = 1000,
    projection_hidden: int = 2048,
    projection_dim: int = 128,
    projection_norm: bool = False,
    n_classes: int | None = None,
) -> SimCLR:
    """A network with initial weights that depend on the seed only; the defaults are the original's baseline.

    Args:
        seed: of the weights; the global generator is left as it was.
        depth, stem, width, feature_dim: see make_backbone.
        projection_hidden, projection_dim, projection_norm: see make_projection_head.
        n_classes: for supervised training, where the head is a linear classifier of so many classes.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = make_backbone(depth, stem, width, feature_dim)
        if n_classes is not None:
            return SimCLR(backbone, nn.Linear(feature_dim, n_classes))
        head = make_projection_head(feature_dim, projection_hidden, projection_dim, projection_norm)
    return SimCLR(backbone, head)


def count_parameters(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the block a model is in evaluation mode; then each of its modules is put back into its own."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def count_macs(model: nn.Module, image_size: int) -> int:
    """Multiply-adds (MACs) of one view's forward pass, in convolutions and matrix products."""
    weight = next(model.parameters())
    with evaluating(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(weight.new_zeros(1, 3, image_size, image_size))
    return counter.get_total_flops() // 2


def receptive_field(backbone: nn.Sequential) -> int:
    """Pixels, each way, that one place of the last stage sees of an image, by the longest path."""
    field, step = 1, 1
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):  # shortcuts see no farther
            field += (module.kernel_size[0] - 1) * step
            step *= module.stride[0]
    return field
