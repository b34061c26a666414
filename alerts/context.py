"""Context of an incident: learning rate, losses and held-out set, compared with the previous check."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

LEARNING_RATE = "convscope/learning_rate"
POSITIONS = "convscope/positions"  # a family of tags: one per observed layer

TRAINING_LOSSES = ("train_loss", "train_loss_epoch", "train/loss", "train/loss_epoch")
VALIDATION_LOSSES = ("val_loss", "val_loss_epoch", "val/loss", "val/loss_epoch", "valid_loss", "validation_loss")
ACCURACIES = ("val_acc", "val_acc_epoch", "val_accuracy", "val/acc", "val/accuracy", "valid_acc", "validation_accuracy")

SHARE = 0.2  # a smaller change is not worth mentioning


@dataclass(frozen=True)
class Named:
    """A name, the tags under which it is logged, and whether only a rise matters, as for a loss."""

    name: str
    tags: tuple[str, ...]
    only_up: bool = True


CONTEXT = (
    Named("learning rate", (LEARNING_RATE,), only_up=False),
    Named("training loss", TRAINING_LOSSES),
    Named("validation loss", VALIDATION_LOSSES),
    Named("held-out samples exchanged", ("zz_convscope/heldout_changed",)),
)

Changed = dict[str, tuple[float, float]]


class Context:
    """Last values of the few tags that help to explain an incident."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def update(self, values: Mapping[str, float]) -> Changed:
        """Take in one check; returns ``{name: (before, now)}`` of values that changed by more than a share."""
        found: Changed = {}
        for named in CONTEXT:
            tag = next((tag for tag in named.tags if tag in values), None)
            if tag is None:
                continue
            before, now = self._last.get(tag, math.nan), values[tag]
            self._last[tag] = now
            change = now - before if named.only_up else abs(now - before)
            if not math.isnan(before) and not change <= SHARE * abs(before):
                found[named.name] = before, now
        return found

    @staticmethod
    def without(changed: Changed, tags: Collection[str]) -> Changed:
        """The changes, without those that the alerts themselves are about."""
        known = {named.name for named in CONTEXT if any(tag in tags for tag in named.tags)}
        return {name: pair for name, pair in changed.items() if name not in known}

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return dict(self._last)

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continue."""
        self._last = {tag: float(value) for tag, value in state.items()}
