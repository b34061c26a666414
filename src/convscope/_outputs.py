"""Files that commands write: looked at before the work, so that a wrong path costs one line and no time."""

from __future__ import annotations

import os
from pathlib import Path


def writable(path: Path, flag: str) -> Path:
    """The path, if a file can be written there.

    Args:
        path: The file that a user names.
        flag: The option that names it.

    Raises:
        ValueError: if it is a folder, its folder is missing, or it may not be written; it says what to give.
    """
    folder = path.parent
    if path.is_dir():
        raise ValueError(f"{flag} {path}: this is a folder; give a file, for example {path / 'report'}{_kind(flag)}")
    if not folder.is_dir():
        raise ValueError(f"{flag} {path}: there is no folder {folder}; make it, or give a file in one that there is")
    if not os.access(path if path.exists() else folder, os.W_OK) or not _takes_files(path):
        raise ValueError(f"{flag} {path}: this cannot be written here; give a file in a folder of your own")
    return path


def writable_folder(path: Path, flag: str) -> Path:
    """The path, if it is a folder that can be written, or one can be made there.

    Raises:
        ValueError: if it is not.
    """
    nearest = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK) or not _takes_files(nearest / "convscope-tries"):
        raise ValueError(f"{flag} {path}: {nearest} is no folder that can be written; give one of your own")
    return path


def _takes_files(path: Path) -> bool:
    """Whether the folder really takes files: root may write everywhere, but not into ``/proc``."""
    if path.exists():
        return True
    try:
        path.touch()
        path.unlink()
    except OSError:
        return False
    return True


def _kind(flag: str) -> str:
    return {"--csv": ".csv", "--json": ".json", "--parquet": ".parquet"}.get(flag, ".html")
