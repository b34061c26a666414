"""Scalars of checks: what goes to the loggers, and what monitors of them find."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import lightning.pytorch as pl

from convscope.callbacks.engine import bridge
from convscope.callbacks.engine.failures import Failures
from convscope.callbacks.engine.findings import Moment
from convscope.callbacks.engine.measuring import Results
from convscope.callbacks.engine.notices import Notices
from convscope.callbacks.engine.observer import Observer
from convscope.callbacks.engine.overview import OVERVIEW, overview_scalars

CHANGED = "zz_convscope/heldout_changed"


class Scalars:
    """Logs the values of checks, and keeps those that somebody monitors available.

    Args:
        observers: All observers of the fit; the first has the tags that belong to none.
    """

    def __init__(self, observers: Sequence[Observer], notices: Notices, failures: Failures) -> None:
        self._observers, self._notices, self._failures = observers, notices, failures
        self._tags: set[str] = set()
        self._renamed = ExitStack()
        self._monitored: dict[str, str] = {}

    def prepare(self, trainer: pl.Trainer) -> None:
        """Take in the run's loggers and monitors, and values from before a resume."""
        with self._failures.guard("looking for loggers"):
            self._renamed.enter_context(bridge.scalars_renamed(trainer, lambda tag: tag in self._tags))
        self._keep_available(trainer)
        self._serve_monitors(trainer)

    def log(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, found: Results, own: dict[str, float], when: Moment
    ) -> None:
        """Log the main process's numbers on all, since Lightning exchanges them tag by tag.

        Args:
            own: Values of the check itself, such as its seconds.
        """
        here = [overview_scalars(found) | own, *(findings.scalars() for _, findings in found)]
        told, unlogged = trainer.strategy.broadcast((here, self._unlogged(found, own)))
        scalars = {tag: value for part in told for tag, value in part.items()}
        for observer, part in zip([self._observers[0], *(observer for observer, _ in found)], told, strict=True):
            observer.logged |= part
        self._tags |= scalars.keys()
        with self._failures.guard("logging"):
            bridge.write_scalars(trainer, pl_module, scalars, when, unlogged)

    def _unlogged(self, found: Results, own: dict[str, float]) -> set[str]:
        """Tags that loggers do not get: see :attr:`LayerObserver.details`."""
        tags = set() if own.get(CHANGED) else {CHANGED}
        for observer, findings in found:
            tags |= findings.scalars().keys() - findings.scalars(observer.is_logged).keys()
        return tags

    def missing(self, observer: Observer) -> str | None:
        """A value of the observer that somebody monitors and that it has not given yet."""
        first = observer is self._observers[0]
        own = (f"{observer.name}/", "zz_convscope/", f"{OVERVIEW}/") if first else f"{observer.name}/"
        return next((key for key in self._monitored if key.startswith(own) and key not in observer.logged), None)

    def close(self, trainer: pl.Trainer) -> None:
        """The fit is over."""
        self._renamed.close()
        bridge.keep_from_main_process(trainer, self._tags)

    def _keep_available(self, trainer: pl.Trainer) -> None:
        """Restore the values from before a resume, so that a monitor finds them at an epoch without a check too."""
        known = {tag: value for observer in self._observers for tag, value in observer.logged.items()}
        self._tags |= known.keys()
        bridge.keep_available(trainer, known)

    def _serve_monitors(self, trainer: pl.Trainer) -> None:
        """Plan extra checks for monitored values: a callback that monitors a missing value ends the run."""
        self._monitored = bridge.monitors(trainer)
        for observer in self._observers:
            key = self.missing(observer)
            if key is not None and not observer.schedule.on_start:
                self._notices.say(
                    f"{self._monitored[key]} monitors {key!r}, so {observer.name} makes a check at the "
                    "start although on_start=False"
                )
