"""Streaming second moments: sums that add up over chunks and ranks, without loss to cancellation."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from convscope.metrics.functional._precision import as_double, at_least_single, is_varying, without_graph


class Moments(NamedTuple):
    """Sums over observations, float64: they add up over chunks and over ranks.

    Attributes:
        observations: how many were seen.
        total: ``(C,)``, sum of each variable.
        product: ``(C, C)``, sum of ``z zᵀ``.
    """

    observations: float | Tensor
    total: Tensor
    product: Tensor


@lru_cache(maxsize=32)  # asked for by each layer in each chunk, and taking them to a device would wait for it
def sample_positions(
    num_positions: int, max_positions: int | None, seed: int, device: torch.device | None = None
) -> Tensor | None:
    """Positions of a map that are used: fixed by the seed and the size of the map, ``None`` for all. Read only."""
    if max_positions is None or num_positions <= max_positions:
        return None
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode(False):  # they outlive the block that asks first
        return torch.randperm(num_positions, generator=generator)[:max_positions].sort().values.to(device)


def as_variables(activation: Tensor, max_positions: int | None = None, seed: int = 0) -> Tensor:
    """Activations ``(N, C, *S)`` as a view or small copy ``(C, N, P)``: filters against observations."""
    values = without_graph(activation)
    maps = values.flatten(2) if values.ndim > 2 else values[..., None]
    positions = sample_positions(maps.shape[2], max_positions, seed, maps.device)
    if positions is not None:
        maps = maps[:, :, positions]  # twice as fast on the CPU as index_select
    return at_least_single(maps).permute(1, 0, 2)


def moments_of(variables: Tensor) -> Moments:
    """Moments of one chunk ``(C, N, P)``.

    The chunk is centred by its own mean before the matrix product, and the mean's part is added back in float64:
    the product can run in float32, since everything that cancels later is float64.
    """
    count = variables.shape[1] * variables.shape[2]
    mean = variables.mean(dim=(1, 2), keepdim=True)
    # Written into a contiguous (C, N, P): `variables` is a permuted view, of which the product below would be far
    # slower.
    centred = torch.empty(variables.shape, dtype=variables.dtype, device=variables.device)
    torch.sub(variables, mean, out=centred)
    flat = centred.view(len(mean), -1)
    scatter, mean = as_double(flat @ flat.T), as_double(mean).flatten()
    scatter.addr_(mean, mean, alpha=count)
    return Moments(count, count * mean, scatter)


def channel_moments(activation: Tensor, max_positions: int | None = None, seed: int = 0) -> Moments:
    """Moments of one chunk ``(N, C, *S)`` over samples and positions, see :func:`sample_positions`."""
    return moments_of(as_variables(activation, max_positions, seed))


def covariance_of(moments: Moments) -> Tensor:
    """Population covariance ``(C, C)`` in float64."""
    mean = moments.total / moments.observations
    return (moments.product / moments.observations).sub_(torch.outer(mean, mean))


def correlation_of(moments: Moments) -> tuple[Tensor, Tensor]:
    """Pearson matrix ``(C, C)`` in float64, zero rows for constant filters, and the mask of the others."""
    covariance = covariance_of(moments)
    variance = covariance.diagonal()
    varying = is_varying(variance, moments.product.diagonal() / moments.observations)
    inverse = torch.where(varying, variance.clamp(min=0).rsqrt(), 0.0)
    matrix = covariance.mul_(torch.outer(inverse, inverse)).clamp_(-1, 1)
    matrix.diagonal().copy_(varying.double())
    return matrix, varying
