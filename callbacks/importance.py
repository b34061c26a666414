"""Filter importance: the importance of each filter, its concentration, and its change over training."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch

from convscope._arguments import callable_or_none, share
from convscope.callbacks.engine.findings import LayerResult, MapSpec, Vector
from convscope.callbacks.parts.criteria import Criterion, ImportanceMeasure
from convscope.callbacks.parts.layer_observer import LayerObserver
from convscope.callbacks.parts.reading import read
from convscope.capture.data.heldout import HeldOut
from convscope.capture.network.trace import Layer
from convscope.capture.observation import Record
from convscope.capture.outputs.loss import Loss
from convscope.metrics.functional.summary import summaries

MOST_SHOWN = 8.0
"""Times a layer's mean importance that its histogram shows; what is more counts as this."""


class FilterImportance(LayerObserver):
    """Importance of every filter of a layer, and its spread over the filters.

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
        loss: ``loss(outputs, targets)``, for criteria that need gradients: one value per sample, or their mean (what
            ``torch.nn`` losses give). By default cross-entropy, binary cross-entropy or squared error, by the targets.
        top: Share of filters that count as the top, in (0, 1], for ``top_share`` and ``turnover``.
        **arguments: See :class:`~convscope.LayerObserver`.

    Logged for each layer:
        ``importance/gini/<layer>`` (0: all filters alike, towards 1: one filter has it all), ``importance/top_share/
        <layer>`` (share of the total in the top 10 %), ``importance/mean/<layer>``, and from the second check on
        ``importance/rank_stability/<layer>`` (Spearman with the previous check) and ``importance/turnover/<layer>``
        (1 − Jaccard of the top filters with the previous check). The importances themselves are a histogram,
        ``importance/filters/<layer>``.

    With a criterion other than Taylor the tags begin with ``importance_<criterion>/``.
    """

    family = "importance"
    charts: ClassVar[dict[str, str]] = {
        "gini": "Gini coefficient of importance",
        "top_share": "importance held by the top filters",
        "rank_stability": "rank stability since the last check",
        "turnover": "turnover of the top filters",
    }
    maps: ClassVar[dict[str, MapSpec]] = {"gini": MapSpec("Gini of importance", "Gini coefficient", 0.0, 1.0)}
    columns: ClassVar[dict[str, str]] = {"gini": "gini"}
    # Both say what the Gini coefficient and the rank stability say; the mean depends on the scale of the loss.
    details: ClassVar[frozenset[str]] = frozenset({"top_share", "turnover", "mean"})
    overview: ClassVar[dict[str, Literal["highest", "lowest", "mean"]]] = {"gini": "mean"}

    def __init__(
        self, *, criterion: Criterion = "taylor", loss: Loss | None = None, top: float = 0.1, **arguments: Any
    ) -> None:
        self._measure = ImportanceMeasure(criterion)
        self.criterion, self.top = criterion, share("top", top, "a share of the filters")
        self._loss = callable_or_none("loss", loss, "loss(outputs, targets)", "to infer it")
        super().__init__(**arguments)
        self._previous: dict[str, torch.Tensor] = {}

    def default_name(self) -> str:
        return self.family if self.criterion == "taylor" else f"{self.family}_{self.criterion}"

    @property
    def variant(self) -> str:
        return self.criterion if self.name == self.default_name() else self.name

    def shown(self, distribution: Vector) -> Vector:
        """Importances over their layer's mean, at most 8: so no check, as the first, sets the range of all others."""
        mean = distribution.mean()
        return np.minimum(distribution / mean, MOST_SHOWN) if mean > 0 else distribution

    @property
    def needs_gradient(self) -> bool:
        return self._measure.needs_gradient

    @property
    def needs_filters(self) -> bool:
        return True

    @property
    def includes_output(self) -> bool:
        return self._measure.needs_output

    @property
    def takes_output_as_logits(self) -> Literal[False, "too", "only"]:
        return "only" if self._measure.needs_output else False

    @property
    def loss(self) -> Loss | None:
        return self._loss

    def suits(self, layer: Layer) -> bool:
        return self._measure.suits(layer)

    def skips(self, heldout: HeldOut, no_loss: str | None) -> str | None:
        return no_loss if self.needs_gradient else None

    def begin(self, layers: list[Layer], samples: int) -> None:
        self._measure.begin(layers)

    def on_activation(self, record: Record) -> None:
        self._measure.on_activation(record)

    def on_gradient(self, record: Record, gradient: torch.Tensor) -> None:
        self._measure.on_gradient(record, gradient)

    def compute(self, layer: Layer) -> LayerResult | None:
        if layer.is_output:
            return None
        importance = self._measure.importance(layer)
        previous = self._previous.get(layer.name)
        comparable = previous is not None and previous.shape == importance.shape
        scalars = read(summaries(importance, previous if comparable else None, self.top))
        self._previous[layer.name] = importance
        return LayerResult(scalars, distribution=importance.numpy())

    def end(self) -> None:
        self._measure.end()

    def restart(self) -> None:
        super().restart()
        self._previous = {}

    def state(self) -> dict[str, Any]:
        return super().state() | {"previous": dict(self._previous)}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self._previous = dict(state["previous"])
