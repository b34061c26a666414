"""Scores of filters from a pass over perturbed copies, and maps of some filters on some copies."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F

from convscope.callbacks.parts.per_layer import PerLayer
from convscope.callbacks.parts.perturbed_copies import ChosenImage, PerturbedCopies
from convscope.capture.network.trace import Layer
from convscope.capture.observation import Record
from convscope.metrics import ImageResampling, ResampledImages
from convscope.metrics.functional import ResamplingScores, set_overlap, top_filters
from convscope.metrics.functional.resampling import Overlap

_MAP_SIDE = 24


class Choice(NamedTuple):
    """The filters chosen in one layer on one image, as masks ``(C,)``.

    Attributes:
        influential: The top ones by influence.
        precise: The top ones by precision.
        with_influence: Filters whose influence could be measured.
        with_precision: Filters that have a precision.
    """

    influential: torch.Tensor
    precise: torch.Tensor
    with_influence: torch.Tensor
    with_precision: torch.Tensor

    @classmethod
    def of(cls, influence: torch.Tensor, precision: torch.Tensor, top: int) -> Choice:
        """Choose the ``top`` filters by each score ``(C,)``."""
        chosen = top_filters(influence, top), top_filters(precision, top)
        return cls(*chosen, ~influence.isnan(), ~precision.isnan())


def agreement(choices: Iterable[Choice]) -> Overlap:
    """Overlap of influence and precision over some layers of one image."""
    influential, precise, with_influence, with_precision = zip(*choices, strict=True)
    return set_overlap(influential, precise, with_influence, with_precision)


@dataclass(frozen=True)
class FilterView:
    """One filter's maps ``(V, h, w)`` on the copies of an image that are shown."""

    layer: str
    filter: int
    note: str
    maps: torch.Tensor


class CopyScores:
    """Scores and maps from one check's pass over copies: a chunk's activations wait for its outputs, then are summed.

    Args:
        samples: The copies that the pass goes through.
        output: From the outputs ``(n, K)`` of copies, their probabilities ``(n, Q)``.
        target: From an image and the probabilities ``(Q,)`` of its first copy, which of them influence is on.
        choose: From scores, the filters chosen on an image.
        shown: Images whose maps are kept.
        views: Numbers of the copies on which they are shown.
    """

    def __init__(
        self,
        samples: PerturbedCopies,
        output: Callable[[torch.Tensor], torch.Tensor],
        target: Callable[[ChosenImage, torch.Tensor], int],
        choose: Callable[[ResamplingScores], Choice],
        shown: Iterable[int],
        views: Iterable[int],
    ) -> None:
        self._samples, self._output, self._target, self._choose = samples, output, target, choose
        self._by_number = {image.number: image for image in samples.images}
        self._shown, self._views = set(shown), set(views)
        self._scores = PerLayer[ResampledImages]()
        self.begin([], ())

    def begin(self, layers: list[Layer], viewed: Iterable[str]) -> None:
        """Start a pass; maps are kept of the layers ``viewed``."""
        self._scores.make((one for one in layers if not one.is_output), lambda one: ResampledImages(one.channels))
        self._viewed = set(viewed)
        self._waiting: list[tuple[Layer, torch.Tensor]] = []
        self._sums: dict[str, ImageResampling] = {}  # of the image whose copies are coming
        self._maps: dict[str, list[torch.Tensor]] = {}
        self._failed: dict[str, Exception] = {}
        self._number, self._seen, self._class = -1, 0, 0
        self.filters: dict[int, list[FilterView]] = {}

    def on_activation(self, record: Record) -> None:
        """Take in one layer's activations of a chunk; the output comes last."""
        if not record.layer.is_output:
            # The rest of the forward pass may write into it before the outputs come.
            kept = record.activation.clone() if record.layer.overwritten else record.activation
            self._waiting.append((record.layer, kept))
            return
        probabilities = self._output(record.activation)
        self._turn_to(int(record.index[0]), probabilities[0])
        y = probabilities[:, self._class]
        while self._waiting:
            layer, activation = self._waiting.pop(0)
            self._guarded(layer.name, lambda one=layer, a=activation: self._add(one, a, y))  # type: ignore[misc]
        self._seen += len(record.index)
        if self._seen == self._samples.copies:
            for name in list(self._sums):
                self._guarded(name, lambda layer=name: self._close(layer))  # type: ignore[misc]

    def of(self, layer: Layer) -> ResamplingScores:
        """Scores ``(I, C)`` on the CPU, over all processes; every process must call it."""
        if layer.name in self._failed:
            raise self._failed[layer.name]
        found: ResamplingScores = self._scores.compute(layer)
        return ResamplingScores(*(part.cpu() for part in found))

    def _turn_to(self, number: int, first: torch.Tensor) -> None:
        if number != self._number:
            self._number, self._seen, self._maps = number, 0, {}
            self._class = self._target(self._by_number[number], first)

    def _guarded(self, name: str, call: Callable[[], None]) -> None:
        """Keep a failure for its layer, not for the output at which it occurs; see :meth:`of`."""
        if name in self._failed:
            return
        try:
            call()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            self._failed[name] = error

    def _add(self, layer: Layer, activation: torch.Tensor, output: torch.Tensor) -> None:
        metric = self._sums.get(layer.name)
        if metric is None or metric.positions != activation[0, 0].numel():
            # On this process alone: an image is not divided.
            metric = ImageResampling(layer.channels, activation[0, 0].numel(), sync_on_compute=False)
            self._sums[layer.name] = metric.to(activation.device)
            self._scores.on(layer, activation.device)
        metric.update(activation, output)
        if layer.name in self._viewed and self._number in self._shown and activation.dim() == 4:
            seen = range(self._seen, self._seen + len(activation))
            rows = [place for place, number in enumerate(seen) if number in self._views]
            self._maps.setdefault(layer.name, []).append(_small(activation[rows]))

    def _close(self, name: str) -> None:
        """Finish an image, whose copies have all been seen."""
        scores = self._sums[name].compute()
        self._sums[name].reset()
        number = torch.tensor([self._number])
        self._scores.named(name).update(scores.mean[None], scores.variance[None], scores.influence[None], number)
        if name in self._maps:
            view = _view(name, scores, self._choose(scores), torch.cat(self._maps[name]))
            if view is not None:
                self.filters.setdefault(self._number, []).append(view)


def _small(activation: torch.Tensor) -> torch.Tensor:
    """Maps ``(n, C, h, w)`` of at most 24 × 24, on the CPU."""
    height, width = activation.shape[2:]
    return F.adaptive_avg_pool2d(activation.float(), (min(height, _MAP_SIDE), min(width, _MAP_SIDE))).cpu()


def _view(layer: str, scores: ResamplingScores, choice: Choice, maps: torch.Tensor) -> FilterView | None:
    """The most influential filter among those that are precise too, else among the influential ones."""
    both = choice.influential & choice.precise
    allowed = both if bool(both.any()) else choice.influential
    if not bool(allowed.any()):
        return None
    best = int(scores.influence.masked_fill(~allowed, -1).nan_to_num(-1).argmax())
    return FilterView(layer, best, "both" if bool(both.any()) else "influence", maps[:, best])
