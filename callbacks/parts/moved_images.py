"""Peaks of filters on moved images: the equivariance proxy of all layers in one pass per move."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch

from convscope.callbacks.engine.observer import Plan
from convscope.callbacks.parts.per_layer import PerLayer
from convscope.capture.data.batches import tree_map
from convscope.capture.data.heldout import HeldOut
from convscope.capture.network.trace import Layer
from convscope.capture.observation import Record, Subject, observe
from convscope.metrics import EquivarianceProxy
from convscope.metrics.functional import PeaksResult, peaks

Take = Callable[[Layer, torch.Tensor], torch.Tensor]

SHIFT = 1 / 8
"""Share of height and width by which images are shifted."""


@dataclass(frozen=True)
class Move:
    """A flip from left to right, or a shift down and to the right; new pixels repeat the border."""

    flipped: bool
    rows: int
    columns: int

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Moved images ``(N, C, H, W)``; any other tensor is unchanged."""
        if image.dim() != 4:
            return image
        moved = image.flip(3) if self.flipped else image
        rows = (torch.arange(moved.shape[2], device=moved.device) - self.rows).clamp(min=0)
        columns = (torch.arange(moved.shape[3], device=moved.device) - self.columns).clamp(min=0)
        return moved[:, :, rows][:, :, :, columns]


def moves(height: int, width: int) -> list[Move]:
    """The moves for images of a size."""
    return [Move(True, 0, 0), Move(False, max(1, round(height * SHIFT)), max(1, round(width * SHIFT)))]


class MovedImages:
    """Runs the network on moved copies of some held-out images, and compares where filters peak.

    The state of the network and its random streams are handled as in the shared pass.

    Args:
        plan: The run's plan.
        sample: The samples that are moved, a part of the plan's held-out set.
        size: Height and width of the images.
        take: From a layer's activation, that of the filters that are compared.
    """

    def __init__(self, plan: Plan, sample: HeldOut, size: tuple[int, int], take: Take) -> None:
        self._plan, self._sample, self._size, self._take = plan, sample, size, take
        self._moves = moves(*size)
        self.numbers = sample.index[sample.index >= 0]
        self.begin([])

    @property
    def passes(self) -> int:
        """Forward passes of the sample per check."""
        return len(self._moves)

    def begin(self, layers: list[Layer]) -> None:
        """Start a check of some layers."""
        self._layers = layers
        self._before: dict[str, dict[int, PeaksResult]] = {layer.name: {} for layer in layers}
        self._proxies: list[PerLayer[EquivarianceProxy]] = []
        self._ran: int | None = None  # with which chunk size
        self._failed: dict[str, Exception] = {}

    def see(self, record: Record) -> None:
        """Keep the peaks on the unmoved images."""
        mine = torch.isin(record.index, self.numbers)
        if bool(mine.any()):
            found = peaks(self._take(record.layer, record.activation[mine.to(record.activation.device)]))
            for row, number in enumerate(record.index[mine].tolist()):
                self._before[record.layer.name][number] = PeaksResult(found.value[row], found.place[row])

    def run(self, layer: Layer) -> None:
        """Run the moved images once for all layers; every process calls it for the same layers.

        Raises:
            Exception: the failure of all layers or of this one. It is kept, so that no process runs more passes.
        """
        if self._ran != self._plan.chunk_size:
            self._ran, self._failed, self._proxies = self._plan.chunk_size, {}, []
            try:
                for move in self._moves:
                    self._run_one(move)
            except Exception as error:
                self._failed = {each.name: error for each in self._layers}
        if layer.name in self._failed:
            raise self._failed[layer.name]

    def compute(self, layer: Layer) -> torch.Tensor:
        """``(C,)`` mean displacement over moves, in image diagonals."""
        return torch.stack([proxies.compute(layer) for proxies in self._proxies]).nanmean(0)

    def _run_one(self, move: Move) -> None:
        proxies = PerLayer[EquivarianceProxy]()
        shift = move.rows / self._size[0], move.columns / self._size[1]
        proxies.make(self._layers, lambda each: self._proxy(each, shift, move.flipped))
        self._proxies.append(proxies)
        comparer = _Comparer(self._before, proxies, self._take)
        seen = observe(
            moved_subject(self._plan.subject, move),
            self._sample,
            self._layers,
            [comparer],
            chunk_size=self._plan.chunk_size,
        )
        self._failed |= {name: error for (_, name), error in seen.failures.items()}
        for name in seen.missing | seen.unmatched.keys() | seen.nonfinite.keys():
            self._failed.setdefault(name, RuntimeError(f"layer {name} cannot be measured on moved images"))

    def _proxy(self, layer: Layer, shift: tuple[float, float], flipped: bool) -> EquivarianceProxy:
        filters = self._take(layer, torch.empty(0, layer.channels)).shape[1]
        return EquivarianceProxy(filters, self._size, shift, flipped)


def moved_subject(subject: Subject, move: Move) -> Subject:
    """The network, with every image moved."""

    def forward(inputs: Any) -> Any:
        return subject.forward(tree_map(move, inputs))

    return replace(subject, forward=forward, loss=None)


class _Comparer:
    """Compares the peaks on moved images with those on the unmoved ones."""

    needs_gradient = False
    takes_nonfinite = False

    def __init__(
        self, before: dict[str, dict[int, PeaksResult]], proxies: PerLayer[EquivarianceProxy], take: Take
    ) -> None:
        self._before, self._proxies, self._take = before, proxies, take

    def wants(self, layer: Layer) -> bool:
        return layer in self._proxies

    def on_activation(self, record: Record) -> None:
        known = self._before[record.layer.name]
        after = peaks(self._take(record.layer, record.activation))
        self._proxies.update(record, _joined(known[n] for n in record.index.tolist()), after)

    def on_gradient(self, record: Record, gradient: torch.Tensor) -> None:
        """Not asked for."""


def _joined(found: Iterable[PeaksResult]) -> PeaksResult:
    values, places = zip(*found, strict=True)
    return PeaksResult(torch.stack(values), torch.stack(places))
