"""A forward of the user's in which nothing is logged."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers.logger import DummyLogger


@contextmanager
def quiet_logging(trainer: pl.Trainer) -> Iterator[None]:
    """Keep values that a forward logs during a check out of the user's metrics and loggers.

    ``self.log`` and ``self.log_dict`` of all this trainer's modules do nothing, ``self.logger`` writes nothing, and
    the trainer's metrics and its wish to stop are as before after the block.
    """
    connector = trainer._logger_connector
    metrics: list[dict[str, Any]] = [
        connector._callback_metrics,
        connector._logged_metrics,
        connector._progress_bar_metrics,
    ]
    saved = [dict(found) for found in metrics]
    loggers, should_stop = trainer.loggers, trainer.should_stop
    trainer.loggers = [_QuietLogger(logger) for logger in loggers]
    try:
        with _unlogged(trainer):
            yield
    finally:
        trainer.loggers, trainer.should_stop = loggers, should_stop
        for found, values in zip(metrics, saved, strict=True):
            found.clear()
            found.update(values)


@contextmanager
def _unlogged(trainer: pl.Trainer) -> Iterator[None]:
    # On the class, since a user's own log() may call super().log(), and a module may be held where no walk finds it.
    found = [getattr(sys.modules.get(name), "LightningModule", None) for name in _LIGHTNING_NAMES]
    owners = [owner for owner in found if owner is not None]
    originals = [(owner, name, getattr(owner, name)) for owner in owners for name in ("log", "log_dict")]
    try:
        for owner, name, original in originals:
            setattr(owner, name, _unless_of(trainer, original))
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


_LIGHTNING_NAMES = ("lightning.pytorch", "pytorch_lightning")


def _unless_of(trainer: pl.Trainer, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def log(self: pl.LightningModule, *args: Any, **kwargs: Any) -> Any:
        return None if self._trainer is trainer or self._trainer is None else original(self, *args, **kwargs)

    return log


class _QuietLogger(DummyLogger):
    """A logger with the folders and names of another, whose calls do nothing."""

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger

    @property
    def save_dir(self) -> str | None:
        return getattr(self._logger, "save_dir", None)

    @property
    def name(self) -> Any:
        return self._logger.name

    @property
    def version(self) -> Any:
        return self._logger.version

    @property
    def log_dir(self) -> Any:
        return getattr(self._logger, "log_dir", None)

    @property
    def root_dir(self) -> Any:
        return getattr(self._logger, "root_dir", None)
