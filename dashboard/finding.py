"""Runs of a folder: which folders hold a record, and its reader for each."""

from __future__ import annotations

from pathlib import Path

from convscope.dashboard.events import holds_record
from convscope.dashboard.record import Run


def find_runs(path: str | Path) -> dict[str, Path]:
    """Folders with a record at or below ``path``, by their path from there; ``"."`` for ``path`` itself.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    root = Path(path)
    if not root.exists():
        raise FileNotFoundError(f"{root}: there is no such folder")
    folders = sorted({file.parent for file in root.rglob("*tfevents*") if file.is_file() and holds_record(file)})
    return {folder.relative_to(root).as_posix(): folder for folder in folders}


def read_runs(path: str | Path) -> dict[str, Run]:
    """The records of all runs at or below a folder, by their path from there.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if a record is of a newer version.
    """
    return {name: Run(folder) for name, folder in find_runs(path).items()}


def read_run(path: str | Path) -> Run:
    """The record of a run.

    Args:
        path: The run's folder, a folder with only this run below it, or one of its event files.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if there is no record, or more than one, or it is of a newer version.
    """
    folder = Path(path).parent if Path(path).is_file() else Path(path)
    found = find_runs(folder)
    if "." in found or not found:
        return Run(folder)
    if len(found) > 1:
        raise ValueError(
            f"path={str(path)!r} holds {len(found)} runs: give one of them ({', '.join(sorted(found)[:10])}), or use "
            "read_runs"
        )
    return Run(next(iter(found.values())))
