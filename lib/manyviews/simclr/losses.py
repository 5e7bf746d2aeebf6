"""The contrastive losses."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

MultiViewLoss = Literal["pairs", "outside", "inside"]


def nt_xent(z: Tensor, temperature: float = 0.5) -> Tensor:
    """NT-Xent loss of paired views.

    >>> import torch
    >>> one, other = torch.eye(3), torch.eye(3)  # projections of the first and second views of three images
    >>> round(nt_xent(torch.cat([one, other])).item(), 4)
    0.4327
    >>> round(nt_xent(torch.ones(6, 3)).item(), 4)  # log 5
    1.6094

    Args:
        z: projections, (2N, D); rows i and N + i are the two views of image i. Normalised here.
        temperature: softmax temperature, > 0, unitless.
    Returns:
        Scalar mean loss in nats; log(2N - 1) when all rows are equal.
    Raises:
        ValueError: z not a matrix with an even, positive number of rows, or temperature <= 0.
    Source: Chen et al. 2020, arXiv:2002.05709, Algorithm 1.
    """
    similarity = _similarity(z, 2, temperature)  # (2N, 2N)
    positive = torch.arange(len(z), device=z.device).roll(len(z) // 2)  # (2N,)
    return F.cross_entropy(similarity, positive)


def multi_view_nt_xent(
    z: Tensor, n_views: int, temperature: float = 0.5, definition: MultiViewLoss = "outside"
) -> Tensor:
    """NT-Xent loss of V views of each image, in one of three definitions; for V = 2 each is nt_xent.

    >>> import torch
    >>> z = torch.eye(3).repeat(4, 1)  # four views of each of three images
    >>> for definition in ("pairs", "outside", "inside"):
    ...     print(definition, round(multi_view_nt_xent(z, 4, definition=definition).item(), 4))
    pairs 0.4327
    outside 1.4068
    inside 0.3081

    Each row is an anchor r; its positives p are the V - 1 other views of its image. With s the cosine of two
    rows over the temperature, the loss is the mean over all anchors of

    - pairs: the mean over p of -log(exp s(r, p) / sum_c exp s(r, c)), where c runs over the 2N - 1 rows
      other than r in the two views to which r and p belong. This is the mean of nt_xent over all pairs of
      views. Negatives: 2(N - 1), the other images in these two views.
    - outside: the same with c over all VN - 1 rows other than r. Negatives: V(N - 1), the other images in
      all views. The V - 2 other positives stand in the denominator too: the loss is never below log(V - 1).
    - inside: -log(sum_p exp s(r, p) / sum_c exp s(r, c)) with c and negatives as in "outside".

    Args:
        z: projections, (VN, D); rows i, N + i, 2N + i, ... are the views of image i. Normalised here.
        n_views: V, at least 2.
        temperature: softmax temperature, > 0, unitless.
        definition: "pairs", "outside" or "inside".
    Returns:
        Scalar loss in nats; when all rows are equal log(2N - 1), log(VN - 1) or log((VN - 1) / (V - 1)).
    Raises:
        ValueError: z not a matrix with a positive multiple of V rows, V < 2, temperature <= 0, or a
            definition that is none of the three.
    Source: "outside" is L_out of Khosla et al. 2020, arXiv:2004.11362, equation 2, with the image as class.
        "inside" is L_in, equation 3, without its factor 1 / (V - 1): less by log(V - 1), of equal gradient.
    """
    similarity = _similarity(z, n_views, temperature)  # (VN, VN)
    n_rows, n_images = len(z), len(z) // n_views
    anchors = torch.arange(n_rows, device=z.device)[:, None]  # (VN, 1)
    to_other_views = n_images * torch.arange(1, n_views, device=z.device)  # (V - 1,)
    positives = (anchors + to_other_views) % n_rows  # (VN, V - 1)
    attraction = similarity.gather(1, positives)  # (VN, V - 1)
    if definition == "inside":
        return (similarity.logsumexp(1) - attraction.logsumexp(1)).mean()
    if definition == "outside":
        return (similarity.logsumexp(1, keepdim=True) - attraction).mean()
    if definition == "pairs":
        # Summed once for each view; a pair's denominator is then the sum of two of these.
        of_view = similarity.view(n_rows, n_views, n_images).logsumexp(2)  # (VN, V)
        own, other = of_view.gather(1, anchors // n_images), of_view.gather(1, positives // n_images)
        return (torch.logaddexp(own, other) - attraction).mean()
    raise ValueError(f"definition must be 'pairs', 'outside' or 'inside', not {definition!r}")


def _similarity(z: Tensor, n_views: int, temperature: float) -> Tensor:
    """Cosines of all rows of z over the temperature, (VN, VN); -inf on the diagonal."""
    if n_views < 2:
        raise ValueError(f"n_views must be at least 2, not {n_views}")
    if z.ndim != 2 or len(z) == 0 or len(z) % n_views:
        raise ValueError(
            f"z must have shape ({n_views}N, D), {n_views} rows for each image, not {tuple(z.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    # bfloat16 similarities would be rounded to 1/128 near 1: too coarse for a softmax at low temperature.
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    # First by a power of two, which alters no bit of the cosines: squares of large values would overflow.
    mantissa, exponent = torch.frexp(z.detach().abs().amax(dim=1, keepdim=True))  # (VN, 1)
    # ldexp of a constant: by its gradient, versions of torch before 2.14 let nothing of z be learned.
    z = F.normalize(z * torch.ldexp(torch.ones_like(mantissa), -exponent), dim=1)
    similarity = z @ z.T / temperature
    return similarity.fill_diagonal_(-torch.inf)  # a view is neither its own positive nor a negative
