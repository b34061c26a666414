"""Values logged since the last check, taken from the metrics that Lightning keeps forever."""

from __future__ import annotations

import lightning.pytorch as pl
import torch

from convscope.alerts.context import LEARNING_RATE
from convscope.callbacks.engine.bridge import callback_metrics, is_kept


class FreshValues:
    """The values that are new, and under :data:`LEARNING_RATE` the largest learning rate of a step since then.

    ``trainer.callback_metrics`` keeps showing a value that is no longer logged. A value counts as new if its tensor is
    not the one of the last check: Lightning makes a new one whenever something is logged.
    """

    def __init__(self) -> None:
        self._last: dict[str, torch.Tensor] = {}
        self._rates: list[float] = []

    def note_learning_rate(self, trainer: pl.Trainer) -> None:
        """Note the rate before a step: at the time of a check a schedule may already have set the next epoch's rate."""
        rates = [*self._rates, *_learning_rates(trainer)]
        self._rates = [max(rates)] if rates else []

    def take(self, trainer: pl.Trainer) -> dict[str, float]:
        """New scalars by tag; every process gets the main process's values, so that all decide alike."""
        shared: dict[str, float] = trainer.strategy.broadcast(self.on_this_process(trainer))
        return shared

    def on_this_process(self, trainer: pl.Trainer) -> dict[str, float]:
        """New scalars by tag, in the order in which they were first logged, which is depth order for layers.

        All processes must call it: what is logged with ``sync_dist`` is a collective.
        """
        found = {
            tag: value for tag, value in callback_metrics(trainer).items() if value.numel() == 1 and not is_kept(value)
        }
        fresh = {tag: float(value) for tag, value in found.items() if self._last.get(tag) is not value}
        self._last = found
        if rates := self._rates or _learning_rates(trainer):
            fresh[LEARNING_RATE] = max(rates)
        self._rates = []
        return fresh


def _learning_rates(trainer: pl.Trainer) -> list[float]:
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    return [float(group["lr"]) for group in groups if "lr" in group]
