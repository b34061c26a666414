"""Part interpretability of ordinary filters: how far each stands for one part of an object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import lightning.pytorch as pl
import numpy as np
import torch

from convscope._arguments import one_of, whole_number, whole_number_or_none, whole_number_or_zero
from convscope.callbacks.engine.findings import LayerResult, MapSpec, Moment
from convscope.callbacks.engine.observer import Plan
from convscope.callbacks.parts.example_images import ExampleImages, first_image
from convscope.callbacks.parts.landmarks import LandmarkPoints, Landmarks, check_landmarks, landmark_points
from convscope.callbacks.parts.layer_observer import LayerObserver
from convscope.callbacks.parts.moved_images import MovedImages
from convscope.callbacks.parts.per_layer import PerLayer
from convscope.callbacks.parts.tasks import NoTaskError, Task, class_task
from convscope.capture.data.heldout import HeldOut
from convscope.capture.network.trace import Layer
from convscope.capture.observation import Record
from convscope.loggers import Backend
from convscope.loggers.filter_grid import FilterRow, example_grid
from convscope.loggers.record import Storable
from convscope.metrics import FilterPartScore, FilterPurity, PeakInstability
from convscope.metrics.functional.parts import SCALES, LossScale, part_side

PURE = 0.8
"""Purity above which a filter counts as a filter of one class."""

_TOP = 100  # images over which instability is taken, as in the paper


class PartInterpretability(LayerObserver):
    """Filter loss, class purity and location instability of a layer's filters.

    A filter is part-like if its map says of every image either "my part is here" (one peak) or "it is not there".
    The filter loss is the negative mutual information between its maps and such templates; it splits into two
    entropies: doubt whether the part is there, and doubt where it is. Larger maps are reduced to at most
    14 × 14 by max-pooling, and negative activations count as 0. Source: paper (Zhang, Wu and Zhu 2018, arXiv
    1710.00935); purity, ``scale="total"`` and the proxy are ours.

    Args:
        images: Number of held-out images for the filter losses, drawn once; at least n² + 1 = 197 let the loss reach
            its bound. Purity and instability use all images.
        filters: Number of filters per layer that are measured, evenly spread; None for all.
        scale: ``"as_is"``, as in the paper; ``"total"`` brings each filter's maps to one mean total, so that epochs
            and layers compare however large activations are.
        landmarks: Points of each image for location instability: a ``callable(inputs) -> (K, 2)``, or the name or
            place of a field of the held-out batches that holds ``(N, K, 2)``: rows and columns in pixels, NaN for
            points that an image lacks.
        proxy_images: Without landmarks, move so many held-out images (a flip, a shift) and see whether peaks follow:
            two more forward passes of them per check. 0 for no proxy.
        pictured: Number of filters with the lowest and with the highest filter loss in a layer's picture.
        **arguments: See :class:`~convscope.LayerObserver`.

    Logged for each layer:
        ``parts/filter_loss/<layer>``, ``parts/category_entropy/<layer>``, ``parts/spatial_entropy/<layer>`` (medians
        over filters, nats), ``parts/pure_filters/<layer>`` (share of filters with a purity above 0.8, 0 to 1; only
        for classes), ``parts/instability/<layer>`` (with landmarks) or ``parts/instability_proxy/<layer>`` (mean over
        filters, image diagonals).

    Picture: ``parts/maps/<layer>``, the places at which the most and the least part-like filters are active on the
    images that excite them. Histogram: ``parts/filters/<layer>``, the filter losses.
    """

    family = "parts"
    needs_filters = True
    charts: ClassVar[dict[str, str]] = {
        "filter_loss": "filter loss, nats",
        "spatial_entropy": "spatial entropy, nats",
        "pure_filters": "share of filters of one class",
        "instability": "location instability",
        "instability_proxy": "equivariance proxy of instability",
    }
    maps: ClassVar[dict[str, MapSpec]] = {"filter_loss": MapSpec("Filter loss", "−MI(maps; templates), nats", vmax=0.0)}
    columns: ClassVar[dict[str, str]] = {"filter_loss": "part loss", "pure_filters": "pure"}

    def __init__(
        self,
        *,
        images: int = 256,
        filters: int | None = 64,
        scale: LossScale = "as_is",
        landmarks: Landmarks | None = None,
        proxy_images: int = 64,
        pictured: int = 3,
        **arguments: Any,
    ) -> None:
        self.images = whole_number("images", images, "a whole number of held-out images", least=2)
        self.filters = whole_number_or_none("filters", filters, "all filters", "a whole number of filters")
        self.scale: LossScale = one_of("scale", scale, SCALES)
        self.landmarks = check_landmarks(landmarks)
        self.proxy_images = whole_number_or_zero("proxy_images", proxy_images, "no proxy", "a whole number of images")
        self.pictured = whole_number_or_zero("pictured", pictured, "no picture", "a whole number of filters")
        super().__init__(**arguments)
        self._scores = PerLayer[FilterPartScore]()
        self._purity = PerLayer[FilterPurity]()
        self._instability = PerLayer[PeakInstability]()
        self._task: Task | None = None
        self._classes = torch.empty(0, dtype=torch.long)
        self._numbers = torch.empty(0, dtype=torch.long)  # of the images that filter losses use
        self._points: LandmarkPoints | None = None
        self._moved: MovedImages | None = None
        self._examples: ExampleImages | None = None
        self._size = (1, 1)
        self._trainer: pl.Trainer | None = None
        self._rows: dict[str, list[FilterRow]] = {}
        self._of_filters: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}  # numbers and purity of each

    @property
    def intervenes(self) -> bool:
        return self.landmarks is None and self.proxy_images > 0

    def suits(self, layer: Layer) -> bool:
        return not layer.is_output and len(layer.spatial) == 2 and min(layer.spatial) > 1

    def skips(self, heldout: HeldOut, no_loss: str | None) -> str | None:
        try:
            self._task = class_task(heldout)
        except (NoTaskError, ValueError):
            self._task = None  # no purity; filter losses do not need classes
        return None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._trainer = trainer

    def ready(self, plan: Plan) -> None:
        heldout = plan.heldout
        self._numbers = heldout.sample(self.images).index
        self._examples = ExampleImages(heldout)
        if self._task is not None:
            kept = sorted(set(self._task.classes) - set(self._task.left_out))
            self._classes = torch.tensor(kept, dtype=torch.long)
        image = first_image(heldout.one(int(heldout.index[0])))
        if image is not None:
            self._size = (int(image.shape[-2]), int(image.shape[-1]))
        if self.landmarks is not None:
            self._points = landmark_points(self.landmarks, heldout, self._trainer)
        elif self.proxy_images and image is None:
            plan.messages.append(
                f"{self.name} has no equivariance proxy: the held-out inputs are not images (N, C, H, W)"
            )
        elif self.proxy_images:
            self._moved = MovedImages(plan, heldout.sample(self.proxy_images), self._size, self._of_chosen)
            samples = min(self.proxy_images, heldout.total)
            plan.messages.append(
                f"{self.name} runs {self._moved.passes} forward passes of {samples} moved images per check"
            )

    def begin(self, layers: list[Layer], samples: int) -> None:
        self._scores.make(layers, self._score)
        self._purity.make(
            layers if len(self._classes) else [],
            lambda layer: FilterPurity(len(self._chosen(layer)), len(self._classes)),
        )
        self._instability.make(
            layers if self._points is not None else [],
            lambda layer: PeakInstability(len(self._chosen(layer)), self._size, _TOP),
        )
        if self._moved is not None:
            self._moved.begin(layers)
        self._rows, self._of_filters = {}, {}

    def on_activation(self, record: Record) -> None:
        layer, device = record.layer, record.activation.device
        mine = torch.isin(record.index, self._numbers)
        if bool(mine.any()):
            self._scores.update(record, self._of_chosen(layer, record.activation[mine.to(device)]), record.index[mine])
        if layer in self._purity:
            self._add_to_purity(record)
        if self._points is not None:
            points = self._points.of(record.index).to(device)
            self._instability.update(record, self._of_chosen(layer, record.activation), points, record.index)
        if self._moved is not None:
            self._moved.see(record)

    def _add_to_purity(self, record: Record) -> None:
        if record.targets is None or self._task is None:
            return
        pooled = self._of_chosen(record.layer, record.pooled).clamp(min=0)
        targets, (pooled, _) = self._task.counted(record.targets, pooled, record.index)
        if len(targets):
            # A class by its place among those that occur, as the metric counts them.
            place = torch.searchsorted(self._classes.to(targets.device), targets)
            self._purity.update(record, pooled, place.to(pooled.device))

    def intervene(self, layer: Layer) -> None:
        if self._moved is not None:
            self._moved.run(layer)

    def compute(self, layer: Layer) -> LayerResult:
        score = self._scores.compute(layer)
        loss = score.filter_loss.cpu()
        scalars = {
            "filter_loss": float(loss.median()),
            "category_entropy": float(score.category_entropy.median()),
            "spatial_entropy": float(score.spatial_entropy.median()),
        }
        if layer in self._purity:
            purity = self._purity.compute(layer).purity
            scalars["pure_filters"] = _share_above(purity, PURE)
            self._of_filters[layer.name] = (self._chosen(layer), purity.cpu())
        if layer in self._instability:
            scalars["instability"] = float(self._instability.compute(layer).nanmean())
        if self._moved is not None:
            scalars["instability_proxy"] = float(self._moved.compute(layer).nanmean())
        self._rows[layer.name] = self._pictures_of(layer, loss)
        return LayerResult(scalars, distribution=loss.numpy())

    def draw(self, dashboard: Backend, when: Moment) -> None:
        for name, rows in self._rows.items():
            if rows:
                picture = example_grid(rows, f"{name}, epoch {when.epoch}")
                dashboard.image(f"{self.name}/maps/{name}", picture, when.step)

    def arrays(self) -> Mapping[str, Storable]:
        """Purity of each measured filter: of all ``layers`` in a row, ``sizes`` of them each, with their numbers."""
        if not self._of_filters:
            return {}
        numbers, purity = zip(*self._of_filters.values(), strict=True)
        return {
            "layers": list(self._of_filters),
            "sizes": np.array([len(each) for each in numbers], dtype=np.int32),
            "numbers": torch.cat(numbers).numpy().astype(np.uint16),
            "purity": torch.cat(purity).numpy().astype(np.float16),
        }

    def end(self) -> None:
        for metrics in (self._scores, self._purity, self._instability):
            metrics.drop()
        if self._moved is not None:
            self._moved.begin([])
        self._rows, self._of_filters = {}, {}

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        self._trainer = self._moved = self._points = self._examples = None

    def _score(self, layer: Layer) -> FilterPartScore:
        return FilterPartScore(len(self._chosen(layer)), part_side(*layer.spatial), self.scale)

    def _chosen(self, layer: Layer) -> torch.Tensor:
        """Numbers of the measured filters."""
        most = layer.channels if self.filters is None else min(self.filters, layer.channels)
        return torch.linspace(0, layer.channels - 1, most).round().long()

    def _of_chosen(self, layer: Layer, values: torch.Tensor) -> torch.Tensor:
        """The measured filters' part of values ``(n, C, *)`` of all filters."""
        chosen = self._chosen(layer)
        return values if len(chosen) == layer.channels else values[:, chosen.to(values.device)]

    def _pictures_of(self, layer: Layer, loss: torch.Tensor) -> list[FilterRow]:
        """Rows of the most and the least part-like filters that fire, on the images that excite them."""
        index, maps = self._scores.of(layer).joined_maps()
        if not self.pictured or not self.pictures or self._examples is None or len(index) == 0:
            return []
        peak, chosen = maps.amax((2, 3)).cpu(), self._chosen(layer)
        firing = [number for number in loss.argsort(stable=True).tolist() if bool((peak[:, number] > 0).any())]
        ends = dict.fromkeys([*firing[: self.pictured], *firing[-self.pictured :]])
        rows = []
        for number in ends:
            best = peak[:, number].argsort(descending=True, stable=True)[:4].tolist()
            pictures = [(self._examples.picture(int(index[row])), maps[row, number]) for row in best]
            examples = [(picture, found.double().cpu().numpy()) for picture, found in pictures if picture is not None]
            if examples:
                rows.append(FilterRow(f"filter {int(chosen[number])}", f"loss {float(loss[number]):.2g}", examples))
        return rows


def _share_above(purity: torch.Tensor, bound: float) -> float:
    """Share of the filters that fire whose purity is above a bound; NaN where none fires."""
    known = purity[~purity.isnan()]
    return float((known > bound).double().mean()) if len(known) else float("nan")
