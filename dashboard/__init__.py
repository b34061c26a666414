"""The record of a run: its format, its reader, and the TensorBoard tab. Neither torch nor Lightning is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convscope._lazy import imported_on_demand

if TYPE_CHECKING:
    from convscope.dashboard.finding import find_runs, read_run, read_runs
    from convscope.dashboard.record import Run

__all__ = ["Run", "find_runs", "read_run", "read_runs"]

# TensorBoard imports its loader from here at every start, which must stay light.
__getattr__ = imported_on_demand(
    __name__, {"Run": "record", "find_runs": "finding", "read_run": "finding", "read_runs": "finding"}
)
