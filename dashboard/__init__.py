"""The record of a run: its format, and its reader. It works on files alone: neither torch nor Lightning is imported."""

from convscope.dashboard.record import Run, find_runs, read_run, read_runs

__all__ = ["Run", "find_runs", "read_run", "read_runs"]
