"""Forward from a layer: accuracy as filters are removed in order of importance."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch

from convscope._arguments import numbers, one_of, refuse
from convscope.callbacks.engine.findings import LayerResult, MapSpec, Moment, Values
from convscope.callbacks.parts.criteria import CRITERIA, Criterion
from convscope.callbacks.parts.intervening import InterveningObserver, fixed_random_order, keep_all_but
from convscope.capture.intervention import Baseline
from convscope.capture.network.trace import Layer
from convscope.capture.outputs.loss import Loss
from convscope.loggers import Backend
from convscope.loggers.curves import removal_curves
from convscope.metrics.functional import OutcomeResult, removal_area

ORDERS = ("ascending", "descending", "random")


class ForwardFromLayer(InterveningObserver):
    """Accuracy as filters of a layer are removed in ascending, descending and random order of importance.

    Removed filters are held at a baseline and the rest of the network runs unchanged: exact, nothing is fitted.
    Source: a reconstruction of the Hybrid CNN-Interpreter's forward propagation from a layer and of its filter
    importance effects (arXiv 2211.00185). For a single forward pass of your own filter sets there is
    :func:`~convscope.capture.forward_from_layer`.

    Args:
        criterion: Order of importance, as in :class:`~convscope.FilterImportance`.
        shares: Shares of filters to remove, rising, each between 0 and 1. No filter and all filters are added.
        loss: As in :class:`~convscope.FilterImportance`.
        baseline: What takes a filter's place: ``"mean"``, its mean activation over the held-out set, or ``"zero"``.
        samples: Run the filter sets on at most so many held-out samples, drawn once. Importance is measured on all.
        max_forwards: At most so many forward passes of those samples a check; where all layers would take more,
            fewer are looked at, evenly over depth. A layer takes ``3 · len(shares) + 3``.
        **arguments: See :class:`~convscope.LayerObserver`. By default ``every_n_epochs`` is 5 and ``on_start`` False:
            of an untrained network the numbers mean little, and they are the longest wait of a run.

    Logged for each layer, from accuracy for classes, else from the share of the loss that is kept (see
    docs/metrics/forward-from-layer.md), 0 to 1:
        ``forward/area_ascending/<layer>``, ``forward/area_descending/<layer>``, ``forward/area_random/<layer>``
        (area under the removal curve), ``forward/gap/<layer>`` (ascending minus descending: above 0 where the
        criterion tells what matters), ``forward/without_layer/<layer>`` (all filters removed).
    """

    family = "forward"
    fewest_sets = 4
    charts: ClassVar[dict[str, str]] = {
        "gap": "area ascending − descending",
        "without_layer": "accuracy without the layer",
        "area_random": "area under random removal",
    }
    maps: ClassVar[dict[str, MapSpec]] = {
        "gap": MapSpec("Gap between removal orders", "area ascending − descending", -1.0, 1.0)
    }
    columns: ClassVar[dict[str, str]] = {"gap": "removal gap"}
    details: ClassVar[frozenset[str]] = frozenset({"area_ascending", "area_descending"})  # the gap is their difference

    def __init__(
        self,
        *,
        criterion: Criterion = "taylor",
        shares: Sequence[float] = (0.1, 0.25, 0.5, 0.75),
        loss: Loss | None = None,
        baseline: Baseline = "mean",
        samples: int = 256,
        max_forwards: int = 200,
        **arguments: Any,
    ) -> None:
        self.criterion = one_of("criterion", criterion, CRITERIA)
        self.shares = numbers("shares", shares, "shares of filters in (0, 1) in rising order")
        if any(later <= earlier for earlier, later in pairwise([0.0, *self.shares, 1.0])):
            raise refuse("shares", shares, "shares of filters in (0, 1) in rising order")
        self.fewest_sets = len(ORDERS) * len(self.shares) + 1
        super().__init__([criterion], loss, baseline, samples, max_forwards, **arguments)
        self._curves: dict[str, dict[str, list[float]]] = {}

    def default_name(self) -> str:
        return self.family if self.criterion == "taylor" else f"{self.family}_{self.criterion}"

    @property
    def variant(self) -> str:
        return self.criterion if self.name == self.default_name() else self.name

    def suits(self, layer: Layer) -> bool:
        return layer.is_output or self._criteria.measures(layer)

    def most_sets(self, layer: Layer) -> int:
        return self.fewest_sets

    def choose(self, layer: Layer, importance: dict[str, torch.Tensor], most: int) -> torch.Tensor:
        ascending = importance[self.criterion].argsort(stable=True)
        orders = (ascending, ascending.flip(0), fixed_random_order(layer))
        counts = [max(1, round(share * layer.channels)) for share in self.shares]
        removed = [order[:count] for order in orders for count in counts]
        # The last set removes every filter: the end of all three curves, run once.
        return keep_all_but([*removed, ascending], layer.channels)

    def judge(self, layer: Layer, untouched: OutcomeResult, outcome: OutcomeResult) -> LayerResult:
        start, values = self._quality(untouched, untouched)[0], self._quality(untouched, outcome)
        without = values[-1]
        rows = values[:-1].view(len(ORDERS), len(self.shares))
        places = [0.0, *self.shares, 1.0]
        curves = {order: torch.cat([start[None], row, without[None]]) for order, row in zip(ORDERS, rows, strict=True)}
        areas = {f"area_{order}": float(removal_area(curve, places)) for order, curve in curves.items()}
        self._curves[layer.name] = {order: curve.tolist() for order, curve in curves.items()}
        gap = areas["area_ascending"] - areas["area_descending"]
        return LayerResult({**areas, "gap": gap, "without_layer": float(without)})

    def summarise(self, values: Values) -> dict[str, float]:
        gaps = list(values.get("gap", {}).values())
        return {"gap": sum(gaps) / len(gaps)} if gaps else {}

    def draw(self, dashboard: Backend, when: Moment) -> None:
        label = "accuracy" if self._classes else "loss kept"
        for name, curves in self._curves.items():
            picture = removal_curves([0.0, *self.shares, 1.0], curves, f"{name}, {when.label}", label)
            dashboard.image(f"{self.name}/removal/{name}", picture, when.step)

    def end(self) -> None:
        super().end()
        self._curves = {}

    def _quality(self, untouched: OutcomeResult, outcome: OutcomeResult) -> torch.Tensor:
        """Quality that the curves show: accuracy, or without classes the loss before divided by the loss after."""
        if self._classes:
            return outcome.accuracy.cpu()
        return loss_kept(untouched.loss[0], outcome.loss).cpu()


def loss_kept(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """The loss before removal as a share of the losses after it: 1 where they did not rise, else 0 to 1.

    Raises:
        ValueError: if a loss is negative, since then there is no such share.
    """
    if bool(before < 0) or bool((after < 0).any()):
        raise ValueError(
            f"the loss is {float(torch.minimum(before, after.min())):.4g}, below zero, so no share of it is kept; "
            "give ForwardFromLayer a loss= that is never negative"
        )
    return torch.where(after <= before, 1.0, before / after)
