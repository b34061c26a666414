"""Layer similarity: linear CKA between all layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from convscope._arguments import flag
from convscope.callbacks.engine.findings import Findings, LayerResult, MapSpec, Moment, Values
from convscope.callbacks.engine.observer import Plan
from convscope.callbacks.parts.layer_observer import LayerObserver
from convscope.callbacks.parts.per_layer import PerLayer
from convscope.callbacks.parts.snapshots import require_samples
from convscope.capture.network.trace import Layer
from convscope.capture.observation import Record
from convscope.loggers import Backend
from convscope.loggers.classes import layer_heatmap
from convscope.metrics import PooledFeatures
from convscope.metrics.functional import linear_cka_matrix


class LayerSimilarity(LayerObserver):
    """Layer × layer similarity of pooled activations, the model's output as the last layer.

    Linear CKA (Kornblith et al. 2019, arXiv 1905.00414). As the Hybrid CNN-Interpreter's feature correlation across
    layers (arXiv 2211.00185) it is a reconstruction.

    Args:
        debiased: Use the unbiased estimator, which does not rise where layers have about as many filters as there
            are held-out samples. Needs four samples.
        **arguments: See :class:`~convscope.LayerObserver`.

    Logged for each layer:
        ``similarity/to_previous/<layer>`` (CKA with the previous layer; from the second layer on) and
        ``similarity/to_output/<layer>``, 0 to 1 (debiased estimates may fall a little below 0).
    Logged once per check:
        ``similarity/mean`` (mean over pairs of different layers).

    Picture: ``similarity/layers``, the matrix, with depth on both axes.
    """

    family = "similarity"
    charts: ClassVar[dict[str, str]] = {
        "to_previous": "CKA with the previous layer",
        "to_output": "CKA with the output",
    }
    maps: ClassVar[dict[str, MapSpec]] = {"to_output": MapSpec("Similarity to the output", "linear CKA", 0.0, 1.0)}
    columns: ClassVar[dict[str, str]] = {"to_output": "CKA out"}

    def __init__(self, *, debiased: bool = True, **arguments: Any) -> None:
        self.debiased = flag("debiased", debiased)
        super().__init__(**arguments)
        self._metrics = PerLayer[PooledFeatures]()
        self._features: dict[str, torch.Tensor] = {}
        self._matrix: torch.Tensor | None = None
        self._output = ""  # name of the model's output

    @property
    def takes_any_share(self) -> bool:
        return True

    @property
    def includes_output(self) -> bool:
        return True

    def ready(self, plan: Plan) -> None:
        require_samples(self.name, plan.heldout.total, self.debiased)

    def begin(self, layers: list[Layer], samples: int) -> None:
        self._metrics.make(layers, lambda layer: PooledFeatures(layer.channels))
        self._features, self._matrix = {}, None
        self._output = next((layer.name for layer in layers if layer.is_output), "")

    def on_activation(self, record: Record) -> None:
        self._metrics.update(record, record.pooled, record.index)

    def compute(self, layer: Layer) -> LayerResult:
        self._features[layer.name] = self._metrics.compute(layer)
        return LayerResult({})  # a layer's own numbers need all layers: see conclude

    def summarise(self, values: Values) -> dict[str, float]:
        if len(self._features) < 2:
            return {}
        self._matrix = linear_cka_matrix(list(self._features.values()), self.debiased).cpu()
        # Every layer has similarity 1 to itself: the diagonal would raise the mean, most in small networks.
        apart = ~torch.eye(len(self._matrix), dtype=torch.bool)
        return {"mean": float(self._matrix[apart].double().nanmean())}  # NaN for a layer that does not vary

    def conclude(self, findings: Findings, check: Mapping[str, Findings]) -> None:
        """Add each layer's part of the matrix."""
        if self._matrix is not None:
            names = list(self._features)
            for place, name in enumerate(names):
                scalars = findings.layers[name].scalars
                if place > 0:
                    scalars["to_previous"] = float(self._matrix[place, place - 1])
                if self._output in names and name != self._output:
                    scalars["to_output"] = float(self._matrix[place, names.index(self._output)])

    def draw(self, dashboard: Backend, when: Moment) -> None:
        if self._matrix is not None:
            kind = "linear CKA, debiased" if self.debiased else "linear CKA"
            title = f"Similarity of layers, {when.label}"
            picture = layer_heatmap(self._matrix.numpy(), list(self._features), title, kind)
            dashboard.image(f"{self.name}/layers", picture, when.step)

    def end(self) -> None:
        self._metrics.drop()
        self._features, self._matrix = {}, None
