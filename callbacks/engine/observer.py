"""The contract between the engine and its observers: their settings and needs, and the calls that they receive.

The engine knows nothing else of callbacks. :class:`~convscope.LayerObserver` implements all of it with defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch

from convscope.callbacks.engine.findings import Findings, History, LayerResult, MapSpec, Moment, Values, Vector
from convscope.callbacks.engine.schedule import Schedule
from convscope.capture.data.heldout import HeldOut
from convscope.capture.network.layers import LayerSpec
from convscope.capture.network.trace import Layer
from convscope.capture.observation import Record, Subject
from convscope.capture.outputs.choice import Outputs
from convscope.capture.outputs.loss import Loss
from convscope.loggers import Backend
from convscope.loggers.record import Storable


class Observer(Protocol):
    """Object that measures layers. In a check the methods are called in the order in which they stand here.

    Every method is guarded on its own: one that raises costs only this observer, or only the layer it was called for.
    """

    family: ClassVar[str]
    # Settings as the user gave them.
    name: str
    heldout: HeldOut | None
    layers: LayerSpec
    max_layers: int | None
    observe_at: Literal["activation", "conv"]
    max_overhead: float | None
    on_error: Literal["warn", "raise"]
    pictures: bool
    schedule: Schedule
    by_default: bool  # a suite has added it
    # State that is kept from check to check.
    history: History
    logged: dict[str, float]
    run: str

    @property
    def charts(self) -> Mapping[str, str]: ...

    @property
    def maps(self) -> Mapping[str, MapSpec]: ...

    @property
    def columns(self) -> Mapping[str, str]: ...

    @property
    def overview(self) -> Mapping[str, str]: ...

    @property
    def variant(self) -> str: ...

    def shown(self, distribution: Vector) -> Vector: ...

    def is_logged(self, quantity: str) -> bool: ...

    # Needs.

    @property
    def needs_gradient(self) -> bool: ...

    @property
    def takes_nonfinite(self) -> bool: ...

    @property
    def loss(self) -> Loss | None: ...

    @property
    def includes_output(self) -> bool: ...

    @property
    def takes_output_as_logits(self) -> Literal[False, "too", "only"]: ...

    @property
    def takes_targets_as(self) -> Literal["nothing", "inferred", "classes"]: ...

    @property
    def needs_filters(self) -> bool: ...

    @property
    def intervenes(self) -> bool: ...

    @property
    def takes_any_share(self) -> bool: ...

    # Before training.

    def restart(self) -> None: ...

    def suits(self, layer: Layer) -> bool: ...

    def skips(self, heldout: HeldOut, no_loss: str | None) -> str | None: ...

    def ready(self, plan: Plan) -> None: ...

    def same_heldout(self, fingerprint: str) -> bool: ...

    # In a check.

    def begin(self, layers: list[Layer], samples: int) -> None: ...

    def on_activation(self, record: Record) -> None: ...

    def on_gradient(self, record: Record, gradient: torch.Tensor) -> None: ...

    def drop_gradients(self) -> bool: ...

    def intervene(self, layer: Layer) -> None: ...

    def compute(self, layer: Layer) -> LayerResult | None: ...

    def summarise(self, values: Values) -> dict[str, float]: ...

    def conclude(self, findings: Findings, check: Mapping[str, Findings]) -> None: ...

    def remember(self, findings: Findings, when: Moment) -> None: ...

    def draw(self, dashboard: Backend, when: Moment) -> None: ...

    def arrays(self) -> Mapping[str, Storable]: ...

    def end(self) -> None: ...


def needs_of(observer: Observer) -> tuple[Any, ...]:
    """All the needs that an observer states, read where a failure costs this observer alone."""
    return (
        observer.needs_gradient,
        observer.takes_nonfinite,
        observer.loss,
        observer.includes_output,
        observer.takes_output_as_logits,
        observer.takes_targets_as,
        observer.needs_filters,
        observer.intervenes,
        observer.takes_any_share,
    )


@dataclass
class Plan:
    """One held-out set's part of a check. ``layers`` maps an observer's name to its layers, in depth order.

    ``answers`` are sentences without their subject, by observer's name; ``available`` the names of all layers that
    could be observed if ``max_layers`` allowed. ``idle`` gives, per observer that is inactive for lack of layers, the
    reason; ``hidden`` is True if layers run where they cannot be seen, in TorchScript or ``torch.vmap``. ``own`` has
    the plans of observers that look at samples made from the held-out set, not at the set itself.
    """

    subject: Subject
    heldout: HeldOut
    observers: list[Observer] = field(default_factory=list)
    layers: dict[str, list[Layer]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    answers: dict[str, list[str]] = field(default_factory=dict)
    available: set[str] = field(default_factory=set)
    idle: list[str] = field(default_factory=list)
    chunk_size: int = 0
    hidden: bool = False
    outputs: Outputs = field(default_factory=Outputs)
    own: dict[str, Plan] = field(default_factory=dict)

    def give_own(self, observer: Observer, samples: HeldOut) -> None:
        """Run an observer's samples of its own in a pass of their own; to be called in ``ready``."""
        layers = {observer.name: self.layers[observer.name]}
        self.own[observer.name] = Plan(
            self.subject, samples, [observer], layers, chunk_size=samples.batch_size, outputs=self.outputs
        )

    def passes(self, due: list[Observer]) -> list[tuple[Plan, list[Observer]]]:
        """The passes of a check: one that observers share, and one for each that has samples of its own."""
        shared = [observer for observer in due if observer.name not in self.own]
        own = [(self.own[observer.name], [observer]) for observer in due if observer.name in self.own]
        return [(self, shared), *own] if shared else own
