"""Part interpretability of a layer's filters: filter loss, class and purity, and how steady the places of peaks are."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from convscope._arguments import flag, one_of, whole_number
from convscope.metrics._base import GatheringMetric, ObservationMetric, canonical_order
from convscope.metrics.functional._validation import check_channels, check_finite
from convscope.metrics.functional.parts import (
    LARGEST_MAP,
    SCALES,
    LossScale,
    PartScoreResult,
    class_activation,
    filter_classes,
    part_maps,
    part_scores,
)
from convscope.metrics.functional.places import PeaksResult, displacement, location_instability, peaks


class PurityResult(NamedTuple):
    """Class of each filter.

    Attributes:
        owner: ``(C,)`` class whose images activate the filter most on average.
        purity: ``(C,)`` float32 that class's share in the sum of the classes' mean activations, 1/K to 1; NaN for a
            filter that never fires.
    """

    owner: Tensor
    purity: Tensor


class _IndexedMetric(GatheringMetric):
    """Keeps one row of numbers for each sample and filter, and gives them back in the order of the samples' index."""

    index: list[Tensor]

    def _add_rows(self, num_channels: int, **dtypes: torch.dtype) -> None:
        self.num_channels = whole_number("num_channels", num_channels)
        self._add_lists(index=torch.int64, **dtypes)

    def _rows(self, *names: str) -> list[Tensor]:
        """Each state as ``(N, …)`` flat rows, samples in order and each once."""
        index = self._joined("index")
        if len(index) == 0:
            raise ValueError(f"{type(self).__name__} needs samples, got none. Update the metric before computing it.")
        order = canonical_order(index)
        return [self._joined(name).view(len(index), -1)[order] for name in names]


