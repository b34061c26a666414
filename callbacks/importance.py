"""Filter importance: the importance of each filter, how concentrated it is, and how it changes over training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torchmetrics import Metric

from convscope.callbacks.engine.findings import LayerResult, MapSpec
from convscope.callbacks.parts.layer_observer import LayerObserver
from convscope.capture.data.heldout import HeldOut
from convscope.capture.data.targets import counted_rows
from convscope.capture.network.trace import Layer
from convscope.capture.network.weights import filter_weights, norm_scale
from convscope.capture.observation import Record
from convscope.capture.outputs.loss import Loss
from convscope.metrics import (
    ActivationImportance,
    BatchNormImportance,
    GradientActivationImportance,
    OutputCorrelation,
    TaylorImportance,
    WeightImportance,
)
from convscope.metrics.functional import gini, rank_stability, top_share, turnover

Criterion = Literal[
    "taylor", "gradient_activation", "activation", "weight_l1", "weight_l2", "batchnorm", "output_correlation"
]
_GRADIENT = {"taylor": TaylorImportance, "gradient_activation": GradientActivationImportance}
_PARAMETER = ("weight_l1", "weight_l2", "batchnorm")
_CRITERIA = (*_GRADIENT, "activation", *_PARAMETER, "output_correlation")


class FilterImportance(LayerObserver):
    """Importance of every filter of a layer, and how it is spread.

    Criteria, for filter ``c`` of layer ``l`` with activation ``a`` and gradient ``g`` of the summed loss:

    ========================  ==========================================================================
    ``taylor``                mean over samples of ``(Σ_hw a·g)²`` (Molchanov et al. 2019, arXiv 1906.10771)
    ``gradient_activation``   mean over samples and positions of ``|a·g|``
    ``activation``            mean over samples and positions of ``|a|``
    ``weight_l1, weight_l2``  norm of the filter's weights
    ``batchnorm``             ``|γ|`` of the unit's normalisation
    ``output_correlation``    ``max_k |corr(u_c, z_k)|``, pooled activation with logit
    ========================  ==========================================================================

    As the Hybrid CNN-Interpreter's filter importance (arXiv 2211.00185) this is a reconstruction.

    Args:
        criterion: One of the above.
        loss: ``loss(outputs, targets)``, for criteria that need gradients: one value a sample, or their mean (what
            ``torch.nn`` losses give). By default cross-entropy, binary cross-entropy or squared error, by the targets.
        top: Share of filters that count as the top, in (0, 1], for ``top_share`` and ``turnover``.
        **arguments: See :class:`~convscope.LayerObserver`.

    Logged for each layer:
        ``importance/gini/<layer>`` (0: all filters alike, towards 1: one filter has it all), ``importance/top_share/
        <layer>`` (share of the total in the top 10 %), ``importance/mean/<layer>``, and from the second check on
        ``importance/rank_stability/<layer>`` (Spearman with the check before) and ``importance/turnover/<layer>``
        (1 − Jaccard of the top filters with the check before). The importances themselves are a histogram,
        ``importance/filters/<layer>``.

    With a criterion other than Taylor the tags begin with ``importance_<criterion>/``.

    Attributes:
        importances: Importance ``(C,)`` of each filter by layer, while a check's results are gathered; then empty.
    """

    family = "importance"
    charts: ClassVar[dict[str, str]] = {
        "gini": "Gini coefficient of importance",
        "top_share": "importance held by the top filters",
        "rank_stability": "rank stability since the last check",
        "turnover": "turnover of the top filters",
    }
    maps: ClassVar[dict[str, MapSpec]] = {
        "gini": MapSpec("Concentration of filter importance", "Gini coefficient", 0.0, 1.0)
    }
    columns: ClassVar[dict[str, str]] = {"gini": "gini", "rank_stability": "rank stab."}

    def __init__(
        self, *, criterion: Criterion = "taylor", loss: Loss | None = None, top: float = 0.1, **arguments: Any
    ) -> None:
        if criterion not in _CRITERIA:
            raise ValueError(f"criterion={criterion!r}: give one of {', '.join(map(repr, _CRITERIA))}")
        if loss is not None and not callable(loss):
            raise ValueError(f"loss={loss!r}: give a callable(outputs, targets), or None to infer it")
        if not 0 < top <= 1:
            raise ValueError(f"top={top!r}: give a share of the filters in (0, 1]")
        self.criterion, self.top, self._loss = criterion, top, loss
        super().__init__(**arguments)
        self._metrics: dict[str, Metric] = {}
        self._pooled: dict[str, torch.Tensor] = {}
        self._previous: dict[str, torch.Tensor] = {}
        self.importances: dict[str, torch.Tensor] = {}

    def default_name(self) -> str:
        return self.family if self.criterion == "taylor" else f"{self.family}_{self.criterion}"

    @property
    def needs_gradient(self) -> bool:
        return self.criterion in _GRADIENT

    @property
    def needs_filters(self) -> bool:
        return True

    @property
    def includes_output(self) -> bool:
        return self.criterion == "output_correlation"

    @property
    def takes_output_as_logits(self) -> Literal[False, "too", "only"]:
        return "only" if self.criterion == "output_correlation" else False

    @property
    def loss(self) -> Loss | None:
        return self._loss

    def suits(self, layer: Layer) -> bool:
        if self.criterion == "batchnorm":
            return norm_scale(layer) is not None
        return self.criterion not in _PARAMETER or filter_weights(layer) is not None

    def skips(self, heldout: HeldOut, no_loss: str | None) -> str | None:
        return no_loss if self.needs_gradient else None

    def begin(self, layers: list[Layer], samples: int) -> None:
        self._pooled = {}
        outputs = next((layer.channels for layer in layers if layer.is_output), 0)
        self._metrics = {layer.name: self._metric(layer, outputs) for layer in layers if not layer.is_output}
        for layer in layers:
            self._measure_parameters(layer)

    def on_activation(self, record: Record) -> None:
        name = record.layer.name
        if self.criterion == "activation":
            self._metrics[name].to(record.activation.device).update(record.activation)
        elif self.criterion == "output_correlation" and not record.layer.is_output:
            self._pooled[name] = record.pooled
        elif self.criterion == "output_correlation":
            for earlier, pooled in self._pooled.items():
                self._metrics[earlier].to(pooled.device).update(pooled, record.pooled)
            self._pooled = {}

    def on_gradient(self, record: Record, gradient: torch.Tensor) -> None:
        mine = counted_rows(record.targets)
        activation = record.activation
        if mine is not None:  # a sample whose label is ignored has no loss, and is not one without importance
            activation, gradient = activation[mine], gradient[mine]
        if len(gradient):
            self._metrics[record.layer.name].to(gradient.device).update(activation, gradient)

    def compute(self, layer: Layer) -> LayerResult | None:
        if layer.is_output:
            return None
        importance = self._metrics[layer.name].compute().double().cpu()
        scalars = {
            "gini": float(gini(importance)),
            "top_share": float(top_share(importance, self.top)),
            "mean": float(importance.mean()),
        }
        previous = self._previous.get(layer.name)
        if previous is not None and previous.shape == importance.shape:
            scalars["rank_stability"] = float(rank_stability(importance, previous))
            scalars["turnover"] = float(turnover(importance, previous, self.top))
        self._previous[layer.name] = self.importances[layer.name] = importance
        return LayerResult(scalars, distribution=importance.numpy())

    def end(self) -> None:
        self._metrics, self._pooled, self.importances = {}, {}, {}

    def restart(self) -> None:
        super().restart()
        self._previous = {}

    def state(self) -> dict[str, Any]:
        return super().state() | {"previous": dict(self._previous)}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self._previous = dict(state["previous"])

    def _metric(self, layer: Layer, outputs: int) -> Metric:
        makers: dict[str, Callable[[], Metric]] = {
            "taylor": lambda: TaylorImportance(layer.channels),
            "gradient_activation": lambda: GradientActivationImportance(layer.channels),
            "activation": lambda: ActivationImportance(layer.channels),
            "weight_l1": lambda: WeightImportance(layer.channels, norm=1),
            "weight_l2": lambda: WeightImportance(layer.channels, norm=2),
            "batchnorm": lambda: BatchNormImportance(layer.channels),
            "output_correlation": lambda: OutputCorrelation(layer.channels, outputs),
        }
        return makers[self.criterion]()

    def _measure_parameters(self, layer: Layer) -> None:
        if self.criterion not in _PARAMETER:
            return
        values = norm_scale(layer) if self.criterion == "batchnorm" else filter_weights(layer)
        if values is not None:
            self._metrics[layer.name].to(values.device).update(values)
