"""Features of a reference network on the held-out set, computed once by the shared pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn

from convscope.callbacks.engine import bridge
from convscope.callbacks.engine.hierarchies import MisconfigurationException
from convscope.callbacks.engine.lockstep import together
from convscope.callbacks.engine.observer import Plan
from convscope.callbacks.parts.per_layer import PerLayer
from convscope.capture.network.layers import select_layers
from convscope.capture.network.trace import Layer, Trace
from convscope.capture.observation import Record, Subject, observe, trace_layers
from convscope.capture.reference import fit_weights, match_names, own_tensors, read_weights, with_tensors
from convscope.metrics import PooledFeatures

Reference = str | Path | nn.Module


def reference_features(reference: Reference, plan: Plan, layers: list[Layer], raw: bool) -> dict[str, Tensor]:
    """Pooled features ``(N, C)`` of the reference, by the name of the observed layer that they belong to.

    Every process calls it; where it fails on one, it fails on all.

    Args:
        reference: Path of a checkpoint of the network under observation, or another network.
        plan: Of the network under observation: its held-out set, device and precision.
        layers: The observed layers.
        raw: Whether convolutions are observed themselves, without norm and activation.

    Raises:
        ValueError: if the reference cannot be read, does not fit the network, shares no layer with it, or cannot be
            run on the held-out set.
    """
    subject, pairs = _on_all(lambda: _paired(reference, plan, layers, raw))
    chosen = list({layer.id: layer for layer in pairs.values()}.values())
    try:
        collector, usable = _collected(subject, plan, chosen)
    except Exception as error:
        raise ValueError(f"the reference cannot be run on the held-out set: {type(error).__name__}: {error}") from error
    features = {layer.name: collector.features.compute(layer) for layer in usable}
    return {name: features[layer.name] for name, layer in pairs.items() if layer.name in features}


class _Collector:
    """Consumer of a pass that keeps every layer's pooled features."""

    needs_gradient = takes_nonfinite = False

    def __init__(self, layers: list[Layer]) -> None:
        self.features = PerLayer[PooledFeatures]()
        self.features.make(layers, lambda layer: PooledFeatures(layer.channels))

    def wants(self, layer: Layer) -> bool:
        return layer in self.features

    def on_activation(self, record: Record) -> None:
        self.features.update(record, record.pooled, record.index)

    def on_gradient(self, record: Record, gradient: Tensor) -> None:
        """Do nothing: no gradient is asked for."""


def _collected(subject: Subject, plan: Plan, layers: list[Layer]) -> tuple[_Collector, list[Layer]]:
    """A collector that has seen the held-out set, and the layers that went well on every process.

    Raises:
        Exception: the one that the network raised here, or ElsewhereError for another process.
    """
    chunk_size = plan.chunk_size
    while True:
        collector = _Collector(layers)
        try:
            observed = together(partial(observe, subject, plan.heldout, layers, [collector], chunk_size=chunk_size))
            break
        except Exception as error:
            starved = any(bridge.gather_objects(isinstance(error, torch.OutOfMemoryError)))
            if not starved or chunk_size == 1:
                raise
        chunk_size //= 2
    bad = observed.nonfinite.keys() | observed.missing | observed.unmatched.keys()
    bad |= {layer for _, layer in observed.failures}
    everywhere = {name for names in bridge.gather_objects(bad) for name in names}
    return collector, [layer for layer in layers if layer.name not in everywhere]


def _paired(reference: Reference, plan: Plan, layers: list[Layer], raw: bool) -> tuple[Subject, dict[str, Layer]]:
    """The reference, ready to run, and its layer for each observed layer that it has."""
    subject = _subject(reference, plan, layers)
    trace, _ = trace_layers(subject, plan.heldout)
    its_layers = _by_name(trace, raw)
    names = match_names([layer.name for layer in layers], its_layers)
    if not names:
        raise ValueError(
            f"the reference has none of the observed layers ({', '.join(layer.name for layer in layers[:5])}, …); its "
            f"own are {', '.join(list(its_layers)[:5])}, …; names may differ by a prefix only"
        )
    absent = [layer.name for layer in layers if layer.name not in names]
    if absent:
        rank_zero_info(f"convscope: the reference has no layer {', '.join(absent)}; they are not compared with it")
    return subject, {name: its_layers[there] for name, there in names.items()}


def _subject(reference: Reference, plan: Plan, layers: list[Layer]) -> Subject:
    if isinstance(reference, nn.Module):
        try:
            forward = bridge.caller(reference)
        except MisconfigurationException as error:
            raise ValueError(f"the reference: {error}") from error
        return with_tensors(plan.subject, reference, forward, own_tensors(reference))
    weights = read_weights(reference)
    trace, _ = trace_layers(plan.subject, plan.heldout)
    fitting = fit_weights(plan.subject.module, weights, trace, layers)
    return with_tensors(plan.subject, plan.subject.module, plan.subject.forward, fitting)


def _by_name(trace: Trace, raw: bool) -> dict[str, Layer]:
    try:
        units = select_layers(trace, raw=raw)
    except ValueError:  # no convolution: other modules may have been chosen
        units = []
    return {layer.name: layer for layer in [*trace.modules(), *units]}


def _on_all(make: Callable[[], tuple[Subject, dict[str, Layer]]]) -> tuple[Subject, dict[str, Layer]]:
    found, failure = None, None
    try:
        found = make()
    except ValueError as error:
        failure = error
    except Exception as error:
        failure = ValueError(f"the reference cannot be run on the held-out set: {type(error).__name__}: {error}")
        failure.__cause__ = error
    messages = [message for message in bridge.gather_objects(failure and str(failure)) if message]
    if found is None or messages:
        raise failure or ValueError(messages[0])
    return found
