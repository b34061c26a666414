"""Actions of alerts: small objects, called on every process, that act where they should."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from convscope._arguments import text_or_none
from convscope.alerts.incidents import Incident, by_urgency, incident_records, severity_level
from convscope.callbacks.engine import bridge
from convscope.loggers import JsonlSink, WebhookSink, alerts_markdown

log = logging.getLogger("convscope")
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.ERROR}


@dataclass(frozen=True)
class Occasion:
    """One check, as the actions of one severity see it.

    Attributes:
        trainer: The trainer.
        told: Incidents of this severity that are worth a message: opened at this check, or critical from it on.
        touched: Incidents of this severity that are no longer as they were.
        every: All incidents of the run.
        run: The run's name.
        folder: The run's folder.
        step: The check's step.
    """

    trainer: pl.Trainer
    told: list[Incident]
    touched: list[Incident]
    every: list[Incident]
    run: str
    folder: Path
    step: int

    @property
    def messages(self) -> list[Incident]:
        """The incidents that the main process reports: other processes report nothing."""
        return self.told if self.trainer.is_global_zero else []


class AlertError(RuntimeError):
    """Raised by the action ``raise``, on every process."""


class Action:
    """Does one thing about incidents. Both methods are called on every process."""

    def run(self, occasion: Occasion) -> None:
        """Act on incidents that are worth a message (at least one), of the severities that have this action."""

    def record(self, occasion: Occasion) -> None:
        """Write down what became of incidents: those in ``occasion.touched``, at least one."""

    def close(self) -> None:
        """Let go of what the run needed."""


class Log(Action):
    """Logs the incident, at the level of its severity."""

    def run(self, occasion: Occasion) -> None:
        for incident in occasion.messages:
            log.log(_LEVELS[incident.severity], "convscope: %s", _headline(incident))


class TensorBoard(Action):
    """The severity as a curve, and a list of all incidents as text: see :func:`show_in_loggers`."""


class Jsonl(Action):
    """Appends to ``alerts.jsonl`` beside the run: a line per alert, and one per change of an incident."""

    def __init__(self, path: str | Path | None = None) -> None:
        self._path = text_or_none("path", str(path) if isinstance(path, Path) else path, "the path of a file")
        self._sink: JsonlSink | None = None

    def record(self, occasion: Occasion) -> None:
        path = Path(self._path) if self._path else occasion.folder / "alerts.jsonl"
        if self._sink is None or self._sink.path != path:
            self._sink = JsonlSink(path, key=("run", "incident", "event", "rule", "check"))
        for incident in occasion.touched if occasion.trainer.is_global_zero else []:
            for record in incident_records(incident):
                self._sink.write({"run": occasion.run, **record})


class Call(Action):
    """Calls ``function(incident)`` on the main process."""

    def __init__(self, function: Callable[[Incident], Any]) -> None:
        self._function = function

    def run(self, occasion: Occasion) -> None:
        for incident in occasion.messages:
            self._function(incident)


def _report(sentence: str) -> None:
    log.error("convscope: %s", sentence)


class Webhook(Action):
    """Posts the incident as JSON in the background; see :class:`~convscope.loggers.WebhookSink`."""

    def __init__(self, **arguments: Any) -> None:
        self._sink = WebhookSink(**arguments, report=_report)

    def run(self, occasion: Occasion) -> None:
        for incident in occasion.messages:
            # "text" is what chat services show.
            self._sink.send({**incident.as_dict(), "run": occasion.run, "text": _headline(incident)})

    def close(self) -> None:
        self._sink.close()


class SaveCheckpoint(Action):
    """Saves ``alerts/<rule>-epoch=…-step=….ckpt`` beside the run, named after the rule that heads the incident."""

    def run(self, occasion: Occasion) -> None:
        first = occasion.told[0]
        when = first.escalated or first.opened
        path = occasion.folder / "alerts" / f"{first.rule}-epoch={when.epoch}-step={when.step}.ckpt"
        try:
            occasion.trainer.save_checkpoint(path)
        except Exception:
            # The other processes wait at the end of save_checkpoint.
            occasion.trainer.strategy.barrier()
            raise


class Stop(Action):
    """Ask the trainer to stop, as EarlyStopping does: ``min_epochs`` and ``min_steps`` are kept."""

    def run(self, occasion: Occasion) -> None:
        occasion.trainer.should_stop = True


class Raise(Action):
    """Raise :class:`AlertError` on every process."""

    def run(self, occasion: Occasion) -> None:
        raise AlertError("; ".join(f"[{one.severity}] {one.rule}: {one.text}" for one in occasion.told))


def show_in_loggers(trainer: pl.Trainer, incidents: list[Incident], step: int, *, text: bool) -> None:
    """``alert/severity`` in every logger, and a list of all incidents where it takes texts, if they have changed.

    The curve is the highest severity of the open incidents: 0 for none, 1 for info, 2 for warning, 3 for critical. Both
    are of all incidents, so they are written once per check, whatever the severities that have the action.
    """
    if not trainer.is_global_zero:
        return
    if text:
        listed = alerts_markdown([incident.as_dict() for incident in by_urgency(incidents)])
        bridge.write_text(trainer, "alerts", listed, step)
    bridge.log_to_each(trainer, {"alert/severity": float(severity_level(incidents))}, step)


def _headline(incident: Incident) -> str:
    when = (incident.escalated or incident.opened).label
    return f"[{incident.severity}] {incident.rule}, {when}: {incident.text}"


# In the order in which they act: actions that report come before those that end the run.
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

ActionSpec = str | Mapping[str, Any] | Callable[[Incident], Any]


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
        raise ValueError(f"action {name!r}: {_named_only(arguments)} are not arguments; give a mapping of their names")
    try:
        return ACTIONS[name](**arguments)
    except TypeError as error:
        raise ValueError(f"action {name!r}: {error}") from error


def run_folder(trainer: pl.Trainer) -> Path:
    """Folder of the run's files: the first logger's, else ``default_root_dir``. Call it on every process at once."""
    return bridge.run_folder(trainer)
