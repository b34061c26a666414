"""Pictures of filters: the images that excite the most important and the most redundant ones."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch

from convscope._arguments import one_of, whole_number
from convscope.callbacks.engine.findings import LayerResult, Moment
from convscope.callbacks.engine.observer import Plan
from convscope.callbacks.parts.criteria import CRITERIA, Criteria, Criterion
from convscope.callbacks.parts.example_images import ExampleImages
from convscope.callbacks.parts.layer_observer import LayerObserver
from convscope.callbacks.parts.per_layer import Correlations, positions_each
from convscope.capture.data.heldout import HeldOut
from convscope.capture.network.trace import Layer
from convscope.capture.observation import Record
from convscope.loggers import Backend
from convscope.loggers.filter_grid import FilterRow, example_grid
from convscope.metrics import ChannelMoments

_OBSERVATIONS = 16384


class FilterPictures(LayerObserver):
    """Held-out images that excite a layer's most important and most redundant filters most.

    One picture per layer, ``filter_pictures/<layer>``, with a row per filter: the region where its activation is at
    least half of its peak stays bright. The most important filters come first, then the most redundant: those with the
    highest ``|ρ|`` with another filter of the layer. Images are those of the main process. No scalars are logged.

    Args:
        criterion: Criterion of importance, as in :class:`~convscope.FilterImportance`.
        filters: Number of the most important filters, and of the most redundant ones.
        images: Number of images per filter.
        **arguments: See :class:`~convscope.LayerObserver`; ``every_n_epochs`` is 5 by default.
    """

    family = "filter_pictures"
    needs_filters = True
    charts: ClassVar[dict[str, str]] = {}

    def __init__(
        self,
        *,
        criterion: Criterion = "taylor",
        filters: int = 3,
        images: int = 4,
        every_n_epochs: int = 5,
        **arguments: Any,
    ) -> None:
        self.criterion = one_of("criterion", criterion, CRITERIA)
        self.filters = whole_number("filters", filters, "a whole number of filters")
        self.images = whole_number("images", images, "a whole number of images")
        self._criteria = Criteria([criterion])
        super().__init__(every_n_epochs=every_n_epochs, **arguments)
        self._correlation = Correlations[ChannelMoments]()
        self._peaks: dict[str, _Peaks] = {}
        self._rows: dict[str, list[tuple[int, str]]] = {}
        self._examples: ExampleImages | None = None

    @property
    def needs_gradient(self) -> bool:
        return self._criteria.need_gradient

    @property
    def includes_output(self) -> bool:
        return self.criterion == "output_correlation"

    @property
    def takes_output_as_logits(self) -> Literal[False, "too", "only"]:
        return "only" if self.includes_output else False

    def suits(self, layer: Layer) -> bool:
        return layer.is_output or (len(layer.spatial) == 2 and self._criteria.measures(layer))

    def skips(self, heldout: HeldOut, no_loss: str | None) -> str | None:
        if not ExampleImages(heldout).has_images:
            return "the held-out inputs are not images (N, C, H, W)"
        return no_loss if self.needs_gradient else None

    def ready(self, plan: Plan) -> None:
        self._examples = ExampleImages(plan.heldout)

    def begin(self, layers: list[Layer], samples: int) -> None:
        self._criteria.begin(layers)
        most, mine = positions_each(_OBSERVATIONS, samples), [layer for layer in layers if not layer.is_output]
        self._correlation.make(mine, lambda layer: ChannelMoments(layer.channels, max_positions=most))
        self._peaks = {layer.name: _Peaks(self.images) for layer in mine}
        self._rows = {}

    def on_activation(self, record: Record) -> None:
        self._criteria.on_activation(record)
        if not record.layer.is_output:
            self._correlation.take(record)
            self._peaks[record.layer.name].update(record.activation, record.index)

    def on_gradient(self, record: Record, gradient: torch.Tensor) -> None:
        self._criteria.on_gradient(record, gradient)

    def compute(self, layer: Layer) -> LayerResult | None:
        if layer.is_output:
            return None
        importance = self._criteria.values(layer)[self.criterion]
        matrix = self._correlation.compute(layer).matrix.double().cpu()
        matrix.fill_diagonal_(0)
        self._rows[layer.name] = self._choose(importance, matrix)
        return LayerResult({})

    def draw(self, dashboard: Backend, when: Moment) -> None:
        for name, chosen in self._rows.items():
            rows = [self._row(name, number, note) for number, note in chosen]
            title = f"{name}, {when.label}\ntop by {self.criterion}, then most redundant"
            picture = example_grid(rows, title)
            dashboard.image(f"{self.name}/{name}", picture, when.step)

    def end(self) -> None:
        self._criteria.end()
        self._correlation.drop()
        self._peaks, self._rows = {}, {}

    def _choose(self, importance: torch.Tensor, matrix: torch.Tensor) -> list[tuple[int, str]]:
        top = importance.argsort(descending=True, stable=True)[: self.filters].tolist()
        chosen = [(number, f"rank {place} of {len(importance)}") for place, number in enumerate(top, 1)]
        strength, partner = matrix.abs().max(dim=1)
        for number in strength.argsort(descending=True, stable=True)[: self.filters].tolist():
            if strength[number] > 0:
                chosen.append((number, f"ρ {matrix[number, partner[number]]:.2f} with {int(partner[number])}"))
        return chosen

    def _row(self, layer: str, number: int, note: str) -> FilterRow:
        examples = []
        for sample, activation in self._peaks[layer].of(number):
            picture = None if self._examples is None else self._examples.picture(sample)
            if picture is not None:
                examples.append((picture, activation.double().numpy()))
        return FilterRow(f"filter {number}", note, examples)


class _Peaks:
    """For each filter, the samples with its highest peak activation, and the filter's map on each."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: torch.Tensor | None = None
        self._numbers = self._maps = torch.empty(0)

    def update(self, activation: torch.Tensor, index: torch.Tensor) -> None:
        """Add a chunk ``(n, C, H, W)`` of the samples numbered ``index`` ``(n,)``."""
        peaks = activation.flatten(2).amax(-1)
        values, places = peaks.topk(min(self._most, len(peaks)), dim=0)
        filters = torch.arange(activation.shape[1], device=places.device)
        maps, numbers = activation[places, filters].float().cpu(), index.to(places.device)[places].cpu()
        values = values.float().cpu()
        if self._values is not None:
            values, numbers = torch.cat([self._values, values]), torch.cat([self._numbers, numbers])
            maps = torch.cat([self._maps, maps])
        self._values, kept = values.topk(min(self._most, len(values)), dim=0)
        self._numbers, self._maps = numbers.gather(0, kept), maps[kept, torch.arange(maps.shape[1])]

    def of(self, number: int) -> list[tuple[int, torch.Tensor]]:
        """Sample numbers and maps ``(H, W)`` of one filter, the highest peak first."""
        if self._values is None:
            return []
        return list(zip(self._numbers[:, number].tolist(), self._maps[:, number], strict=True))
