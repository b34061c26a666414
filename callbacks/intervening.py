"""What the callbacks share that replace filters and run the rest of the network again."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from convscope.callbacks.base import LayerObserver
from convscope.callbacks.criteria import Criteria
from convscope.callbacks.findings import LayerResult
from convscope.callbacks.importance import Criterion
from convscope.capture.heldout import HeldOut
from convscope.capture.intervention import Baseline, Intervention, check_baseline
from convscope.capture.layers import spread_over_depth
from convscope.capture.loss import Loss
from convscope.capture.observation import Record
from convscope.capture.sample_loss import sample_losses
from convscope.capture.trace import OUTPUT, Layer
from convscope.metrics import ChannelMean, InterventionOutcome
from convscope.metrics.functional import OutcomeResult

if TYPE_CHECKING:
    from convscope.callbacks.plan import Plan


class InterveningObserver(LayerObserver):
    """Base of the callbacks that put a baseline in the place of filters and look at what the network then says.

    In the shared pass they measure importance, each filter's mean activation, and the loss of the network as it is;
    afterwards each layer's filter sets are run, one forward pass of the held-out set a set, several side by side.

    Args:
        criteria: Criteria of importance to measure beside.
        loss: As in :class:`~convscope.callbacks.importance.FilterImportance`.
        baseline: ``"mean"`` (a filter's mean over the held-out set) or ``"zero"``.
        samples: Run the filter sets on at most so many of the held-out samples, the same ones at every check.
        max_forwards: At most so many forward passes of those samples a check. What a check will cost is said
            before training; where it would be more, fewer filters, then fewer layers are looked at.
        **arguments: See :class:`~convscope.callbacks.base.LayerObserver`; ``every_n_epochs`` is 5 by default.
    """

    fewest_sets: int
    """Filter sets a layer without which nothing can be said."""

    def __init__(
        self,
        criteria: Sequence[Criterion],
        loss: Loss | None,
        baseline: Baseline,
        samples: int,
        max_forwards: int,
        *,
        every_n_epochs: int = 5,
        **arguments: Any,
    ) -> None:
        check_baseline(baseline)
        if loss is not None and not callable(loss):
            raise ValueError(f"loss={loss!r}: give a callable(outputs, targets), or None to infer it")
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 2:
            raise ValueError(f"samples={samples!r}: give a whole number of held-out samples, at least 2")
        if isinstance(max_forwards, bool) or not isinstance(max_forwards, int) or max_forwards < self.fewest_sets:
            raise ValueError(f"max_forwards={max_forwards!r}: give a whole number, at least {self.fewest_sets}")
        self._criteria, self._loss = Criteria(criteria), loss
        self.baseline, self.samples, self.max_forwards = baseline, samples, max_forwards
        super().__init__(every_n_epochs=every_n_epochs, **arguments)
        self._plan: Plan | None = None
        self._sample: HeldOut | None = None
        self._means: dict[str, ChannelMean] = {}
        self._untouched: InterventionOutcome | None = None
        self._outcomes: dict[str, InterventionOutcome] = {}
        self._classes = 0  # of the task, 0 where it has none

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
        if output.name != OUTPUT:  # no row of outputs a sample, so nothing to see the effect on
            plan.layers[self.name] = []
            return
        kept = spread_over_depth(layers, self.max_forwards // self.fewest_sets)
        plan.layers[self.name] = [*kept, output]
        self._per_layer = self.max_forwards // len(kept)
        total = sum(min(self.most_sets(layer), self._per_layer) for layer in kept)
        wanted = sum(self.most_sets(layer) for layer in layers)
        plan.messages.append(self._cost(total, wanted, len(kept), self._sample.total))
        targets = plan.heldout.targets
        has_classes = targets is not None and targets.dim() == 1 and not targets.is_floating_point()
        self._classes = max(output.channels, 2) if has_classes and not output.spatial else 0

    def _cost(self, total: int, wanted: int, layers: int, samples: int) -> str:
        said = f"{self.name} runs up to {total} forward passes of its {samples} held-out samples a check, in {layers} "
        cut = f" (max_forwards={self.max_forwards}; everything would take {wanted})" if total < wanted else ""
        return said + f"layers{cut}"

    def begin(self, layers: list[Layer], samples: int) -> None:
        self._criteria.begin(layers, samples)
        self._means = {layer.name: ChannelMean(layer.channels) for layer in layers if layer.name != OUTPUT}
        self._untouched = InterventionOutcome(1, max(self._classes, 1))
        self._outcomes = {}

    def on_activation(self, record: Record) -> None:
        self._criteria.on_activation(record)
        if record.layer.name != OUTPUT:
            self._means[record.layer.name].to(record.pooled.device).update(record.pooled)
        elif self._untouched is not None and record.targets is not None:
            mine = self._sampled(record.index)
            if bool(mine.any()):
                self._add(self._untouched, record.activation[mine][None], record.targets[mine], 0)

    def on_gradient(self, record: Record, gradient: torch.Tensor) -> None:
        self._criteria.on_gradient(record, gradient)

    def intervene(self, layer: Layer) -> None:
        if layer.name == OUTPUT or self._plan is None or self._sample is None:
            return
        # Both gather over processes, so they come before anything that could fail on one process alone.
        importance, mean = self._criteria.values(layer), self._means[layer.name].compute()
        keep = self.choose(layer, importance, self._per_layer)
        outcome = InterventionOutcome(len(keep), max(self._classes, 1))
        run = Intervention(self._plan.subject, layer, torch.zeros_like(mean) if self.baseline == "zero" else mean)
        for chunk, sets, logits in run.run(self._sample, keep, self._plan.chunk_size):
            if not chunk.padding and chunk.targets is not None:
                with torch.no_grad():
                    self._add(outcome, logits, chunk.targets.to(logits.device), sets.start)
        self._outcomes[layer.name] = outcome

    def compute(self, layer: Layer) -> LayerResult | None:
        if layer.name == OUTPUT or self._untouched is None:
            return None
        return self.judge(layer, self._untouched.compute(), self._outcomes[layer.name].compute())

    @abstractmethod
    def judge(self, layer: Layer, untouched: OutcomeResult, outcome: OutcomeResult) -> LayerResult:
        """One layer's numbers from the outcome of the network as it is and under the filter sets chosen."""

    def end(self) -> None:
        self._criteria.end()
        self._means, self._untouched, self._outcomes = {}, None, {}

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        self._plan = self._sample = None

    def _sampled(self, index: torch.Tensor) -> torch.Tensor:
        """Which of the shared pass's samples the filter sets are run on."""
        return torch.isin(index, self._sample.index) if self._sample is not None else torch.zeros_like(index).bool()

    def _add(self, outcome: InterventionOutcome, logits: torch.Tensor, targets: torch.Tensor, first: int) -> None:
        if self._plan is None or self._plan.subject.loss is None:
            return
        loss = self._plan.subject.loss
        losses = sample_losses(loss, logits.flatten(0, 1), targets.repeat(len(logits), *[1] * (targets.dim() - 1)))
        losses = losses.view(logits.shape[:2])
        if self._classes:
            hits, groups = _predicted(logits) == targets, targets
        else:
            hits, groups = torch.zeros_like(losses, dtype=torch.bool), targets.new_zeros(len(targets), dtype=torch.long)
        outcome.to(logits.device).update(losses, hits, groups, first)


def _predicted(logits: torch.Tensor) -> torch.Tensor:
    return (logits[..., 0] > 0).long() if logits.shape[-1] == 1 else logits.argmax(-1)


def random_order(layer: Layer) -> torch.Tensor:
    """A random order of the layer's filters, the same at every check and on every process."""
    return torch.randperm(layer.channels, generator=torch.Generator().manual_seed(0))


def keep_all_but(removed: Sequence[torch.Tensor], channels: int) -> torch.Tensor:
    """Masks ``(S, C)``, one for each vector of filters to remove."""
    keep = torch.ones(len(removed), channels, dtype=torch.bool)
    for row, filters in zip(keep, removed, strict=True):
        row[filters] = False
    return keep
