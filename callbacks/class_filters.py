"""Filters by class: correlation of every filter with every output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from convscope._arguments import whole_number
from convscope.callbacks.engine.findings import LayerResult, Moment
from convscope.callbacks.engine.observer import Plan
from convscope.callbacks.parts.layer_observer import LayerObserver
from convscope.callbacks.parts.per_layer import PerLayer
from convscope.capture.network.trace import Layer
from convscope.capture.observation import Record
from convscope.loggers import Backend, escape_markdown
from convscope.loggers.classes import class_table
from convscope.loggers.record import Storable
from convscope.metrics import OutputCorrelation
from convscope.metrics.functional import ServingResult, serving_filters

_MOST_ROWS = 40


class ClassFilters(LayerObserver):
    """Correlation of each filter's pooled activation with each output of the model, and each class's top filters.

    A filter serves a class if its activation rises with the class's output; its share is its squared positive
    correlation, divided by the sum of those of its layer. Source: feature-to-output correlation of the Hybrid
    CNN-Interpreter (arXiv 2211.00185), a reconstruction; the share is ours.

    Args:
        top: Filters to name for each class.
        **arguments: See :class:`~convscope.LayerObserver`.

    Logged for each layer:
        ``class_filters/strongest/<layer>`` (mean over classes of the largest correlation, -1 to 1),
        ``class_filters/top_share/<layer>`` (mean over classes of the share that its top filters have together, 0 to
        1), ``class_filters/serving/<layer>`` (share of the layer's filters that are in the top of any class).

    Picture: ``class_filters/matrix/<layer>``, the correlations of the filters that serve some class best. Text:
    ``class_filters/top/<layer>``, each class's top filters with their shares.
    """

    family = "class_filters"
    needs_filters = True
    includes_output = True
    takes_output_as_logits: Literal[False, "too", "only"] = "only"
    charts: ClassVar[dict[str, str]] = {
        "strongest": "strongest correlation with a class",
        "top_share": "share of the top filters of a class",
        "serving": "share of filters that serve a class",
    }
    columns: ClassVar[dict[str, str]] = {"strongest": "ρ class"}

    def __init__(self, *, top: int = 3, **arguments: Any) -> None:
        self.top = whole_number("top", top, "a whole number of filters")
        super().__init__(**arguments)
        self._metrics = PerLayer[OutputCorrelation]()
        self._class_label: Callable[[int], str] = str
        self._pooled: list[tuple[Layer, torch.Tensor]] = []  # of this chunk, until its output comes
        self._found: dict[str, tuple[torch.Tensor, ServingResult]] = {}

    def ready(self, plan: Plan) -> None:
        self._class_label = plan.heldout.class_label

    def begin(self, layers: list[Layer], samples: int) -> None:
        *filters, output = layers if layers[-1].is_output else [layers[-1]]  # without an output, nothing
        self._metrics.make(filters, lambda layer: OutputCorrelation(layer.channels, output.channels))
        self._pooled, self._found = [], {}

    def on_activation(self, record: Record) -> None:
        if not record.layer.is_output:
            self._pooled.append((record.layer, record.pooled))
            return
        for layer, pooled in self._pooled:
            self._metrics.on(layer, pooled.device).update(pooled, record.pooled)
        self._pooled = []

    def compute(self, layer: Layer) -> LayerResult | None:
        if layer not in self._metrics:
            return None
        matrix = self._metrics.of(layer).matrix().cpu()
        best = serving_filters(matrix, self.top)
        self._found[layer.name] = (matrix, best)
        anything = bool((matrix != 0).any())  # where no filter or no output varies, nothing was correlated
        return LayerResult(
            {
                "strongest": float(matrix.amax(dim=0).mean()) if anything else float("nan"),
                "top_share": float(best.shares.sum(dim=1).mean()),
                "serving": len(best.filters[best.shares > 0].unique()) / layer.channels,
            }
        )

    def draw(self, dashboard: Backend, when: Moment) -> None:
        for name, (matrix, best) in self._found.items():
            rows = _most_serving(best)
            title = f"{name}, {when.label}\nfilters that serve a class best"
            labels = [str(int(number)) for number in rows]
            names = [self._class_label(number) for number in range(matrix.shape[1])]
            picture = class_table(matrix[rows].numpy(), labels, title, "ρ with the output", 1.0, names)
            dashboard.image(f"{self.name}/matrix/{name}", picture, when.step)
            dashboard.text(f"{self.name}/top/{name}", _table(best, names), when.step)

    def arrays(self) -> Mapping[str, Storable]:
        """Of each filter the number of classes that it serves best, and the class that it correlates with most.

        The filters of all ``layers`` in a row, ``sizes`` of them each: ``served``, ``strongest``, ``rho``.
        """
        if not self._found:
            return {}
        served = [_served(len(matrix), best) for matrix, best in self._found.values()]
        most = [matrix.max(dim=1) for matrix, _ in self._found.values()]
        return {
            "layers": list(self._found),
            "sizes": np.array([len(matrix) for matrix, _ in self._found.values()], dtype=np.int32),
            "served": torch.cat(served).numpy().astype(np.uint16),
            "strongest": torch.cat([one.indices for one in most]).numpy().astype(np.uint16),
            "rho": torch.cat([one.values for one in most]).numpy().astype(np.float16),
        }

    def end(self) -> None:
        self._metrics.drop()
        self._pooled, self._found = [], {}


def _served(filters: int, best: ServingResult) -> torch.Tensor:
    """``(C,)`` number of classes among whose top filters each filter is."""
    return torch.bincount(best.filters[best.shares > 0], minlength=filters)


def _most_serving(best: ServingResult) -> torch.Tensor:
    """Each class's filters in the order of the classes, every filter once, so that rows run along the diagonal."""
    ordered = dict.fromkeys(best.filters.T.flatten().tolist())
    return torch.tensor(list(ordered)[:_MOST_ROWS])


def _table(best: ServingResult, names: list[str]) -> str:
    lines = ["| class | filters, with their shares |", "| --- | --- |"]
    for number, (filters, shares) in enumerate(zip(best.filters.tolist(), best.shares.tolist(), strict=True)):
        named = [f"{one} ({share:.0%})" for one, share in zip(filters, shares, strict=True) if share > 0]
        lines.append(f"| {escape_markdown(names[number])} | {', '.join(named) or 'none'} |")
    return "\n".join(lines[: _MOST_ROWS + 2])
