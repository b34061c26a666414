"""Early-warning callback: rules over every logged metric, and the actions taken when one of them fires."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl

from convscope._arguments import flag, refuse
from convscope.alerts.alert import Alert
from convscope.alerts.incidents import Incident
from convscope.alerts.judge import Judge
from convscope.alerts.ledger import Changes
from convscope.alerts.rules import SEVERITIES, Rule, default_rules, load_rules
from convscope.alerts.series import SERIES_FILE, watched_tags, watched_values
from convscope.callbacks.engine.bridge import fitting, has_validation, may_stand_twice, moment
from convscope.callbacks.engine.console import above_the_bar
from convscope.callbacks.engine.findings import Moment
from convscope.callbacks.engine.hierarchies import Callback
from convscope.callbacks.parts.actions import (
    Action,
    ActionSpec,
    Occasion,
    Raise,
    TensorBoard,
    make_actions,
    run_folder,
    show_in_loggers,
)
from convscope.callbacks.parts.fresh_values import FreshValues
from convscope.callbacks.parts.layer_observer import LayerObserver
from convscope.callbacks.parts.observed_positions import layer_positions
from convscope.callbacks.parts.since_last_check import SinceLastCheck
from convscope.callbacks.parts.standing import place_after, settle_beside
from convscope.callbacks.parts.training_batches import TrainingBatches
from convscope.callbacks.parts.training_gradients import TrainingGradients
from convscope.callbacks.parts.unseen_metrics import UnseenMetrics
from convscope.loggers import JsonlSink

log = logging.getLogger("convscope")

STATE_VERSION = 2
"""Version of the state in checkpoints; state of the first version, which has no number, is read too."""

# A note is logged at level INFO, which Python shows where a program asks for it.
DEFAULT_ACTIONS: dict[str, list[ActionSpec]] = {
    "info": ["log", "tensorboard", "jsonl"],
    "warning": ["log", "tensorboard", "jsonl"],
    "critical": ["log", "tensorboard", "jsonl"],
}


class DriftAlert(Callback):
    """Watches every metric that is logged, including the user's own, and reports when something goes wrong.

    A check is made after each validation, else at the end of each training epoch; values from before training are
    not judged, and a metric that was not logged since the last check is left alone. The main process's values decide
    for all processes. Alerts of one check, and what follows from them later, form one
    :class:`~convscope.alerts.Incident`, which is reported once.

    Args:
        rules: None for :func:`convscope.rules.default`, the path of a YAML file, or a list of rules or mappings.
        actions: What to do by severity, ``{"warning": ["log", "jsonl"], "critical": ["log", "checkpoint", "stop"]}``;
            severities that are not named do nothing. A list is for ``warning`` and ``critical``. Names:

            ==============  ==================================================================================
            ``log``         one line through Python's logging, at the level of the severity
            ``tensorboard`` ``alert/severity`` at every check, in every logger (the highest of the open incidents: 0
                            for none, 1 info, 2 warning, 3 critical), and a list of all incidents under text
            ``jsonl``       lines in ``alerts.jsonl`` beside the run, of alerts and of incidents that are opened and
                            closed; ``{"jsonl": {"path": …}}`` elsewhere
            ``webhook``     ``{"webhook": {"url": "env:HOOK"}}``: a post in the background, see
                            :class:`~convscope.loggers.WebhookSink`
            ``checkpoint``  saves ``alerts/<rule>-….ckpt`` beside the run
            ``stop``        stops as EarlyStopping does, after ``min_epochs``
            ``raise``       raises :class:`~convscope.AlertError`, after all other actions
            ==============  ==================================================================================

            A callable is called with each :class:`~convscope.alerts.Incident`. An incident is reported once, by
            the actions of its severity, and again if it becomes critical. An action that fails is reported once, and
            training goes on.
        series: Write what the rules watch to ``alert_series.jsonl`` beside the run, a line per check, so that a run can
            be judged again (:func:`convscope.alerts.read_series`, :func:`convscope.alerts.judge_run`), and limits be
            calibrated on it (:func:`convscope.alerts.calibrate`).

    Attributes:
        alerts: Every :class:`~convscope.alerts.Alert` so far; ``alert.incident`` is the number of its incident.
        incidents: Every :class:`~convscope.alerts.Incident` so far.

    Raises:
        ValueError: A rule or an action is faulty; the error names the field.
        FileNotFoundError: There is no such YAML file.

    Example:
        >>> alert = DriftAlert(actions={"critical": ["log", "stop"]})
        >>> len(alert.rules) >= 10, alert.alerts, alert.incidents
        (True, [], [])
    """

    gives_alerts: ClassVar[bool] = True
    by_default = False
    """True if a suite added it: then one that the user gives replaces it."""

    def __init__(
        self,
        rules: str | Sequence[Rule | dict[str, Any]] | None = None,
        actions: Mapping[str, Sequence[ActionSpec]] | Sequence[ActionSpec] | None = None,
        series: bool = False,
    ) -> None:
        self.rules = default_rules() if rules is None else rules_of("rules", rules)
        self.series = flag("series", series)
        self.alerts: list[Alert] = []
        self._actions = _by_severity(DEFAULT_ACTIONS if actions is None else actions)
        self._reported: set[str] = set()
        self._judge, self._fresh = Judge(self.rules, self._fault), FreshValues()
        self._batches, self._gradients = TrainingBatches(), TrainingGradients()
        self._run = uuid.uuid4().hex[:12]
        self._unseen = UnseenMetrics()

    @property
    def incidents(self) -> list[Incident]:
        """Every incident so far, oldest first."""
        return self._judge.incidents

    # Lightning's hooks.

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            settle_beside(trainer, self)
            place_after(trainer, self, LayerObserver)  # without a validation loop both act in the same hook

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._fresh.note_learning_rate(trainer)
        self._guarded("looking at training batches", lambda: self._batches.note(batch, trainer.current_epoch))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._guarded("looking at training gradients", lambda: self._gradients.note(pl_module))

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if fitting(trainer):
            self._guarded("looking at validation batches", lambda: self._batches.note_validation(batch))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if fitting(trainer):
            with above_the_bar(trainer):
                self._check(trainer, "validation")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not has_validation(trainer):
            with above_the_bar(trainer):
                self._check(trainer, "train")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")  # which Lightning leaves out then; alerts may still be on their way

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for action in {id(a): a for actions in self._actions.values() for a in actions}.values():
            self._guarded(_name(action), action.close)

    # One check.

    def _check(self, trainer: pl.Trainer, trigger: str) -> None:
        besides: dict[str, float] = trainer.strategy.broadcast(self._besides(trainer, take=True))
        values, when = self._fresh.take(trainer) | besides, moment(trainer, trigger)
        found: list[Changes] = []
        self._guarded("the rules", lambda: found.append(self._judge.update(values, when.epoch, when.step)))
        self._guarded("the search for metrics that rules name", lambda: self._look(trainer, values))
        changes = found[0] if found else Changes()
        # Before the actions: a checkpoint that one of them saves must know these alerts.
        self.alerts += changes.alerts
        if self.series:
            self._guarded("the record of series", lambda: self._write_series(trainer, values, when))
        self._act(trainer, changes, when.step)

    def values_besides(self, trainer: pl.Trainer) -> dict[str, float]:
        """What rules see besides logged values, on this process: the record of the run keeps it."""
        return self._besides(trainer, take=False)

    def _besides(self, trainer: pl.Trainer, take: bool) -> dict[str, float]:
        found: dict[str, float] = {}
        self._guarded("the number of positions of layers", lambda: found.update(layer_positions(trainer)))
        for what, looks in (("batches", self._batches), ("gradients", self._gradients)):
            self._guarded(f"the summary of training {what}", partial(_summarise, looks, take, found))
        return found

    def _look(self, trainer: pl.Trainer, values: Mapping[str, float]) -> None:
        self._unseen.look(trainer, self._judge.watch, values, of_a_suite=self.by_default)

    def _act(self, trainer: pl.Trainer, changes: Changes, step: int) -> None:
        last: list[tuple[Action, Occasion]] = []
        for severity in SEVERITIES if changes.touched else ():
            occasion = self._occasion(trainer, changes, severity, step)
            for action in self._actions.get(severity, []):
                if occasion.touched:
                    self._guarded(_name(action), partial(action.record, occasion))
                if occasion.told and isinstance(action, Raise):
                    last.append((action, occasion))
                elif occasion.told:
                    self._guarded(_name(action), partial(action.run, occasion))
        self._show(trainer, changes, step)
        for action, occasion in last:
            action.run(occasion)

    def _write_series(self, trainer: pl.Trainer, values: Mapping[str, float], when: Moment) -> None:
        path = run_folder(trainer) / SERIES_FILE  # on every process at once
        if trainer.is_global_zero:
            kept = watched_values(values, watched_tags(self._judge.watch.rules))
            check = {"run": self._run, "check": self._judge.watch.checks, "epoch": when.epoch, "step": when.step}
            JsonlSink(path, key=("run", "check")).write({**check, "values": kept})

    def _show(self, trainer: pl.Trainer, changes: Changes, step: int) -> None:
        shown = [s for s, actions in self._actions.items() if any(isinstance(one, TensorBoard) for one in actions)]
        if shown:
            text = any(incident.severity in shown for incident in changes.touched)
            show = partial(show_in_loggers, trainer, self.incidents, step, text=text)
            self._guarded("the action TensorBoard", show)

    def _occasion(self, trainer: pl.Trainer, changes: Changes, severity: str, step: int) -> Occasion:
        told, touched = ([i for i in group if i.severity == severity] for group in (changes.told, changes.touched))
        return Occasion(trainer, told, touched, list(self.incidents), self._run, run_folder(trainer), step)

    def _guarded(self, what: str, run: Callable[[], Any]) -> None:
        try:
            run()
        except Exception as error:
            self._report(what, error)

    def _fault(self, rule: str, error: Exception) -> None:
        self._report(f"the rule {rule}", error)

    def _report(self, what: str, error: Exception) -> None:
        if what not in self._reported:
            self._reported.add(what)
            log.error(
                "convscope: DriftAlert: %s failed (%s: %s); training goes on, and further failures of it are not "
                "reported", what, type(error).__name__, error, exc_info=error,
            )  # fmt: skip

    # State in checkpoints.

    @may_stand_twice
    def state_dict(self) -> dict[str, Any]:
        return {
            "version": STATE_VERSION,
            "run": self._run,
            "alerts": [alert.as_dict() for alert in self.alerts],
            **self._judge.state_dict(),
            "unseen": self._unseen.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint. A part that is missing or of another version starts over."""
        self._guarded("restoring the run's number", lambda: self._restore_run(state_dict))
        self._guarded("restoring earlier alerts", lambda: self._restore_alerts(state_dict))
        self._guarded("restoring the rules", lambda: self._judge.watch.load_state_dict(state_dict["watch"]))
        if "ledger" in state_dict:  # there were no incidents in the first version
            self._guarded("restoring incidents", lambda: self._judge.ledger.load_state_dict(state_dict["ledger"]))

    def _restore_run(self, state: dict[str, Any]) -> None:
        self._run = state["run"]
        self._unseen.load_state_dict(state.get("unseen", {}))

    def _restore_alerts(self, state: dict[str, Any]) -> None:
        self.alerts = [Alert.of(alert) for alert in state["alerts"]]


