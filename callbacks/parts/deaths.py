"""The register of dead filters, with the times of their deaths and returns."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from convscope.callbacks.engine.findings import Moment
from convscope.loggers import escape_markdown

_NEVER = -1
BEFORE_TRAINING = -1
"""Epoch of a death that the check before training found."""
_MOST_LINES = 100
_FIELDS = ("died_epoch", "died_step", "back_epoch", "back_step", "times")


class Death(NamedTuple):
    """The latest death of one filter.

    Attributes:
        layer: Its layer's name.
        filter: Its number in the layer, from 0.
        epoch: Of the first check that found it dead, counted from 0; -1 for the check before training.
        step: Of that check.
        back_epoch: Of the first check that found it active again, None while it is dead.
        back_step: Of that check.
        times: How many times it has died in this run.
    """

    layer: str
    filter: int
    epoch: int
    step: int
    back_epoch: int | None
    back_step: int | None
    times: int


class Deaths:
    """Register with a table ``(5, C)`` of whole numbers per layer: it does not grow with the length of a run."""

    def __init__(self) -> None:
        self._tables: dict[str, Tensor] = {}

    def died_and_revived(self, layer: str, dead: Tensor) -> tuple[int, int] | None:
        """Number of filters that died, and that came back, since the last check; None at a layer's first check."""
        table = self._tables.get(layer)
        if table is None or table.shape[1] != len(dead):
            return None
        before = _is_dead(table)
        return int((dead & ~before).sum()), int((before & ~dead).sum())

    def record(self, layer: str, dead: Tensor, when: Moment) -> None:
        """Enter one check's mask ``(C,)`` of dead filters."""
        table = self._tables.get(layer)
        if table is None or table.shape[1] != len(dead):
            table = torch.full((len(_FIELDS), len(dead)), _NEVER)
            table[-1] = 0
        before = _is_dead(table)
        died, back = (dead & ~before).nonzero().flatten(), (before & ~dead).nonzero().flatten()
        epoch = BEFORE_TRAINING if when.trigger == "start" and when.epoch == 0 else when.epoch
        table[:4, died] = torch.tensor([epoch, when.step, _NEVER, _NEVER])[:, None]
        table[4, died] += 1
        table[2:4, back] = torch.tensor([when.epoch, when.step])[:, None]
        self._tables[layer] = table

    def listed(self) -> list[Death]:
        """Every filter that ever died, the latest events first."""
        found = [
            _death(layer, index, row)
            for layer, table in self._tables.items()
            for index, row in enumerate(table.T.tolist())
            if row[4] > 0
        ]
        return sorted(found, key=lambda death: -max(death.step, death.back_step or _NEVER))

    def markdown(self) -> str:
        """A table of :meth:`listed`, cut at 100 lines; empty where no filter ever died."""
        deaths = self.listed()
        if not deaths:
            return ""
        lines = ["| layer | filter | dead from epoch | active again from epoch | deaths |", "|---|---|---|---|---|"]
        for death in deaths[:_MOST_LINES]:
            back = "" if death.back_epoch is None else death.back_epoch
            since = "before training" if death.epoch == BEFORE_TRAINING else death.epoch
            lines.append(f"| {escape_markdown(death.layer)} | {death.filter} | {since} | {back} | {death.times} |")
        if len(deaths) > _MOST_LINES:
            lines += ["", f"… and {len(deaths) - _MOST_LINES} more, in `FilterHealth.deaths`."]
        return "\n".join(lines)

    def state_dict(self) -> dict[str, Any]:
        """Tensors by layer."""
        return {layer: table.clone() for layer, table in self._tables.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's register."""
        self._tables = {layer: table.clone() for layer, table in state.items()}


def _is_dead(table: Tensor) -> Tensor:
    return (table[4] > 0) & (table[3] == _NEVER)


def _death(layer: str, index: int, row: list[int]) -> Death:
    died_epoch, died_step, back_epoch, back_step, times = row
    dead_still = back_step == _NEVER
    return Death(
        layer,
        index,
        died_epoch,
        died_step,
        None if dead_still else back_epoch,
        None if dead_still else back_step,
        times,
    )
