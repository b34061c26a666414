"""Influence and variance of filters over perturbed copies: of one image, and gathered over several."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convscope._arguments import whole_number
from convscope.metrics._base import GatheringMetric, ObservationMetric, canonical_order
from convscope.metrics.functional._validation import check_channels, check_features, check_finite
from convscope.metrics.functional.resampling import (
    ResamplingScores,
    ResamplingSums,
    resampling_scores,
    resampling_sums,
)


class ImageResampling(ObservationMetric):
    """Movement of every filter over perturbed copies of one image: with the output, and at all.

    Args:
        num_channels: C.
        positions: P, how many positions a filter's map has.
        kwargs: passed to :class:`torchmetrics.Metric`.

    Update takes activations ``(I, C, *S)`` of some copies, and the output ``(I,)`` that influence is on; compute gives
    :class:`~convscope.metrics.functional.ResamplingScores`. The states do not grow with the number of copies.

    Raises:
        ValueError: if an argument is not a positive whole number.

    Source: paper (Lengerich et al. 2017, arXiv 1707.09641, and its authors' code).

    Example:
        >>> import torch
        >>> metric = ImageResampling(num_channels=2, positions=1)
        >>> metric.update(torch.tensor([[0.1, 3.0], [0.5, 3.1], [0.9, 3.0]]), torch.tensor([0.2, 0.4, 0.6]))
        >>> scores = metric.compute()
        >>> scores.influence.round(decimals=3).tolist(), (scores.precision > 100).tolist()
        ([1.0, 0.0], [False, True])
    """

    copies: Tensor
    activation: Tensor
    square: Tensor
    product: Tensor
    output: Tensor
    output_square: Tensor

    def __init__(self, num_channels: int, positions: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_channels = whole_number("num_channels", num_channels)
        self.positions = whole_number("positions", positions)
        each = (self.num_channels, self.positions)
        self._add_sums(copies=(), activation=each, square=each, product=each, output=(), output_square=())

    def update(self, activation: Tensor, output: Tensor) -> None:
        """Add some copies.

        Args:
            activation: ``(I, C, *S)`` with P positions.
            output: ``(I,)``.

        Raises:
            ValueError: if shapes do not fit, or a value is NaN or infinite.
        """
        check_channels("activation", activation, self.num_channels)
        if activation[0:1].numel() not in (0, self.num_channels * self.positions):
            raise ValueError(
                f"The activation must have {self.positions} positions for each filter, got shape "
                f"{tuple(activation.shape)}. Use one metric for each image, and for each size of images."
            )
        for name, part in resampling_sums(activation, output)._asdict().items():
            state = getattr(self, name)
            state += self._to_state(part)

    def compute(self) -> ResamplingScores:
        """Scores ``(C,)`` over all copies, over all ranks.

        Raises:
            ValueError: if there were fewer than two copies.
        """
        sums = (self.copies, self.activation, self.square, self.product, self.output, self.output_square)
        return resampling_scores(ResamplingSums(*sums))


class ResampledImages(GatheringMetric):
    """Scores of every filter on several images, in the order of the images, whatever the chunks and ranks.

    Args:
        num_channels: C.
        kwargs: passed to :class:`torchmetrics.Metric`.

    Update takes what :class:`ImageResampling` gave for some images; compute gives
    :class:`~convscope.metrics.functional.ResamplingScores` ``(I, C)``.

    Raises:
        ValueError: if ``num_channels`` is not a positive whole number.

    Source: paper (Lengerich et al. 2017, arXiv 1707.09641).

    Example:
        >>> import torch
        >>> metric = ResampledImages(num_channels=2)
        >>> row = torch.tensor([[0.3, 0.4]])
        >>> metric.update(row, row, row, torch.tensor([7]))
        >>> metric.compute().influence.shape
        torch.Size([1, 2])
    """

    mean: list[Tensor]
    variance: list[Tensor]
    influence: list[Tensor]
    index: list[Tensor]

    def __init__(self, num_channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_channels = whole_number("num_channels", num_channels)
        double = torch.float64
        self._add_lists(mean=double, variance=double, influence=double, index=torch.int64)

    def update(self, mean: Tensor, variance: Tensor, influence: Tensor, index: Tensor | None = None) -> None:
        """Add some images.

        Args:
            mean: ``(I, C)`` mean activations.
            variance: ``(I, C)``.
            influence: ``(I, C)``, NaN where it could not be measured.
            index: ``(I,)`` each image's number in the held-out set. An image that comes twice counts once.

        Raises:
            ValueError: if shapes or types are wrong, or a mean or variance is NaN or infinite.
        """
        for values in (mean, variance, influence):
            check_features(values)
            if values.shape != (len(mean), self.num_channels):
                raise ValueError(f"Scores must have shape (I, {self.num_channels}), got {tuple(values.shape)}.")
        check_finite("mean and variance", mean, variance)
        self._append_index(index, len(mean))
        for name, values in (("mean", mean), ("variance", variance), ("influence", influence)):
            self._append(name, values)

    def compute(self) -> ResamplingScores:
        """Scores ``(I, C)`` of all images, over all ranks.

        Raises:
            ValueError: if there was no image, or only some came with an index.
        """
        index = self._joined("index")
        if len(index) == 0:
            raise ValueError("ResampledImages needs samples: there was no update.")
        order = canonical_order(index)
        found = [
            self._joined(name).reshape(len(index), self.num_channels)[order]
            for name in ("influence", "variance", "mean")
        ]
        return ResamplingScores(*found)
