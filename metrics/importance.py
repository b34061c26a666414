"""Filter importance by six criteria, each a streaming mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from convscope._arguments import whole_number
from convscope.metrics._base import ObservationMetric, StreamingMean
from convscope.metrics.functional import importance as arithmetic
from convscope.metrics.functional._precision import as_double
from convscope.metrics.functional._validation import check_channels


class _Importance(StreamingMean):
    quantity = arithmetic.NAME


class _GradientImportance(_Importance):
    """Base of the criteria that take activations with their gradients."""

    _sums: Callable[[Tensor, Tensor], Tensor]
    """Sums ``(C,)`` over the samples of a chunk."""

    def update(self, activation: Tensor, gradient: Tensor) -> None:
        """Add a chunk of activations and gradients, both ``(N, C, *S)``.

        Raises:
            ValueError: if shapes or types are wrong.
        """
        arithmetic.check_pair(activation, gradient, self.num_channels)
        self._add(self._sums(activation, gradient), len(activation))


class TaylorImportance(_GradientImportance):
    r"""First-order Taylor importance, :math:`\mathbb{E}_x[(\sum_s a_{c,s} g_{c,s})^2]`.

    Args:
        num_channels: C.
        kwargs: passed to :class:`torchmetrics.Metric`.

    Update takes activation and gradient ``(N, C, *S)``, the gradient of the loss summed over samples; compute
    gives ``(C,)`` float32, at least 0, in squared units of the loss.

    Raises:
        ValueError: if ``num_channels`` is out of range.

    Source: paper (Molchanov et al. 2019, arXiv 1906.10771).

    Example:
        >>> import torch
        >>> metric = TaylorImportance(num_channels=1)
        >>> metric.update(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0, 1.0]]]))
        >>> metric.compute()
        tensor([25.])
    """

    _sums = staticmethod(arithmetic.taylor_sums)


class GradientActivationImportance(_GradientImportance):
    r"""Mean over samples and positions of :math:`|a \cdot g|`.

    Args:
        num_channels: C.
        kwargs: passed to :class:`torchmetrics.Metric`.

    Update takes activation and gradient ``(N, C, *S)``, the gradient of the loss summed over samples; compute
    gives ``(C,)`` float32, at least 0.

    Raises:
        ValueError: if ``num_channels`` is out of range.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> metric = GradientActivationImportance(num_channels=1)
        >>> metric.update(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0, -1.0]]]))
        >>> metric.compute()
        tensor([2.5000])
    """

    _sums = staticmethod(arithmetic.product_sums)


class ActivationImportance(_Importance):
    r"""Mean over samples and positions of :math:`|a|`.

    Args:
        num_channels: C.
        kwargs: passed to :class:`torchmetrics.Metric`.

    Update takes an activation ``(N, C, *S)``; compute gives ``(C,)`` float32, at least 0.

    Raises:
        ValueError: if ``num_channels`` is out of range.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> metric = ActivationImportance(num_channels=2)
        >>> metric.update(torch.tensor([[[1.0, -2.0], [0.0, 1.0]]]))
        >>> metric.compute()
        tensor([1.5000, 0.5000])
    """

    def update(self, activation: Tensor) -> None:
        """Add a chunk of activations ``(N, C, *S)``.

        Raises:
            ValueError: if the shape or type is wrong.
        """
        check_channels("activation", activation, self.num_channels)
        self._add(arithmetic.activation_sums(activation), len(activation))


class WeightImportance(_Importance):
    """L1 or L2 norm of each filter's weights, averaged over updates.

    Weights are the same on every rank: the mean keeps several copies equal to one.

    Args:
        num_channels: C, output channels.
        norm: 1 or 2.
        kwargs: passed to :class:`torchmetrics.Metric`.

    Update takes a weight ``(C, *)``; compute gives ``(C,)`` float32, at least 0.

    Raises:
        ValueError: if an option is out of range.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> metric = WeightImportance(num_channels=2, norm=2)
        >>> metric.update(torch.tensor([[3.0, -4.0], [1.0, 0.0]]))
        >>> metric.compute()
        tensor([5., 1.])
    """

    def __init__(self, num_channels: int, norm: int = 1, **kwargs: Any) -> None:
        super().__init__(num_channels, **kwargs)
        self.norm = arithmetic.check_norm(norm)

    def update(self, weight: Tensor) -> None:
        """Add one state of the weights ``(C, *)``.

        Raises:
            ValueError: if the shape or type is wrong.
        """
        arithmetic.check_weight(weight, self.num_channels)
        self._add(arithmetic.filter_norms(weight, self.norm), 1)


class BatchNormImportance(_Importance):
    r"""Magnitude of each filter's BatchNorm scale, :math:`|\gamma|`, averaged over updates.

    Args:
        num_channels: C.
        kwargs: passed to :class:`torchmetrics.Metric`.

    Update takes the scale ``(C,)``; compute gives ``(C,)`` float32, at least 0.

    Raises:
        ValueError: if ``num_channels`` is out of range.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> metric = BatchNormImportance(num_channels=2)
        >>> metric.update(torch.tensor([0.5, -2.0]))
        >>> metric.compute()
        tensor([0.5000, 2.0000])
    """

    def update(self, gamma: Tensor) -> None:
        """Add one state of the scale ``(C,)``.

        Raises:
            ValueError: if the shape or type is wrong.
        """
        arithmetic.check_gamma(gamma, self.num_channels)
        self._add(as_double(gamma).abs(), 1)


class OutputCorrelation(ObservationMetric):
    r"""Importance as the strongest correlation with an output, :math:`\max_k |\rho_{c,k}|`.

    Args:
        num_channels: C.
        num_outputs: K.
        kwargs: passed to :class:`torchmetrics.Metric`.

    Update takes pooled features ``(N, C)`` and outputs ``(N, K)``; compute gives ``(C,)`` float32 in [0, 1], and
    :meth:`matrix` the signed correlations ``(C, K)``. 0 where a filter or an output is constant.

    Raises:
        ValueError: if an option is out of range.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> metric = OutputCorrelation(num_channels=1, num_outputs=1)
        >>> metric.update(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[-1.0], [-2.0], [-3.0]]))
        >>> metric.compute(), metric.matrix()
        (tensor([1.]), tensor([[-1.]]))
    """

    _sums = ("count", "features_sum", "outputs_sum", "features_square", "outputs_square", "cross")

    def __init__(self, num_channels: int, num_outputs: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_channels = c = whole_number("num_channels", num_channels)
        self.num_outputs = k = whole_number("num_outputs", num_outputs)
        self._add_sums(**dict(zip(self._sums, [(), (c,), (k,), (c,), (k,), (c, k)], strict=True)))

    def update(self, features: Tensor, outputs: Tensor) -> None:
        """Add a chunk of pooled features ``(N, C)`` and outputs ``(N, K)``.

        Raises:
            ValueError: if shapes or types are wrong.
        """
        arithmetic.check_outputs(features, outputs)
        check_channels("features", features, self.num_channels)
        check_channels("outputs", outputs, self.num_outputs)
        for name, chunk in zip(self._sums, arithmetic.cross_sums(features, outputs), strict=True):
            setattr(self, name, getattr(self, name) + self._to_state(chunk))

    def compute(self) -> Tensor:
        """Largest magnitude of each filter's correlations, ``(C,)``, over all ranks.

        Raises:
            ValueError: if there was no update, or a value was NaN or Inf.
        """
        return self._matrix().abs().amax(dim=1)

    def matrix(self) -> Tensor:
        """Signed correlations ``(C, K)`` over all ranks; like compute, to be called on every rank.

        Raises:
            ValueError: if there was no update, or a value was NaN or Inf.
        """
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync):
            return self._matrix()

    def _matrix(self) -> Tensor:
        n, u, z, uu, zz, uz = (getattr(self, name) for name in self._sums)
        return arithmetic.cross_correlation(n, u, z, uu, zz, uz)
