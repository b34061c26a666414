"""Scalars in loggers and in ``callback_metrics``, where other callbacks read them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies.launchers.multiprocessing import _MultiProcessingLauncher

from convscope.callbacks.engine.findings import Moment
from convscope.callbacks.engine.hierarchies import both
from convscope.loggers import Backend, backend_of


def write_scalars(
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
    scalars: dict[str, float],
    when: Moment,
    unlogged: Collection[str] = (),
) -> None:
    """Send scalars to the loggers, but for those ``unlogged``, and all to ``callback_metrics`` where the hook allows.

    At epoch ends ``log_dict`` does both. Elsewhere Lightning would write only every ``log_every_n_steps``, or
    at the end of the epoch, so the loggers are written to at once.
    """
    told = {tag: value for tag, value in scalars.items() if tag not in unlogged}
    if when.at_epoch_end:
        given: dict[str, Any] = {"batch_size": 1, "add_dataloader_idx": False, "sync_dist": trainer.world_size > 1}
        # All processes log the same value. Said to be of the main one alone, it is not exchanged again: that would take
        # two exchanges per value. Without sync_dist Lightning would warn of each.
        pl_module.log_dict(told, on_step=False, on_epoch=True, rank_zero_only=True, **given)
        # Without a detour through a metric for each, and an exchange between processes, which have the same values.
        put_into_metrics(trainer, {tag: value for tag, value in scalars.items() if tag in unlogged})
        return
    if when.trigger == "step":
        pl_module.log_dict(scalars, on_step=True, on_epoch=False, logger=False, batch_size=1)
    else:
        keep_available(trainer, scalars)
    log_to_each(trainer, {**told, "epoch": float(when.epoch)}, when.step)


def log_to_each(trainer: pl.Trainer, scalars: dict[str, float], step: int) -> None:
    """Send scalars to every logger at once. The error of one that fails is raised once all the others have them."""
    failed: list[Exception] = []
    for logger in trainer.loggers:
        try:
            logger.log_metrics(scalars, step=step)
            logger.save()
        except Exception as error:
            failed.append(error)
    if failed:
        raise failed[0]


def put_into_metrics(trainer: pl.Trainer, scalars: dict[str, float]) -> None:
    """Put values into ``callback_metrics`` alone, where everything that monitors a value finds them."""
    trainer._logger_connector._callback_metrics.update({tag: torch.tensor(value) for tag, value in scalars.items()})


def keep_available(trainer: pl.Trainer, scalars: dict[str, float]) -> None:
    """Put values into ``callback_metrics`` alone, where an epoch without a check leaves them.

    EarlyStopping, ModelCheckpoint and a plateau scheduler end the run if the value that they monitor is missing. The
    values are marked as not measured now: see :func:`is_kept`.
    """
    for tag, value in scalars.items():
        kept = torch.tensor(value)
        kept.convscope_kept = True  # type: ignore[attr-defined]
        trainer._logger_connector._callback_metrics[tag] = kept


def monitors(trainer: pl.Trainer) -> dict[str, str]:
    """Monitored tags of ``callback_metrics``, and their monitors: callbacks with a ``monitor``, plateau schedulers."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    found = {getattr(callback, "monitor", None): type(callback).__name__ for callback in callbacks}
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau:
            found[config.monitor] = type(config.scheduler).__name__
    return {key: name for key, name in found.items() if isinstance(key, str)}


def is_kept(value: torch.Tensor) -> bool:
    """Return whether a value of ``callback_metrics`` was put there by :func:`keep_available`."""
    return getattr(value, "convscope_kept", False)


def keep_from_main_process(trainer: pl.Trainer, tags: Iterable[str]) -> None:
    """Remove values from the metrics that a spawned or forked process sends back at the end of a fit.

    Lightning sends ``callback_metrics`` through a pipe which the main process reads only once the others have ended.
    If they do not fit into it (64 KiB, about a hundred scalars), both wait for ever.
    """
    if isinstance(trainer.strategy.launcher, both(_MultiProcessingLauncher)):
        metrics = trainer.callback_metrics
        for tag in tags:
            metrics.pop(tag, None)


def callback_metrics(trainer: pl.Trainer) -> dict[str, torch.Tensor]:
    """``trainer.callback_metrics``, and in validation hooks also the values that the training epoch has logged so far.

    Lightning itself adds an epoch's training means only after that epoch's validation, so that there
    ``callback_metrics`` holds those of the epoch before.
    """
    found = dict(trainer.callback_metrics)
    training = trainer.fit_loop.epoch_loop._results.metrics(on_step=False)["callback"]
    return {**found, **training}


@contextmanager
def scalars_renamed(trainer: pl.Trainer, ours: Callable[[str], bool]) -> Iterator[None]:
    """Within the block, loggers with rules for names (MLflow) get scalars of ours under names that these allow.

    Lightning itself hands scalars to the loggers at the end of an epoch, all loggers the same: so ``log_metrics`` of
    such a logger is wrapped, on the object, and the user's own values pass through as they are.
    """
    wrapped = []
    for logger in trainer.loggers:
        backend = backend_of(logger)
        if backend is not None and type(backend).scalar_tag is not Backend.scalar_tag:
            logger.log_metrics = _renaming(logger.log_metrics, backend, ours)  # type: ignore[method-assign]
            wrapped.append(logger)
    try:
        yield
    finally:
        for logger in wrapped:
            vars(logger).pop("log_metrics", None)


def _renaming(log_metrics: Callable[..., Any], backend: Backend, ours: Callable[[str], bool]) -> Callable[..., Any]:
    def renamed(metrics: Any, *args: Any, **kwargs: Any) -> Any:
        mine = {tag for tag in metrics if ours(tag) or tag.startswith("alert/")}
        named = {backend.scalar_tag(tag) if tag in mine else tag: value for tag, value in metrics.items()}
        return log_metrics(named, *args, **kwargs)

    return renamed
