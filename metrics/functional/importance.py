"""Filter importance by six criteria: arithmetic only, each as sums that add up over chunks."""

from __future__ import annotations

import torch
from torch import Tensor

from convscope._arguments import one_of
from convscope.metrics.functional._maps import map_blocks, scratch, sum_inside
from convscope.metrics.functional._precision import as_double, at_least_single, column_squares, is_varying
from convscope.metrics.functional._validation import (
    check_channels,
    check_features,
    check_finite,
    check_same_shape,
    checked_mean,
)

NAME = "filter importance"
"""Name in errors."""


def taylor_sums(activation: Tensor, gradient: Tensor) -> Tensor:
    """Sum over a chunk's samples of the squared inner product of activation and gradient: ``(C,)`` float64."""
    pairs = zip(map_blocks(activation), map_blocks(gradient), strict=True)
    inner = [sum_inside(torch.mul(a, g, out=scratch(a))) for a, g in pairs]
    return column_squares(inner[0] if len(inner) == 1 else torch.cat(inner))


def product_sums(activation: Tensor, gradient: Tensor) -> Tensor:
    """Sum over samples of the mean over positions of ``|a·g|``: ``(C,)`` float64."""
    return activation_sums(at_least_single(activation) * at_least_single(gradient))


def activation_sums(activation: Tensor) -> Tensor:
    """Sum over samples of the mean over positions of ``|a|``: ``(C,)`` float64."""
    activation = at_least_single(activation)
    maps = activation.flatten(2) if activation.ndim > 2 else activation[..., None]
    return as_double(torch.linalg.vector_norm(maps, ord=1, dim=2) / maps.shape[2]).sum(dim=0)


def filter_norms(weight: Tensor, norm: int) -> Tensor:
    """Norm of each filter: ``(C,)`` float64."""
    norms: Tensor = torch.linalg.vector_norm(as_double(weight).reshape(len(weight), -1), ord=norm, dim=1)
    return norms


def taylor_importance(activation: Tensor, gradient: Tensor) -> Tensor:
    r"""First-order Taylor importance: the estimated change of the loss on removing a filter, squared.

    .. math:: I_c = \mathbb{E}_x \left[\left(\sum_s a_{c,s}\, g_{c,s}\right)^2\right]

    Args:
        activation: ``(N, C, *S)``.
        gradient: the same shape, of the loss *summed* over samples, so that each sample's gradient is its own.

    Returns:
        ``(C,)`` float32, at least 0, in squared units of the loss.

    Raises:
        ValueError: if shapes or types are wrong, there is no sample, or the result is NaN or Inf.

    Source: paper (Molchanov et al. 2019, arXiv 1906.10771); that it stands for the Hybrid CNN-Interpreter's
    filter importance is a reconstruction.

    Example:
        >>> import torch
        >>> taylor_importance(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0, 1.0]]]))
        tensor([25.])
    """
    check_pair(activation, gradient, _channels(activation))
    return checked_mean(NAME, taylor_sums(activation, gradient), _count(activation))


def gradient_activation_importance(activation: Tensor, gradient: Tensor) -> Tensor:
    r"""Mean over samples and positions of :math:`|a \cdot g|`.

    Unlike :func:`taylor_importance`, contributions of opposite sign do not cancel within a map.

    Args:
        activation: ``(N, C, *S)``.
        gradient: the same shape, of the loss summed over samples.

    Returns:
        ``(C,)`` float32, at least 0, in units of the loss per position.

    Raises:
        ValueError: if shapes or types are wrong, there is no sample, or the result is NaN or Inf.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> gradient_activation_importance(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0, -1.0]]]))
        tensor([2.5000])
    """
    check_pair(activation, gradient, _channels(activation))
    return checked_mean(NAME, product_sums(activation, gradient), _count(activation))


def activation_importance(activation: Tensor) -> Tensor:
    r"""Mean over samples and positions of :math:`|a|`.

    Args:
        activation: ``(N, C, *S)``.

    Returns:
        ``(C,)`` float32, at least 0, in units of the activation.

    Raises:
        ValueError: if the shape or type is wrong, there is no sample, or the result is NaN or Inf.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> activation_importance(torch.tensor([[[1.0, -2.0], [0.0, 1.0]]]))
        tensor([1.5000, 0.5000])
    """
    check_channels("activation", activation, _channels(activation))
    return checked_mean(NAME, activation_sums(activation), _count(activation))


def weight_importance(weight: Tensor, norm: int = 1) -> Tensor:
    """L1 or L2 norm of each filter's weights.

    Args:
        weight: ``(C, *)``, output channels first, as ``nn.Conv2d.weight`` has them.
        norm: 1 or 2.

    Returns:
        ``(C,)`` float32, at least 0, in units of the weight.

    Raises:
        ValueError: if ``norm`` is neither 1 nor 2, the weight is no floating-point tensor of two or more
            dimensions, or a value is NaN or Inf.

    Source: reconstruction (Li et al. 2017 for L1).

    Example:
        >>> import torch
        >>> weight_importance(torch.tensor([[3.0, -4.0], [1.0, 0.0]]), norm=2)
        tensor([5., 1.])
    """
    check_norm(norm)
    check_weight(weight, len(weight) if weight.ndim else 0)
    return checked_mean(NAME, filter_norms(weight, norm), torch.tensor(1))


