"""The contrastive loss."""

import torch
import torch.nn.functional as F
from torch import Tensor


def nt_xent(z: Tensor, temperature: float) -> Tensor:
    """NT-Xent loss of paired views.

    Args:
        z: projections, (2N, D); rows i and N + i are the two views of image i. Normalised here.
        temperature: softmax temperature, > 0, unitless.
    Returns:
        Scalar mean loss in nats; log(2N - 1) when all rows are equal.
    Raises:
        ValueError: z not a matrix with an even, positive number of rows, or temperature <= 0.
    Source: Chen et al. 2020, arXiv:2002.05709, Algorithm 1.
    """
    if z.ndim != 2 or len(z) == 0 or len(z) % 2:
        raise ValueError(f"z must have shape (2N, D), two rows for each image, not {tuple(z.shape)}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    # bfloat16 similarities would be rounded to 1/128 near 1: too coarse for a softmax at low temperature.
    z = F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)), dim=1)  # (2N, D)
    similarity = z @ z.T / temperature  # (2N, 2N)
    similarity.fill_diagonal_(-torch.inf)  # a view is neither its own positive nor a negative
    positive = torch.arange(len(z), device=z.device).roll(len(z) // 2)  # (2N,)
    return F.cross_entropy(similarity, positive)
