"""The folder of a run, whatever its logger."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any


def logger_folder(logger: Any, root: str) -> Path:
    """Folder of a run with this logger: the logger's own folder, else the one that Lightning makes for it.

    TensorBoard's and CSV's loggers have a folder for each run, ``log_dir``. For others (W&B, MLflow, Comet) it is
    ``<save_dir>/<name>/<version>``, where Lightning saves their checkpoints too.

    Args:
        logger: The logger, or None.
        root: ``default_root_dir``, used if there is no logger or if it keeps nothing on this machine.

    >>> import types
    >>> logger_folder(types.SimpleNamespace(save_dir="runs", name="digits", version="a1b2"), ".").as_posix()
    'runs/digits/a1b2'
    >>> logger_folder(None, "here").as_posix()
    'here'
    """
    if logger is None:
        return Path(root)
    own, saved = _path(logger, "log_dir"), _path(logger, "save_dir")
    if own is not None:
        return own
    name, version = getattr(logger, "name", None), getattr(logger, "version", None)
    if version in (None, ""):
        return saved or Path(root)
    # As ModelCheckpoint names it, to the letter: files and checkpoints lie together.
    return Path(saved or root, str(name), version if isinstance(version, str) else f"version_{version}")


def is_remote(folder: Any) -> bool:
    """Return whether a folder is not on this machine (``s3://…``; a ``Path`` of it has one slash).

    >>> is_remote("s3://bucket/runs"), is_remote(Path("s3://bucket/runs")), is_remote("C:/runs"), is_remote("runs")
    (True, True, False, False)
    """
    return re.match(r"[A-Za-z][\w+.-]+:/", str(folder)) is not None


def _path(logger: Any, name: str) -> Path | None:
    found = getattr(logger, name, None)  # Lightning's stand-in for a switched-off logger answers with a function
    return Path(found) if isinstance(found, str | os.PathLike) and found and not is_remote(found) else None