def batch_norm_importance(gamma: Tensor) -> Tensor:
    r"""Magnitude of each filter's BatchNorm scale, :math:`|\gamma|`.

    Args:
        gamma: ``(C,)``, as ``nn.BatchNorm2d.weight``.

    Returns:
        ``(C,)`` float32, at least 0, without unit.

    Raises:
        ValueError: if ``gamma`` is no floating-point vector, or a value is NaN or Inf.

    Source: reconstruction (Liu et al. 2017, network slimming).

    Example:
        >>> import torch
        >>> batch_norm_importance(torch.tensor([0.5, -2.0]))
        tensor([0.5000, 2.0000])
    """
    check_gamma(gamma, gamma.numel())
    return checked_mean(NAME, as_double(gamma).abs(), torch.tensor(1))


def output_correlation(features: Tensor, outputs: Tensor) -> Tensor:
    r"""Pearson correlation of each filter's pooled activation with each output, :math:`\rho_{c,k}`.

    Args:
        features: ``(N, C)``, spatial means of the activation.
        outputs: ``(N, K)``, the model's outputs.

    Returns:
        ``(C, K)`` float32 in [-1, 1]; 0 where the filter or the output is constant. The importance of a filter
        is the largest magnitude in its row.

    Raises:
        ValueError: if shapes or types are wrong, there is no sample, or a value is NaN or Inf.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> output_correlation(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[-1.0], [-2.0], [-3.0]]))
        tensor([[-1.]])
    """
    check_outputs(features, outputs)
    return cross_correlation(*cross_sums(features, outputs))


def cross_sums(features: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Count, sums, sums of squares and cross products of two sets of variables, float64."""
    u, z = as_double(features), as_double(outputs)
    z = z.to(u.device)
    count = torch.tensor(len(u), dtype=torch.float64, device=u.device)
    return count, u.sum(0), z.sum(0), u.square().sum(0), z.square().sum(0), u.T @ z


def cross_correlation(n: Tensor, u: Tensor, z: Tensor, uu: Tensor, zz: Tensor, uz: Tensor) -> Tensor:
    """Pearson matrix ``(C, K)`` float32 from what :func:`cross_sums` gives."""
    if n == 0:
        raise ValueError("Output correlation needs samples, got none. Update the metric before computing it.")
    check_finite("features and outputs", u, z, uu, zz)
    covariance = uz / n - torch.outer(u / n, z / n)
    scale = torch.outer(_inverse_deviation(n, u, uu), _inverse_deviation(n, z, zz))
    return (covariance * scale).clamp(-1, 1).float()


def _inverse_deviation(n: Tensor, total: Tensor, square: Tensor) -> Tensor:
    variance = square / n - (total / n).square()
    return torch.where(is_varying(variance, square / n), variance.clamp(min=0).rsqrt(), 0.0)


def check_pair(activation: Tensor, gradient: Tensor, num_channels: int) -> None:
    """Activation and gradient belong to one layer."""
    check_channels("activation", activation, num_channels)
    check_channels("gradient", gradient, num_channels)
    check_same_shape("Activation", activation, "gradient", gradient)


def check_norm(norm: int) -> int:
    """Only the two norms that are in use for filters."""
    return one_of("norm", norm, (1, 2))


def check_weight(weight: Tensor, num_channels: int) -> None:
    """A weight has its output channels first."""
    if weight.ndim < 2 or len(weight) != num_channels or not weight.is_floating_point():
        raise ValueError(
            f"The weight must be floating point of shape ({num_channels or 'C'}, *), output channels first, "
            f"got {weight.dtype} of shape {tuple(weight.shape)}."
        )


def check_gamma(gamma: Tensor, num_channels: int) -> None:
    """A BatchNorm scale is one number per channel."""
    if gamma.shape != (num_channels,) or not gamma.is_floating_point():
        raise ValueError(
            f"The BatchNorm scale must be floating point of shape ({num_channels},), got {gamma.dtype} of shape "
            f"{tuple(gamma.shape)}. A layer without an affine BatchNorm has none: choose another criterion."
        )


def check_outputs(features: Tensor, outputs: Tensor) -> None:
    """Features and outputs are rows of the same samples."""
    check_features(features)
    if outputs.ndim != 2 or len(outputs) != len(features) or not outputs.is_floating_point():
        raise ValueError(
            f"The outputs must be floating point of shape ({len(features)}, K), one row for each sample, got "
            f"{outputs.dtype} of shape {tuple(outputs.shape)}."
        )


def _channels(activation: Tensor) -> int:
    return activation.shape[1] if activation.ndim > 1 else 0


def _count(activation: Tensor) -> Tensor:
    return torch.tensor(len(activation))
