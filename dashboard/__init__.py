"""The record of a run: its format, its reader, and the TensorBoard tab. Neither torch nor Lightning is imported."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convscope.dashboard.finding import find_runs, read_run, read_runs
    from convscope.dashboard.record import Run

__all__ = ["Run", "find_runs", "read_run", "read_runs"]

_HOMES = {"Run": "record", "find_runs": "finding", "read_run": "finding", "read_runs": "finding"}


def __getattr__(name: str) -> Any:
    """Names are imported when they are asked for: TensorBoard imports its loader from here, which must stay light."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"convscope.dashboard.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'convscope.dashboard' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
