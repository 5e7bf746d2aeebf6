"""The network as it is handed in: `export.py` puts this class, with a run's values, below models.py."""

from torch import Tensor, nn

from manyviews.simclr.models import SimCLR, make_backbone, make_projection_head

# The original's baseline.
DEPTH = 18
STEM = "conv3"
WIDTH = 64
INPUT_DIM = 64
FEATURE_DIM = 1000
PROJ_HIDDEN = 2048
PROJ_DIM = 128
PROJ_NORM = False


class ImageEncoder(SimCLR):
    """A trained network, which needs this file and its weights only.

        encoder = ImageEncoder()
        safetensors.torch.load_model(encoder, "final_model.safetensors")
        features = encoder.eval().get_features(images)

    Without eval(), BatchNorm uses the statistics of the batch and changes those that it learned.

    Args:
        input_dim: height and width of the training images in pixels; others work, but were not trained on.
        input_channels: 3, for RGB; another is a ValueError.
        feature_dim: size of the features.
        proj_dim: size of the projections.
    """

    def __init__(
        self,
        input_dim: int = INPUT_DIM,
        input_channels: int = 3,
        feature_dim: int = FEATURE_DIM,
        proj_dim: int = PROJ_DIM,
    ):
        if input_channels != 3:
            raise ValueError(f"input_channels must be 3, for the network reads RGB, not {input_channels}")
        super().__init__(
            make_backbone(DEPTH, STEM, WIDTH, feature_dim),
            make_projection_head(feature_dim, PROJ_HIDDEN, proj_dim, PROJ_NORM),
        )
        self.input_dim, self.input_channels = input_dim, input_channels
        self.feature_dim, self.proj_dim = feature_dim, proj_dim

    def get_features(self, x: Tensor) -> Tensor:
        """Features, which the probes read, of images in [0, 1]: (B, 3, H, W) -> (B, feature_dim)."""
        return self.backbone(x)

    def forward(self, x: Tensor) -> Tensor:
        """Unit-length projections, as the loss compares them: (B, 3, H, W) in [0, 1] -> (B, proj_dim)."""
        return nn.functional.normalize(super().forward(x), dim=1)
