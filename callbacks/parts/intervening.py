"""Base class of callbacks that replace filters and rerun the rest of the network."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch

from convscope._arguments import callable_or_none, one_of, whole_number
from convscope.callbacks.engine.bridge import processes
from convscope.callbacks.engine.findings import LayerResult
from convscope.callbacks.engine.observer import Plan
from convscope.callbacks.parts.criteria import Criteria, Criterion
from convscope.callbacks.parts.layer_observer import LayerObserver
from convscope.callbacks.parts.per_layer import PerLayer
from convscope.capture.data.heldout import HeldOut
from convscope.capture.data.targets import counted_rows
from convscope.capture.intervention import BASELINES, Baseline, Intervention
from convscope.capture.network.layers import spread_over_depth
from convscope.capture.network.trace import Layer
from convscope.capture.observation import Record
from convscope.capture.outputs.loss import Loss
from convscope.capture.outputs.sample_loss import require_sum, sample_losses
from convscope.capture.state.isolation import isolated
from convscope.metrics import ChannelMean, InterventionOutcome
from convscope.metrics.functional import OutcomeResult

_BESIDE = 2
"""Passes per layer beside its filter sets: the network as it is, and one that proves what the passes share."""


class InterveningObserver(LayerObserver):
    """Base of the callbacks that put a baseline in the place of filters and measure the effect on the output.

    In the shared pass they measure importance and each filter's mean activation;
    afterwards each layer's filter sets are run, one forward pass of the held-out set per filter set, and among them the
    network as it is: the effect of a set is the difference between two passes that are alike in all else.

    Args:
        criteria: Criteria of importance to measure in the shared pass.
        loss: As in :class:`~convscope.FilterImportance`.
        baseline: ``"mean"`` (a filter's mean over the held-out set) or ``"zero"``.
        samples: Run the filter sets on at most so many of the held-out samples, the same ones at every check.
        max_forwards: At most so many forward passes of those samples a check. What a check will cost is said
            before training; where it would be more, fewer filters, then fewer layers are looked at.
        every_n_epochs: As in :class:`~convscope.LayerObserver`.
        on_start: Intervene before training too, in a network that knows nothing yet: the longest wait of a run, for
            numbers that mean little. Where a value of the callback is monitored, it is done all the same.
        **arguments: See there.
    """

    fewest_sets: int
    """Fewest filter sets per layer for which there is a result."""

    def __init__(
        self,
        criteria: Sequence[Criterion],
        loss: Loss | None,
        baseline: Baseline,
        samples: int,
        max_forwards: int,
        *,
        every_n_epochs: int = 5,
        on_start: bool = False,
        **arguments: Any,
    ) -> None:
        self._criteria = Criteria(criteria)
        self._loss = callable_or_none("loss", loss, "loss(outputs, targets)", "to infer it")
        self.baseline: Baseline = one_of("baseline", baseline, BASELINES)
        self.samples = whole_number("samples", samples, "a whole number of held-out samples", least=2)
        fewest = self.fewest_sets + _BESIDE  # of one layer
        self.max_forwards = whole_number("max_forwards", max_forwards, least=fewest)
        super().__init__(every_n_epochs=every_n_epochs, on_start=on_start, **arguments)
        self._plan: Plan | None = None
        self._sample: HeldOut | None = None
        self._means = PerLayer[ChannelMean]()
        self._outcomes = PerLayer[InterventionOutcome]()
        self._classes = 0  # of the task, 0 where it has none
        self._class_label: Callable[[int], str] = str

    @abstractmethod
    def most_sets(self, layer: Layer) -> int:
        """Filter sets that the layer is to be run with if the budget allows."""

    @abstractmethod
    def choose(self, layer: Layer, importance: dict[str, torch.Tensor], most: int) -> torch.Tensor:
        """Filter sets ``(S, C)`` to run, at most ``most``, True for filters that are kept; alike on every process."""

    @property
    def needs_gradient(self) -> bool:
        return True

    @property
    def includes_output(self) -> bool:
        return True

    @property
    def needs_filters(self) -> bool:
        return True

    @property
    def intervenes(self) -> bool:
        return True

    @property
    def loss(self) -> Loss | None:
        return self._loss

    def skips(self, heldout: HeldOut, no_loss: str | None) -> str | None:
        return no_loss

    def ready(self, plan: Plan) -> None:
        self._plan, self._sample = plan, plan.heldout.sample(self.samples)
        *layers, output = plan.layers[self.name]
        if not output.is_output:  # no row of outputs per sample, so nothing to see the effect on
            plan.layers[self.name] = []
            return
        kept = spread_over_depth(layers, self.max_forwards // (self.fewest_sets + _BESIDE))
        plan.layers[self.name] = [*kept, output]
        self._per_layer = self.max_forwards // len(kept) - _BESIDE
        total = sum(min(self.most_sets(layer), self._per_layer) + _BESIDE for layer in kept)
        wanted = sum(self.most_sets(layer) + _BESIDE for layer in layers)
        plan.messages.append(self._what_it_takes(total, wanted, len(kept), self._sample.total))
        self._classes = plan.outputs.classes
        self._class_label = plan.heldout.class_label

    def _what_it_takes(self, total: int, wanted: int, layers: int, samples: int) -> str:
        said = f"{self.name} runs up to {total} forward passes of its {samples} held-out samples per check in {layers} "
        cut = f" (max_forwards={self.max_forwards}; everything would take {wanted})" if total < wanted else ""
        return said + f"layers{cut}"

    def begin(self, layers: list[Layer], samples: int) -> None:
        self._criteria.begin(layers)
        self._means.make((layer for layer in layers if not layer.is_output), lambda layer: ChannelMean(layer.channels))
        self._outcomes.drop()  # each is made when its layer's filter sets are known

    def on_activation(self, record: Record) -> None:
        self._criteria.on_activation(record)
        if not record.layer.is_output:
            self._means.update(record, record.pooled)

    def on_gradient(self, record: Record, gradient: torch.Tensor) -> None:
        self._criteria.on_gradient(record, gradient)

    def intervene(self, layer: Layer) -> None:
        if layer.is_output or self._plan is None or self._sample is None:
            return
        # Both gather over processes, so they come before anything that could fail on one process alone.
        importance, mean = self._criteria.values(layer), self._means.compute(layer)
        keep = self.choose(layer, importance, self._per_layer)
        keep = torch.cat([torch.ones_like(keep[:1]), keep])  # the network as it is comes first
        subject, seed = self._plan.subject, self._plan.heldout.seed
        outcome = InterventionOutcome(len(keep), max(self._classes, 1)).to(subject.device)
        run = Intervention(subject, layer, torch.zeros_like(mean) if self.baseline == "zero" else mean, seed)
        with isolated(subject.module, seed=seed, gradients=False):
            chunks = -(-self._sample.total // (processes() * self._plan.chunk_size))
            for chunk, first, logits in run.run(self._sample, keep, self._plan.chunk_size):
                self._tell_progress(len(keep) * chunks)
                if not chunk.padding and chunk.targets is not None:
                    self._add(outcome, logits, chunk.targets.to(logits.device), first)
        self._outcomes.put(layer, outcome)

    def _tell_progress(self, passes: int) -> None:
        """One forward pass more, of a layer's ``passes``."""
        if self.session is not None:
            self.session.progress.advance(1 / passes)

    def compute(self, layer: Layer) -> LayerResult | None:
        if layer.is_output:
            return None
        found: OutcomeResult = self._outcomes.compute(layer)
        untouched, outcome = (OutcomeResult(*(values[part] for values in found)) for part in (slice(1), slice(1, None)))
        return self.judge(layer, untouched, outcome)

    @abstractmethod
    def judge(self, layer: Layer, untouched: OutcomeResult, outcome: OutcomeResult) -> LayerResult:
        """One layer's numbers from the outcome of the network as it is and under the filter sets chosen."""

    def end(self) -> None:
        self._criteria.end()
        self._means.drop()
        self._outcomes.drop()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        self._plan = self._sample = None

    def _add(self, outcome: InterventionOutcome, logits: torch.Tensor, targets: torch.Tensor, first: int) -> None:
        """Add one filter set's outcome ``(1, n, K, *)``; samples whose label is negative (ignored) do not count."""
        if self._plan is None or self._plan.subject.loss is None:
            return
        loss, verdict = self._plan.subject.loss, self._plan.outputs
        if (mine := counted_rows(targets)) is not None:  # a sample whose label is ignored has no loss
            logits, targets = logits[:, mine], targets[mine]
            if len(targets) == 0:
                return
        losses = sample_losses(loss, logits[0], targets)[None]
        if first == 0:
            require_sum(loss, logits[0], targets, losses[0])
        if self._classes:
            groups = verdict.true_classes(targets)
            hits = verdict.predicted(logits) == groups
        else:
            hits, groups = torch.zeros_like(losses, dtype=torch.bool), targets.new_zeros(len(targets), dtype=torch.long)
        outcome.update(losses, hits, groups, first)


def fixed_random_order(layer: Layer) -> torch.Tensor:
    """A random order of the layer's filters, the same at every check and on every process."""
    return torch.randperm(layer.channels, generator=torch.Generator().manual_seed(0))


def keep_all_but(removed: Sequence[torch.Tensor], channels: int) -> torch.Tensor:
    """Masks ``(S, C)``, one for each vector of filters to remove."""
    keep = torch.ones(len(removed), channels, dtype=torch.bool)
    for row, filters in zip(keep, removed, strict=True):
        row[filters] = False
    return keep
