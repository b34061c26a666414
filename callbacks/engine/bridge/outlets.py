"""Where pictures, texts and files of a run go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch.utils.tensorboard import SummaryWriter

from convscope.callbacks.engine.bridge.trainer import fast_dev_run
from convscope.loggers import Backend, backend_of, summary_writer
from convscope.loggers.folder import is_remote, logger_folder
from convscope.loggers.several import AllLoggers


def tensorboard_writers(trainer: pl.Trainer) -> list[SummaryWriter]:
    """The TensorBoard writers of the run, on the main process, whatever the class of the logger that holds them."""
    if not trainer.is_global_zero or fast_dev_run(trainer):
        return []
    return [writer for logger in trainer.loggers if (writer := summary_writer(logger)) is not None]


def backends(trainer: pl.Trainer) -> dict[str, Backend]:
    """Backends of the run's loggers for histograms, pictures and texts, by the logger's name, on the main process."""
    if not trainer.is_global_zero or fast_dev_run(trainer):
        return {}
    found = [(logger, backend) for logger in trainer.loggers if (backend := backend_of(logger)) is not None]
    names = [type(logger).__name__ for logger, _ in found]
    unique = [n if names.count(n) == 1 else f"{n} {names[:place].count(n) + 1}" for place, n in enumerate(names)]
    return dict(zip(unique, (backend for _, backend in found), strict=True))


def write_text(trainer: pl.Trainer, tag: str, markdown: str, step: int) -> None:
    """Send Markdown to every logger that takes it. The error of one that fails is raised once the others have it."""
    failed: list[Exception] = []
    loggers = AllLoggers(backends(trainer), lambda name, error: failed.append(error))
    loggers.text(tag, markdown, step)
    if failed:
        raise failed[0]


def run_folder(trainer: pl.Trainer) -> Path:
    """Folder of the run's files: the first logger's, else ``default_root_dir``. Call it on every process at once.

    If neither is on this machine it is the current folder.
    """
    logger = trainer.loggers[0] if trainer.loggers else None
    folder = logger_folder(logger, trainer.default_root_dir)
    # Only the main process's logger knows the number of its run.
    return Path(trainer.strategy.broadcast("." if is_remote(folder) else str(folder)))


def writes_tensors(writer: Any) -> bool:
    """Return whether a TensorBoard writer accepts plain events: torch's own does, similar classes may not."""
    return isinstance(writer, SummaryWriter) and hasattr(writer, "_get_file_writer")


def record_folder(trainer: pl.Trainer, run: str) -> Path:
    """Folder of the record if no TensorBoard logger takes it; called on the main process alone.

    Raises:
        ValueError: if the run keeps nothing on this machine.
    """
    folder = logger_folder(trainer.loggers[0] if trainer.loggers else None, trainer.default_root_dir)
    if is_remote(folder):
        raise ValueError(f"{folder} is not on this machine; use a TensorBoardLogger there, or a local default_root_dir")
    return folder if trainer.loggers else folder / "convscope" / run
