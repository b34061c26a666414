"""Text above Lightning's progress bar, not on its line: log lines, warnings and prints while a bar is live."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from convscope.callbacks.engine.hierarchies import both

# Ours, and those that Lightning's rank_zero_info writes to under either of its names.
_LOGGERS = (
    "convscope",
    *(f"{package}.utilities.rank_zero" for package in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning")),
)


def live_bar(trainer: pl.Trainer) -> ProgressBar | None:
    """The trainer's progress bar; None if there is none, if the user has switched it off, and on other processes."""
    bar: Any = trainer.progress_bar_callback
    return bar if isinstance(bar, both(ProgressBar)) and getattr(bar, "is_enabled", False) else None


@contextmanager
def above_the_bar(trainer: pl.Trainer) -> Iterator[None]:
    """A block within which log lines and warnings, from any source, are lines of their own above the progress bar."""
    bar = live_bar(trainer)
    if bar is None:
        yield
        return
    with ExitStack() as stack:
        for handler in _console_handlers():
            stack.enter_context(_wrapped(handler, "emit", _aside(bar, handler)))
        stack.enter_context(_wrapped(warnings, "showwarning", _aside(bar)))
        yield


def say(trainer: pl.Trainer, text: str) -> None:
    """Print text above the progress bar, on the main process of each machine."""
    bar = live_bar(trainer)
    if bar is not None and not isinstance(bar, (*both(TQDMProgressBar), *both(RichProgressBar))):
        bar.print(text)  # a bar of the user's own knows how
        return
    with _aside(bar)():
        trainer.print(text)


Aside = Callable[[], AbstractContextManager[Any]]


def _aside(bar: ProgressBar | None, handler: logging.Handler | None = None) -> Aside:
    """A context in which one line may be written."""
    if isinstance(bar, both(TQDMProgressBar)):
        return lambda: Tqdm.external_write_mode(file=sys.stdout)  # its bars are cleared, and drawn again afterwards
    if isinstance(bar, both(RichProgressBar)) and isinstance(handler, logging.StreamHandler):
        return lambda: _through_rich(handler)
    return nullcontext


@contextmanager
def _through_rich(handler: logging.StreamHandler[Any]) -> Iterator[None]:
    """Rich replaces ``sys.stderr`` with a stream of its own while it is live; a handler keeps the earlier one."""
    before = handler.stream
    if getattr(before, "isatty", bool)() and type(before) is not type(sys.stderr):
        handler.setStream(sys.stderr)
    try:
        yield
    finally:
        if handler.stream is not before:
            handler.setStream(before)


def _console_handlers() -> list[logging.Handler]:
    found: list[logging.Handler] = [] if logging.lastResort is None else [logging.lastResort]
    for name in _LOGGERS:
        here: logging.Logger | None = logging.getLogger(name)
        while here is not None:
            found += here.handlers
            here = here.parent if here.propagate else None
    console = (each for each in found if isinstance(each, logging.StreamHandler))
    return [each for each in dict.fromkeys(console) if not isinstance(each, logging.FileHandler)]


@contextmanager
def _wrapped(owner: Any, name: str, aside: Aside) -> Iterator[None]:
    """Wrap ``owner.name`` in a context. An attribute that was on the class is removed again."""
    own, original = name in vars(owner), getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        with aside():
            return original(*args, **kwargs)

    setattr(owner, name, call)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, original)
        else:
            delattr(owner, name)
