"""Streaming linear CKA between two representations of the same samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convscope._arguments import flag, whole_number
from convscope.metrics._base import ObservationMetric
from convscope.metrics.functional._precision import as_double, is_varying
from convscope.metrics.functional._validation import check_features, check_finite
from convscope.metrics.functional.cka import aligned, debiased_product

_FEWEST = {False: 2, True: 4}


class LinearCKA(ObservationMetric):
    """Linear centred kernel alignment of two representations, from sums alone.

    States are float64 sums over samples, of size (C + D)², so memory does not grow with their number, and chunks
    and ranks add up. See :func:`~convscope.metrics.functional.linear_cka` for the formula. Multiplied-out sums lose
    digits where columns lie far from zero: with means of ``m`` standard deviations the plain value is off by about
    ``1e-16 m²``, the debiased one by about ``1e-16 m⁴``.

    Args:
        num_x: C, columns of the first representation.
        num_y: D, columns of the second.
        debiased: use the unbiased estimator of HSIC.
        kwargs: passed to :class:`torchmetrics.Metric`.

    Update takes ``x`` ``(N, C)`` and ``y`` ``(N, D)`` of the same samples; compute gives a float32 scalar in [0, 1],
    or in [-1, 1] with ``debiased``.

    Raises:
        ValueError: if ``num_x`` or ``num_y`` is not a positive whole number.

    Source: paper (Kornblith et al. 2019, arXiv 1905.00414; unbiased HSIC: Song et al. 2012).

    Example:
        >>> import torch
        >>> metric = LinearCKA(num_x=2, num_y=1)
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> for rows in x.split(2):
        ...     metric.update(rows, rows[:, :1])
        >>> round(float(metric.compute()), 4)
        0.7071
    """

    samples: Tensor
    total: Tensor
    product: Tensor
    row_total: Tensor
    row_product: Tensor

    def __init__(self, num_x: int, num_y: int, debiased: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_x, self.num_y = whole_number("num_x", num_x), whole_number("num_y", num_y)
        self.debiased = flag("debiased", debiased)
        width = self.num_x + self.num_y
        # Both sides in one matrix: its blocks are XᵀX, XᵀY and YᵀY, so that one product per chunk serves all three.
        # With z = (x, y) and r = (‖x‖², ‖y‖²): Σ1, Σz, Σzzᵀ, Σrzᵀ, Σrrᵀ.
        self._add_sums(samples=(), total=(width,), product=(width, width), row_total=(2, width), row_product=(2, 2))

    def update(self, x: Tensor, y: Tensor) -> None:
        """Add a chunk: ``x`` ``(N, C)`` and ``y`` ``(N, D)``, the same samples in the same order.

        Raises:
            ValueError: if a shape or type is wrong.
        """
        self._check(x, y)
        z = torch.cat([as_double(x), as_double(y)], dim=1)
        rows = torch.stack([z[:, self._side(i)].square().sum(1) for i in (0, 1)])
        self.samples += len(z)
        self.total += self._to_state(z.sum(0))
        self.product += self._to_state(z.T @ z)
        self.row_total += self._to_state(rows @ z)
        self.row_product += self._to_state(rows @ rows.T)

    def compute(self) -> Tensor:
        """CKA over everything seen, over all ranks.

        Raises:
            ValueError: if there were fewer than 2 samples (4 with ``debiased``), or a value was NaN or Inf.
        """
        fewest = _FEWEST[self.debiased]
        if self.samples < fewest:
            raise ValueError(f"CKA needs at least {fewest} samples, got {int(self.samples)}. Call update() first.")
        check_finite("features", self.total, self.product)
        return aligned(self._similarity(0, 1), self._similarity(0, 0), self._similarity(1, 1))

    def _check(self, x: Tensor, y: Tensor) -> None:
        check_features(x)
        check_features(y)
        if x.shape[1] != self.num_x or y.shape[1] != self.num_y or len(x) != len(y):
            raise ValueError(
                f"Expected x of shape (N, {self.num_x}) and y of shape (N, {self.num_y}) for the same N samples, got "
                f"{tuple(x.shape)} and {tuple(y.shape)}."
            )

    def _similarity(self, i: int, j: int) -> Tensor:
        """HSIC of sides ``i`` and ``j`` (0: x, 1: y), as :func:`~convscope.metrics.functional.cka.similarity`."""
        covariance = self._covariance(i, j)
        product = covariance.square().sum()
        if not self.debiased:
            return product
        norms = self._covariance(i, i).trace() * self._covariance(j, j).trace()
        return debiased_product(product, self._row_product(i, j), norms, self.samples)

    def _covariance(self, i: int, j: int) -> Tensor:
        """``XᵀY`` of centred sides, zero for columns that do not vary."""
        covariance = self._block(self.product, i, j) - self.samples * torch.outer(self._mean(i), self._mean(j))
        return covariance * torch.outer(self._varying(i), self._varying(j))

    def _row_product(self, i: int, j: int) -> Tensor:
        """``Σ ‖x − μ‖²‖y − ν‖²`` over samples, multiplied out: ``‖x − μ‖² = ‖x‖² − 2μᵀx + ‖μ‖²``."""
        # The states are sums that are not centred: the means are known only at the end. Multiplied out, the product has
        # nine terms: one is a state, two pair a state with a mean, one is the cross term 4 μᵀ(Σ x yᵀ)ν, and the others
        # depend on traces and on the squared norms of the means alone.
        mu, nu = self._mean(i), self._mean(j)
        mu2, nu2, n = mu @ mu, nu @ nu, self.samples
        # The nine products of (‖x‖² − 2μᵀx + ‖μ‖²)(‖y‖² − 2νᵀy + ‖ν‖²), summed. Σx = nμ turns the three that hold only
        # means into −3nμ²ν² together, and every other into a sum that is kept.
        raw = self.row_product[i, j] - 2 * (self._rows_times(i, j) @ nu) - 2 * (self._rows_times(j, i) @ mu)
        cross = 4 * (mu @ self._block(self.product, i, j) @ nu)
        norms = nu2 * self._block(self.product, i, i).trace() + mu2 * self._block(self.product, j, j).trace()
        # Of a side that does not vary only rounding is left, which must not pass for a product of norms.
        either_constant = not (self._varying(i).any() and self._varying(j).any())
        return torch.zeros_like(raw) if either_constant else raw + cross + norms - 3 * n * mu2 * nu2

    def _rows_times(self, i: int, j: int) -> Tensor:
        """``Σ ‖x_i‖² x_j``."""
        return self.row_total[i, self._side(j)]

    def _mean(self, i: int) -> Tensor:
        return self.total[self._side(i)] / self.samples

    def _varying(self, i: int) -> Tensor:
        mean_square = self._block(self.product, i, i).diagonal() / self.samples
        return is_varying(mean_square - self._mean(i).square(), mean_square).double()

    def _block(self, matrix: Tensor, i: int, j: int) -> Tensor:
        return matrix[self._side(i), self._side(j)]

    def _side(self, i: int) -> slice:
        return slice(0, self.num_x) if i == 0 else slice(self.num_x, self.num_x + self.num_y)
