"""What was logged since the last check, out of the metrics that Lightning keeps for ever."""

from __future__ import annotations

import lightning.pytorch as pl
import torch

from convscope.callbacks.bridge import callback_metrics


class Readings:
    """Takes the values that are new. ``trainer.callback_metrics`` goes on showing a value that is no longer logged.

    A value counts as new where its tensor is not the one of the last check: Lightning makes a new one whenever
    something is logged.
    """

    def __init__(self) -> None:
        self._last: dict[str, torch.Tensor] = {}

    def take(self, trainer: pl.Trainer) -> dict[str, float]:
        """New scalars by tag, in the order in which they were first logged, which is depth order for layers.

        Every process gets the main process's values, so that all decide alike.
        """
        found = {tag: value for tag, value in callback_metrics(trainer).items() if value.numel() == 1}
        fresh = {tag: float(value) for tag, value in found.items() if self._last.get(tag) is not value}
        self._last = found
        shared: dict[str, float] = trainer.strategy.broadcast(fresh)
        return shared
