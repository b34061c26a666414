"""Representation drift: distance of each layer from the last check, the first, and a reference."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from convscope._arguments import flag, refuse, whole_number_or_none
from convscope.callbacks.engine.findings import Findings, LayerResult, MapSpec
from convscope.callbacks.engine.observer import Plan
from convscope.callbacks.parts.convergence import Convergence
from convscope.callbacks.parts.layer_observer import LayerObserver
from convscope.callbacks.parts.per_layer import Correlations, PerLayer, positions_each
from convscope.callbacks.parts.reading import read
from convscope.callbacks.parts.reference import Reference, reference_features
from convscope.callbacks.parts.snapshots import Features, LayerSnapshot, require_samples
from convscope.capture.network.trace import Layer
from convscope.capture.observation import Record
from convscope.metrics import ChannelMoments, PooledFeatures
from convscope.metrics.functional import rank_stability


class RepresentationDrift(LayerObserver):
    """Drift of each layer's representation of the held-out set, between checks and from fixed points.

    Source: linear CKA, Kornblith et al. 2019 (arXiv 1905.00414). As a way to follow "the model context during the
    whole learning process" (arXiv 2211.00185), it and the change of feature correlation are a reconstruction.

    Args:
        reference: What else to compare with: the path of a checkpoint of this model (Lightning's, or a saved
            ``state_dict``, read with ``weights_only=True``), or another network whose layers have the same names up to
            a prefix, such as the pretrained one. It is run on the held-out set once per fit, as it is at that time.
        debiased: Use the unbiased estimator of CKA; needs 4 samples, and is more accurate where a layer has as many
            filters as there are samples.
        max_observations: As for :class:`~convscope.callbacks.FilterCorrelation`: values per filter in the
            correlation matrix, means and variances. None for all positions.
        **arguments: See :class:`~convscope.LayerObserver`.

    Logged for each layer, pooled features of all held-out samples compared by linear CKA (1: the same up to rotation
    and scale; 0: nothing in common, or a side that does not vary at all):
        ``drift/cka_previous/<layer>``: with the previous check;
        ``drift/cka_first/<layer>``: with the run's first check;
        ``drift/cka_reference/<layer>``: with the reference.
    From the second check on, compared with the previous check:
        ``drift/correlation_change/<layer>``: ``‖R_t − R_{t−1}‖_F / ‖R_{t−1}‖_F`` of the inter-filter Pearson matrix;
        ``drift/mean_shift/<layer>``: of the channel means, in standard deviations of the layer;
        ``drift/variance_shift/<layer>``: ``Σ|v − v'| / Σ(v + v')`` of the channel variances, 0 to 1.
        ``drift/freezable/<layer>``: share of a training step, as it is now, that freezing the layer and all that run
        before it would save, logged once each of them has had a ``cka_previous`` of 0.995 for 8 checks in a row, or is
        frozen. Counted, not timed: multiplications of the observed layers, forward and backward. See
        :func:`convscope.rules.convergence`.
    Where a :class:`~convscope.FilterImportance` measures the layer in the same check (the first one, if there
    are several), Spearman correlations of its importances, from its second check on:
        ``drift/importance_stability_previous/<layer>``, ``drift/importance_stability_first/<layer>``: -1 to 1.

    A checkpoint holds ``2·N·C`` bytes per layer for the previous check, as much for the first, and ``2·C²``.
    """

    family = "drift"
    charts: ClassVar[dict[str, str]] = {
        "cka_previous": "CKA with the previous check",
        "cka_first": "CKA with the first check",
        "correlation_change": "change of filter correlation",
        "mean_shift": "shift of channel means / std",
        "variance_shift": "shift of channel variances",
    }
    maps: ClassVar[dict[str, MapSpec]] = {
        "cka_previous": MapSpec("Similarity to the previous check", "linear CKA", 0.0, 1.0),
        "cka_first": MapSpec("Similarity to the first check", "linear CKA", 0.0, 1.0),
    }
    columns: ClassVar[dict[str, str]] = {"cka_previous": "CKA prev"}
    # What rules watch, and copies of what FilterImportance logs.
    details: ClassVar[frozenset[str]] = frozenset(
        {
            "correlation_change",
            "mean_shift",
            "variance_shift",
            "freezable",
            "importance_stability_previous",
            "importance_stability_first",
        }
    )
    overview: ClassVar[dict[str, Literal["highest", "lowest", "mean"]]] = {"cka_previous": "lowest"}

    def __init__(
        self,
        *,
        reference: str | Path | nn.Module | None = None,
        debiased: bool = False,
        max_observations: int | None = 16384,
        **arguments: Any,
    ) -> None:
        if reference == "" or not isinstance(reference, str | Path | nn.Module | None):
            raise refuse("reference", reference, "the path of a checkpoint, an nn.Module, or None")
        self.reference: Reference | None = reference
        self.debiased = flag("debiased", debiased)
        self.max_observations = whole_number_or_none("max_observations", max_observations, "all positions")
        super().__init__(**arguments)
        if reference is not None:
            self.charts = {**self.charts, "cka_reference": "CKA with the reference"}  # type: ignore[misc]
        self._features = PerLayer[PooledFeatures]()
        self._correlation = Correlations[ChannelMoments]()
        self._layers: list[Layer] = []
        self._reference: dict[str, Features] = {}
        self._forget()

    def _forget(self) -> None:
        self._previous: dict[str, LayerSnapshot] = {}
        self._first: dict[str, Features] = {}
        self._importance: dict[str, dict[str, torch.Tensor]] = {"previous": {}, "first": {}}
        self._convergence = Convergence()

    @property
    def takes_any_share(self) -> bool:
        return True

    def ready(self, plan: Plan) -> None:
        require_samples(self.name, plan.heldout.total, self.debiased)
        if self.reference is not None:
            found = reference_features(self.reference, plan, plan.layers[self.name], self.observe_at == "conv")
            self._reference = {name: Features.of(features, self.debiased) for name, features in found.items()}

    def begin(self, layers: list[Layer], samples: int) -> None:
        self._layers = layers
        most = positions_each(self.max_observations, samples)
        self._features.make(layers, lambda layer: PooledFeatures(layer.channels))
        self._correlation.make(layers, lambda layer: ChannelMoments(layer.channels, max_positions=most))

    def on_activation(self, record: Record) -> None:
        self._features.update(record, record.pooled, record.index)
        self._correlation.take(record)

    def compute(self, layer: Layer) -> LayerResult:
        name = layer.name
        features, correlation = self._features.finish(layer), self._correlation.finish(layer)
        now = LayerSnapshot.of(features, correlation, self.debiased)
        others, changes = {}, {}
        if previous := self._previous.get(name):
            others = {"cka_previous": previous.features, "cka_first": self._first[name]}
            changes = now.since(previous)
        if reference := self._reference.get(name):
            others["cka_reference"] = reference
        scalars = read(now.features.cka(others) | changes)
        self._previous[name] = now
        self._first.setdefault(name, now.features)
        return LayerResult({key: value for key, value in scalars.items() if math.isfinite(value)})

    def conclude(self, findings: Findings, check: Mapping[str, Findings]) -> None:
        """Add what is known once all layers and all callbacks have computed."""
        likeness = {name: result.scalars.get("cka_previous", 0.0) for name, result in findings.layers.items()}
        for name, saved in self._convergence.freezable(self._layers, likeness).items():
            findings.layers[name].scalars["freezable"] = saved
        current = _importances(check)
        for name, result in findings.layers.items():
            if name in current:
                result.scalars |= self._stability(name, current[name])

    def _stability(self, name: str, importance: torch.Tensor) -> dict[str, float]:
        scalars = {}
        for which, kept in self._importance.items():
            if name in kept and kept[name].shape == importance.shape:
                scalars[f"importance_stability_{which}"] = float(rank_stability(importance, kept[name]))
        self._importance["previous"][name] = importance
        self._importance["first"].setdefault(name, importance)
        return scalars

    def end(self) -> None:
        self._layers = []
        self._features.drop()
        self._correlation.drop()

    # State.

    def same_heldout(self, fingerprint: str) -> bool:
        """Compare with the held-out set so far; on other samples, the features of earlier checks are dropped."""
        same = super().same_heldout(fingerprint)
        if not same:
            self._forget()
        return same

    def restart(self) -> None:
        super().restart()
        self._forget()

    def state(self) -> dict[str, Any]:
        return super().state() | {
            "previous": {name: snapshot.state_dict() for name, snapshot in self._previous.items()},
            "first": {name: features.half for name, features in self._first.items()},
            "importance": {which: dict(kept) for which, kept in self._importance.items()},
            "convergence": self._convergence.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self._previous = {name: LayerSnapshot.load(kept, self.debiased) for name, kept in state["previous"].items()}
        self._first = {name: Features(half, self.debiased) for name, half in state["first"].items()}
        self._importance = {which: dict(kept) for which, kept in state["importance"].items()}
        self._convergence.load_state_dict(state.get("convergence", {}))  # there was none in earlier versions


def _importances(check: Mapping[str, Findings]) -> dict[str, torch.Tensor]:
    """Importances ``(C,)`` by layer of the first findings that have some, Taylor's if there are any."""
    names = sorted((name for name in check if check[name].kind == "importance"), key=lambda name: name != "importance")
    for name in names:
        found = {layer: result.distribution for layer, result in check[name].layers.items()}
        if found:
            return {layer: torch.from_numpy(values) for layer, values in found.items() if values is not None}
    return {}