class FilterPartScore(_IndexedMetric):
    """Filter loss of each filter, ``-MI(X; T)`` between its maps and part templates, with its two entropies.

    ``Z_T`` and ``p(x)`` are sums over all images, and one depends on the other, so the maps are kept, brought to
    ``n × n`` by max-pooling: n² numbers for each filter and image, float32. Negative values count as 0.

    Args:
        num_channels: C.
        side: n, at most 14, which no map of the layer should be smaller than.
        scale: ``"as_is"`` as in the paper; ``"total"`` scales each filter's maps to one mean total, so that the loss
            does not depend on how large activations are (ours).
        kwargs: passed to :class:`torchmetrics.Metric`.

    Update takes an activation ``(N, C, H, W)`` and the samples' ``index``; compute gives a
    :class:`~convscope.metrics.functional.PartScoreResult`, nats.

    Raises:
        ValueError: if an option is out of range; from update, if there are not two spatial dimensions; from compute,
            if there is no sample, or a value was NaN or Inf.

    Source: paper (Zhang, Wu and Zhu 2018, arXiv 1710.00935); ``scale="total"`` is ours.

    Example:
        >>> import torch
        >>> metric = FilterPartScore(num_channels=1, side=4)
        >>> metric.update(torch.zeros(5, 1, 8, 8))
        >>> metric.compute().spatial_entropy
        tensor([2.6095], dtype=torch.float64)
    """

    maps: list[Tensor]

    def __init__(self, num_channels: int, side: int, scale: LossScale = "as_is", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._add_rows(num_channels, maps=torch.float32)
        self.side = whole_number("side", side, most=LARGEST_MAP)
        self.scale: LossScale = one_of("scale", scale, SCALES)

    def update(self, activation: Tensor, index: Tensor | None = None) -> None:
        """Add a chunk.

        Args:
            activation: ``(N, C, H, W)``.
            index: ``(N,)`` number of each sample; in every update or in none.

        Raises:
            ValueError: if a shape or type is wrong.
        """
        check_channels("activation", activation, self.num_channels)
        check_finite("activation", activation)
        self._append_index(index, len(activation))
        self._append("maps", part_maps(activation, self.side))

    def joined_maps(self) -> tuple[Tensor, Tensor]:
        """Numbers ``(N,)`` and maps ``(N, C, n, n)`` of this process's samples."""
        index = self._joined("index")
        return index, self._joined("maps").view(len(index), self.num_channels, self.side, self.side)

    def compute(self) -> PartScoreResult:
        """Scores over everything seen, over all ranks.

        Raises:
            ValueError: if there was no sample, or a value was NaN or Inf.
        """
        (maps,) = self._rows("maps")
        return part_scores(maps.view(-1, self.num_channels, self.side, self.side), self.scale)


class FilterPurity(ObservationMetric):
    """Class of each filter, that whose images activate it most on average, and how much of its activation is theirs.

    Args:
        num_channels: C.
        num_classes: K.
        kwargs: passed to :class:`torchmetrics.Metric`.

    Update takes an activation ``(N, C, *S)``, negative values of which count as 0, and class indices ``(N,)``; compute
    gives a :class:`PurityResult`.

    Raises:
        ValueError: if an option is out of range; from update, if a class index is; from compute, if there is no
            sample, or a value was NaN or Inf.

    Source: paper (Zhang, Wu and Zhu 2018, arXiv 1710.00935) for the class; purity is ours.

    Example:
        >>> import torch
        >>> metric = FilterPurity(num_channels=1, num_classes=2)
        >>> metric.update(torch.tensor([[3.0], [1.0]]), torch.tensor([0, 1]))
        >>> metric.compute()
        PurityResult(owner=tensor([0]), purity=tensor([0.7500]))
    """

    total: Tensor
    images: Tensor

    def __init__(self, num_channels: int, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_channels = whole_number("num_channels", num_channels)
        self.num_classes = whole_number("num_classes", num_classes)
        self._add_sums(total=(self.num_classes, self.num_channels), images=(self.num_classes,))

    def update(self, activation: Tensor, target: Tensor) -> None:
        """Add a chunk.

        Raises:
            ValueError: if a shape or type is wrong, or a class index is out of range.
        """
        check_channels("activation", activation, self.num_channels)
        check_finite("activation", activation)
        total, images = class_activation(activation.clamp(min=0), target, self.num_classes)
        self.total += self._to_state(total)
        self.images += self._to_state(images)

    def compute(self) -> PurityResult:
        """Class and purity over everything seen, over all ranks.

        Raises:
            ValueError: if there was no sample, or a value was NaN or Inf.
        """
        if float(self.images.sum()) == 0:
            raise ValueError("The filters' purity needs samples, got none. Update the metric before computing it.")
        check_finite("sums of activations", self.total)
        owner, purity = filter_classes(self.total, self.images)
        return PurityResult(owner, purity.float())


class PeakInstability(_IndexedMetric):
    """Location instability: how much the distance between a filter's peak and a landmark varies from image to image.

    Of each landmark those images count that have it and excite the filter most, ``top`` at most.

    Args:
        num_channels: C.
        size: Height and width of the images in pixels.
        top: Number of images that count.
        kwargs: passed to :class:`torchmetrics.Metric`.

    Update takes an activation ``(N, C, H, W)``, landmarks ``(N, K, 2)`` (row and column as shares of height and width,
    NaN where an image lacks one) and the samples' ``index``; compute gives ``(C, K)`` float64 in image diagonals, NaN
    where fewer than two images count.

    Raises:
        ValueError: if an option is out of range; from update, if a shape is wrong; from compute, if there is no
            sample.

    Source: paper (Zhang, Wu and Zhu 2018, arXiv 1710.00935, section 5.3).

    Example:
        >>> import torch
        >>> metric = PeakInstability(num_channels=1, size=(2, 2))
        >>> metric.update(torch.eye(4).view(4, 1, 2, 2), torch.full((4, 1, 2), 0.5))
        >>> metric.compute()
        tensor([[0.]], dtype=torch.float64)
    """

    peak: list[Tensor]
    place: list[Tensor]
    landmarks: list[Tensor]

    def __init__(self, num_channels: int, size: tuple[int, int], top: int = 100, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._add_rows(num_channels, peak=torch.float32, place=torch.float32, landmarks=torch.float32)
        self.size = (whole_number("height", size[0]), whole_number("width", size[1]))
        self.top = whole_number("top", top)

    def update(self, activation: Tensor, landmarks: Tensor, index: Tensor | None = None) -> None:
        """Add a chunk.

        Raises:
            ValueError: if a shape or type is wrong.
        """
        check_channels("activation", activation, self.num_channels)
        if landmarks.ndim != 3 or len(landmarks) != len(activation) or landmarks.shape[2] != 2:
            raise ValueError(f"The landmarks must have shape ({len(activation)}, K, 2), got {tuple(landmarks.shape)}.")
        found = peaks(activation)
        self._append_index(index, len(activation))
        self._append("peak", found.value)
        self._append("place", found.place)
        self._append("landmarks", landmarks)

    def compute(self) -> Tensor:
        """Deviations over everything seen, over all ranks.

        Raises:
            ValueError: if there was no sample.
        """
        peak, place, landmarks = self._rows("peak", "place", "landmarks")
        samples = len(peak)
        found = PeaksResult(peak, place.view(samples, self.num_channels, 2))
        return location_instability(found, landmarks.view(samples, -1, 2), self.size, self.top)


class EquivarianceProxy(ObservationMetric):
    """Distance of peaks from their expected places after images were flipped and shifted: a proxy without landmarks.

    A filter that follows its part moves with it. One that follows the image's border, or a texture that is everywhere,
    does not. It stands in for :class:`PeakInstability` and is not the same number.

    Args:
        num_channels: C.
        size: Height and width of the images in pixels.
        shift: Rows and columns of the shift, as shares of height and width.
        flipped: Whether the images were flipped left to right before.
        kwargs: passed to :class:`torchmetrics.Metric`.

    Update takes the peaks of the images and of the moved images, :class:`~convscope.metrics.functional.PeaksResult`
    ``(N, C)``; compute gives ``(C,)`` float64 in image diagonals, NaN for a filter whose peak never stays inside.

    Raises:
        ValueError: if an option is out of range; from update, if a shape is wrong or a value NaN or Inf; from compute,
            if there is no sample.

    Source: ours.

    Example:
        >>> import torch
        >>> from convscope.metrics.functional import peaks
        >>> image = torch.eye(4).view(1, 1, 4, 4)
        >>> metric = EquivarianceProxy(num_channels=1, size=(4, 4), flipped=True)
        >>> metric.update(peaks(image), peaks(image.flip(3)))
        >>> metric.compute()
        tensor([0.], dtype=torch.float64)
    """

    distance: Tensor
    inside: Tensor
    images: Tensor

    def __init__(
        self,
        num_channels: int,
        size: tuple[int, int],
        shift: tuple[float, float] = (0.0, 0.0),
        flipped: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_channels = whole_number("num_channels", num_channels)
        self.size = (whole_number("height", size[0]), whole_number("width", size[1]))
        self.shift, self.flipped = (float(shift[0]), float(shift[1])), flag("flipped", flipped)
        self._add_sums(distance=(self.num_channels,), inside=(self.num_channels,), images=())

    def update(self, before: PeaksResult, after: PeaksResult) -> None:
        """Add a chunk.

        Raises:
            ValueError: if shapes are wrong, or a value is NaN or Inf.
        """
        check_channels("peaks", before.value, self.num_channels)
        check_finite("peaks", before.value, after.value)
        distance, inside = displacement(before, after, self.shift, self.flipped, self.size)
        self.distance += self._to_state(distance)
        self.inside += self._to_state(inside)
        self.images += len(before.value)

    def compute(self) -> Tensor:
        """Mean distance over everything seen, over all ranks.

        Raises:
            ValueError: if there was no sample.
        """
        if float(self.images) == 0:
            raise ValueError("The equivariance proxy needs samples, got none. Update the metric before computing it.")
        return torch.where(self.inside > 0, self.distance / self.inside, torch.nan)
