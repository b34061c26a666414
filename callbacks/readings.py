"""What was logged since the last check, out of the metrics that Lightning keeps for ever."""

from __future__ import annotations

import lightning.pytorch as pl
import torch

from convscope.callbacks.bridge import callback_metrics

LEARNING_RATE = "convscope/learning_rate"


class Readings:
    """Takes the values that are new, and the learning rate: the largest of all optimizers' parameter groups.

    ``trainer.callback_metrics`` goes on showing a value that is no longer logged. A value counts as new where its
    tensor is not the one of the last check: Lightning makes a new one whenever something is logged.
    """

    def __init__(self) -> None:
        self._last: dict[str, torch.Tensor] = {}

    def take(self, trainer: pl.Trainer) -> dict[str, float]:
        """New scalars by tag, in the order in which they were first logged, which is depth order for layers.

        The learning rate, under :data:`LEARNING_RATE`, is that of the epoch which ends: schedules by epoch step later.

        Every process gets the main process's values, so that all decide alike.
        """
        found = {tag: value for tag, value in callback_metrics(trainer).items() if value.numel() == 1}
        fresh = {tag: float(value) for tag, value in found.items() if self._last.get(tag) is not value}
        self._last = found
        fresh |= _learning_rate(trainer)
        shared: dict[str, float] = trainer.strategy.broadcast(fresh)
        return shared


def _learning_rate(trainer: pl.Trainer) -> dict[str, float]:
    rates = [
        float(group["lr"]) for optimizer in trainer.optimizers for group in optimizer.param_groups if "lr" in group
    ]
    return {LEARNING_RATE: max(rates)} if rates else {}
