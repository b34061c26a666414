"""Backends of loggers: those that come with convscope, and those that were registered."""

from __future__ import annotations

from typing import Any, TypeVar

from convscope.loggers.backend import Backend
from convscope.loggers.comet import CometBackend
from convscope.loggers.files import FilesBackend
from convscope.loggers.mlflow import MlflowBackend
from convscope.loggers.tensorboard import TensorBoardDashboard
from convscope.loggers.wandb import WandbBackend

Class = TypeVar("Class", bound=type[Backend])

_KINDS: list[type[Backend]] = [TensorBoardDashboard, WandbBackend, MlflowBackend, CometBackend, FilesBackend]


def register_backend(kind: Class) -> Class:
    """Make a backend of your own known; it is asked before all others. Usable as a decorator.

    Args:
        kind: A class derived from :class:`~convscope.loggers.Backend`.

    Raises:
        ValueError: if it is not such a class.

    >>> register_backend(int)
    Traceback (most recent call last):
    ValueError: kind=<class 'int'>: give a class derived from convscope.loggers.Backend
    """
    if not (isinstance(kind, type) and issubclass(kind, Backend)):
        raise ValueError(f"kind={kind!r}: give a class derived from convscope.loggers.Backend")
    if kind not in _KINDS:
        _KINDS.insert(0, kind)
    return kind


def backend_of(logger: Any) -> Backend | None:
    """The backend of a logger; None if only scalars can be written to it.

    >>> backend_of(object()) is None
    True
    """
    return next((backend for kind in _KINDS if (backend := kind.of(logger)) is not None), None)
