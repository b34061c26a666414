"""Number of positions of every observed layer, for rules."""

from __future__ import annotations

import lightning.pytorch as pl

from convscope.alerts.context import POSITIONS
from convscope.callbacks.parts.layer_observer import LayerObserver


def layer_positions(trainer: pl.Trainer) -> dict[str, float]:
    """Positions of the layers that the trainer's callbacks observe, under ``convscope/positions/<layer>``.

    What a share of filters or a rank of a layer of one position says depends on the few numbers that it has, and moves
    from check to check while nothing is wrong: rules can leave such layers out.
    """
    observers = [callback for callback in trainer.callbacks if isinstance(callback, LayerObserver)]  # type: ignore[attr-defined]
    sessions = {id(one.session): one.session for one in observers if one.session is not None}
    return {
        f"{POSITIONS}/{layer}": float(count)
        for session in sessions.values()
        for layer, count in session.layer_positions().items()
    }
