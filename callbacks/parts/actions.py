"""Actions of alerts: small objects, called on every process, that act where they should."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from convscope._arguments import text_or_none
from convscope.alerts.watch import Alert
from convscope.callbacks.engine import bridge
from convscope.loggers import JsonlSink, WebhookSink, alerts_markdown

log = logging.getLogger("convscope")
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.ERROR}


@dataclass(frozen=True)
class Occasion:
    """What actions are told: the alerts that are new, all there have been, the run's name, and its folder."""

    trainer: pl.Trainer
    new: list[Alert]
    every: list[Alert]
    run: str
    folder: Path

    @property
    def told(self) -> list[Alert]:
        """The new alerts on the main process, none on the others."""
        return self.new if self.trainer.is_global_zero else []


class AlertError(RuntimeError):
    """Raised by the action ``raise``, on every process."""


class Action(ABC):
    """Does one thing about alerts."""

    @abstractmethod
    def run(self, occasion: Occasion) -> None:
        """Act on the new alerts (at least one) of the severities that have this action; called on every process."""

    def close(self) -> None:
        """Let go of what the run needed."""
        return


class Log(Action):
    """Logs the alert, at the level of its severity."""

    def run(self, occasion: Occasion) -> None:
        for alert in occasion.told:
            log.log(_LEVELS[alert.severity], "convscope: [%s] %s: %s", alert.severity, alert.rule, alert.text)


class TensorBoard(Action):
    """``alert/<rule>`` of 1 at the alert's step, in every logger, and a table of all alerts where it takes texts."""

    def run(self, occasion: Occasion) -> None:
        if not occasion.told:
            return
        step = occasion.new[0].step
        table = alerts_markdown([alert.as_dict() for alert in occasion.every])
        bridge.write_text(occasion.trainer, "alerts", table, step)
        bridge.log_to_each(occasion.trainer, {f"alert/{alert.rule}": 1.0 for alert in occasion.new}, step)


class Jsonl(Action):
    """Appends to ``alerts.jsonl`` beside the run."""

    def __init__(self, path: str | Path | None = None) -> None:
        self._path = text_or_none("path", str(path) if isinstance(path, Path) else path, "the path of a file")
        self._sink: JsonlSink | None = None

    def run(self, occasion: Occasion) -> None:
        path = Path(self._path) if self._path else occasion.folder / "alerts.jsonl"
        if self._sink is None or self._sink.path != path:
            self._sink = JsonlSink(path, key=("run", "rule", "check"))
        for alert in occasion.told:
            self._sink.write({"run": occasion.run, **alert.as_dict()})


class Call(Action):
    """Calls ``function(alert)`` on the main process."""

    def __init__(self, function: Callable[[Alert], Any]) -> None:
        self._function = function

    def run(self, occasion: Occasion) -> None:
        for alert in occasion.told:
            self._function(alert)


def _report(sentence: str) -> None:
    log.error("convscope: %s", sentence)


class Webhook(Action):
    """Posts the alert as JSON in the background; see :class:`~convscope.loggers.WebhookSink`."""

    def __init__(self, **arguments: Any) -> None:
        self._sink = WebhookSink(**arguments, report=_report)

    def run(self, occasion: Occasion) -> None:
        for alert in occasion.told:
            # "text" is what chat services show.
            text = f"[{alert.severity}] {alert.rule}, epoch {alert.epoch}: {alert.text}"
            self._sink.send({"text": text, "run": occasion.run, **alert.as_dict()})

    def close(self) -> None:
        self._sink.close()


class SaveCheckpoint(Action):
    """Saves ``alerts/<rule>-epoch=…-step=….ckpt`` beside the run."""

    def run(self, occasion: Occasion) -> None:
        first = occasion.new[0]
        path = occasion.folder / "alerts" / f"{first.rule}-epoch={first.epoch}-step={first.step}.ckpt"
        try:
            occasion.trainer.save_checkpoint(path)
        except Exception:
            # The other processes wait at the end of save_checkpoint.
            occasion.trainer.strategy.barrier()
            raise


class Stop(Action):
    """Asks the trainer to stop, as EarlyStopping does: ``min_epochs`` and ``min_steps`` are kept."""

    def run(self, occasion: Occasion) -> None:
        occasion.trainer.should_stop = True


class Raise(Action):
    """Raises :class:`AlertError` on every process."""

    def run(self, occasion: Occasion) -> None:
        raise AlertError("; ".join(f"[{alert.severity}] {alert.rule}: {alert.text}" for alert in occasion.new))


# In the order in which they act: what tells comes before what ends the run.
ACTIONS: dict[str, type[Action]] = {
    "log": Log,
    "tensorboard": TensorBoard,
    "jsonl": Jsonl,
    "webhook": Webhook,
    "checkpoint": SaveCheckpoint,
    "stop": Stop,
    "raise": Raise,
}
_ORDER: list[type[Action]] = [Log, TensorBoard, Jsonl, Call, Webhook, SaveCheckpoint, Stop, Raise]

ActionSpec = str | Mapping[str, Any] | Callable[[Alert], Any]


def make_actions(specs: Sequence[ActionSpec]) -> list[Action]:
    """Actions in the order in which they act.

    Args:
        specs: Names (``"log"``), mappings of a name to arguments (``{"webhook": {"url": "env:HOOK"}}``) or callables.

    Raises:
        ValueError: if there is no such action, or its arguments are wrong.

    Example:
        >>> [type(action).__name__ for action in make_actions(["stop", "log", print])]
        ['Log', 'Call', 'Stop']
    """
    if isinstance(specs, str) or not isinstance(specs, Sequence):
        raise ValueError(f"actions={_named_only(specs)}: give a list such as ['log', 'jsonl'], or one by severity")
    return sorted((_action(spec) for spec in specs), key=lambda action: _ORDER.index(type(action)))


def _action(spec: ActionSpec) -> Action:
    if isinstance(spec, str):
        return _named(spec, {})
    if isinstance(spec, Mapping) and len(spec) == 1:
        ((name, arguments),) = spec.items()
        return _named(name, arguments or {})
    if callable(spec):
        return Call(spec)
    raise ValueError(f"actions=[{_named_only(spec)}]: give names, mappings of one name to its arguments, or callables")


def _named_only(given: Any) -> str:
    # A mapping is not shown: it may hold the address of a webhook, which is a secret.
    return repr(given) if isinstance(given, str | int | float | None) else f"<{type(given).__name__}>"


def _named(name: str, arguments: Any) -> Action:
    if not isinstance(name, str) or name not in ACTIONS:
        raise ValueError(f"actions=[{_named_only(name)}]: give one of {', '.join(map(repr, ACTIONS))}, or a callable")
    if not isinstance(arguments, Mapping):
        raise ValueError(f"action {name!r}: {_named_only(arguments)} are no arguments; give a mapping of their names")
    try:
        return ACTIONS[name](**arguments)
    except TypeError as error:
        raise ValueError(f"action {name!r}: {error}") from error


def run_folder(trainer: pl.Trainer) -> Path:
    """Where the run keeps its files: the first logger's folder, else ``default_root_dir``. On every process at once."""
    return bridge.run_folder(trainer)
