"""Table of each layer's numbers, printed after each check."""

from __future__ import annotations

import logging
import shutil
import sys
from collections import Counter
from collections.abc import Sequence

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from convscope.callbacks.engine.bridge import fitting, has_validation
from convscope.callbacks.engine.console import say
from convscope.callbacks.engine.hierarchies import Callback
from convscope.callbacks.engine.observer import Observer
from convscope.callbacks.engine.session import Session
from convscope.callbacks.parts.layer_observer import LayerObserver
from convscope.callbacks.parts.standing import place_after, settle_beside
from convscope.loggers import layer_table
from convscope.loggers.table import MAX_WIDTH
from convscope.loggers.terminal import encoding_of

log = logging.getLogger("convscope")


class LayerTable(Callback):
    """Prints one line per layer after each epoch in which a check was made, above the progress bar.

    Give it with other convscope callbacks: it shows their columns (probe accuracy, Gini, effective rank, …) and
    observes nothing itself, and says so where there are none. Characters that the terminal lacks are written in others
    (``rho`` for ``ρ``); a terminal that is gone costs the table, not the training.
    """

    by_default = False
    """True if a suite added it: then one that the user gives replaces it."""

    def __init__(self) -> None:
        self._printed = -1
        self._failed = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            settle_beside(trainer, self)
            place_after(trainer, self, LayerObserver)  # without a validation loop both act in the same hook
            if not any(isinstance(callback, LayerObserver) for callback in trainer.callbacks):  # type: ignore[attr-defined]
                rank_zero_info(
                    "convscope: LayerTable has nothing to show: it prints what other callbacks measure; give some too, "
                    "for example callbacks=[LayerProbe(), LayerTable()], or convscope.suite(), which has a table"
                )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._print(trainer, "before training")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if fitting(trainer):
            self._print(trainer, f"epoch {trainer.current_epoch}")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not has_validation(trainer):
            self._print(trainer, f"epoch {trainer.current_epoch}")

    def _print(self, trainer: pl.Trainer, title: str) -> None:
        try:
            session = _session(trainer)
            if session is None or session.checks == self._printed or not session.latest:
                return
            self._printed = session.checks
            say(trainer, layer_table(_rows(session), title, encoding_of(sys.stdout), _width()))
        except Exception as error:  # a closed pipe or terminal, or a program that replaced it with its own stream
            self._report(error)

    def _report(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            log.error(
                "convscope: LayerTable could not print (%s: %s); training goes on, and further failures of it are not "
                "reported", type(error).__name__, error, exc_info=error,
            )  # fmt: skip


def _width() -> int:
    """Characters of a line of the terminal; of a file, those of a wide one."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else MAX_WIDTH


def _session(trainer: pl.Trainer) -> Session | None:
    observers = (callback for callback in trainer.callbacks if isinstance(callback, LayerObserver))  # type: ignore[attr-defined]
    return next((observer.session for observer in observers if observer.session is not None), None)


def _rows(session: Session) -> dict[str, dict[str, float | None]]:
    """Layers of all observers in depth order, the model's output last."""
    measured = [observer for observer in session.observers if observer.name in session.latest]
    titles = column_titles(measured)
    columns = {
        titles[observer.name, quantity]: session.latest[observer.name].values.get(quantity, {})
        for observer in measured
        for quantity in observer.columns
    }
    return {name: {title: row.get(name) for title, row in columns.items()} for name in session.layer_names()}


def column_titles(observers: Sequence[Observer]) -> dict[tuple[str, str], str]:
    """Column titles by callback and quantity: "gini (taylor)" where a callback has a variant, or shares its title.

    No two titles are equal, since no two callbacks have the same name.
    """
    keys = [(observer, quantity) for observer in observers for quantity in observer.columns]
    ways = (_plain, lambda o, q: f"{o.columns[q]} ({o.variant})", lambda o, q: f"{o.columns[q]} ({o.name})")
    found: dict[tuple[str, str], str] = {}
    for way in ways:
        titles = {(observer.name, quantity): way(observer, quantity) for observer, quantity in keys}
        counts = Counter([*titles.values(), *found.values()])
        found |= {key: title for key, title in titles.items() if counts[title] == 1}
        keys = [(observer, quantity) for observer, quantity in keys if (observer.name, quantity) not in found]
    return found | {(o.name, q): f"{o.columns[q]} ({o.name}, {q})" for o, q in keys}


def _plain(observer: Observer, quantity: str) -> str:
    title = observer.columns[quantity]
    # The criterion is named even if there is only one: tables of two runs are compared.
    return title if observer.variant in (observer.family, observer.name) else f"{title} ({observer.variant})"