def rules_of(name: str, given: Any) -> list[Rule]:
    """Rules from the argument ``name``: the path of a YAML file, or a list of rules and mappings.

    Raises:
        ValueError: if it is neither, or a rule is faulty.
        FileNotFoundError: if there is no such file.
    """
    if isinstance(given, str | Path):
        if not Path(given).is_file():
            accepted = "the path of a YAML file of rules, relative to the folder in which you start the program"
            raise FileNotFoundError(
                f"{name}={str(given)!r}: there is no such file; give {accepted}, or a list of rules"
            )
    elif isinstance(given, Mapping) or not isinstance(given, Iterable):
        raise refuse(name, given, "the path of a YAML file, a list of rules, or None for convscope.rules.default()")
    return load_rules(given)


def _summarise(looks: SinceLastCheck, take: bool, found: dict[str, float]) -> None:
    """Add what was looked at since the last check; with ``take`` it is over."""
    found.update(looks.take() if take else looks.peek())


def _by_severity(actions: Any) -> dict[str, list[Action]]:
    if not isinstance(actions, Mapping):
        shared = make_actions(actions)
        return {"warning": shared, "critical": shared}
    for severity in actions:
        if severity not in SEVERITIES:
            raise refuse("actions", [severity], f"lists for some of the severities {', '.join(map(repr, SEVERITIES))}")
    return {severity: make_actions(specs) for severity, specs in actions.items()}


def _name(action: Action) -> str:
    return f"the action {type(action).__name__}"
