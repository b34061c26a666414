"""Linear centred kernel alignment (CKA): similarity of two representations of the same samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from convscope.metrics.functional._precision import as_double, column_squares, is_varying
from convscope.metrics.functional._validation import check_features, check_finite

_FEWEST = 2
_FEWEST_DEBIASED = 4


@dataclass(frozen=True)
class Centred:
    """Features ready for comparison.

    Attributes:
        features: ``(N, C')`` float64, columns centred, columns that do not vary left out or zero.
    """

    features: Tensor

    @cached_property
    def rows(self) -> Tensor:
        """``(N,)`` squared norm of each row."""
        return self.features.square().sum(dim=1)


def centred(features: Tensor, debiased: bool = False) -> Centred:
    """Check and centre ``(N, C)`` features once, for any number of comparisons."""
    check_features(features)
    fewest = _FEWEST_DEBIASED if debiased else _FEWEST
    if len(features) < fewest:
        raise ValueError(f"CKA (debiased={debiased}) needs at least {fewest} samples, got {len(features)}.")
    check_finite("features", features)
    away, varying = away_from_mean(features)
    return Centred(away[:, varying])


def away_from_mean(features: Tensor) -> tuple[Tensor, Tensor]:
    """Centred columns ``(N, C)`` in float64, and the mask ``(C,)`` of those that vary."""
    values = as_double(features)
    away = values - values.mean(dim=0)
    return away, is_varying(column_squares(away), column_squares(values))


def similarity(x: Centred, y: Centred, debiased: bool = False) -> Tensor:
    """HSIC of two centred feature sets with linear kernels, up to a factor that depends on N alone."""
    if len(x.features) != len(y.features):
        raise ValueError(
            f"CKA compares representations of the same samples, got {len(x.features)} and {len(y.features)} rows."
        )
    product = _squared_product(x.features, y.features)
    if not debiased:
        return product
    return debiased_product(product, x.rows @ y.rows, x.rows.sum() * y.rows.sum(), len(x.rows))


def debiased_product(product: Tensor, row_product: Tensor, norm_product: Tensor, samples: float | Tensor) -> Tensor:
    """The unbiased HSIC of Song et al. 2012 from ``‖XᵀY‖²``, ``Σ‖x_i‖²‖y_i‖²`` and ``‖X‖²‖Y‖²`` of centred X, Y."""
    n = samples
    return product - n / (n - 2) * row_product + norm_product / ((n - 1) * (n - 2))


def aligned(cross: Tensor, self_x: Tensor, self_y: Tensor) -> Tensor:
    """CKA from the three similarities, float32: 0 where one side has no variation to share, NaN where neither has."""
    varies_x, varies_y = self_x > 0, self_y > 0
    alike = (cross / (self_x.sqrt() * self_y.sqrt())).clamp(-1, 1)
    without = torch.where(varies_x | varies_y, 0.0, torch.nan)
    return torch.where(varies_x & varies_y, alike, without).float()


def linear_cka(x: Tensor, y: Tensor, debiased: bool = False) -> Tensor:
    r"""Linear centred kernel alignment of two representations of the same samples.

    .. math:: \mathrm{CKA}(X, Y) = \frac{\|Y^\top X\|_F^2}{\|X^\top X\|_F \|Y^\top Y\|_F}

    with centred columns. It does not change when either side is rotated, shifted or scaled as a whole, so it
    compares layers of different widths, networks, and one layer before and after training.

    Args:
        x: ``(N, C)`` features of N samples, e.g. spatial means of a layer's activation.
        y: ``(N, D)`` features of the same samples in the same order.
        debiased: Use the unbiased estimator of HSIC. The plain one tends to 1 for unrelated features as C and D
            approach N; this one to 0.

    Returns:
        Float32 scalar in [0, 1], 1 for representations alike up to rotation and scale; with ``debiased`` in
        [-1, 1], about 0 for unrelated ones. 0 where one side does not vary over the samples: a layer that died is not
        what it was. NaN, not measured, where neither does.

    Raises:
        ValueError: if a shape or type is wrong, the numbers of rows differ, a value is NaN or Inf, or there are
            fewer than 2 samples (4 with ``debiased``).

    Source: paper (Kornblith et al. 2019, arXiv 1905.00414; unbiased HSIC: Song et al. 2012).

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> linear_cka(x, 3 * x.flip(1) + 1)
        tensor(1.)
        >>> round(float(linear_cka(x, x[:, :1])), 4)
        0.7071
    """
    first, second = centred(x, debiased), centred(y, debiased)
    return aligned(
        similarity(first, second, debiased), similarity(first, first, debiased), similarity(second, second, debiased)
    )


def linear_cka_matrix(features: Sequence[Tensor], debiased: bool = False) -> Tensor:
    """Linear CKA of every pair of representations, e.g. of the layers of a network.

    Each representation is centred, and compared with itself, once.

    Args:
        features: L tensors ``(N, C_l)`` of the same N samples in the same order.
        debiased: See :func:`linear_cka`.

    Returns:
        ``(L, L)`` float32, symmetric, of :func:`linear_cka` values.

    Raises:
        ValueError: if :func:`linear_cka` would raise it, or there is no representation.

    Source: paper (Kornblith et al. 2019, arXiv 1905.00414).

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> linear_cka_matrix([x, 2 * x, x[:, :1]])
        tensor([[1.0000, 1.0000, 0.7071],
                [1.0000, 1.0000, 0.7071],
                [0.7071, 0.7071, 1.0000]])
    """
    if len(features) == 0:
        raise ValueError("linear_cka_matrix needs at least one representation, got none.")
    prepared = [centred(item, debiased) for item in features]
    own = [similarity(item, item, debiased) for item in prepared]
    result = torch.zeros(len(own), len(own), device=own[0].device)
    for i, x in enumerate(prepared):
        for j, y in enumerate(prepared[: i + 1]):
            cross = own[i] if i == j else similarity(x, y, debiased)
            result[i, j] = result[j, i] = aligned(cross, own[i], own[j])
    return result


def _squared_product(x: Tensor, y: Tensor) -> Tensor:
    """``‖XᵀY‖_F²``, through the N×N Gram matrices where the features are wider than the samples are many."""
    samples, through_gram = len(x), len(x) * (x.shape[1] + y.shape[1])
    if samples > 0 and through_gram < x.shape[1] * y.shape[1]:
        return ((x @ x.T) * (y @ y.T)).sum()
    return (x.T @ y).square().sum()
