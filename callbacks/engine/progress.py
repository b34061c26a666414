"""Progress of a wait, in Lightning's own progress bar: Rich or tqdm, and none if the user has switched it off."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import lightning.pytorch as pl
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from convscope.callbacks.engine.console import live_bar
from convscope.callbacks.engine.hierarchies import both

PATIENCE = 1.0
"""Seconds after which a wait is shown: a shorter one needs no bar, and every wait of two seconds has one."""

_SECONDS_BETWEEN = 0.1
log = logging.getLogger("convscope")


class _Line(Protocol):
    """Our line of a progress bar, while a wait lasts."""

    def show(self, what: str, done: float, total: float) -> None: ...

    def close(self) -> None: ...


class Progress:
    """Progress of a wait. It is told of each small step, draws at most ten times a second, and skips short waits.

    Reporting never fails: an error in drawing ends the drawing for the rest of the run.
    """

    def __init__(self) -> None:
        self._trainer: pl.Trainer | None = None
        self._line: _Line | None = None
        self._rich = _RichTask()
        self._what, self._done = "", 0.0
        self._total: float | None = None
        self._began = self._drawn = 0.0
        self._broken = False

    @contextmanager
    def waiting(self, trainer: pl.Trainer) -> Iterator[None]:
        """A block during which the user waits; steps that are told outside such a block are not shown."""
        self._trainer, self._began, self._drawn = trainer, time.perf_counter(), 0.0
        try:
            yield
        finally:
            line, self._trainer, self._line = self._line, None, None
            if line is not None:
                self._guarded(line.close)

    def phase(self, what: str, total: float | None) -> None:
        """Begin a part of the wait, of ``total`` steps (None if unknown)."""
        self._what, self._done, self._total = what, 0.0, total
        self._draw()

    def advance(self, steps: float = 1.0) -> None:
        """Add ``steps`` that are done; may be part of a step."""
        self.reach(self._done + steps)

    def reach(self, done: float) -> None:
        """Set the number of steps that are done of this part."""
        self._done = done
        self._draw()

    def _draw(self) -> None:
        now = time.perf_counter()
        shown = now - self._began >= PATIENCE and now - self._drawn >= _SECONDS_BETWEEN
        if self._trainer is None or self._broken or not shown:
            return
        self._drawn = now
        self._guarded(self._show)

    def _show(self) -> None:
        if self._line is None and self._trainer is not None:
            self._line = self._new_line(self._trainer)
        if self._line is None:
            return
        if self._total is None:
            so_far = f", {self._done:,.0f} so far" if self._done else ""
            self._line.show(f"convscope, {self._what}{so_far}", 0.0, 1)
        else:
            self._line.show(f"convscope, {self._what}", min(self._done, self._total), self._total)

    def _new_line(self, trainer: pl.Trainer) -> _Line | None:
        bar = live_bar(trainer)
        if isinstance(bar, both(TQDMProgressBar)):
            return _TqdmLine()
        if isinstance(bar, both(RichProgressBar)):
            return self._rich if self._rich.joins(bar) else _RichLine(bar, trainer)
        self._broken = True  # a bar of another kind, or none: nothing to draw in, now or later
        return None

    def _guarded(self, draw: Any) -> None:
        try:
            draw()
        except Exception as error:  # a terminal that is gone, a bar that was subclassed
            self._broken = True
            log.debug("convscope: progress is no longer shown (%s: %s)", type(error).__name__, error)


class _TqdmLine:
    """One more tqdm bar below the present ones; it vanishes when it is closed."""

    def __init__(self) -> None:
        self._bar: Tqdm | None = None

    def show(self, what: str, done: float, total: float) -> None:
        if self._bar is None:
            # Without counts, which may be parts of a step.
            layout = "{desc}{percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]"
            self._bar = Tqdm(
                desc=f"{what}: ", total=total, leave=False, dynamic_ncols=True, file=sys.stdout, bar_format=layout
            )
        elif self._bar.desc != f"{what}: " or self._bar.total != total:
            self._bar.set_description(what, refresh=False)
            self._bar.reset(total)
        self._bar.n = done
        self._bar.refresh()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class _RichTask:
    """A task of Lightning's own Rich bar, if that is on the screen.

    It is made once, and hidden afterwards: Lightning finds its tasks by their place in the list, so none may ever
    be removed from it.
    """

    def __init__(self) -> None:
        self._progress: Any = None
        self._task: Any = None

    def joins(self, bar: Any) -> bool:
        """Return whether the bar is on the screen; then this task is part of it."""
        if bar.progress is None or not bar.progress.live.is_started:
            return False
        if self._progress is not bar.progress:
            self._progress, self._task = bar.progress, bar.progress.add_task("", total=1, visible=False)
        return True

    def show(self, what: str, done: float, total: float) -> None:
        _update(self._progress, self._task, what, done, total)

    def close(self) -> None:
        self._progress.update(self._task, visible=False)
        self._progress.refresh()


class _RichLine:
    """A Rich bar of our own, in the user's columns and colours, if Lightning's is not on the screen yet."""

    def __init__(self, bar: Any, trainer: pl.Trainer) -> None:
        from lightning.pytorch.callbacks.progress.rich_progress import CustomProgress  # exists if Rich is installed

        self._progress = CustomProgress(*bar.configure_columns(trainer), transient=True)
        self._task = self._progress.add_task("", total=1)
        self._progress.start()

    def show(self, what: str, done: float, total: float) -> None:
        _update(self._progress, self._task, what, done, total)

    def close(self) -> None:
        self._progress.stop()


def _update(progress: Any, task: Any, what: str, done: float, total: float) -> None:
    known = next(one for one in progress.tasks if one.id == task)
    if known.description != what or known.total != total:
        progress.reset(task, total=total, description=what)
    progress.update(task, completed=done, visible=True)
    progress.refresh()
